"""What commands share: parsing, errors on one line with exit code 2, their own words."""

from __future__ import annotations

import argparse
import errno
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from lsr_jax import console
from lsr_jax.errors import InputError, TrainingError, one_line

# What the machine refuses, whoever asks; and paths that nobody can use.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK = (*FULL, errno.EIO)
PATH = (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
PATH += (errno.ENAMETOOLONG, errno.ELOOP)
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Complains by InputError."""

    def error(self, message: str):
        """Raises InputError."""
        raise InputError(f"{message}; see --help")


def guarded(command: Callable[[], int]) -> int:
    """The exit code of a command, after one line for what its user can mend.

    2: bad input, or a path that cannot be used; 1: the disk is full, or a process died;
    130: Ctrl-C.
    """
    console.outlive_readers()
    try:
        with console.attached():
            return command()
    except KeyboardInterrupt:
        return INTERRUPTED
    except (InputError, TrainingError, OSError) as error:
        code = code_of(error)
        if code is None:
            raise
        return complain(error, code)


def code_of(error: Exception) -> int | None:
    """The exit code for an error that one line explains; None for any other."""
    if isinstance(error, InputError):
        return 2
    if isinstance(error, TrainingError):
        return 1
    if isinstance(error, OSError):
        return {**dict.fromkeys(DISK, 1), **dict.fromkeys(PATH, 2)}.get(error.errno)
    return None


def complain(error: Exception, code: int) -> int:
    """Print ``error`` on one line; returns ``code``."""
    line = one_line(error)
    if isinstance(error, OSError) and error.errno in FULL:
        line += "; make room, then the same command continues"
    print(f"error: {line}", file=sys.stderr)
    return code


def line() -> str:
    """The command line that runs, as a user writes it: a script, or ``-m`` and a module."""
    spec = sys.modules["__main__"].__spec__
    if spec is None:
        program = [Path(sys.argv[0]).name]
    else:
        program = ["-m", spec.name.removesuffix(".__main__")]
    return shlex.join(["python", *program, *sys.argv[1:]])
