"""Imported weights and the folder that keeps them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from lsr_jax import errors, files, types
from lsr_jax.convert import names
from lsr_jax.models import resnet

WEIGHTS = "weights.safetensors"
INFO = "weights.json"
_INFO = {
    "file": str,
    "layout": str,
    "preprocessing": str,
    "arguments": dict,
    "loaded": dict,
    "ignored": dict,
    "fresh": list,
}


class Imported(NamedTuple):
    """Weights read from a file.

    Attributes:
      params: like ``Model.init``'s, less what the file does not own.
      model_state: likewise.
      info: facts that ``weights.json`` keeps: "file", "sha256", "layout" (all that fit,
        joined by "|"), "preprocessing" ("caffe" or "imagenet"), "arguments" (for
        ``models.build``), "loaded" (PyTorch name to our path), "ignored" (PyTorch name
        to reason), "fresh" (our leaves that such a file does not own).
    """

    params: types.PyTree
    model_state: types.PyTree
    info: dict[str, Any]


def save(directory: str | pathlib.Path, imported: Imported) -> None:
    """Writes ``weights.safetensors`` and ``weights.json``; all or nothing.

    Raises:
      InputError: ``directory`` exists already.
    """
    directory = pathlib.Path(directory)
    if directory.exists():
        raise errors.InputError(f"{directory}: already exists; choose another folder")
    directory.parent.mkdir(parents=True, exist_ok=True)
    flat = names.flatten(imported.params, imported.model_state)
    arrays = {path: np.ascontiguousarray(leaf) for path, leaf in flat.items()}
    info = imported.info | {"arguments": _plain(imported.info["arguments"])}
    with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
        staged = pathlib.Path(temporary) / "weights"
        staged.mkdir()
        safetensors.numpy.save_file(arrays, staged / WEIGHTS)
        (staged / INFO).write_text(json.dumps(info, indent=1) + "\n")
        staged.rename(directory)


def read(directory: pathlib.Path) -> Imported:
    """Reads what ``save`` wrote.

    Raises:
      InputError: no such folder, or not one of ours.
    """
    writer = "`python -m lsr_jax.convert from-torch`"
    expected = f"{WEIGHTS} and {INFO} as written by {writer}"
    with files.reading(directory, expected, "convert the file again"):
        info = json.loads((directory / INFO).read_text())
        for key, kind in _INFO.items():
            if not isinstance(info[key], kind):
                raise ValueError(f"{files.quoted(info[key])} for {key!r}")
        arguments = _arguments(info["arguments"])
        flat = safetensors.numpy.load_file(directory / WEIGHTS)
        return Imported(*names.unflatten(flat), info | {"arguments": arguments})


def _arguments(stored):
    """For `models.build`, of what JSON keeps of them; any exception for others."""
    arguments = {**stored, "aspp_dilations": tuple(stored["aspp_dilations"])}
    backbone, whole = stored["backbone"], list(arguments["aspp_dilations"])
    if isinstance(backbone, Mapping):
        fields = {**backbone, "blocks": tuple(backbone["blocks"])}
        backbone = arguments["backbone"] = resnet.Architecture(**fields)
        whole += [backbone.stem, backbone.width, *backbone.blocks]
    elif not isinstance(backbone, str):
        raise ValueError(f"{files.quoted(backbone)} for 'backbone'")
    if not all(type(number) is int and number > 0 for number in whole):
        raise ValueError(f"{files.quoted(whole)} for whole numbers")
    return arguments


def fingerprint(path: pathlib.Path) -> str:
    """sha256 of a weight file, or of the weights in a folder that `save` wrote."""
    file = path / WEIGHTS if path.is_dir() else path
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _plain(arguments):
    backbone = arguments["backbone"]
    if isinstance(backbone, resnet.Architecture):
        return arguments | {"backbone": dataclasses.asdict(backbone)}
    return arguments
