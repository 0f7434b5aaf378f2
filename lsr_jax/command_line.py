"""Flags, exit codes and one-line errors of the scripts.

Exit codes:

* 0: done.
* 1: training could not go on: a loss is not finite, the disk is full, a worker died.
* 2: bad input.
* 3: stopped before the end by SIGTERM, SIGINT or a limit; nothing is lost, and the same
  command goes on.
* 130: Ctrl-C where nothing trains.
* 128 + N: ended at once by signal N, the second one; the same command goes on from the
  newest checkpoint.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from lsr_jax import commands, console, files
from lsr_jax.errors import InputError, Stopped, TrainingError

SHARED = {
    "config",
    "workdir",
    "debug",
    "distributed",
    "coordinator_address",
    "num_processes",
    "process_id",
}


def run(main: Callable[[], None]) -> None:
    """Parse the flags that the script defined, call ``main``, exit with its code."""
    console.outlive_readers()
    flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")
    for name in SHARED & set(flags.FLAGS):  # in --help, as if the script defined them
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    try:
        app.run(lambda _: guarded(main), flags_parser=parse)
    except KeyboardInterrupt:
        sys.exit(commands.INTERRUPTED)


def guarded(main: Callable[[], None]) -> None:
    """Call ``main``; print a user's error as one line and exit."""
    # Orbax and TFDS tell every step they take, and Orbax every array that a full disk
    # did not take: the error itself comes out of the save.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.excepthook = uncaught
    sys.unraisablehook = unraisable
    threading.excepthook = uncaught_in_thread
    try:
        with console.attached():
            main()
    except Stopped as reason:
        stopped(reason)
    except (InputError, TrainingError, OSError) as error:
        code = commands.code_of(error)
        if flags.FLAGS.debug or code is None:
            raise
        sys.exit(commands.complain(error, code))


def uncaught(kind: type, error: BaseException, trace: object) -> None:
    """The usual traceback, without those of Orbax's writers after a save has failed."""
    if str(error) != "Event loop is closed":
        sys.__excepthook__(kind, error, trace)


def unraisable(failure: sys.UnraisableHookArgs) -> None:
    """The same for what is raised where nobody can catch it."""
    if str(failure.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(failure)


def uncaught_in_thread(failure: threading.ExceptHookArgs) -> None:
    """The usual traceback, without those of Orbax's threads: their error is raised."""
    if not type(failure.thread).__module__.startswith("orbax."):
        threading.__excepthook__(failure)


def stopped(reason: Stopped) -> None:
    """Say how to go on, and exit."""
    print(f"{reason}; continue with: {commands.line()}", file=sys.stderr)
    sys.exit(3)


def parse(argv: list[str]) -> list[str]:
    """absl's parser with every complaint on one line, exit code 2."""
    try:
        rest = parsed(flags.FLAGS, argv)
        if len(rest) > 1:
            raise InputError(f"unexpected argument {rest[1]!r}; see --help")
    except InputError as error:
        sys.exit(commands.complain(error, 2))
    return rest


def parsed(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parse ``argv`` into ``values``; returns what is no flag.

    Raises:
      InputError: a flag or a config key that cannot be used.
    """
    try:
        return values(argv)
    except (AttributeError, KeyError) as error:
        # ml_collections on a key that the config does not have.
        raise InputError(f"unknown config key: {innermost(error)}") from error
    except (flags.Error, OSError, TypeError, ValueError) as error:
        raise InputError(last_line(error)) from error


def read_config(name: str, overrides: Sequence[str] = ()) -> dict:
    """What ``--config NAME`` with ``--config.KEY=VALUE`` flags gives, as nested dicts.

    Raises:
      InputError: no such file, method, preset or key.
    """
    if not Path(name.partition(":")[0]).is_file():
        raise InputError(f"--config {name}: no such file; see configs/")
    values = flags.FlagValues()
    argv = ["", f"--config={name}", *overrides]
    config = config_flags.DEFINE_config_file(
        "config", flag_values=values, lock_config=True, sys_argv=argv
    )
    parsed(values, argv)
    return config.value.to_dict()


def innermost(error: Exception) -> str:
    """The text inside errors that were wrapped in errors, with its quotes taken off."""
    text = error
    while isinstance(text, Exception) and text.args:
        text = text.args[0]
    return str(text)


def last_line(error: Exception) -> str:
    """The message of an error without a traceback that it may quote."""
    text = str(error).strip()
    if "Traceback" not in text:
        return text
    return text.splitlines()[-1].removeprefix("ValueError: ")


def define_config() -> Callable[[], tuple[ConfigDict, Path]]:
    """Define ``--config`` and ``--workdir``; returns their reader for after parsing."""
    read_config = _define_config_file()
    workdir = define_path("workdir", "Folder of the run; default: runs/NAME.")
    flags.mark_flag_as_required("config")

    def read() -> tuple[ConfigDict, Path]:
        name, config = read_config()
        return config, Path(workdir.value or files.checked(default_workdir(name)))

    return read


def define_path(name: str, meaning: str, *, required: bool = False):
    """Define a flag for a file or folder; its value is text, or None."""
    return flags.DEFINE(_PathParser(name), name, None, meaning, required=required)


class _PathParser(flags.ArgumentParser):
    def __init__(self, name: str):
        self._key = f"--{name}"

    def parse(self, argument: str) -> str:
        return str(files.expanded(argument, key=self._key))


def define_data_config() -> Callable[[], dict | None]:
    """Define ``--config`` for weights outside of a run; returns its reader."""
    read_config = _define_config_file()

    def read() -> dict | None:
        if flags.FLAGS["config"].value is None:
            return None
        return read_config()[1].to_dict()

    return read


def _define_config_file():
    config = config_flags.DEFINE_config_file(
        "config",
        None,
        "configs/NAME.py or configs/NAME.py:METHOD; --config.KEY=VALUE overrides a key.",
        lock_config=True,
    )

    def read() -> tuple[str, ConfigDict]:
        name = config_flags.get_config_filename(flags.FLAGS["config"])
        if not Path(name.partition(":")[0]).is_file():
            raise InputError(f"--config {name}: no such file; see configs/")
        return name, config.value

    return read


def define_processes() -> Callable[[], dict | None]:
    """Define ``--distributed`` and what goes with it; returns their reader.

    The reader gives the keywords of `distributed.initialize`, or None for one process.
    """
    distributed = flags.DEFINE_boolean(
        "distributed", False, "One of several processes, found by jax.distributed."
    )
    values = {
        "coordinator_address": flags.DEFINE_string(
            "coordinator_address",
            None,
            "HOST:PORT of process 0, where JAX cannot tell.",
        ),
        "num_processes": flags.DEFINE_integer(
            "num_processes", None, "How many processes there are."
        ),
        "process_id": flags.DEFINE_integer(
            "process_id", None, "Which of them this is, from 0."
        ),
    }

    def read() -> dict | None:
        given = {name: flag.value for name, flag in values.items()}
        named = any(value is not None for value in given.values())
        return given if distributed.value or named else None

    return read


def default_workdir(config: str) -> Path:
    """``configs/streets.py:lsr,tiny`` runs in ``runs/streets-lsr-tiny``."""
    file, _, argument = config.partition(":")
    words = [Path(file).stem, *filter(None, re.split(r"[,:]", argument))]
    return Path("runs") / "-".join(words)
