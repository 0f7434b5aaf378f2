"""`build`: a network of the literature as pure functions.

The tree of parameters is ``{"backbone": ..., "head": ...[, "aux_head": ...]}``. Names
are those of the PyTorch networks with ``.`` in a module's own name written ``_``:

=========================  =============================================================
PyTorch                    here
=========================  =============================================================
layer3.22.conv2.weight     backbone/layer3_22/conv2/kernel
layer1.0.downsample.0 (1)  backbone/layer1_0/downsample_conv (downsample_bn)
bn1.weight, bn1.bias       backbone/bn1/scale, backbone/bn1/bias
bn1.running_mean (_var)    backbone/bn1/mean (var), in the model state
features.28.weight (VGG)   backbone/features_28/kernel
layer6, clas, classifier   head; the branches are conv2d_list_0, conv2d_list_1, ...
layer5                     aux_head beside a layer6, head where it is alone
aspp, decoder (CAG)        head, see `lsr_jax.convert.names`
=========================  =============================================================

Initial weights: one random draw for the whole tree, scaled by rules on names.

One draw, because XLA compiles a random number generator for every array it is asked
for, and a ResNet-101 asks for more than a hundred.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lsr_jax import errors, keywords, types
from lsr_jax.keywords import Count, Range
from lsr_jax.models import deeplabv2, deeplabv3plus, layers, resnet, vgg

STEM_AFFINE = r"(^|/)backbone/bn1/(scale|bias)$"
ALL_AFFINE = r"(^|/)(backbone|head)/(.*/)?(bn\d?|downsample_bn)/(scale|bias)$"

Dilations = Annotated[tuple[int, ...], Range(least=1, unit="feature cells")]


class Model(NamedTuple):
    """A network as pure functions and facts.

    Attributes:
      init: ``(key, image_size) -> (params, model_state)``.
      forward: ``(params, model_state, images, train, rng=None) -> (Outputs,
        model_state)``; images are the float32 network input ``[B, H, W, 3]``, ``train``
        is a Python bool, ``rng`` the key of dropout in training, for networks that have
        it; None drops nothing. Outputs are float32. The model state is ``{}`` for VGG.
      prediction: ``Outputs -> [B, h, w, C]``, the logits that are evaluated: the sum of
        two heads on one layer (CLAN, Feature To Adapt), else the main head.
      feature_size: ``(H, W) -> (h, w)``.
      feature_dim: ``D``.
      num_classes: ``C``.
      frozen_paths: regular expressions, for ``re.search`` on "/"-joined parameter
        paths, of parameters that never move: the optimiser must neither step nor
        decay them.
      arguments: the keywords that ``build`` was given, all of them.
    """

    init: Callable[..., tuple[types.PyTree, types.PyTree]]
    forward: Callable[..., tuple[types.Outputs, types.PyTree]]
    prediction: Callable[[types.Outputs], jax.Array]
    feature_size: Callable[[tuple[int, int]], tuple[int, int]]
    feature_dim: int
    num_classes: int
    frozen_paths: tuple[str, ...]
    arguments: Mapping[str, Any]


def build(
    *,
    backbone: str | resnet.Architecture,
    architecture: Literal["deeplabv2", "deeplabv3plus"] = "deeplabv2",
    num_classes: Annotated[int, Range(least=2, most=255)] = 19,
    head: Literal["single", "multi_level", "two_heads"] = "single",
    aspp_dilations: Dilations = (6, 12),
    batch_norm: Literal["train", "frozen_affine", "eval"] = "train",
    freeze_stem_affine: bool = False,
    unbiased_variance: bool = True,
    bn_group_size: Count | None = None,
    initialisation: Literal["scratch", "released"] = "scratch",
    dtype: Literal["float32", "tf32", "bfloat16", "float64"] = "float32",
    remat: bool = False,
) -> Model:
    """Builds a network as the UDA literature uses it.

    Args:
      backbone: "resnet101", "resnet50", "mini", "vgg16", "vgg13", or a ResNet
        ``Architecture``.
      architecture: "deeplabv2" (Chen et al., TPAMI 2018), features of layer4 at output
        stride 8. "deeplabv3plus" (Chen et al., ECCV 2018; CAG): a ResNet of output
        stride 16, ASPP, decoder; features of the decoder at stride 4.
      num_classes: ``C``.
      head: "single": one ASPP on layer4. "multi_level": a second one on layer3 (the
        layer5 of AdaptSegNet, ADVENT, MaxSquare). "two_heads": both on layer4 (CLAN,
        Feature-To-Adapt). ``logits`` is the main head (layer6), ``aux_logits`` the
        other (layer5). VGG has "single" and "two_heads", DeepLabV3+ "single".
      aspp_dilations: the branches that run. The released AdaptSegNet, MaxSquare, OCE
        and LSR own four branches but return after (6, 12); CLAN, Feature-To-Adapt, ADVENT
        and BDL sum (6, 12, 18, 24). CAG's DeepLabV3+ has (6, 12, 18) beside its 1x1.
      batch_norm: "train": batch statistics in training. "frozen_affine": the same,
        scale and bias carry no gradient (AdaptSegNet, CLAN, Feature-To-Adapt, ADVENT,
        BDL). "eval": running statistics always.
      freeze_stem_affine: scale and bias of the first BatchNorm carry no gradient
        (MaxSquare, OCE, LSR).
      unbiased_variance: running variance from the unbiased batch variance (PyTorch).
      bn_group_size: how many images are normalised together; None = the whole global
        batch. Must divide every batch.
      initialisation: "scratch": He-normal convolutions, the last BatchNorm scale of
        each block 0, zero biases, classifiers N(0, 0.01). "released": convolutions
        N(0, 0.01) (DeepLabV3+: He-normal), all scales 1, biases of the classifiers
        uniform as PyTorch's default, VGG as torchvision.
      dtype: how convolutions compute: "float32", on every device; "tf32", products
        with TF32's ten bits on NVIDIA GPUs that have it (three bfloat16 products on a
        TPU, float32 on a CPU); "bfloat16". Parameters, statistics and outputs are
        float32. "float64" computes everything in float64 under ``jax.enable_x64``, for
        comparisons.
      remat: recompute each residual block in the backward pass to save memory.

    Returns:
      A ``Model``.

    Raises:
      InputError: a value outside these choices.
    """
    arguments = dict(locals())
    keywords.check(arguments, "model", build)
    options = layers.Options(
        batch_norm, unbiased_variance, bn_group_size, initialisation, dtype, remat
    )
    _check_head(head, architecture, backbone)
    module, feature_dim, feature_size = NETWORKS[architecture](
        backbone, options, num_classes, head, tuple(aspp_dilations), freeze_stem_affine
    )

    def init(key, image_size):
        images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
        shapes = jax.eval_shape(
            lambda x: module.init(jax.random.key(0), x, train=False), images
        )
        params = draw(key, shapes["params"], RULES[architecture][initialisation])
        return params, running_statistics(shapes.get("batch_stats", {}))

    def forward(params, model_state, images, train, rng=None):
        variables = {"params": params, "batch_stats": model_state}
        if not train:
            return module.apply(variables, images, train=False), model_state
        rngs = {} if rng is None else {"dropout": rng}
        outputs, updated = module.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs=rngs
        )
        return outputs, updated.get("batch_stats", {})

    return Model(
        init,
        forward,
        _both_heads if head == "two_heads" else _main_head,
        feature_size,
        feature_dim,
        num_classes,
        _frozen_paths(batch_norm, freeze_stem_affine),
        arguments,
    )


def _main_head(outputs):
    return outputs.logits


def _both_heads(outputs):
    return outputs.logits + outputs.aux_logits


def _deeplabv2(backbone, options, num_classes, head, dilations, freeze_stem_affine):
    if backbone in vgg.GROUPS:
        body = vgg.VGG(backbone, options)
        feature_dim, feature_size = vgg.FEATURES, vgg.feature_size
    else:
        widths = _resnet(backbone, [*resnet.ARCHITECTURES, *vgg.GROUPS])
        body = resnet.ResNet(widths, options, freeze_stem_affine)
        feature_dim, feature_size = widths.channels(4), resnet.feature_size
    module = deeplabv2.DeepLabV2(
        body,
        deeplabv2.ASPP(num_classes, dilations, options),
        None if head == "single" else deeplabv2.ASPP(num_classes, dilations, options),
        aux_level=3 if head == "multi_level" else 4,
    )
    return module, feature_dim, feature_size


def _deeplabv3plus(backbone, options, num_classes, head, dilations, freeze_stem_affine):
    widths = _resnet(backbone, resnet.ARCHITECTURES)
    module = deeplabv3plus.network(
        widths,
        options,
        num_classes=num_classes,
        dilations=dilations,
        freeze_stem_affine=freeze_stem_affine,
    )
    return module, widths.channels(1), deeplabv3plus.feature_size


NETWORKS = {"deeplabv2": _deeplabv2, "deeplabv3plus": _deeplabv3plus}


def _resnet(backbone, names):
    found = resnet.ARCHITECTURES.get(backbone, backbone)
    if not isinstance(found, resnet.Architecture):
        raise errors.InputError(
            f"model.backbone: expected one of {', '.join(names)}; found {backbone!r}"
        )
    return found


def _check_head(head, architecture, backbone):
    if head == "multi_level" and backbone in vgg.GROUPS:
        raise errors.InputError(
            f"model.head: 'multi_level' needs layer3 of a ResNet; found {backbone!r}"
        )
    if head != "single" and architecture != "deeplabv2":
        raise errors.InputError(
            f"model.head: {architecture} has a 'single' one; found {head!r}"
        )


def _frozen_paths(batch_norm, freeze_stem_affine):
    if batch_norm == "frozen_affine":
        return (ALL_AFFINE,)
    return (STEM_AFFINE,) if freeze_stem_affine else ()


Rule = Callable[[str, tuple[int, ...], int], Callable[[jax.Array], jax.Array]]


def draw(key: jax.Array, shapes: types.PyTree, rule: Rule) -> types.PyTree:
    """Fills the tree ``shapes``.

    Args:
      key: a random key.
      shapes: nested dict of ``ShapeDtypeStruct``; leaves are named kernel, bias, scale.
      rule: ``(path, shape, fan_in) -> transform``, where ``transform`` takes standard
        normal numbers of that shape to the weights. ``fan_in`` is that of the kernel
        beside the leaf, 0 beside none.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    kernels = {
        path[:-1]: math.prod(leaf.shape[:-1])
        for path, leaf in leaves
        if path[-1].key == "kernel"
    }
    transforms = [
        rule(
            jax.tree_util.keystr(path, simple=True, separator="/"),
            leaf.shape,
            kernels.get(path[:-1], 0),
        )
        for path, leaf in leaves
    ]

    @jax.jit
    def fill(key):
        sizes = [math.prod(leaf.shape) for _, leaf in leaves]
        numbers = jax.random.normal(key, (sum(sizes),))
        offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        return [
            transform(numbers[start : start + size].reshape(leaf.shape))
            for transform, start, size, (_, leaf) in zip(
                transforms, offsets, sizes, leaves, strict=True
            )
        ]

    return jax.tree.unflatten(tree, fill(key))


