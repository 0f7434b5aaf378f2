"""The checkpoint layouts of the PyTorch originals, and how to tell them apart."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from lsr_jax.errors import InputError
from lsr_jax.models import BACKBONES, mix_transformer, resnet, vgg
from lsr_jax.models.backbone import Backbone

TWO = (6, 12)
FOUR = (6, 12, 18, 24)
MULTI_LEVEL = {"aux_head": "layer5", "head": "layer6"}
VGG_HEAD = {"head": "classifier"}
CAG_HEAD = {"head": "decoder.last_conv.8"}
CAG_OPTIONS = {"architecture": "deeplabv3plus", "aspp_dilations": (6, 12, 18)}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The names and the use of the weights in one repository.

    Attributes:
      heads: for each kind of head, our name of a head and the file's.
      dilations: the ASPP branches that run, of the four in a file; (): all in the file.
      prefix: of every name.
      body: of the names of the backbone, after the prefix.
      mark: beginning of names that tell the layout; "" where repositories share names.
      wrapped: the entries of a training checkpoint that contain the arrays.
      architectures: values of the ``models.build`` argument that fit the repository.
      batch_norm, freeze_stem_affine: likewise, one value.
      preprocessing: "caffe": BGR, 0 to 255, minus the mean. "imagenet": RGB, 0 to 1,
        standardised. "unit": RGB, 0 to 1.
      backbones: keys of `FAMILIES`.
      initialisation: True for ImageNet files, which have none of our heads.
      ignored: pattern of names that our tree does not have -> reason.
      pointwise: pattern of kernels of linear layers that are 1x1 convolutions there.
    """

    heads: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    dilations: tuple[int, ...] = TWO
    prefix: str = ""
    body: str = ""
    mark: str = ""
    wrapped: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ("deeplabv2",)
    batch_norm: str = "train"
    freeze_stem_affine: bool = False
    preprocessing: str = "caffe"
    backbones: tuple[str, ...] = ("resnet",)
    initialisation: bool = False
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pointwise: str = r"(?!)"


def _imagenet(family, classifier, **fields):
    ignored = {classifier: "the ImageNet classifier"}
    return Layout(
        preprocessing="imagenet",
        initialisation=True,
        backbones=(family,),
        ignored=ignored,
        **fields,
    )


_bare = functools.partial(Layout, batch_norm="frozen_affine")
_training = functools.partial(
    Layout, prefix="module.", wrapped=("state_dict",), freeze_stem_affine=True
)
BOTH = ("resnet", "vgg")
LAYOUTS = {
    "torchvision_resnet": _imagenet("resnet", r"^fc\."),
    "torchvision_vgg": _imagenet("vgg", r"^classifier\.\d\."),
    "resnet_v1c": _imagenet(
        "resnet_v1c", r"^fc\.", mark="stem.0.", wrapped=("state_dict",)
    ),
    "mit": _imagenet("mit", r"^head\.", mark="patch_embed1."),
    "mit_openmmlab": _imagenet(
        "mit",
        r"^head\.",
        mark="layers.0.0.projection.",
        pointwise=r"\.ffn\.layers\.[04]\.weight$",
    ),
    "mit_hf": _imagenet(
        "mit", r"^classifier\.", body="segformer.encoder.", mark="segformer.encoder."
    ),
    "deeplab_init": Layout(
        prefix="Scale.",
        initialisation=True,
        ignored={r"^layer5\.": "the head of another task"},
    ),
    "adaptsegnet": _bare(
        {"single": {"head": "layer5"}, "multi_level": MULTI_LEVEL}, backbones=BOTH
    ),
    "advent": _bare({"multi_level": MULTI_LEVEL}, FOUR),
    "bdl": _bare({"single": {"head": "layer5"}}, FOUR),
    "clan": _bare({"two_heads": MULTI_LEVEL}, FOUR),
    "f2a": _bare({"two_heads": MULTI_LEVEL}, FOUR),
    "maxsquare": _training({"multi_level": MULTI_LEVEL}),
    "oce": _training({"multi_level": MULTI_LEVEL}, backbones=BOTH),
    "lsr": _training({"single": {"head": "clas"}}, backbones=BOTH),
    "cag": Layout(
        {"single": CAG_HEAD},
        dilations=CAG_OPTIONS["aspp_dilations"],
        body="backbone.",
        mark="decoder.",
        wrapped=("DeepLab", "model_state"),
        architectures=("deeplabv3plus",),
        preprocessing="unit",
    ),
    # And HRDA and MIC.
    "daformer": Layout(
        {
            "single": {"head": "decode_head"},
            "detail": {
                "head": "decode_head.head",
                "attention": "decode_head.scale_attention",
            },
        },
        dilations=(),
        prefix="model.",
        body="backbone.",
        mark="decode_head.",
        wrapped=("state_dict",),
        architectures=("daformer", "deeplabv2"),
        preprocessing="imagenet",
        backbones=("mit", "resnet_v1c"),
    ),
}
COUNTERS = {r"num_batches_tracked$": "a counter that nothing reads"}
# Copies of a network in a state_dict of DAFormer, HRDA and MIC.
COPIES = {
    "model": "the student",
    "ema_model": "the teacher",
    "imnet_model": "the frozen ImageNet network",
}
FAMILIES = {
    "resnet": "ResNet",
    "resnet_v1c": "ResNet V1c",
    "vgg": "VGG",
    "mit": "Mix Transformer",
}
# DAFormer's fusion by names below "decode_head.fuse_layer."; the first that fits.
FUSIONS = {
    "aspp_modules.1.depthwise_conv.": "sepaspp",
    "aspp_modules.": "aspp",
    "in_conv.": "isa",
    "conv.": "conv1",
}
# Names of a Mix Transformer in three layouts: beginnings in stage n = s + 1 and block i,
# and what follows. Two names: their arrays lie below each other. ":1": the second of the
# equal parts of an array.
MIT = ("mit", "mit_openmmlab", "mit_hf")
MIT_PARTS = {
    "patch_embed": ("patch_embed{n}", "layers.{s}.0", "patch_embeddings.{s}"),
    "block": ("block{n}.{i}", "layers.{s}.1.{i}", "block.{s}.{i}"),
    "norm": ("norm{n}", "layers.{s}.2", "layer_norm.{s}"),
}
MIT_MODULES = {
    "": ("", "", ""),
    "proj": ("proj", "projection", "proj"),
    "norm": ("norm", "norm", "layer_norm"),
    "norm1": ("norm1", "norm1", "layer_norm_1"),
    "norm2": ("norm2", "norm2", "layer_norm_2"),
    "attn/q": ("attn.q", "attn.attn.in_proj_:0", "attention.self.query"),
    "attn/kv": (
        "attn.kv",
        "attn.attn.in_proj_:1 attn.attn.in_proj_:2",
        "attention.self.key attention.self.value",
    ),
    "attn/proj": ("attn.proj", "attn.attn.out_proj", "attention.output.dense"),
    "attn/sr": ("attn.sr", "attn.sr", "attention.self.sr"),
    "attn/norm": ("attn.norm", "attn.norm", "attention.self.layer_norm"),
    "mlp/fc1": ("mlp.fc1", "ffn.layers.0", "mlp.dense1"),
    "mlp/dwconv": ("mlp.dwconv.dwconv", "ffn.layers.1", "mlp.dwconv.dwconv"),
    "mlp/fc2": ("mlp.fc2", "ffn.layers.4", "mlp.dense2"),
}


