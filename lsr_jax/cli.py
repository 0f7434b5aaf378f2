"""Flags, exit codes and one-line errors, the same for every command.

Exit codes:

* 0: done.
* 1: the work failed: a loss is not finite, the disk is full, a worker process died.
* 2: bad input.
* 3: stopped early by SIGTERM, SIGINT or a limit; the same command continues.
* 130: Ctrl-C in a command that does not train.
* 128 + N: ended at once by a second signal N; the same command continues from the newest
  checkpoint.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import logging
import math
import re
import shlex
import sys
import threading
import types
from collections.abc import Callable, Iterable, Sequence
from functools import partialmethod
from pathlib import Path

import absl.flags
import absl.logging
from ml_collections import config_flags
from tqdm import tqdm

from lsr_jax import files
from lsr_jax.errors import (
    BAD_PATH,
    DISK_FAILURE,
    DISK_FULL,
    InputError,
    Stopped,
    TrainingError,
    one_line,
)

INTERRUPTED = 130
NO_DEVICE = "Unable to initialize backend"  # JAX's words
LINE_SECONDS = 5  # between two lines of progress
CONFIGS = Path(__file__).parent / "configs"


class Flags:
    """The absl flags of one command.

    Every command has a set of its own, so that commands can import one another.
    """

    def __init__(self):
        self.values = absl.flags.FlagValues()
        self.values.set_gnu_getopt(True)  # flags may follow positional arguments
        self.boolean("debug", False, "Show tracebacks, and what libraries log.")

    def _define(self, define: Callable, *arguments, **options) -> None:
        define(*arguments, **options, flag_values=self.values, module_name="flags")

    # Arguments as in absl: name, default (choices), help, lower_bound=, required=.
    string = partialmethod(_define, absl.flags.DEFINE_string)
    integer = partialmethod(_define, absl.flags.DEFINE_integer)
    boolean = partialmethod(_define, absl.flags.DEFINE_boolean)
    list = partialmethod(_define, absl.flags.DEFINE_list)
    enum = partialmethod(_define, absl.flags.DEFINE_enum)

    def float(self, name: str, default: float | None, meaning: str, **options) -> None:
        """Define a flag for a finite number."""
        self._define(absl.flags.DEFINE_float, name, default, meaning, **options)
        absl.flags.register_validator(
            name,
            lambda value: value is None or math.isfinite(value),
            message="not a finite number",
            flag_values=self.values,
        )

    def path(self, name: str, meaning: str, **options) -> None:
        """Define a flag for a file or folder, given as a `Path` with ``~`` expanded."""
        self._define(absl.flags.DEFINE, _PathParser(), name, None, meaning, **options)

    def size(self, name: str, meaning: str, *, full: bool = False, **options) -> None:
        """Define a flag for a size in pixels: ``WIDTHxHEIGHT``, given as ``(H, W)``.

        With ``full``, the word "full" is the empty tuple.
        """
        parser = _SizeParser(full)
        self._define(absl.flags.DEFINE, parser, name, None, meaning, **options)

    def config(self, *, required: bool = False) -> None:
        """Define ``--config`` and ``--config.KEY=VALUE``; see `read_config`."""
        self.string(
            "config",
            None,
            "configs/FILE.py:WORDS, or FILE:WORDS for a file of lsr_jax; "
            "--config.KEY=VALUE overrides a key.",
            required=required,
        )

    def augmentation(self) -> None:
        """Define the flags of test-time augmentation, see `parse_augmentation`."""
        self.boolean("flip", False, "Average with the mirrored image.")
        self.list("scales", ["1"], "Average over sizes of the input: 0.75,1,1.25.")
        self.size(
            "window",
            "Average over windows that overlap by half (HRDA, MIC), or full: the whole "
            "image; default: the config's.",
            full=True,
        )

    def distributed(self) -> None:
        """Define ``--distributed`` and the flags of `processes`."""
        self.boolean(
            "distributed", False, "One of several processes of jax.distributed."
        )
        self.string("coordinator_address", None, "HOST:PORT of process 0.")
        self.integer("num_processes", None, "Number of processes.", lower_bound=1)
        self.integer("process_id", None, "Index of this one, from 0.", lower_bound=0)


class _PathParser(absl.flags.ArgumentParser):
    def parse(self, argument: str | Path) -> Path:
        try:
            return files.expanded(argument)
        except InputError as error:
            raise ValueError(error) from None


class _SizeParser(absl.flags.ArgumentParser):
    def __init__(self, full: bool):
        self._full = full

    def parse(self, argument: str) -> tuple[int, ...]:
        if self._full and argument == "full":
            return ()
        found = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", str(argument))
        if not found:
            choices = ", or full" if self._full else ""
            raise ValueError(f"expected WIDTHxHEIGHT such as 1280x720{choices}")
        return int(found[2]), int(found[1])


def run(
    define: Callable[[Flags], None],
    command: Callable[..., int | None],
    argv: Sequence[str] | None = None,
    *,
    arguments: Sequence[str] = (),
) -> int:
    """Parse flags, call ``command(options, *words)`` and return the exit code.

    Args:
      define: defines the flags of the command.
      command: gets an object with the value of every flag by its name, and
        ``overrides``, the words ``--config.KEY=VALUE``. Returns an exit code, or None.
      argv: the words after the command; default: those of the process, whose output
        and logging are then set up too.
      arguments: names of the positional arguments, all of which are required.
    """
    if argv is None:
        argv = sys.argv[1:]
        ignore_broken_pipes()
        _configure_logging("--debug" in argv)
    debug = "--debug" in argv
    try:
        flags = Flags()
        define(flags)
        if "--help" in argv:
            print(sys.modules[command.__module__].__doc__)
            print(flags.values.get_help(include_special_flags=False))
            return 0
        options, words = parse(flags, argv, arguments)
        return command(options, *words) or 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except Stopped as reason:
        print(f"{reason}; continue with: {command_line()}", file=sys.stderr)
        return 3
    except RuntimeError as error:
        # JAX looks for its devices when it first needs them.
        if debug or NO_DEVICE not in str(error):
            raise
        print(f"error: JAX_PLATFORMS: {one_line(error)}", file=sys.stderr)
        return 2
    except (InputError, TrainingError, OSError) as error:
        code = exit_code(error)
        if debug or code is None:
            raise
        line = one_line(error)
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            line += "; free some space, then run the same command again"
        print(f"error: {line}", file=sys.stderr)
        return code


def parse(
    flags: Flags, argv: Sequence[str], arguments: Sequence[str] = ()
) -> tuple[argparse.Namespace, list[str]]:
    """Options and positional arguments; raises InputError for unusable ones.

    ``options.given`` has the names of the flags on the command line.
    """
    overrides = []
    if "config" in flags.values:
        overrides = [word for word in argv if word.startswith("--config.")]
        argv = [word for word in argv if word not in overrides]
    for word in overrides:
        if "=" not in word:
            raise InputError(f"{word}: missing value; write --config.KEY=VALUE")
    try:
        words = flags.values(["", *argv])[1:]
    except (absl.flags.Error, OSError, TypeError, ValueError) as error:
        text = re.sub(r"^flag --(\w+)=None: .*", r"--\1 is required", str(error))
        raise InputError(f"{text}; see --help") from error
    if len(words) < len(arguments):
        raise InputError(f"missing argument {arguments[len(words)]}; see --help")
    if len(words) > len(arguments):
        raise InputError(f"unexpected argument {words[len(arguments)]!r}; see --help")
    values = flags.values.flag_values_dict()
    if overrides and not values["config"]:
        raise InputError(
            f"{overrides[0]}: overrides a key of --config, found none; name the file too"
        )
    given = {name for name in values if flags.values[name].present}
    return argparse.Namespace(**values, overrides=overrides, given=given), words


def exit_code(error: Exception) -> int | None:
    """The exit code for an error that one line explains; None for any other."""
    if isinstance(error, InputError):
        return 2
    if isinstance(error, TrainingError):
        return 1
    number = getattr(error, "errno", None)
    return 1 if number in DISK_FAILURE else 2 if number in BAD_PATH else None


def refuse(options: argparse.Namespace, names: Iterable[str], command: str) -> None:
    """Raise InputError for a flag that was given though ``command`` does not use it."""
    for name in names:
        if name in options.given:
            raise InputError(f"--{name}: {command} does not use it; leave it out")


def read_config(name: str, overrides: Sequence[str] = ()) -> dict:
    """The config that ``--config NAME --config.KEY=VALUE ...`` means, as nested dicts.

    Raises:
      InputError: an unknown file, method, preset or key, or a value of another type.
    """
    module, words = _load_config_file(name)
    try:
        config = module.get_config(*words)
    except ValueError as error:
        raise InputError(error) from error
    values = absl.flags.FlagValues()
    argv = ["", *overrides]
    try:
        flag = config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=argv
        )
        values(argv)
    except (AttributeError, KeyError) as error:  # ml_collections nests its errors
        while error.args and isinstance(error.args[0], Exception):
            error = error.args[0]
        raise InputError(f"unknown config key: {error.args[0]}") from error
    except (absl.flags.Error, TypeError, ValueError) as error:
        raise InputError(str(error).strip()) from error
    return flag.value.to_dict()


def explain_config(name: str, overrides: Sequence[str] = ()) -> str:
    """A line for every value of `read_config`, with where it was set."""
    from lsr_jax.configs import overlays

    config = read_config(name, overrides)
    module, words = _load_config_file(name)
    values = overlays.flat(config)
    origins = dict.fromkeys(values, name)
    if hasattr(module, "overlays"):
        origins = overlays.origins(config, *module.overlays(*words))
    for word in overrides:
        origins[word.removeprefix("--config.").partition("=")[0]] = "command line"
    return "\n".join(f"{f'{k} = {values[k]!r}':60}  # {origins[k]}" for k in values)


def _load_config_file(name: str) -> tuple[types.ModuleType, list[str]]:
    """The module of a config file, and the argument of its functions, if there is one."""
    file, _, words = name.partition(":")
    path = Path(file)
    if not path.is_file() and (CONFIGS / f"{file}.py").is_file():
        path = CONFIGS / f"{file}.py"
    if not path.is_file():
        raise InputError(f"--config {name}: no such file; see configs/")
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, [words] if words else []


def run_name(config: str) -> str:
    """The name of a run: ``streets-lsr-tiny`` for ``configs/streets.py:lsr,tiny``."""
    file, _, words = config.partition(":")
    words = [Path(word).stem for word in re.split(r"[,:]", words)]
    return "-".join([Path(file).stem, *filter(None, words)])


def processes(options: argparse.Namespace) -> dict | None:
    """The keywords of `distributed.initialize`; None for a single process."""
    names = ("coordinator_address", "num_processes", "process_id")
    given = {name: getattr(options, name) for name in names}
    several = any(value is not None for value in given.values())
    return given if options.distributed or several else None


def progress_bar(
    total: int, name: str, unit: str, *, initial: int = 0, disable: bool = False
) -> tqdm:
    """A bar on a terminal; elsewhere a line every `LINE_SECONDS`, without ``\\r``.

    What takes less time prints no line.
    """
    options = {"total": total, "desc": name, "unit": unit, "initial": initial}
    if not sys.stderr.isatty():
        text = "{desc}: {percentage:.0f}% {n_fmt}/{total_fmt} {unit} "
        text += "[{elapsed}<{remaining}{postfix}]"
        options |= {"file": _Lines(), "bar_format": text}
        options |= {"mininterval": LINE_SECONDS, "delay": LINE_SECONDS}
    return tqdm(**options, miniters=1, disable=disable)


class _Lines:
    """A stream for tqdm, which writes a carriage return before each state of a bar."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


