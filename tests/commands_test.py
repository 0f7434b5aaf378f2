import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lsr_jax import commands
from lsr_jax.errors import InputError, TrainingError


@pytest.mark.parametrize(("kind", "code"), [(InputError, 2), (TrainingError, 1)])
def test_an_error_of_ours_is_one_line(kind, code, capsys):
    def command():
        raise kind("file x:\n  expected\ty")

    assert commands.guarded(command) == code
    assert capsys.readouterr().err == "error: file x: expected y\n"


def test_other_codes_pass_and_other_errors_are_not_hidden():
    assert commands.guarded(lambda: 1) == 1
    with pytest.raises(ZeroDivisionError):
        commands.guarded(lambda: 1 // 0)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, 1),
        (errno.EIO, 1),
        (errno.EACCES, 2),
        (errno.ENOTDIR, 2),
        (errno.EISDIR, 2),
    ],
)
def test_what_the_disk_refuses_is_one_line(number, code, capsys):
    def command():
        raise OSError(number, os.strerror(number), "x")

    assert commands.guarded(command) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_other_errors_of_the_system_are_not_hidden():
    with pytest.raises(FileNotFoundError):
        commands.guarded(lambda: Path("nowhere").read_text())


def test_ctrl_c_is_no_traceback(capsys):
    def command():
        raise KeyboardInterrupt

    assert commands.guarded(command) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("script", "own"), [("train.py", "max-steps"), ("evaluate.py", "ensemble")]
)
def test_help_shows_the_flags_that_scripts_share(script, own):
    root = Path(__file__).parents[1]
    process = subprocess.run(
        [sys.executable, root / script, "--help"], capture_output=True, text=True
    )
    shown = process.stdout
    for flag in (own, "config", "workdir", "[no]debug", "[no]distributed"):
        assert f"  --{flag}:" in shown, flag


def test_wrong_arguments_are_input_errors():
    parser = commands.Parser(prog="x")
    parser.add_argument("--seed", type=int)
    with pytest.raises(InputError, match=r"'many'; see --help"):
        parser.parse_args(["--seed", "many"])