@dataclasses.dataclass(frozen=True)
class Facts:
    """The network that the names and shapes of a file describe."""

    prefix: str
    layout: str | None
    backbone: str | Backbone
    head: str | None
    heads: Mapping[str, str]
    branches: int
    num_classes: int | None
    has_classifier: bool
    options: Mapping[str, Any]


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


def copies(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The copies of a network in one state_dict, by key of `COPIES`; {}: there is one."""
    found = {}
    for name, value in arrays.items():
        found.setdefault(name.split(".")[0], {})[name] = value
    return found if {"model"} < found.keys() <= COPIES.keys() else {}


def is_network(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the names are those of a network of this family, with any prefix."""
    return _backbone(strip(copies(arrays).get("model", arrays))[1]) is not None


def facts(prefix: str, arrays: Mapping[str, np.ndarray], path: object) -> Facts:
    """Derive the network from stripped names.

    Raises:
      InputError: not a network of this family.
    """
    backbone, layout = _backbone(arrays), _marked(arrays)
    if backbone is None:
        raise InputError(
            f"{path}: expected a DeepLabV2, DeepLabV3+, DAFormer, ResNet, VGG or Mix "
            "Transformer state_dict; found names like " + ", ".join(sorted(arrays)[:3])
        )
    options = {"architecture": "daformer"} if family(backbone) == "mit" else {}
    if layout in ("cag", "daformer"):
        classifier = _classifier(arrays)
        if classifier is None:
            raise InputError(f"{path}: a {layout} network without a classifier")
        head, heads, num_classes = "single", {}, classifier.shape[0]
        options |= CAG_OPTIONS if layout == "cag" else _options(arrays)
    else:
        head, heads, num_classes = _heads(arrays)
    branch = r"(?:conv2d_list|^decode_head\.(?:head\.)?aspp_modules)\.(\d)\."
    branches = len({m[1] for name in arrays if (m := re.search(branch, name))})
    imagenet = "fc.weight" in arrays or "classifier.0.weight" in arrays
    return Facts(
        prefix, layout, backbone, head, heads, branches, num_classes, imagenet, options
    )


def fits(name: str, facts: Facts) -> bool:
    """Whether the network that the facts describe can be read as ``name``."""
    layout = LAYOUTS[name]
    if facts.layout:
        return name == facts.layout and family(facts.backbone) in layout.backbones
    if layout.initialisation:
        if facts.prefix == "Scale.":
            return name == "deeplab_init"
        return facts.has_classifier and name == f"torchvision_{family(facts.backbone)}"
    if family(facts.backbone) == "vgg":
        return "vgg" in layout.backbones and facts.heads == VGG_HEAD
    known = bool(facts.heads) and layout.heads.get(facts.head) == facts.heads
    return known and (not facts.branches or facts.branches >= len(layout.dilations))


def family(backbone: object) -> str:
    """The key of `FAMILIES` for a backbone or its name."""
    body = BACKBONES.get(backbone, backbone)
    if isinstance(body, resnet.Architecture):
        return "resnet_v1c" if body.v1c else "resnet"
    return "vgg" if isinstance(body, vgg.Architecture) else "mit"


def kind(arguments: Mapping[str, Any]) -> str:
    """The key of `Layout.heads` for arguments of ``models.build``."""
    return arguments["head"] if arguments.get("detail") is None else "detail"


def mit_modules(module: str, layout: str) -> list[str]:
    """The file's names of our ``block2_0/attn/kv``, after the prefix of the body."""
    part, n, i, rest = re.match(r"([a-z_]+)(\d)_?(\d*)/?(.*)", module).groups()
    column = MIT.index(layout) if layout in MIT else 0
    start = MIT_PARTS[part][column].format(n=n, s=int(n) - 1, i=i)
    ends = MIT_MODULES[rest][column].split(" ")
    return [f"{start}.{end}" if end else start for end in ends]


def _marked(arrays):
    """The layout that the names alone tell; None where repositories share them."""
    marks = {name: layout.mark for name, layout in LAYOUTS.items() if layout.mark}
    return next((n for n, mark in marks.items() if _has(arrays, mark)), None)


def _has(arrays, beginning):
    return any(name.startswith(beginning) for name in arrays)


def _backbone(arrays):
    """The body; None for names of another network."""
    layout = _marked(arrays)
    start = LAYOUTS[layout].body if layout else ""
    body = {n.removeprefix(start): x for n, x in arrays.items() if n.startswith(start)}
    layout = _marked(body) or layout
    if "features.0.weight" in body:
        weights = [n for n in body if re.match(r"features\..*\.weight$", n)]
        for name, backbone in BACKBONES.items():
            # With fc6 and fc7, or without.
            if family(name) == "vgg" and len(weights) - sum(backbone.groups) in (0, 2):
                return name
        return "vgg16"
    if layout and "mit" in LAYOUTS[layout].backbones:
        return _mix_transformer(body, layout, _classifier(arrays))
    v1c = layout == "resnet_v1c"
    stem = "stem.6.weight" if v1c else "conv1.weight"
    if stem not in body or "layer1.0.conv1.weight" not in body:
        return None

    def blocks(layer):
        found = [re.match(rf"layer{layer}\.(\d+)\.", name) for name in body]
        return 1 + max((int(match[1]) for match in found if match), default=0)

    architecture = resnet.Architecture(
        body[stem].shape[0],
        body["layer1.0.conv1.weight"].shape[0],
        tuple(blocks(layer) for layer in (1, 2, 3, 4)),
        v1c,
    )
    known = {value: name for name, value in BACKBONES.items()}
    return known.get(architecture, architecture)


def _mix_transformer(body, layout, classifier):
    """The body by its LayerNorms; they have one axis in every layout."""

    def width(stage):
        for module in (f"norm{stage}", f"patch_embed{stage}/norm"):
            scale = body.get(f"{mit_modules(module, layout)[0]}.weight")
            if scale is not None and scale.ndim == 1:
                return len(scale)
        return 0

    def depth(stage):
        for count in itertools.count():
            name = mit_modules(f"block{stage}_{count}/norm1", layout)[0]
            if not _has(body, name.rpartition(".")[0] + "."):
                return count

    widths = tuple(width(stage) for stage in (1, 2, 3, 4))
    heads = zip(widths, mix_transformer.HEADS, strict=True)
    if not all(size and size % count == 0 for size, count in heads):
        return None
    depths = tuple(depth(stage) for stage in (1, 2, 3, 4))
    sizes = {"widths": widths, "depths": depths}
    if classifier is not None:  # an ImageNet file does not tell the width of the head
        sizes["head_width"] = classifier.shape[1]
    for name, known in BACKBONES.items():
        if family(name) == "mit" and dataclasses.replace(known, **sizes) == known:
            return name
    return mix_transformer.Architecture(**sizes)


def _classifier(arrays):
    """The kernel of the classifier of CAG, DAFormer, HRDA and MIC; None without."""
    names = [f"{CAG_HEAD['head']}.weight"]
    for heads in LAYOUTS["daformer"].heads.values():
        for module in ("conv_seg", "aspp_modules.0.conv"):
            names.append(f"{heads['head']}.{module}.weight")
    found = (arrays[name] for name in names if name in arrays)
    return next((kernel for kernel in found if kernel.ndim == 4), None)


def _options(arrays):
    """Arguments of `models.build` that the names of DAFormer, HRDA and MIC tell."""
    found = {}
    heads = LAYOUTS["daformer"].heads
    if _has(arrays, f"{heads['detail']['attention']}."):
        found["detail"] = 0.5  # of all published configs
    layer = f"{heads['detail' if found else 'single']['head']}.fuse_layer."
    fusion = next((f for n, f in FUSIONS.items() if _has(arrays, layer + n)), None)
    return found | ({"fusion": fusion} if fusion else {})


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