def running_statistics(shapes: types.PyTree) -> types.PyTree:
    """Running mean 0 and variance 1."""

    def start(path, leaf):
        return (jnp.ones if path[-1].key == "var" else jnp.zeros)(leaf.shape)

    return jax.tree_util.tree_map_with_path(start, shapes)


def scratch(path: str, shape: tuple[int, ...], fan_in: int):
    """He-normal convolutions, classifiers N(0, 0.01), residual blocks the identity."""
    if path.endswith("kernel"):
        return _normal(0.01 if _classifies(path) else math.sqrt(2.0 / fan_in))
    return _constant(path.endswith("scale") and not path.endswith("bn3/scale"))


def released(path: str, shape: tuple[int, ...], fan_in: int):
    """N(0, 0.01) and PyTorch's biases in the heads; VGG bodies as torchvision's."""
    if path.endswith("kernel"):
        if "/features_" not in path:
            return _normal(0.01)
        if shape[-1] == 1024:
            return torch_default(path, shape, fan_in)
        return _normal(math.sqrt(2.0 / (9 * shape[-1])))
    if path.endswith("bias") and (_classifies(path) or shape == (1024,)) and fan_in:
        return torch_default(path, shape, fan_in)
    return _constant(path.endswith("scale"))


def kaiming(path: str, shape: tuple[int, ...], fan_in: int):
    """He-normal convolutions, PyTorch's bias of the last one: CAG's whole network."""
    if path.endswith("kernel"):
        return _normal(math.sqrt(2.0 / fan_in))
    if path.endswith("bias") and fan_in:
        return torch_default(path, shape, fan_in)
    return _constant(path.endswith("scale"))


def torch_default(path: str, shape: tuple[int, ...], fan_in: int):
    """PyTorch's convolution: kernel and bias from U(-b, b), ``b = 1/sqrt(fan_in)``."""
    bound = 1.0 / math.sqrt(fan_in)
    return lambda normal: bound * jax.scipy.special.erf(normal / math.sqrt(2.0))


def _classifies(path):
    return bool(re.match(r"(aux_)?head/(conv2d_list_\d|classifier)/", path))


def _normal(deviation):
    return lambda normal: deviation * normal


def _constant(value):
    return lambda normal: jnp.full_like(normal, float(value))


RULES = {
    "deeplabv2": {"scratch": scratch, "released": released},
    "deeplabv3plus": {"scratch": scratch, "released": kaiming},
}