def command_line() -> str:
    """The command that runs, as a user writes it."""
    spec = sys.modules["__main__"].__spec__
    if spec is None:
        program = [Path(sys.argv[0]).name]
    else:
        program = ["-m", spec.name.removesuffix(".__main__")]
    return shlex.join(["python", *program, *sys.argv[1:]])


def ignore_broken_pipes() -> None:
    """Drop what is printed after the reader of stdout or stderr (``| head``) has left.

    Otherwise Python raises BrokenPipeError in the middle of the work, or at exit.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream:
            stream.flush()
            raw = _UnbreakableFile(stream.fileno(), "w", closefd=False)
            replacement = io.TextIOWrapper(
                io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering or stream.write_through,
            )
            setattr(sys, name, replacement)


class _UnbreakableFile(io.FileIO):
    def write(self, data) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def _configure_logging(debug: bool) -> None:
    """Hide what Orbax and TFDS log and what their threads raise, unless debugging.

    Orbax prints a traceback for every array that a full disk did not take; the error
    itself is raised by the save.
    """
    if debug:
        absl.logging.set_verbosity(absl.logging.INFO)
        return
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)

    def unless(unwanted: Callable[..., bool], hook: Callable) -> Callable:
        return lambda *found: None if unwanted(*found) else hook(*found)

    closed = "Event loop is closed"
    sys.excepthook = unless(lambda _, e, __: str(e) == closed, sys.__excepthook__)
    sys.unraisablehook = unless(
        lambda failure: str(failure.exc_value) == closed, sys.__unraisablehook__
    )
    threading.excepthook = unless(
        lambda failure: type(failure.thread).__module__.startswith("orbax."),
        threading.__excepthook__,
    )
