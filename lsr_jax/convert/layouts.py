"""The checkpoint layouts of the PyTorch originals, and how to tell them apart."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from lsr_jax.errors import InputError
from lsr_jax.models import BACKBONES, resnet, vgg

TWO = (6, 12)
FOUR = (6, 12, 18, 24)
MULTI_LEVEL = {"aux_head": "layer5", "head": "layer6"}
VGG_HEAD = {"head": "classifier"}
CAG_HEAD = {"head": "decoder.last_conv.8"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The names and the use of the weights in one repository.

    Attributes:
      heads: for each kind of head, our name of a head and the file's.
      dilations: the ASPP branches that run, of the four in a file.
      prefix: of every name.
      wrapped: the entries of a training checkpoint that contain the arrays.
      architecture: the ``models.build`` argument that fits the repository.
      batch_norm, freeze_stem_affine: likewise.
      preprocessing: "caffe": BGR, 0 to 255, minus the mean. "imagenet": RGB, 0 to 1,
        standardised. "unit": RGB, 0 to 1.
      backbones: "resnet", "vgg".
      initialisation: True for ImageNet files, which have none of our heads.
      ignored: pattern of names that our tree does not have -> reason.
    """

    heads: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    dilations: tuple[int, ...] = TWO
    prefix: str = ""
    wrapped: tuple[str, ...] = ()
    architecture: str = "deeplabv2"
    batch_norm: str = "train"
    freeze_stem_affine: bool = False
    preprocessing: str = "caffe"
    backbones: tuple[str, ...] = ("resnet",)
    initialisation: bool = False
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _bare(heads, dilations, backbones=("resnet",)):
    return Layout(heads, dilations, batch_norm="frozen_affine", backbones=backbones)


def _training(heads, backbones=("resnet",)):
    return Layout(
        heads,
        prefix="module.",
        wrapped=("state_dict",),
        freeze_stem_affine=True,
        backbones=backbones,
    )


BOTH = ("resnet", "vgg")
LAYOUTS = {
    "torchvision_resnet": Layout(
        preprocessing="imagenet",
        initialisation=True,
        ignored={r"^fc\.": "the ImageNet classifier"},
    ),
    "torchvision_vgg": Layout(
        preprocessing="imagenet",
        initialisation=True,
        backbones=("vgg",),
        ignored={r"^classifier\.\d\.": "the ImageNet classifier"},
    ),
    "deeplab_init": Layout(
        prefix="Scale.",
        initialisation=True,
        ignored={r"^layer5\.": "the head of another task"},
    ),
    "adaptsegnet": _bare(
        {"single": {"head": "layer5"}, "multi_level": MULTI_LEVEL}, TWO, BOTH
    ),
    "advent": _bare({"multi_level": MULTI_LEVEL}, FOUR),
    "bdl": _bare({"single": {"head": "layer5"}}, FOUR),
    "clan": _bare({"two_heads": MULTI_LEVEL}, FOUR),
    "f2a": _bare({"two_heads": MULTI_LEVEL}, FOUR),
    "maxsquare": _training({"multi_level": MULTI_LEVEL}),
    "oce": _training({"multi_level": MULTI_LEVEL}, BOTH),
    "lsr": _training({"single": {"head": "clas"}}, BOTH),
    "cag": Layout(
        {"single": CAG_HEAD},
        dilations=(6, 12, 18),
        wrapped=("DeepLab", "model_state"),
        architecture="deeplabv3plus",
        preprocessing="unit",
    ),
}
COUNTERS = {r"num_batches_tracked$": "a counter that nothing reads"}
CAG_BODY = "backbone."


@dataclasses.dataclass(frozen=True)
class Facts:
    """The network that the names and shapes of a file describe."""

    prefix: str
    backbone: str | resnet.Architecture
    head: str | None
    heads: Mapping[str, str]
    branches: int
    num_classes: int | None
    has_classifier: bool


