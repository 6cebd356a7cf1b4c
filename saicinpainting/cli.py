"""What every command shares: errors of the user in one line, exit status 1."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from saicinpainting.config import CONFIGS, LIGHTNING_1_KEYS, register_resolvers
from saicinpainting.io.files import disk_problem, printable
from saicinpainting.io.logs import bear_full_logs, bear_names
from saicinpainting.io.yaml_files import read_yaml
from saicinpainting.official_configs import read_group_headers
from saicinpainting.overrides import forced, literal_words, without_null_groups
from saicinpainting.utils import InputError, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

P = ParamSpec("P")
R = TypeVar("R")


def one_line_errors(function: Callable[P, R]) -> Callable[P, R]:
    """What the user can mend becomes one line `error: …` on stderr (and in the log file) and exit status 1.

    Anything else is a fault of ours and keeps its traceback.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        bear_full_logs()
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            line = None
        except Exception as error:
            line = _line_of(error)
            if line is None:
                raise
            sys.unraisablehook = _ignore  # what is half built, such as a data loader, may have tracebacks of its own
        # The error is gone, and with it the progress bars it held, which have drawn their last.
        if line is None:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        _fail(line)

    return wrapped


def run_command(main: Callable[[], None], *, overrides: bool = False) -> None:
    """Run a command's `main`. Hydra reports what a job raises itself, so its job needs `one_line_errors` besides.

    overrides: the arguments are Hydra's; see `literal_words`.
    """
    if overrides:
        sys.argv[1:] = literal_words(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        bear_names(stream)
    # Without this Hydra prints a config error over several lines and hides its cause.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    one_line_errors(main)()


def command(main: Callable[[], None]) -> Callable[[], None]:
    """A command that reads its own arguments."""
    return functools.wraps(main)(lambda: run_command(main))


def hydra_command(group: str, name: str) -> Callable[[Callable[[DictConfig], object]], Callable[[], None]]:
    """A command whose arguments are overrides of `configs/GROUP/NAME.yaml`."""

    def make(task: Callable[[DictConfig], object]) -> Callable[[], None]:
        run_task = hydra.main(config_path=str(CONFIGS / group), config_name=name, version_base="1.3")

        @functools.wraps(task)
        def main() -> None:
            known = read_yaml(CONFIGS / group / f"{name}.yaml")
            sys.argv[1:] = forced(without_null_groups(sys.argv[1:], CONFIGS / group), known, LIGHTNING_1_KEYS)
            register_resolvers()  # before Hydra names the run's folder
            read_group_headers()
            run_command(run_task(_job(task)), overrides=True)

        return main

    return make


def _job(task: Callable[[DictConfig], R]) -> Callable[[DictConfig], R]:
    """`task` as Hydra is to call it. Of a sweep's runs it has the errors themselves, and goes on with the next one."""
    alone = one_line_errors(task)

    @functools.wraps(task)
    def run_job(config: DictConfig) -> R:
        return (task if HydraConfig.get().mode == RunMode.MULTIRUN else alone)(config)

    return run_job


def _line_of(error: Exception) -> str | None:
    if isinstance(error, InputError):
        # A data loader's worker hands its error over as text, with the traceback in front.
        return str(error).rsplit("InputError: ", 1)[-1]
    if isinstance(error, OverrideParseException):
        return f"config: {error.override}: expected KEY=VALUE, no spaces around the =, and what is opened closed"
    if isinstance(error, HydraException):
        cause = error.__cause__
        reasons = str(cause or "").splitlines()[:1]
        if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.parent_node is not None:
            reasons.append(did_you_mean(str(cause.key), map(str, cause.parent_node)))
        return f"config: {error}" + (f" ({'; '.join(reasons)})" if reasons else "")
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: missing config key; set it, for example on the command line: {error.full_key}=…"
    if isinstance(error, OmegaConfBaseException):
        # A resolver's own error arrives wrapped in OmegaConf's.
        return str(error.__cause__) if isinstance(error.__cause__, InputError) else f"config: {error}"
    if isinstance(error, UnicodeEncodeError) and error.encoding == "utf-8":
        line = error.object[: error.end].rpartition("\n")[2]  # of a config, which Hydra writes as text
        return f"{line}: a name that is no UTF-8; rename the file or folder"
    return disk_problem(error) or _killed_worker(error)


def _killed_worker(error: Exception) -> str | None:
    """Of a data loader's process that ended, or could not hand over what it had read; torch has no class for either."""
    text = str(error).splitlines()[0] if isinstance(error, RuntimeError) and str(error) else ""
    if "DataLoader worker" not in text and "shared memory" not in text:
        return None
    return f"{text.rstrip('. ')}; the memory or /dev/shm is full: lower num_workers (0 needs no /dev/shm) or batch_size"


def _ignore(_: object) -> None:
    pass


def _fail(message: str) -> NoReturn:
    bear_full_logs()  # Hydra sets logs up before it calls the command's function, and may fail in between
    line = printable(" ".join(message.split()))
    record = logging.LogRecord("saicinpainting", logging.ERROR, __file__, 0, "stopped: %s", (line,), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):  # the screen gets the line below
            handler.handle(record)
    print(f"error: {line}", file=sys.stderr)
    sys.exit(1)
