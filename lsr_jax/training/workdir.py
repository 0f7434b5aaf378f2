"""The folder of a run: its resolved config and the facts of its environment."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import jax

from lsr_jax.errors import InputError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def to_json(value) -> str:
    """Indented JSON with sorted keys and a final newline."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def write(path: Path, text: str) -> None:
    """Replace a file in one move: a reader sees the old text or the new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def check(workdir: Path, config: Mapping) -> None:
    """Raise InputError where ``workdir`` is no folder or holds a run of another config.

    Nothing is written: a run that cannot start for other reasons leaves no trace.
    """
    path = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"workdir {workdir}: cannot be written: it is a file")
    if path.exists():
        check_same(path, json.loads(to_json(config)))


def claim(workdir: Path, config: Mapping, facts: Mapping) -> None:
    """Write ``config.json`` and ``manifest.json`` into a workdir that was checked.

    Args:
      workdir: made if missing.
      config: resolved, JSON-able.
      facts: for the manifest, beside command, versions, devices and machine.

    Raises:
      InputError: the folder cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write(workdir / "config.json", to_json(config))
        write(workdir / "manifest.json", to_json({**environment(), **facts}))
    except OSError as error:
        raise InputError(f"workdir {workdir}: cannot be written: {error}") from error


def check_same(path: Path, config: dict) -> None:
    """Raise InputError naming the first key in which the folder's config differs."""
    try:
        found = flatten(json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not a config: {error}") from error
    wanted = flatten(config)
    for key in sorted(found.keys() | wanted.keys()):
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
    return json.loads(path.read_text())


def environment() -> dict:
    """Command, versions, devices and machine."""
    return {
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
    }
