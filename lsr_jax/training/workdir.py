"""The folder of a run: its resolved config and the facts of its environment."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

import jax

from lsr_jax import cli, files
from lsr_jax.errors import InputError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
LOCK = ".lock"
CONFIG = ("the config of a run", "restore it")
MANIFEST = ("the manifest of a run", "restore it")
# What every reader finds in them.
CONFIG_KEYS = {
    "seed": int,
    "stages": list,
    "model": dict,
    "data": {"preprocessing": str, "source": dict, "target": dict},
    "evaluation": dict,
}
STAGE_KEYS = {"method": {"name": str}, "init_from": str, "steps": int}
MANIFEST_KEYS = {
    "command": str,
    "versions": dict,
    "python": str,
    "platform": str,
    "cpus": int | None,
    "devices": list,
    "device_kind": str,
    "data": {"source": str, "target": str},
    "weights": dict,
}
# Keys that may change when a run goes on: the batches stay the same.
FREE = ("num_devices", "cpu_devices", "data.workers")


def to_json(value) -> str:
    """Indented JSON with sorted keys and a final newline."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def check(workdir: Path, config: Mapping) -> None:
    """Raise InputError where ``workdir`` is no folder or holds a run of another config.

    Or where nobody can tell, because it holds checkpoints alone. Nothing is written: a
    run that cannot start for other reasons leaves no trace.
    """
    path = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"workdir {workdir}: cannot be written: it is a file")
    begun = next(workdir.glob("*/checkpoints"), None)
    for file in (path, workdir / "manifest.json"):
        if begun and not file.exists():
            raise InputError(
                f"workdir {workdir}: expected {file.name} beside {begun.parent.name}/"
                f"{begun.name}, found none; restore it, or choose another --workdir"
            )
    if path.exists():
        check_same(path, json.loads(to_json(config)))


@contextlib.contextmanager
def claimed(workdir: Path, config: Mapping, facts: Mapping) -> Iterator[None]:
    """Holds a workdir that was checked; ``config.json`` and ``manifest.json`` are in it.

    The system gives the folder free on any death of the process. Of a run of several
    processes the first one does it for all.

    Args:
      workdir: made if missing.
      config: resolved, JSON-able.
      facts: for the manifest, beside command, versions, devices and machine.

    Raises:
      InputError: the folder cannot be written, another process trains in it, or its
        run began with other data or weights.
    """
    if jax.process_index():
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / LOCK).open("a+")
    except OSError as error:
        raise unwritable(workdir, error) from error
    with lock:
        take(lock, workdir)
        check(workdir, config)  # another run may have begun since the first check
        facts = check_origin(workdir, facts)
        try:
            files.text(workdir / "config.json", to_json(config))
            files.text(workdir / "manifest.json", to_json({**environment(), **facts}))
        except OSError as error:
            raise unwritable(workdir, error) from error
        yield


def check_origin(workdir: Path, facts: Mapping) -> dict:
    """``facts``, and of the weights that the run began with also those not in them.

    Raises:
      InputError: the run in ``workdir`` began with other data or weights.
    """
    if not (workdir / "manifest.json").exists():
        return dict(facts)
    known = manifest(workdir)
    for kind in ("data", "weights"):
        for key in sorted(known[kind].keys() & facts[kind].keys()):
            if known[kind][key] != facts[kind][key]:
                raise InputError(
                    f"workdir {workdir}: its run began with other {kind}: {key} was "
                    f"{known[kind][key]} and is {facts[kind][key]} now; restore what it "
                    "began with, or choose another --workdir"
                )
    return {**facts, "weights": {**known["weights"], **facts["weights"]}}


def unwritable(workdir: Path, error: OSError) -> InputError:
    """The line for a folder that takes no file."""
    return InputError(f"workdir {workdir}: cannot be written: {error}")


def take(lock: TextIO, workdir: Path) -> None:
    """Lock the open file and write into it who has it.

    Raises:
      InputError: another process has it, or no file there can be locked.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
    except BlockingIOError as error:
        lock.seek(0)
        owner = lock.read().strip() or "of unknown number"
        raise InputError(
            f"workdir {workdir}: another process trains in it, {owner}; wait for its "
            "end or choose another --workdir"
        ) from error
    except OSError as error:
        raise InputError(
            f"workdir {workdir}: cannot be locked: {error}; make room, or choose a "
            "--workdir on a file system with flock"
        ) from error


def check_same(path: Path, config: dict) -> None:
    """Raise InputError naming the first key in which the folder's config differs."""
    found = flatten(files.read_json(path, *CONFIG))
    wanted = flatten(config)
    for key in sorted((found.keys() | wanted.keys()) - set(FREE)):
        if found.get(key) != wanted.get(key):
            raise InputError(
                f"workdir {path.parent}: holds a run with another config: {key} is "
                f"{found.get(key)!r} there and {wanted.get(key)!r} here; choose "
                "another --workdir"
            )


def flatten(tree, prefix: str = "") -> dict:
    """Nested dicts as one dict with dotted keys."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    parts = (flatten(tree[k], f"{prefix}.{k}" if prefix else k) for k in tree)
    return {key: value for part in parts for key, value in part.items()}


def read_config(workdir: Path) -> dict:
    """The resolved config of a run.

    Raises:
      InputError: no run lives there, or its config is damaged.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise InputError(
            f"workdir {workdir}: no run found: {path.name} is missing; start one with "
            "train.py"
        )
    with files.reading(path, *CONFIG):
        config = files.read_json(path, *CONFIG)
        check_keys(config, CONFIG_KEYS)
        stages = config["stages"]
        if not stages or not all(isinstance(stage, str) for stage in stages):
            raise ValueError(f"{files.quoted(stages)} for 'stages'")
        check_keys(config, dict.fromkeys(stages, STAGE_KEYS))
        return config


def manifest(workdir: Path) -> dict:
    """What `claimed` wrote about the environment of a run.

    Raises:
      InputError: it is missing or damaged.
    """
    path = workdir / "manifest.json"
    with files.reading(path, *MANIFEST):
        found = files.read_json(path, *MANIFEST)
        check_keys(found, MANIFEST_KEYS)
        return found


def check_keys(found: Mapping, keys: Mapping, prefix: str = "") -> None:
    """Raise ValueError for the first of ``keys`` that is missing or of another type."""
    for key, kind in keys.items():
        name = prefix + key
        if key not in found:
            raise ValueError(f"no {name!r}")
        nested = isinstance(kind, Mapping)
        if not isinstance(found[key], dict if nested else kind):
            raise ValueError(f"{files.quoted(found[key])} for {name!r}")
        if nested:
            check_keys(found[key], kind, f"{name}.")


def environment() -> dict:
    """Command, versions, devices and machine."""
    return {
        "command": cli.command_line(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
    }
