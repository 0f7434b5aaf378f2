import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lsr_jax import commands
from lsr_jax.errors import InputError, TrainingError

ROOT = Path(__file__).parents[1]


def run(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )


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
        (errno.ENAMETOOLONG, 2),
        (errno.ELOOP, 2),
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
    process = subprocess.run(
        [sys.executable, ROOT / script, "--help"], capture_output=True, text=True
    )
    shown = process.stdout
    for flag in (own, "config", "workdir", "[no]debug", "[no]distributed"):
        assert f"  --{flag}:" in shown, flag


def test_ctrl_c_while_the_config_is_read_is_no_traceback(tmp_path):
    config = tmp_path / "config.py"
    config.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = run("train.py", "--config", config)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("minutes", ["nan", "inf"])
def test_minutes_without_end_are_refused(minutes):
    done = run("train.py", "--config=configs/streets.py", "--max-minutes", minutes)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: flag --max-minutes={minutes}: expected")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("path", ["", "~nouser/x", b"caf\xe9"])
@pytest.mark.parametrize(
    "command",
    [
        ["train.py", "--config=configs/streets.py", "--workdir"],
        ["evaluate.py", "--checkpoint"],
        ["-m", "lsr_jax.predict", "--workdir=x", "--images=x", "--out"],
        ["-m", "lsr_jax.study.run", "--config=configs/streets.py", "--workdir"],
    ],
    ids=["train", "evaluate", "predict", "study"],
)
def test_paths_that_are_none_are_one_line(command, path):
    done = run(*command, path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {command[-1]}")
    assert done.stderr.count("\n") == 1


def test_wrong_arguments_are_input_errors():
    parser = commands.Parser(prog="x")
    parser.add_argument("--seed", type=int)
    with pytest.raises(InputError, match=r"'many'; see --help"):
        parser.parse_args(["--seed", "many"])
