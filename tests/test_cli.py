"""What a command says when it stops, and with which status."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tqdm import tqdm

from saicinpainting.cli import one_line_errors, run_command
from saicinpainting.utils import InputError
from tests.disks import needs_full_device
from tests.helpers import ROOT


def of_the_user() -> None:
    raise InputError("a.png: cannot be read;\ncheck the file")


def of_a_worker() -> None:
    raise InputError("Caught InputError in DataLoader worker process 0.\nTraceback:\nInputError: a.png is too large")


def of_a_missing_key() -> None:
    _ = OmegaConf.create({"model": {"path": "???"}}).model.path


def of_a_wrong_key() -> None:
    with initialize_config_dir(str(ROOT / "configs" / "prediction"), version_base="1.3"):
        compose("default", ["model.paht=x"])


def of_spaces_around_the_equals_sign() -> None:
    with initialize_config_dir(str(ROOT / "configs" / "prediction"), version_base="1.3"):
        compose("default", ["indir = photos"])


def of_the_disk() -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "/there/run")


def of_the_disk_in_a_library() -> None:
    """As `logging.config` wraps it."""
    try:
        raise OSError(errno.EROFS, "Read-only file system", "/there/run/train.log")
    except OSError as error:
        raise ValueError("Unable to configure handler 'file'") from error


def of_a_full_disk_that_nobody_names() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def of_a_config_with_a_name_that_is_no_utf_8() -> None:
    "a: b\nindir: /data/caf\udce9\nc: d".encode()


def of_a_killed_worker() -> None:
    raise RuntimeError("DataLoader worker (pid 17) is killed by signal: Killed. ")


def of_little_shared_memory() -> None:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)")


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (of_the_user, "a.png: cannot be read; check the file"),
        (of_a_worker, "a.png is too large"),
        (of_a_missing_key, "model.path: missing config key; set it, for example on the command line: model.path=…"),
        (of_the_disk, "/there/run: permission denied; check the rights on it or give another path"),
        (of_the_disk_in_a_library, "/there/run/train.log: read-only file system; give a path that can be written to"),
        (of_a_full_disk_that_nobody_names, "no space left on device; make room, then start again"),
        (of_a_config_with_a_name_that_is_no_utf_8, "indir: /data/caf\\udce9: a name that is no UTF-8; rename the file"),
        (of_a_killed_worker, "DataLoader worker (pid 17) is killed by signal: Killed; the memory or /dev/shm is full"),
        (of_little_shared_memory, "unable to allocate shared memory(shm) for file"),
        (
            of_a_wrong_key,
            "config: Could not override 'model.paht'. To append to your config use +model.paht=x (Key 'paht' is not in "
            "struct; known: checkpoint, path (did you mean 'path'?))",
        ),
        (of_spaces_around_the_equals_sign, "config: indir = photos: expected KEY=VALUE, no spaces around the ="),
    ],
)
def test_what_the_user_can_mend_is_one_line(function: Callable[[], None], line: str, capsys, tmp_path: Path) -> None:
    log = logging.FileHandler(tmp_path / "run.log")
    logging.getLogger().addHandler(log)
    try:
        with pytest.raises(SystemExit) as stopped:
            one_line_errors(function)()
    finally:
        logging.getLogger().removeHandler(log)
        log.close()
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1
    assert (tmp_path / "run.log").read_text().startswith(f"stopped: {line}")


@needs_full_device
def test_a_log_on_a_full_disk_is_told_once_and_ends_nothing(capsys) -> None:
    log = logging.FileHandler("/dev/full")
    logging.getLogger().addHandler(log)

    def work() -> None:
        for _ in range(3):
            logging.getLogger("saicinpainting").warning("a line")
        raise InputError("the end")

    try:
        with pytest.raises(SystemExit):
            one_line_errors(work)()
    finally:
        logging.getLogger().removeHandler(log)
        with suppress(OSError):
            log.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "warning: the log /dev/full has gaps: no space left on device; make room, then start again",
        "error: the end",
    ]


def test_the_error_comes_after_the_progress(capsys) -> None:
    def work() -> None:
        for _ in tqdm(range(3)):
            raise InputError("the end")

    with pytest.raises(SystemExit):
        one_line_errors(work)()
    assert capsys.readouterr().err.replace("\r", "\n").endswith("\nerror: the end\n")


def test_names_that_are_no_utf_8_can_be_told(tmp_path: Path) -> None:
    script = "from saicinpainting.cli import run_command; run_command(lambda: print('caf\\udce9'))"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, check=True)
    assert done.stdout == b"caf\\udce9\n"


def test_an_interrupt_has_its_own_status_and_a_fault_of_ours_its_traceback(capsys) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    def faulty() -> None:
        raise KeyError("x")

    with pytest.raises(SystemExit) as stopped:
        one_line_errors(interrupted)()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(KeyError):
        one_line_errors(faulty)()


def test_only_commands_with_overrides_have_their_words_quoted(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "indir=a (1)"])
    run_command(lambda: None)
    assert sys.argv[1:] == ["indir=a (1)"]
    run_command(lambda: None, overrides=True)
    assert sys.argv[1:] == ["indir='a (1)'"]


SWEPT = """
from saicinpainting.cli import hydra_command
from saicinpainting.utils import InputError

def task(config):
    print("did", config.seed, flush=True)
    if config.seed == 1:
        raise InputError("seed: 1 is none")

hydra_command("evaluation", "default")(task)()
"""


def test_a_sweep_does_all_its_runs_before_it_tells_of_a_mistake(tmp_path: Path):
    words = ["--multirun", "seed=1,2", "outdir=x", "model.path=y", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    done = subprocess.run(
        [sys.executable, "-c", SWEPT, *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert [line for line in done.stdout.splitlines() if line.startswith("did")] == ["did 1", "did 2"]
    assert done.stderr.splitlines()[-1] == "error: seed: 1 is none"
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
