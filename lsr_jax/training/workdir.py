"""The folder of a run: its lock, its resolved config, and its manifest."""

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

import lsr_jax
from lsr_jax import cli, files
from lsr_jax.configs import default, overlays
from lsr_jax.errors import InputError
from lsr_jax.training import checkpoint

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
LOCK = ".lock"
FORMAT_KEY = "format_version"  # beside the config's own keys
CONFIG = ("the config of a run", "restore it")
MANIFEST = ("the manifest of a run", "restore it")
MANIFEST_TYPES = {"command": str, "versions": dict, "data": dict, "weights": dict}
# Keys that may change when a run continues: the batches stay the same.
FREE = ("num_devices", "cpu_devices", "data.workers")


def to_json(value) -> str:
    """Indented JSON with sorted keys and a final newline."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def check(workdir: Path, config: Mapping) -> None:
    """Raise InputError for a file, a run of another config, or one without config.

    Nothing is written: a run that cannot start for other reasons leaves no trace.
    """
    path = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"workdir {workdir}: cannot be written: it is a file")
    begun = next(workdir.glob("*/checkpoints"), None)
    for file in (path, workdir / "manifest.json"):
        if begun and not file.exists():
            raise InputError(
                f"workdir {workdir}: it has {begun.parent.name}/{begun.name} but no "
                f"{file.name}; restore that, or choose another --workdir"
            )
    if not path.exists():
        return
    wanted = overlays.flat(json.loads(to_json(config)))
    found = overlays.flat(read_config(workdir))
    for key in sorted((found.keys() | wanted.keys()) - set(FREE)):
        if found.get(key) != wanted.get(key):
            raise InputError(
                f"workdir {workdir}: holds a run with another config: {key} is "
                f"{found.get(key)!r} there and {wanted.get(key)!r} here; choose "
                "another --workdir"
            )


@contextlib.contextmanager
def locked(workdir: Path, config: Mapping, inputs: Mapping) -> Iterator[None]:
    """Lock a workdir, and write ``config.json`` and ``manifest.json`` into it.

    The OS releases the lock when the process exits. Of several processes the first one
    does it for all. ``inputs`` has fingerprints by name, ``data`` and ``weights``.

    Raises:
      InputError: the folder cannot be written, another process trains in it, or its
        run was created with other data or weights.
    """
    if jax.process_index():
        yield
        return
    with creating(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / LOCK).open("a+")
    with lock:
        acquire(lock, workdir)
        check(workdir, config)  # another run may have begun since the first check
        inputs = check_inputs(workdir, inputs)
        stored = {**config, FORMAT_KEY: checkpoint.FORMAT}
        with creating(workdir):
            files.text(workdir / "config.json", to_json(stored))
            files.text(workdir / "manifest.json", to_json({**environment(), **inputs}))
        yield


def check_inputs(workdir: Path, inputs: Mapping) -> dict:
    """``inputs``, with the weights of the manifest that they no longer name.

    Raises:
      InputError: the run in ``workdir`` was created with other data or weights.
    """
    if not (workdir / "manifest.json").exists():
        return dict(inputs)
    known = manifest(workdir)
    for kind in ("data", "weights"):
        keys = known[kind].keys() & inputs[kind].keys()
        # "source.ids" says more than the fingerprint "source".
        for key in sorted(keys, key=lambda key: ("." not in key, key)):
            if known[kind][key] != inputs[kind][key]:
                raise InputError(
                    f"workdir {workdir}: created with different {kind}: {key} "
                    f"({known[kind][key]} != {inputs[kind][key]}); use those {kind}, or "
                    "choose another --workdir"
                )
    return {**inputs, "weights": {**known["weights"], **inputs["weights"]}}


@contextlib.contextmanager
def creating(workdir: Path) -> Iterator[None]:
    """Turn an OSError into InputError for a folder that cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(f"workdir {workdir}: cannot be written: {error}") from error


def acquire(lock: TextIO, workdir: Path) -> None:
    """Lock the open file and write the owner into it; raises InputError if it cannot."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
    except BlockingIOError as error:
        lock.seek(0)
        raise InputError(
            f"workdir {workdir}: another process trains in it ({lock.read().strip()}); "
            "wait for it, or choose another --workdir"
        ) from error
    except OSError as error:
        raise InputError(
            f"workdir {workdir}: cannot be locked: {error}; free disk space, or choose a "
            "--workdir on a file system with flock"
        ) from error


def read_config(workdir: Path) -> dict:
    """The resolved config of a run; keys that it lacks have today's defaults.

    Raises:
      InputError: no run lives there, its config is damaged, or another version of
        lsr_jax wrote it.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise InputError(
            f"workdir {workdir}: no run found: {path.name} is missing; start one with "
            "train.py"
        )
    config = files.read_json(path, *CONFIG)
    with files.reading(path, *CONFIG):
        checkpoint.check_format(config.pop(FORMAT_KEY, 1), str(path))
        return with_defaults(config)


def with_defaults(config: Mapping) -> dict:
    """A stored config over today's defaults.

    Raises:
      ValueError: a section or a stage that every config has is missing or malformed.
    """
    stages = config.get("stages")
    if not (stages and isinstance(stages, list) and set(map(type, stages)) == {str}):
        raise ValueError(f"{files.quoted(stages)} for 'stages'")
    defaults = default.get_config().to_dict()
    for name in stages:
        if not isinstance(config.get(name), dict):
            raise ValueError(f"{files.quoted(config.get(name))} for {name!r}")
        method = config[name].get("method")
        if not isinstance(method, dict) or not isinstance(method.get("name"), str):
            raise ValueError(f"{files.quoted(method)} for '{name}.method'")
        try:
            defaults[name] = default.stage(method["name"]).to_dict()
        except KeyError:
            raise ValueError(f"unknown method {method['name']!r}") from None
    return overlay(json.loads(json.dumps(defaults)), config)


def overlay(defaults: Mapping, given: Mapping, prefix: str = "") -> dict:
    """``given`` over ``defaults``; raises ValueError for no dict where one is due."""
    result = {**defaults, **given}
    for key, value in defaults.items():
        if isinstance(value, dict):
            if not isinstance(result[key], dict):
                raise ValueError(f"{files.quoted(result[key])} for '{prefix}{key}'")
            result[key] = overlay(value, result[key], f"{prefix}{key}.")
    return result


def manifest(workdir: Path) -> dict:
    """The manifest of a run; raises InputError if it is missing or damaged."""
    path = workdir / "manifest.json"
    found = files.read_json(path, *MANIFEST)
    with files.reading(path, *MANIFEST):
        for key, kind in MANIFEST_TYPES.items():
            if not isinstance(found[key], kind):
                raise ValueError(f"{files.quoted(found[key])} for {key!r}")
        return found


def environment() -> dict:
    """Command, versions, devices, machine, and the variables that JAX and XLA read."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "command": cli.command_line(),
        "versions": {"lsr_jax": lsr_jax.__version__, **versions},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
        "variables": {k: x for k, x in os.environ.items() if k[:4] in ("JAX_", "XLA_")},
    }
