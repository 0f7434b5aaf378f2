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

from lsr_jax import commands, decoding, writing
from lsr_jax.errors import InputError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
LOCK = ".lock"
CONFIG = ("the config of a run", "restore it")
MANIFEST = ("the manifest of a run", "restore it")
# Keys that may change when a run goes on: the batches stay the same.
FREE = ("num_devices", "cpu_devices", "data.workers")


def to_json(value) -> str:
    """Indented JSON with sorted keys and a final newline."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def check(workdir: Path, config: Mapping) -> None:
    """Raise InputError where ``workdir`` is no folder or holds a run of another config.

    Nothing is written: a run that cannot start for other reasons leaves no trace.
    """
    path = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"workdir {workdir}: cannot be written: it is a file")
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
        check_origin(workdir, facts)
        try:
            writing.text(workdir / "config.json", to_json(config))
            writing.text(workdir / "manifest.json", to_json({**environment(), **facts}))
        except OSError as error:
            raise unwritable(workdir, error) from error
        yield


def check_origin(workdir: Path, facts: Mapping) -> None:
    """Raise InputError where a run in ``workdir`` began with other data or weights."""
    if not (workdir / "manifest.json").exists():
        return
    known = manifest(workdir)
    for kind in ("data", "weights"):
        found = flatten(json.loads(to_json(facts.get(kind, {}))), kind)
        for key, value in flatten(known.get(kind, {}), kind).items():
            if found.get(key) != value:
                raise InputError(
                    f"workdir {workdir}: its run began with other {kind}: {key} was "
                    f"{value} and is {found.get(key)} now; restore the files or choose "
                    "another --workdir"
                )


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
    found = flatten(decoding.read_json(path, *CONFIG))
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
      InputError: no run lives there.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise InputError(
            f"workdir {workdir}: no run found: {path.name} is missing; start one with "
            "train.py"
        )
    return decoding.read_json(path, *CONFIG)


def manifest(workdir: Path) -> dict:
    """What `claimed` wrote about the environment of a run.

    Raises:
      InputError: it is missing or damaged.
    """
    return decoding.read_json(workdir / "manifest.json", *MANIFEST)


def environment() -> dict:
    """Command, versions, devices and machine."""
    return {
        "command": commands.line(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
    }
