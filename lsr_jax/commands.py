"""What all ``python -m`` commands share: parsing, and errors on one line, exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

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
