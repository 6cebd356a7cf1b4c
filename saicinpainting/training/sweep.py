"""Sweeps (`--multirun`): each run is a process of its own, so that one that is killed takes no other with it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from saicinpainting.config import CONFIGS
from saicinpainting.io.signals import ENDS_WITH, EXIT_STATUS, STARTED_BY, StopSignals
from saicinpainting.utils import InputError

if TYPE_CHECKING:
    from hydra.conf import HydraConf

LOGGER = logging.getLogger(__name__)
TABLE = "runs.md"

_SWEEPS: list[Path] = []  # that this process has begun


def with_callback(words: Sequence[str]) -> list[str]:
    """The words of a command line that asks for a sweep, with the callback that notes it; others as they are.

    Hydra's parser takes all overrides together, with no option between them.
    """
    flags = [word for word in words if word in ("-m", "--multirun")]
    if not flags and "hydra.mode=MULTIRUN" not in words:
        return list(words)
    others = [word for word in words if word not in flags]
    first = next((i for i, word in enumerate(others) if "=" in word and not word.startswith("-")), len(others))
    callback = f"+hydra.callbacks.sweep_start._target_={SweepStart.__module__}.{SweepStart.__name__}"
    return [*flags[:1], *others[:first], callback, *others[first:]]


class SweepStart(Callback):
    """Hydra's callback: notes where a sweep's runs will be."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _SWEEPS.append(Path(str(config.hydra.sweep.dir)).resolve())
        # A launcher's own processes load the job by its names, from a checkout that is not installed, too.
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        if "submitit" in str(config.hydra.launcher["_target_"]):
            _bear_lost_jobs()


def _bear_lost_jobs() -> None:
    """A job that was killed as a whole is a failed run, where submitit's launcher would end the sweep."""
    from hydra.core.utils import JobReturn, JobStatus
    from submitit.core import core, utils

    results = core.Job.results

    def bear(job: core.Job[Any]) -> list[Any]:
        try:
            return results(job)
        except (utils.UncompletedJobError, utils.FailedJobError):
            lost = JobReturn(status=JobStatus.FAILED)
            lost.return_value = InputError(f"job {job.job_id} ended without a result; {job.paths.stderr} may say why")
            return [lost]

    core.Job.results = bear


def finish_sweep() -> int:
    """Print the table of the sweep that this process has done, if any, and write it; how many of its runs failed."""
    from saicinpainting.training.sweep_table import sweep_table, write_sweep_table

    failed = 0
    for folder in _SWEEPS:
        if folder.is_dir():
            table = sweep_table(folder)
            write_sweep_table(table, folder / TABLE)
            print((folder / TABLE).read_text(encoding="utf-8"), end="")
            print(f"table: {folder / TABLE}")
            failed += int((table["state"] != "ended").sum())
    _SWEEPS.clear()
    return failed


def train_one(config: DictConfig, hydra: HydraConf, signals: StopSignals) -> float | None:
    """Do one run of a sweep; returns the best value of what it monitors, for a sweeper that optimizes.

    Raises:
        InputError: it failed, and the sweeper wants to know. Hydra's own does not, and would do no further batch.
    """
    from saicinpainting.training.sweep_table import row_of

    folder = Path(hydra.runtime.output_dir)
    status = _run_process(command_of_run(config, hydra), signals)
    if status == EXIT_STATUS and signals.received is not None:
        raise SystemExit(EXIT_STATUS)  # the sweep was stopped, not this run alone
    run = row_of(folder)
    if status == 0:
        LOGGER.info("%s: %s %s", folder, run.metric, run.value)
        return run.value
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    if not run.reason:
        LOGGER.error("stopped: %s", how)  # into the run's own log, where it is looked for
    message = f"{folder}: this run {how}" + (f": {run.reason}" if run.reason else "")
    if hydra.sweeper["_target_"].endswith("BasicSweeper"):
        LOGGER.error("%s; the sweep goes on", message)
        return None
    raise InputError(message)


def command_of_run(config: DictConfig, hydra: HydraConf) -> list[str]:
    """The command line that does the run alone. A job that a cluster starts once more resumes it."""
    sources = {source.provider: source.path for source in hydra.runtime.config_sources if source.schema == "file"}
    words = [*_train_script(), f"--config-name={hydra.job.config_name}"]
    words += [f"--config-path={sources['main']}"] if "main" in sources else []
    words += [f"--config-dir={sources['command-line']}"] if "command-line" in sources else []
    words += [str(word) for word in hydra.overrides.task]
    given = (OmegaConf.select(config, f"trainer.{key}resume_from_checkpoint") for key in ("", "kwargs."))
    if not any(given):
        words.append("++trainer.resume_from_checkpoint=auto")
    return [*words, "hydra.mode=RUN", f"hydra.run.dir={Path(hydra.runtime.output_dir).resolve()}"]


def _train_script() -> list[str]:
    script = CONFIGS.parent / "bin" / "train.py"
    if script.is_file():
        return [sys.executable, str(script)]
    installed = shutil.which("lama-train", path=str(Path(sys.executable).parent)) or shutil.which("lama-train")
    if installed is None:
        raise InputError("lama-train is not installed; a sweep starts it for each run: pip install saicinpainting")
    return [installed]


def _run_process(command: list[str], signals: StopSignals) -> int:
    """Its exit status, negative if a signal killed it. What ends this process stops it first, so that it is saved."""
    environment = {name: value for name, value in os.environ.items() if name != STARTED_BY}
    process = subprocess.Popen(command, env={**environment, ENDS_WITH: str(os.getpid())})
    signals.pass_on(process.send_signal)
    try:
        return process.wait()
    except BaseException:  # a cluster's launcher raises from a signal's handler when the time is over
        process.terminate()
        process.wait()
        raise
    finally:
        signals.take_back()
