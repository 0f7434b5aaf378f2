"""Read and write weights: ``.pth``, ``.safetensors``, weight folders, CAG's anchors.

Reading never runs code from the file: ``.pth`` goes through PyTorch's restricted
unpickler, ``.safetensors`` holds no code. Only ``.pth`` needs PyTorch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from lsr_jax import files, types
from lsr_jax.convert import names
from lsr_jax.errors import InputError
from lsr_jax.methods import cag
from lsr_jax.models import resnet

SUFFIXES = (".pth", ".pt", ".safetensors")
AGAIN = "download or save it again"
# Entries of a training checkpoint in which the originals put the arrays.
WRAPPERS = ("state_dict", "DeepLab", "model_state")
# The files of a weight folder, and the kinds of the facts in the second.
WEIGHTS = "weights.safetensors"
INFO = "weights.json"
_KINDS = {
    "file": str,
    "layout": str,
    "preprocessing": str,
    "arguments": dict,
    "loaded": dict,
    "ignored": dict,
    "fresh": list,
}


class Raw(NamedTuple):
    """A weight file as it is.

    Attributes:
      arrays: ``{name: array}``, names and axes of the file.
      wrapped: the entries of a training checkpoint that contained the arrays.
      sha256: of the bytes of the file.
    """

    arrays: dict[str, np.ndarray]
    wrapped: tuple[str, ...]
    sha256: str


class Imported(NamedTuple):
    """Weights in the trees of our models.

    Attributes:
      params: like ``Model.init``'s, less what the file does not have.
      model_state: likewise.
      info: the facts in ``weights.json``: "file", "sha256", "layout" (all that fit,
        joined by "|"), "preprocessing" ("caffe", "imagenet" or "unit"), "arguments" (of
        ``models.build``), "loaded" (PyTorch name to our path), "ignored" (PyTorch name
        to reason), "fresh" (our leaves that such a file does not have).
    """

    params: types.PyTree
    model_state: types.PyTree
    info: dict[str, Any]


def read(path: str | Path) -> Raw:
    """Read a ``.pth``, ``.pt`` or ``.safetensors`` file.

    Raises:
      InputError: no such file, another suffix, PyTorch is missing, the file is truncated,
        is not a checkpoint, or is a pickle of more than arrays and plain containers.
    """
    path = Path(path)
    _check_suffix(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        with files.reading(path, "a safetensors file", AGAIN):
            state = safetensors.numpy.load_file(path)
    else:
        state = read_torch(path)
    wrapped = []
    for name in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
            wrapped.append(name)
    arrays = {}
    if isinstance(state, Mapping):
        arrays = {
            str(name): to_numpy(value, f"{path}: {name}")
            for name, value in state.items()
            if hasattr(value, "shape")
        }
    if not arrays:
        raise InputError(f"{path}: holds no weights; expected named arrays")
    return Raw(arrays, tuple(wrapped), fingerprint(path))


def write(
    path: str | Path, arrays: Mapping[str, np.ndarray], wrapped: Sequence[str] = ()
) -> None:
    """Write arrays to a new file, in a .pth inside of the entries ``wrapped``."""
    path = Path(path)
    _check_suffix(path)
    if path.exists():
        raise InputError(f"{path}: already exists; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(contiguous, path)
        return
    torch = _torch(path)
    content = {name: torch.from_numpy(value) for name, value in contiguous.items()}
    for name in reversed(wrapped):
        content = {name: content}
    torch.save(content, path)


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote: tensors, numpy arrays and plain containers.

    Raises:
      InputError: PyTorch is missing, or the file is damaged or asks for other types.
    """
    torch = _torch(path)
    scalar = np.float64(0).__reduce__()[0]
    array = np.zeros(0).__reduce__()[0]
    allowed = [
        # A best mIoU, or anchors, in an array of numpy.
        scalar,
        array,
        np.ndarray,
        np.dtype,
        *(type(np.dtype(name)) for name in ("float64", "float32", "int64")),
        # The functions by their names in numpy 1.
        *((f, f"numpy.core.multiarray.{f.__name__}") for f in (scalar, array)),
    ]
    with (
        files.reading(path, "a PyTorch file", AGAIN),
        warnings.catch_warnings(action="ignore"),
        torch.serialization.safe_globals(allowed),
    ):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise InputError(
                f"{path}: refused, not a checkpoint or a pickle that asks for more than "
                "arrays and plain containers; save its state_dict alone"
            ) from error


def to_numpy(value: Any, where: str) -> np.ndarray:
    """A tensor or array as an array, bfloat16 as float32.

    Raises:
      InputError: it is sparse, quantized, on the meta device, or not of real numbers; the
        message begins with ``where``.
    """
    with files.reading(where, "a dense tensor of real numbers", "convert it"):
        if not isinstance(value, np.ndarray):
            value = value.detach()
            # numpy has no bfloat16.
            value = (value.float() if value.is_floating_point() else value).numpy()
        if value.dtype.kind not in "fiub":
            raise ValueError(value.dtype)
        return value


