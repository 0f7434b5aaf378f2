"""Failures of benchmarks.guard; what it measures is code of `benchmarks.steps`."""

import subprocess
import sys

import pytest

from benchmarks import guard
from lsr_jax.errors import InputError


def test_a_side_that_ends_is_named():
    process = subprocess.Popen(
        [sys.executable, "-c", "raise SystemExit(3)"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process, pytest.raises(InputError, match="'before' ended with exit code 3"):
        guard.train(process, "before")


def test_a_commit_that_does_not_exist():
    with (
        pytest.raises(InputError, match=r"git worktree add .*: .*no-such-commit"),
        guard.worktree("no-such-commit"),
    ):
        pass
