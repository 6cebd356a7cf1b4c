"""What every command shares: errors of the user in one line, exit status 1."""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from hydra.errors import HydraException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from saicinpainting.utils import InputError

OF_THE_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)
OVERRIDE = re.compile(r"(\+{0,2}\w[\w./@-]*=)([^'\"\[{\\]*=[^'\"\\]*)")
"""`key=value` with another = in a value without quotes, which Hydra does not take."""
P = ParamSpec("P")
R = TypeVar("R")


def one_line_errors(function: Callable[P, R]) -> Callable[P, R]:
    """What the user can mend becomes one line `error: …` on stderr (and in the log file) and exit status 1.

    Anything else is a fault of ours and keeps its traceback.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except InputError as error:
            # A data loader's worker hands its error over as text, with the traceback in front.
            _fail(str(error).rsplit("InputError: ", 1)[-1])
        except HydraException as error:
            cause = str(error.__cause__ or "").splitlines()
            _fail(f"config: {error}" + (f" ({cause[0]})" if cause else ""))
        except MissingMandatoryValue as error:
            _fail(f"{error.full_key}: missing config key; set it, for example on the command line: {error.full_key}=…")
        except OmegaConfBaseException as error:
            # A resolver's own error arrives wrapped in OmegaConf's.
            _fail(str(error.__cause__) if isinstance(error.__cause__, InputError) else f"config: {error}")
        except OSError as error:
            if error.errno not in OF_THE_DISK or error.filename is None:
                raise
            _fail(f"{error.filename}: {str(error.strerror).lower()}; check the rights on it or give another path")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        raise AssertionError("unreachable")

    return wrapped


def run_command(main: Callable[[], None], *, overrides: bool = False) -> None:
    """Run a command's `main`. A function under `@hydra.main` needs `@one_line_errors` of its own besides.

    Hydra reports what a job raises in a line of its own, so a job has to report its errors itself.

    overrides: the arguments are Hydra's. Their values may contain an =, as names of checkpoints do.
    """
    if overrides:
        sys.argv[1:] = [_quoted(argument) for argument in sys.argv[1:]]
    # Without this Hydra prints a config error over several lines and hides its cause.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    one_line_errors(main)()


def _quoted(argument: str) -> str:
    found = OVERRIDE.fullmatch(argument)
    return f"{found[1]}'{found[2]}'" if found else argument


def _fail(message: str) -> None:
    line = " ".join(message.split())
    record = logging.LogRecord("saicinpainting", logging.ERROR, __file__, 0, "stopped: %s", (line,), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):  # the screen gets the line below
            handler.handle(record)
    print(f"error: {line}", file=sys.stderr)
    sys.exit(1)
