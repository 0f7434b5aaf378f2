import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import logging

from lsr_jax import cli
from lsr_jax.errors import InputError, Stopped, TrainingError

ROOT = Path(__file__).parents[1]
# Where tests run without a terminal (nohup, CI), child processes inherit an ignored SIGINT.
RESTORE_SIGINT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


def define(flags):
    flags.path("out", "A path.")
    flags.size("size", "A size.", full=True)
    flags.integer("pairs", 8, "A number.", lower_bound=1)
    flags.float("minutes", None, "A number.", lower_bound=0)
    flags.config()
    flags.distributed()


def parse(*argv, arguments=()):
    flags = cli.Flags()
    define(flags)
    return cli.parse(flags, argv, arguments)


def outcome(error):
    def command(_):
        raise error

    return cli.run(define, command, [])


def script(code, *argv, **options):
    return subprocess.run(
        [sys.executable, "-c", RESTORE_SIGINT + code, *map(str, argv)],
        cwd=ROOT,
        text=True,
        check=False,
        **{"capture_output": True, **options},
    )


def run(*words):
    command = [sys.executable, *map(str, words)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_values_of_flags():
    options, words = parse(
        "NAME",
        "--size=1280x720",
        "--out",
        "~/x",
        "--config=c.py",
        "--config.seed=1",
        arguments=["NAME"],
    )
    assert words == ["NAME"]
    assert options.size == (720, 1280)
    assert options.out == Path.home() / "x"
    assert (options.config, options.overrides) == ("c.py", ["--config.seed=1"])
    assert parse("--size=full")[0].size == ()
    assert cli.processes(options) is None
    assert cli.processes(parse("--process_id=0")[0])["process_id"] == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nonsense"], "nonsense"),
        (
            ["--pairs=0"],
            "--pairs=0: Expected integer >= 1|--pairs=0: 0 is not a positive",
        ),
        (["--pairs", "many"], "'many'"),
        (["--minutes=nan"], "--minutes=nan: not a finite number"),
        (["--minutes=inf"], "--minutes=inf: not a finite number"),
        (["--out="], "--out=: path: is empty"),
        (["--out=~nouser/x"], "--out=~nouser/x: .*no such home folder"),
        (["--size=96"], "--size=96: expected WIDTHxHEIGHT such as 1280x720, or full"),
        (["--size=0x96"], "--size=0x96: expected WIDTHxHEIGHT"),
        (["--config.seed", "1"], "--config.seed: missing value"),
        (["--config.seed=1"], "--config.seed=1: overrides a key of --config, found n"),
        (["--process_id=-1"], "--process_id=-1"),
        (["more"], "unexpected argument 'more'"),
    ],
)
def test_bad_flags_are_input_errors(argv, message):
    with pytest.raises(InputError, match=message) as caught:
        parse(*argv)
    assert str(caught.value).count("\n") == 0


def test_a_missing_flag_or_argument_is_named():
    flags = cli.Flags()
    flags.config(required=True)
    with pytest.raises(InputError, match="--config is required; see"):
        cli.parse(flags, [])
    with pytest.raises(InputError, match="missing argument FILE"):
        parse("a", arguments=["NAME", "FILE"])


@pytest.mark.parametrize(("kind", "code"), [(InputError, 2), (TrainingError, 1)])
def test_own_errors_are_one_line(kind, code, capsys):
    assert outcome(kind("file x:\n  expected\ty")) == code
    assert capsys.readouterr().err == "error: file x: expected y\n"


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, 1), (errno.EIO, 1), (errno.EACCES, 2), (errno.ENAMETOOLONG, 2)],
)
def test_environment_failures_are_one_line(number, code, capsys):
    assert outcome(OSError(number, os.strerror(number), "x")) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ("free some space" in error) == (number == errno.ENOSPC)


@pytest.mark.parametrize("kind", [ZeroDivisionError, FileNotFoundError])
def test_other_errors_keep_their_traceback(kind):
    with pytest.raises(kind):
        outcome(kind())


