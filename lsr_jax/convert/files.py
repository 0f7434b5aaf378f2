"""Reading and writing flat dictionaries of arrays: ``.pth`` and ``.safetensors``.

Reading never runs code from the file: ``.pth`` goes through PyTorch's restricted
unpickler, ``.safetensors`` holds no code. PyTorch is needed for ``.pth`` alone.
"""

from __future__ import annotations

import hashlib
import pathlib
import pickle
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from lsr_jax import errors, files

SUFFIXES = (".pth", ".pt", ".safetensors")
AGAIN = "download or save it again"
WRAPPERS = ("state_dict", "DeepLab", "model_state")


class Raw(NamedTuple):
    """A weight file as it is.

    Attributes:
      arrays: ``{name: array}``, names and layouts of the file.
      wrapped: the entries of a training checkpoint under which the arrays lay.
      sha256: of the bytes of the file.
    """

    arrays: dict[str, np.ndarray]
    wrapped: tuple[str, ...]
    sha256: str


def read(path: str | pathlib.Path) -> Raw:
    """Reads a ``.pth``, ``.pt`` or ``.safetensors`` file.

    Raises:
      InputError: no such file, another suffix, PyTorch missing, a truncated file, no
        checkpoint, or a pickle that needs more than arrays and plain containers.
    """
    path = pathlib.Path(path)
    if path.suffix not in SUFFIXES:
        raise errors.InputError(
            f"{path}: expected a file ending in {', '.join(SUFFIXES)}; "
            f"found {path.suffix or 'no ending'}"
        )
    if not path.is_file():
        raise errors.InputError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    else:
        content = read_torch(path)
    arrays, wrapped = _unwrap(content, path)
    return Raw(arrays, wrapped, _sha256(path))


def write(
    path: str | pathlib.Path,
    arrays: Mapping[str, np.ndarray],
    wrapped: Sequence[str] = (),
):
    """Writes arrays to ``path``, in a .pth under the entries that ``wrapped`` names."""
    path = pathlib.Path(path)
    if path.suffix not in SUFFIXES:
        raise errors.InputError(
            f"{path}: expected a name ending in {', '.join(SUFFIXES)}"
        )
    if path.exists():
        raise errors.InputError(f"{path}: already exists; choose another name")
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


def _read_safetensors(path):
    with files.reading(path, "a safetensors file", AGAIN):
        return safetensors.numpy.load_file(path)


def read_torch(path: pathlib.Path):
    """What `torch.save` wrote: tensors, numpy arrays and plain containers.

    Raises:
      InputError: PyTorch missing, a damaged file, or one that asks for more.
    """
    torch = _torch(path)
    with files.reading(path, "a PyTorch file", AGAIN):
        try:
            with (
                warnings.catch_warnings(action="ignore"),
                torch.serialization.safe_globals(_numpy_globals()),
            ):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise errors.InputError(
                f"{path}: refused, not a checkpoint or a pickle that asks for more than "
                "arrays and plain containers; save its state_dict alone"
            ) from error


def _torch(path):
    try:
        import torch
    except ImportError:
        raise errors.InputError(
            f"{path}: .pth files need PyTorch (pip install torch), or convert the file "
            "to .safetensors elsewhere"
        ) from None
    return torch


def _numpy_globals():
    """What a best mIoU or anchors kept by numpy need: no more than numbers."""
    scalar = np.float64(0).__reduce__()[0]
    array = np.zeros(0).__reduce__()[0]
    kinds = [type(np.dtype(name)) for name in ("float64", "float32", "int64")]
    older = [
        (function, f"numpy.core.multiarray.{function.__name__}")
        for function in (scalar, array)
    ]
    return [scalar, array, *older, np.ndarray, np.dtype, *kinds]


def _unwrap(content, path):
    state, wrapped = content, []
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
        raise errors.InputError(f"{path}: holds no weights; expected named arrays")
    return arrays, tuple(wrapped)


def to_numpy(value, where: str) -> np.ndarray:
    """A tensor or array as an array, bfloat16 as float32.

    Raises:
      InputError: it is sparse, quantised, without content, or not of real numbers; the
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


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
