"""Read and write weights: PyTorch and safetensors files, weight folders, CAG's anchors.

A file is known by its content: `torch.save` writes zip archives or pickles, whatever their
names end in. Reading never runs code from the file: pickles go through PyTorch's restricted
unpickler, safetensors hold no code. Only `torch.save`'s files need PyTorch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from lsr_jax import files, types
from lsr_jax.convert import layouts, names
from lsr_jax.errors import InputError
from lsr_jax.methods import cag
from lsr_jax.models import mix_transformer, resnet
from lsr_jax.models.backbone import Backbone

SUFFIXES = (".pth", ".pt", ".safetensors")  # of files to write
AGAIN = "download or save it again"
CONVERTER = "python -m lsr_jax.convert from-torch"
# First bytes of what `torch.save` writes, now and before PyTorch 1.6.
TORCH = (b"PK\x03\x04", b"\x80")
# dtypes of safetensors that numpy has not; the others are a letter and bits, as F32.
DTYPES = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
# The files of a weight folder, and the kinds of the facts in the second.
WEIGHTS = "weights.safetensors"
INFO = "weights.json"
OWN = "lsr_jax"  # where the header of a single file has them
_KINDS = {
    **dict.fromkeys(("file", "layout", "preprocessing"), str),
    **dict.fromkeys(("arguments", "loaded", "ignored"), dict),
    "fresh": list,
}


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


def read(path: str | Path, *, entry: str | None = None) -> dict[str, np.ndarray]:
    """The network in a PyTorch or safetensors file: ``{name: array}`` as in the file.

    A training checkpoint has it under a key, such as "state_dict" or "model". Copies in one
    state_dict, as "model." and "ema_model.", are all returned. Floating-point numbers
    become float32.

    ``entry`` is the key, such as "ema_model" or "DeepLab/model_state", or a copy that the
    state_dict must have; needed where there are several networks.

    Raises:
      InputError: no such file, another kind of file, PyTorch is missing, the file is
        truncated, is a pickle of more than arrays and plain containers, or has none or
        several networks.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as data:
        first = data.read(16)
    if first[8:9] == b"{":
        content = _read_safetensors(path)
    elif first.startswith(TORCH):
        content = read_torch(path)
    else:
        raise InputError(
            f"{path}: expected a PyTorch or safetensors file, found "
            f"{f'one that begins with {first!r}' if first else 'an empty file'}; {AGAIN}"
        )
    with files.reading(path, "named arrays", AGAIN):
        found = dict(_named_arrays(content))
    # Beside the network may be a discriminator, or a counter.
    found = {k: v for k, v in found.items() if layouts.is_network(v)} or found
    known = {key: (key, *layouts.copies(v)) for key, v in found.items()}
    chosen = [key for key, names in known.items() if entry in (None, *names)]
    if entry is not None and not chosen:
        raise InputError(
            f"{path}: has no network {entry!r}; found "
            f"{', '.join(name for names in known.values() for name in names) or 'none'}"
        )
    if not found:
        raise InputError(f"{path}: holds no weights; expected named arrays")
    if entry is None and len(found) > 1:
        raise InputError(
            f"{path}: holds several networks, {', '.join(found)}; choose one with --entry "
            f"of {CONVERTER}"
        )
    arrays = found[chosen[0]]
    found = {name: to_numpy(x, f"{path}: {name}") for name, x in arrays.items()}
    with np.errstate(over="ignore"):  # infinite values are refused later
        return {
            name: x.astype(np.float32, copy=False) if x.dtype.kind == "f" else x
            for name, x in found.items()
        }


def _named_arrays(content: Any, key: str = "") -> Iterator[tuple[str, dict]]:
    """``(keys joined by /, {name: array})`` of all mappings that hold arrays."""
    if not isinstance(content, Mapping):
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    arrays = {name: value for name, value in named.items() if hasattr(value, "shape")}
    if arrays:
        yield key, arrays
    for name, value in named.items():
        yield from _named_arrays(value, f"{key}/{name}" if key else name)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    def array(stored):
        kind = stored["dtype"]
        bits = re.sub(r"\D", "", kind)
        plain = f"{kind[0].lower()}{int(bits) // 8}" if bits else "?"
        dtype = jnp.dtype(DTYPES.get(kind, plain))
        return np.frombuffer(stored["data"], dtype).reshape(stored["shape"])

    # safetensors.numpy has no bfloat16.
    with files.reading(path, "a safetensors file", AGAIN):
        stored = safetensors.deserialize(path.read_bytes())
        return {name: array(value) for name, value in stored}


def _write_safetensors(path: Path, arrays, metadata=None) -> None:
    # `save_file` makes files that only their owner can read.
    path.write_bytes(safetensors.numpy.save(arrays, metadata))