def test_an_unknown_platform_of_jax_is_one_line(capsys):
    found = "Unable to initialize backend 'x': not known\n(set JAX_PLATFORMS='')"
    assert outcome(RuntimeError(found)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: JAX_PLATFORMS: Unable to initialize backend 'x'")
    assert error.count("\n") == 1
    with pytest.raises(RuntimeError):
        outcome(RuntimeError("other"))


def test_exit_codes(capsys):
    assert cli.run(define, lambda options: 1, []) == 1
    assert cli.run(define, lambda options: None, []) == 0
    assert outcome(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ""
    assert outcome(Stopped("stopped by SIGTERM")) == 3
    assert capsys.readouterr().err.startswith("stopped by SIGTERM; continue with: ")


def test_debug_shows_the_traceback():
    def command(_):
        raise InputError("bad")

    with pytest.raises(InputError):
        cli.run(define, command, ["--debug"])


@pytest.mark.parametrize(
    ("flags", "level"), [([], logging.FATAL), (["--debug"], logging.INFO)]
)
def test_libraries_log_only_when_debugging(flags, level):
    code = """
import sys
from absl import logging
from lsr_jax import cli

def command(options):
    print(logging.get_verbosity())

sys.exit(cli.run(lambda flags: None, command))
"""
    done = script(code, *flags)
    assert (done.returncode, done.stdout) == (0, f"{level}\n")


@pytest.mark.parametrize(
    ("module", "own"), [("train", "max_steps"), ("evaluate", "ensemble")]
)
def test_help_lists_the_flags(module, own):
    done = run(f"{module}.py", "--help")
    assert f"python {module}.py" in done.stdout
    for flag in (own, "config", "workdir", "[no]debug", "[no]distributed"):
        assert f"  --{flag}:" in done.stdout, flag


def test_config_names():
    assert cli.run_name("configs/streets.py:lsr,tiny") == "streets-lsr-tiny"
    config = cli.read_config("streets:lsr,tiny", ["--config.seed=3"])
    assert config["seed"] == 3
    assert config == cli.read_config("configs/streets.py:lsr,tiny", ["--config.seed=3"])


def test_print_config_names_the_origin_of_each_value():
    done = run(
        "train.py",
        "--config=configs/gta2cs.py:lsr,tiny",
        "--config.seed=3",
        "--print_config",
    )
    lines = [line.split("  # ") for line in done.stdout.splitlines()]
    found = {text.strip(): origin for text, origin in lines}
    assert found["seed = 3"] == "command line"
    assert found["data.source.root = 'data/gta5'"] == "configs/gta2cs.py"
    assert found["model.num_classes = 19"] == "configs/default.py"
    assert found["adapt.method.clustering = 0.1"] == "configs/gta2cs.py"
    assert found["adapt.method.clustering_distance = 'l1_mean'"] == (
        "preset released of lsr"
    )
    assert found["adapt.method.norm_delta = 0.1"] == "preset released of lsr"
    assert found["adapt.optimizer.decay_steps = 50000"] == "configs/recipes.py: lsr"
    assert found["adapt.init_from = 'source'"] == "configs/stages.py"
    assert found["adapt.steps = 6"] == "tiny"


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("nowhere.py", None, "--config nowhere.py: no such file"),
        ("streets:lrs", None, "config argument: 'lrs' is unknown"),
        ("streets", "--config.sed=1", "unknown config key: 'sed'"),
        ("streets", "--config.seed=x", "--config.seed=x: invalid literal"),
    ],
)
def test_bad_configs_are_input_errors(name, override, message):
    with pytest.raises(InputError, match=message):
        cli.read_config(name, [override] if override else [])


def test_ctrl_c_while_the_config_is_read_is_no_traceback(tmp_path):
    config = tmp_path / "config.py"
    config.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    code = "import sys; from lsr_jax import train; sys.exit(train.main())"
    done = script(code, "--config", config)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("size", [1, 100_000])  # less and more than a pipe holds
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_pipe_stops_nothing(stream, size, tmp_path):
    code = f"""
import pathlib, sys
from lsr_jax import cli

def command(options):
    for _ in range(3):
        print("x" * {size}, file=sys.{stream}, flush=True)
    pathlib.Path({str(tmp_path / "done")!r}).touch()
    print("x" * {size}, file=sys.{stream})

sys.exit(cli.run(lambda flags: None, command))
"""
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: write}
    done = script(code, capture_output=False, **streams)
    os.close(write)
    assert done.returncode == 0
    assert (done.stdout or done.stderr or "") == ""
    assert (tmp_path / "done").exists()


def test_an_open_pipe_gets_everything():
    code = """
import sys
from lsr_jax import cli
print("a", end="")
cli.ignore_broken_pipes()
cli.ignore_broken_pipes()
print("b\\u00e9")
print("c", file=sys.stderr)
"""
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == (b"ab\xe9\n", b"c\n")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "part"), [(Terminal, "\r"), (io.StringIO, "gta5: 100% 3/3 image [")]
)
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(stream, part, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setattr(cli, "LINE_SECONDS", 0)
    with cli.progress_bar(3, "gta5", "image") as bar:
        for _ in range(3):
            bar.update()
    shown = sys.stderr.getvalue()
    assert part in shown
    assert ("\r" in shown) == sys.stderr.isatty()