def strip(arrays: Mapping[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    """Split the common prefix off: ``(prefix, arrays)``; "" where no network is known.

    DataParallel writes "module.", `torch.compile` "_orig_mod.", which is not reported.
    """
    first = min(arrays, default="")
    for end in (0, *(dot.end() for dot in re.finditer(r"\.", first))):
        prefix = first[:end]
        rest = {name.removeprefix(prefix): value for name, value in arrays.items()}
        if all(name.startswith(prefix) for name in arrays) and _backbone(rest):
            return prefix.replace("_orig_mod.", ""), rest
    return "", dict(arrays)


def is_network(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the names are those of a network of this family, with any prefix."""
    return _backbone(strip(arrays)[1]) is not None


def facts(prefix: str, arrays: Mapping[str, np.ndarray], path: object) -> Facts:
    """Derive the network from stripped names.

    Raises:
      InputError: not a network of this family.
    """
    backbone = _backbone(arrays)
    if backbone is None:
        raise InputError(
            f"{path}: expected a DeepLabV2, DeepLabV3+, ResNet or VGG state_dict; found "
            "names like " + ", ".join(sorted(arrays)[:3])
        )
    if _is_plus(arrays):
        classifier = f"{CAG_HEAD['head']}.weight"
        if classifier not in arrays:
            raise InputError(f"{path}: a DeepLabV3+ without {classifier}")
        head, heads, num_classes = "single", CAG_HEAD, arrays[classifier].shape[0]
    else:
        head, heads, num_classes = _heads(arrays)
    return Facts(
        prefix,
        backbone,
        head,
        heads,
        len({m[1] for n in arrays if (m := re.search(r"conv2d_list\.(\d)\.", n))}),
        num_classes,
        has_classifier="fc.weight" in arrays or "classifier.0.weight" in arrays,
    )


def fits(name: str, facts: Facts) -> bool:
    """Whether the network that the facts describe can be read as ``name``."""
    layout = LAYOUTS[name]
    if layout.initialisation:
        if facts.prefix == "Scale.":
            return name == "deeplab_init"
        kind = "vgg" if is_vgg(facts.backbone) else "resnet"
        return facts.has_classifier and name == f"torchvision_{kind}"
    if is_vgg(facts.backbone):
        return "vgg" in layout.backbones and facts.heads == VGG_HEAD
    known = bool(facts.heads) and layout.heads.get(facts.head) == facts.heads
    return known and (not facts.branches or facts.branches >= len(layout.dilations))


def candidates(facts: Facts) -> list[str]:
    """The layouts that the file may have; several where repositories share one."""
    fitting = [name for name in LAYOUTS if fits(name, facts)]
    exact = [name for name in fitting if LAYOUTS[name].prefix == facts.prefix]
    return exact or fitting


def _is_plus(arrays):
    return any(name.startswith("decoder.") for name in arrays)


def is_vgg(backbone: object) -> bool:
    """Whether ``backbone`` names a VGG."""
    return isinstance(BACKBONES.get(backbone, backbone), vgg.Architecture)


def _backbone(arrays):
    """The body; None for names of another network."""
    if _is_plus(arrays):
        body = [name for name in arrays if name.startswith(CAG_BODY)]
        arrays = {name.removeprefix(CAG_BODY): arrays[name] for name in body}
    if "features.0.weight" in arrays:
        weights = [n for n in arrays if re.match(r"features\..*\.weight$", n)]
        for name, backbone in BACKBONES.items():
            # With fc6 and fc7, or without.
            if is_vgg(name) and len(weights) - sum(backbone.groups) in (0, 2):
                return name
        return "vgg16"
    if "conv1.weight" not in arrays or "layer1.0.conv1.weight" not in arrays:
        return None

    def blocks(layer):
        found = [re.match(rf"layer{layer}\.(\d+)\.", name) for name in arrays]
        return 1 + max((int(match[1]) for match in found if match), default=0)

    architecture = resnet.Architecture(
        arrays["conv1.weight"].shape[0],
        arrays["layer1.0.conv1.weight"].shape[0],
        tuple(blocks(layer) for layer in (1, 2, 3, 4)),
    )
    known = {value: name for name, value in BACKBONES.items()}
    return known.get(architecture, architecture)


def _heads(arrays):
    """Kind of the heads of DeepLabV2, their names, and the number of classes."""
    shapes = {
        name.split(".")[0]: value.shape
        for name, value in arrays.items()
        if name.endswith("conv2d_list.0.weight")
    }
    if {"layer5", "layer6"} <= shapes.keys():
        equal = shapes["layer5"][1] == shapes["layer6"][1]
        kind = "two_heads" if equal else "multi_level"
        return kind, MULTI_LEVEL, shapes["layer6"][0]
    for name in ("clas", "classifier", "layer5"):
        if name in shapes:
            return "single", {"head": name}, shapes[name][0]
    return None, {}, None
