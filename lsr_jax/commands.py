"""What commands share: parsing, errors on one line with exit code 2, their own words."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from lsr_jax.errors import InputError


class Parser(argparse.ArgumentParser):
    """Complains by InputError."""

    def error(self, message: str):
        """Raises InputError."""
        raise InputError(f"{message}; see --help")


def guarded(command: Callable[[], int]) -> int:
    """The exit code of a command; 2 after printing an InputError as one line."""
    try:
        return command()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def line() -> str:
    """The command line that runs, as a user writes it: a script, or ``-m`` and a module."""
    spec = sys.modules["__main__"].__spec__
    if spec is None:
        program = [Path(sys.argv[0]).name]
    else:
        program = ["-m", spec.name.removesuffix(".__main__")]
    return shlex.join(["python", *program, *sys.argv[1:]])
