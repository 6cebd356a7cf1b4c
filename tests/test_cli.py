"""What a command says when it stops, and with which status."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from saicinpainting.cli import one_line_errors, run_command
from saicinpainting.utils import InputError
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


def of_the_disk() -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "/there/run")


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (of_the_user, "a.png: cannot be read; check the file"),
        (of_a_worker, "a.png is too large"),
        (of_a_missing_key, "model.path: missing config key; set it, for example on the command line: model.path=…"),
        (of_the_disk, "/there/run: permission denied; check the rights on it or give another path"),
        (of_a_wrong_key, "config: Could not override 'model.paht'."),
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


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("model.checkpoint=epoch=1-step=8.ckpt", "model.checkpoint='epoch=1-step=8.ckpt'"),
        ("+a/b@c=d=e f", "+a/b@c='d=e f'"),
        ("model.checkpoint='epoch=1-step=8.ckpt'", None),
        (r"model.checkpoint=epoch\=1-step\=8.ckpt", None),
        ("sets=[thin,a=b]", None),
        ("refine=true", None),
        ("--config-dir=a=b", None),
    ],
)
def test_values_may_hold_an_equals_sign(argument: str, given: str | None, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command", argument])
    run_command(lambda: None)
    assert sys.argv[1:] == [argument]
    run_command(lambda: None, overrides=True)
    assert sys.argv[1:] == [given or argument]