def fingerprint(path: Path) -> str:
    """SHA-256 of a weight file, or of the weights in a folder that `save` wrote."""
    with (path / WEIGHTS if path.is_dir() else path).open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def save(directory: str | Path, imported: Imported) -> None:
    """Write a new weight folder, atomically.

    Raises:
      InputError: ``directory`` exists already.
    """
    directory = Path(directory)
    if directory.exists():
        raise InputError(f"{directory}: already exists; choose another folder")
    directory.parent.mkdir(parents=True, exist_ok=True)
    flat = names.flatten(imported.params, imported.model_state)
    arrays = {path: np.ascontiguousarray(leaf) for path, leaf in flat.items()}
    arguments = dict(imported.info["arguments"])
    if isinstance(arguments["backbone"], resnet.Architecture):
        arguments["backbone"] = dataclasses.asdict(arguments["backbone"])
    info = imported.info | {"arguments": arguments}
    with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
        staged = Path(temporary) / "weights"
        staged.mkdir()
        safetensors.numpy.save_file(arrays, staged / WEIGHTS)
        (staged / INFO).write_text(json.dumps(info, indent=1) + "\n")
        staged.rename(directory)


def read_folder(directory: Path) -> Imported:
    """Read what `save` wrote.

    Raises:
      InputError: no such folder, or a damaged one.
    """
    writer = "`python -m lsr_jax.convert from-torch`"
    expected = f"{WEIGHTS} and {INFO} as written by {writer}"
    with files.reading(directory, expected, "convert the file again"):
        info = json.loads((directory / INFO).read_text(encoding="utf-8"))
        for key, kind in _KINDS.items():
            if not isinstance(info[key], kind):
                raise ValueError(f"{files.quoted(info[key])} for {key!r}")
        arguments = _model_arguments(info["arguments"])
        flat = safetensors.numpy.load_file(directory / WEIGHTS)
        return Imported(*names.unflatten(flat), info | {"arguments": arguments})


def convert_anchors(path: str | Path, out: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Write CAG's category anchors as an ``.npz`` for the method's ``anchors``.

    Args:
      path: what `torch.save` wrote: the ``[C, D]`` array alone, as CAG's ``cac.py``, or
        a dict of it and the counts ``[C]``, as its training reads them. Without counts
        every class with a vector other than 0 counts once.
      out: ``.npz`` to create.

    Returns:
      vectors ``[C, D]`` and counts ``[C]``.

    Raises:
      InputError: an unreadable file, one without anchors, or ``out`` is not a new .npz.
    """
    path, out = Path(path), Path(out)
    if out.suffix != ".npz" or out.exists():
        raise InputError(f"--out {out}: expected the name of a new .npz file")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    content = read_torch(path)
    entries = content if isinstance(content, Mapping) else {cag.VECTORS: content}

    def array(value: Any) -> np.ndarray:
        if hasattr(value, "shape"):
            return to_numpy(value, str(path))
        with files.reading(path, "an array of numbers", AGAIN):
            return np.asarray(0.0 if value is None else value, float)

    vectors = array(entries.get(cag.VECTORS))
    if vectors.ndim != 2:
        raise InputError(
            f"{path}: expected an array of classes by channels, alone or as "
            f"{cag.VECTORS!r} of a dict; found none"
        )
    present = (vectors != 0).any(axis=1)
    count = array(entries.get(cag.COUNT, present)).reshape(-1)
    np.savez(out, **{cag.VECTORS: vectors, cag.COUNT: count})
    return vectors, count


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{path}: expected a file ending in {', '.join(SUFFIXES)}; "
            f"found {path.suffix or 'no ending'}"
        )


def _torch(path: Path):
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path}: .pth files need PyTorch (pip install torch), or convert the file "
            "to .safetensors elsewhere"
        ) from None
    return torch


def _model_arguments(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `models.build` from JSON; raises for anything that does not fit."""
    arguments = {**stored, "aspp_dilations": tuple(stored["aspp_dilations"])}
    backbone, numbers = stored["backbone"], list(arguments["aspp_dilations"])
    if isinstance(backbone, Mapping):
        fields = {**backbone, "blocks": tuple(backbone["blocks"])}
        backbone = arguments["backbone"] = resnet.Architecture(**fields)
        numbers += [backbone.stem, backbone.width, *backbone.blocks]
    elif not isinstance(backbone, str):
        raise ValueError(f"{files.quoted(backbone)} for 'backbone'")
    if not all(type(number) is int and number > 0 for number in numbers):
        raise ValueError(f"{files.quoted(numbers)} for whole numbers")
    return arguments