def write(
    path: str | Path, arrays: Mapping[str, np.ndarray], wrapped: Sequence[str] = ()
) -> None:
    """Write arrays to a new file, in a .pth inside of the entries ``wrapped``."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{path}: expected a name ending in {', '.join(SUFFIXES)}; "
            f"found {path.suffix or 'no ending'}"
        )
    if path.exists():
        raise InputError(f"{path}: already exists; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    if path.suffix == ".safetensors":
        _write_safetensors(path, contiguous)
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
    # A best mIoU, or anchors, in an array of numpy; the functions also by their names in
    # numpy 1.
    functions = [found.__reduce__()[0] for found in (np.float64(0), np.zeros(0))]
    older = [(f, f"numpy.core.multiarray.{f.__name__}") for f in functions]
    dtypes = [type(np.dtype(name)) for name in ("float64", "float32", "int64")]
    allowed = [*functions, *older, np.ndarray, np.dtype, *dtypes]
    with (
        files.reading(path, "a PyTorch file", AGAIN),
        warnings.catch_warnings(action="ignore"),
        torch.serialization.safe_globals(allowed),
    ):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            asked = re.search(r"GLOBAL (\S+)", str(error))
            why = "torch.save did not write it"
            if asked:
                why = f"a pickle that asks for {asked[1]}"
            raise InputError(
                f"{path}: refused, {why}; save the state_dict alone with torch.save"
            ) from error


def to_numpy(value: Any, where: str) -> np.ndarray:
    """A tensor or array of real numbers as an array.

    Raises:
      InputError: it is sparse, quantized, on the meta device, or not of real numbers; the
        message begins with ``where``.
    """
    with files.reading(where, "a dense tensor of real numbers", "convert it"):
        if not isinstance(value, np.ndarray):
            value = value.detach()
            # numpy has no bfloat16.
            short = value.is_floating_point() and value.element_size() < 4
            value = (value.float() if short else value).numpy()
        elif value.dtype.name in DTYPES.values():
            value = value.astype(np.float32)
        if value.dtype.kind not in "fiub":
            raise ValueError(value.dtype)
        return value


def fingerprint(path: Path) -> str:
    """SHA-256 of a weight file, or of the weights in a folder that `save` wrote."""
    with (path / WEIGHTS if path.is_dir() else path).open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def save(path: str | Path, imported: Imported) -> None:
    """Write a new weight folder, or one file, ``NAME.safetensors``, atomically.

    The file has the facts of ``weights.json`` in its header.

    Raises:
      InputError: ``path`` exists already.
    """
    path = Path(path)
    if path.exists():
        raise InputError(f"{path}: already exists; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = names.flatten(imported.params, imported.model_state)
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in flat.items()}
    arguments = dict(imported.info["arguments"])
    if isinstance(arguments["backbone"], Backbone):
        arguments["backbone"] = dataclasses.asdict(arguments["backbone"])
    text = json.dumps(imported.info | {"arguments": arguments}, indent=1)
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        staged = Path(temporary) / "weights"
        if path.suffix == ".safetensors":
            _write_safetensors(staged, arrays, {OWN: text})
        else:
            staged.mkdir()
            _write_safetensors(staged / WEIGHTS, arrays)
            (staged / INFO).write_text(text + "\n")
        staged.rename(path)


def is_own(path: Path) -> bool:
    """Whether `save` wrote a folder or file."""
    return path.is_dir() or OWN in _metadata(path)


def _metadata(path: Path) -> dict[str, str]:
    with path.open("rb") as data:
        if data.read(9)[8:] != b"{":
            return {}
    with (
        files.reading(path, "a safetensors file", AGAIN),
        safetensors.safe_open(path, "np") as opened,
    ):
        return opened.metadata() or {}


def read_info(path: Path) -> dict[str, Any]:
    """Read the facts in what `save` wrote, without its arrays.

    Raises:
      InputError: no such folder or file, or a damaged one.
    """
    with _reading_own(path):
        if path.is_dir():
            text = (path / INFO).read_text(encoding="utf-8")
        else:
            text = _metadata(path)[OWN]
        info = json.loads(text)
        for key, kind in _KINDS.items():
            if not isinstance(info[key], kind):
                raise ValueError(f"{files.quoted(info[key])} for {key!r}")
        return info | {"arguments": _model_arguments(info["arguments"])}


def read_own(path: Path) -> Imported:
    """Read what `save` wrote; raises as `read_info`."""
    info = read_info(path)
    with _reading_own(path):
        flat = safetensors.numpy.load_file(path / WEIGHTS if path.is_dir() else path)
        return Imported(*names.unflatten(flat), info)


def _reading_own(path):
    expected = f"{WEIGHTS} and {INFO} as written by {CONVERTER}"
    return files.reading(path, expected, "convert the file again")


def convert_anchors(path: str | Path, out: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Write CAG's category anchors as an ``.npz`` for the method's ``anchors``.

    The file of `torch.save` is the ``[C, D]`` array alone, as CAG's ``cac.py`` writes it,
    or a dict of it and the counts ``[C]``, as its training reads them. Without counts
    every class with a vector other than 0 counts once.

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


def _torch(path: Path):
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path}: files of torch.save need PyTorch (pip install torch), or convert the "
            "file to .safetensors elsewhere"
        ) from None
    return torch


def _model_arguments(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `models.build` from JSON; raises for anything that does not fit."""
    arguments = {**stored, "aspp_dilations": tuple(stored["aspp_dilations"])}
    backbone, numbers = stored["backbone"], list(arguments["aspp_dilations"])
    if isinstance(backbone, Mapping):
        family = mix_transformer if "widths" in backbone else resnet
        many = ("widths", "depths") if "widths" in backbone else ("blocks",)
        fields = {**backbone, **{key: tuple(backbone[key]) for key in many}}
        arguments["backbone"] = family.Architecture(**fields)
        numbers += [number for key in many for number in fields[key]]
        numbers += [fields[key] for key in fields.keys() - {*many, "v1c"}]
    elif not isinstance(backbone, str):
        raise ValueError(f"{files.quoted(backbone)} for 'backbone'")
    if not all(type(number) is int and number > 0 for number in numbers):
        raise ValueError(f"{files.quoted(numbers)} for whole numbers")
    return arguments
