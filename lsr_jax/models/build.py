"""Build a network of the literature as pure functions. A new backbone is one line here.

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
block3.5.attn.q (MiT)      backbone/block3_5/attn/q
decode_head (DAFormer)     head
=========================  =============================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lsr_jax import errors, keywords, types
from lsr_jax.keywords import Count, Probability, Range
from lsr_jax.models import (
    daformer,
    deeplab,
    layers,
    mix_transformer,
    multi_resolution,
    resnet,
    vgg,
)
from lsr_jax.models import initialisation as weights
from lsr_jax.models.backbone import Backbone
from lsr_jax.ops import resample

BACKBONES: Mapping[str, Backbone] = {
    "resnet101": resnet.Architecture(64, 64, (3, 4, 23, 3)),
    "resnet50": resnet.Architecture(64, 64, (3, 4, 6, 3)),
    "mini": resnet.Architecture(32, 16, (1, 1, 2, 1)),  # for training on a CPU
    "resnet101_v1c": resnet.Architecture(64, 64, (3, 4, 23, 3), v1c=True),
    "mini_v1c": resnet.Architecture(32, 16, (1, 1, 2, 1), v1c=True),
    "vgg16": vgg.Architecture((2, 2, 3, 3, 3)),
    "vgg13": vgg.Architecture((2, 2, 2, 2, 2)),
    "mit_b0": mix_transformer.Architecture((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": mix_transformer.Architecture((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": mix_transformer.Architecture((64, 128, 320, 512), (3, 4, 6, 3)),
    "mit_b3": mix_transformer.Architecture((64, 128, 320, 512), (3, 4, 18, 3)),
    "mit_b4": mix_transformer.Architecture((64, 128, 320, 512), (3, 8, 27, 3)),
    "mit_b5": mix_transformer.Architecture((64, 128, 320, 512), (3, 6, 40, 3)),
    # For training on a CPU.
    "mit_mini": mix_transformer.Architecture((16, 32, 80, 128), (1, 1, 1, 1), 64),
}
STEM_AFFINE = r"(^|/)backbone/bn1/(scale|bias)$"
ALL_AFFINE = r"(^|/)(backbone|head)/(.*/)?(bn\d?|downsample_bn)/(scale|bias)$"

Share = Annotated[float, Range(excluded=0, most=1, unit="a share")]
Dilations = Annotated[tuple[int, ...], Range(least=1, unit="feature cells")]


class Model(NamedTuple):
    """A network as pure functions and facts.

    Attributes:
      init: ``(key, image_size) -> (params, model_state)``.
      forward: ``(params, model_state, images, train, rng=None) -> (Outputs,
        model_state)``; images are the float32 network input ``[B, H, W, 3]``, ``train``
        is a Python bool, ``rng`` the key of dropout in training; None drops nothing.
        Outputs are float32. The model state is ``{}`` for VGG.
      prediction: ``Outputs -> [B, h, w, C]``, the logits that are evaluated: the sum of
        two heads on one layer (CLAN, Feature To Adapt), else the main head.
      corners: how the logits are enlarged further, see `resample.bilinear`.
      feature_size: ``(H, W) -> (h, w)``.
      feature_dim: ``D``.
      num_classes: ``C``.
      frozen_paths: regular expressions, for ``re.search`` on "/"-joined parameter
        paths, of parameters that the optimiser must neither step nor decay.
      repeated_paths: see `Backbone`.
      arguments: all keywords of ``build``.
    """

    init: Callable[..., tuple[types.PyTree, types.PyTree]]
    forward: Callable[..., tuple[types.Outputs, types.PyTree]]
    prediction: Callable[[types.Outputs], jax.Array]
    corners: resample.Corners
    feature_size: Callable[[tuple[int, int]], tuple[int, int]]
    feature_dim: int
    num_classes: int
    frozen_paths: tuple[str, ...]
    repeated_paths: tuple[tuple[str, int], ...]
    arguments: Mapping[str, Any]


def build(
    *,
    backbone: str | Backbone,
    architecture: Literal["deeplabv2", "deeplabv3plus", "daformer"] = "deeplabv2",
    num_classes: Annotated[int, Range(least=2, most=255)] = 19,
    head: Literal["single", "multi_level", "two_heads"] = "single",
    aspp_dilations: Dilations = (6, 12),
    fusion: Literal["sepaspp", "aspp", "conv1", "isa"] = "sepaspp",
    detail: Share | None = None,
    drop_path: Probability = 0.1,
    head_dropout: Probability = 0.1,
    batch_norm: Literal["train", "frozen_affine", "eval"] = "train",
    freeze_stem_affine: bool = False,
    unbiased_variance: bool = True,
    bn_group_size: Count | None = None,
    initialisation: Literal["scratch", "released"] = "scratch",
    dtype: Literal["float32", "tf32", "bfloat16", "float64"] = "float32",
    remat: bool = False,
    scan_blocks: bool = True,
) -> Model:
    """Builds a network as the UDA literature uses it.

    Args:
      backbone: a key of `BACKBONES`, or a `Backbone`.
      architecture: "deeplabv2" (Chen et al., TPAMI 2018), features of layer4 at output
        stride 8. "deeplabv3plus" (Chen et al., ECCV 2018; CAG): a ResNet of output
        stride 16, ASPP, decoder; features of the decoder at stride 4. "daformer"
        (Hoyer et al., CVPR 2022): a Mix Transformer and a decoder over its four stages;
        features of the decoder at stride 4.
      num_classes: ``C``.
      head: "single": one ASPP on layer4. "multi_level": a second one on layer3 (the
        layer5 of AdaptSegNet, ADVENT, MaxSquare). "two_heads": both on layer4 (CLAN,
        Feature-To-Adapt). ``logits`` is the main head (layer6), ``aux_logits`` the
        other (layer5). VGG has "single" and "two_heads", DeepLabV3+ "single".
      aspp_dilations: the branches that run. The released AdaptSegNet, MaxSquare, OCE
        and LSR own four branches but return after (6, 12); CLAN, Feature-To-Adapt, ADVENT
        and BDL sum (6, 12, 18, 24). CAG's DeepLabV3+ has (6, 12, 18) beside its 1x1.
      fusion: how DAFormer's decoder fuses the stages: "sepaspp", the paper's depthwise
        separable pyramid, or "aspp", "conv1", "isa", which it is compared with.
      detail: HRDA (ECCV 2022): sides of the window that is seen at full resolution, as a
        share of those of the image, which else is seen at half; 0.5 in the paper. None:
        the whole image at full resolution. For "deeplabv2" and "daformer".
      drop_path: probability with which training leaves out a residual branch of a Mix
        Transformer's last block; earlier blocks have less.
      head_dropout: share of channels that training leaves out before DAFormer's
        classifier.
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
      scan_blocks: on GPUs and TPUs the equal blocks of a Mix Transformer's stage are one
        loop, which compiles several times faster. Not on a CPU: XLA does not order the
        all-reduces inside of a loop among those outside, and devices could deadlock.

    Raises:
      InputError: a value outside these choices.
    """
    arguments = dict(locals())
    keywords.check(arguments, "model", build)
    options = layers.Options(
        batch_norm,
        unbiased_variance,
        bn_group_size,
        dtype,
        remat,
        drop_path,
        scan_blocks,
    )
    body = _checked_body(backbone, architecture, head)
    if detail is not None and not (body.half_pixel and head == "single"):
        raise errors.InputError(
            f"model.detail: {detail} needs a Mix Transformer or a ResNet of kind v1c, and "
            f"head='single'; found {backbone!r} with head={head!r}"
        )
    dilations = tuple(aspp_dilations)
    if architecture == "deeplabv2":
        levels = (3, 4) if head == "multi_level" else (4,)
        network = partial(deeplab.DeepLabV2, half_pixel=body.half_pixel)
        rules = deeplab.initial_v2(body.initial)
        names = ("head",) if head == "single" else ("head", "aux_head")
        heads = {n: deeplab.ASPP(num_classes, dilations, options) for n in names}
        attention, decode = heads["head"].clone(), deeplab.decode_v2
        feature_dim, feature_size = body.channels[4], body.feature_size
    elif architecture == "daformer":
        levels = (1, 2, 3, 4)
        network, rules = daformer.DAFormer, daformer.initial(body.initial)
        feature_dim, feature_size = body.head_width, body.feature_size
        decoder = partial(
            daformer.Head, num_classes, feature_dim, feature_dim, options=options
        )
        heads = {"head": decoder(fusion, head_dropout)}
        attention, decode = decoder("conv1", head_dropout), daformer.decode
    else:
        levels = (1, 4)
        network, rules = deeplab.DeepLabV3Plus, deeplab.initial_v3plus(body.initial)
        feature_dim, feature_size = body.channels[1], deeplab.feature_size_v3plus
        heads = {"head": deeplab.Head(num_classes, feature_dim, dilations, options)}
    features = body.body(
        options,
        levels,
        architecture=architecture,
        freeze_stem_affine=freeze_stem_affine,
    )
    if detail is None:
        module = network(features, **heads)
    else:
        module = multi_resolution.MultiResolution(
            features, heads["head"], attention, decode, detail
        )

    def init(key, image_size):
        images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
        shapes = jax.eval_shape(
            lambda x: module.init(jax.random.key(0), x, train=False), images
        )
        params = weights.draw(key, shapes["params"], rules[initialisation])
        return params, weights.running_statistics(shapes.get("batch_stats", {}))

    def forward(params, model_state, images, train, rng=None):
        variables = {"params": params, "batch_stats": model_state}
        if not train:
            return module.apply(variables, images, train=False), model_state
        rngs = {} if rng is None else {"dropout": rng}
        outputs, updated = module.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs=rngs
        )
        return outputs, updated.get("batch_stats", {})

    def prediction(outputs):
        both = head == "two_heads"
        return outputs.logits + outputs.aux_logits if both else outputs.logits

    return Model(
        init,
        forward,
        prediction,
        "half_pixel" if body.half_pixel else "aligned",
        feature_size if detail is None else lambda size: feature_size(_half(size)),
        feature_dim,
        num_classes,
        _frozen_paths(batch_norm, freeze_stem_affine),
        tuple(body.repeated),
        arguments,
    )


def _checked_body(backbone, architecture, head) -> Backbone:
    body = BACKBONES.get(backbone, backbone)
    if not isinstance(body, Backbone):
        raise errors.InputError(
            f"model.backbone: expected one of {', '.join(BACKBONES)}, found {backbone!r}"
        )
    transformer = isinstance(body, mix_transformer.Architecture)
    if transformer != (architecture == "daformer"):
        raise errors.InputError(
            "model.architecture: 'daformer' is for Mix Transformers and they are for it, "
            f"found {architecture!r} on {backbone!r}"
        )
    if architecture == "deeplabv3plus" and body.half_pixel:
        raise errors.InputError(
            f"model.backbone: {architecture} has ResNets as torchvision's, found "
            f"{backbone!r}"
        )
    if architecture == "deeplabv3plus" and 1 not in body.channels:
        raise errors.InputError(
            f"model.backbone: {architecture} needs layer1 of a ResNet, found "
            f"{backbone!r}"
        )
    if architecture != "deeplabv2" and head != "single":
        raise errors.InputError(
            f"model.head: {architecture} has a 'single' one, found {head!r}"
        )
    if head == "multi_level" and 3 not in body.channels:
        raise errors.InputError(
            f"model.head: 'multi_level' needs layer3 of a ResNet, found {backbone!r}"
        )
    return body


def _half(size):
    return tuple(side // 2 for side in size)


def _frozen_paths(batch_norm, freeze_stem_affine):
    if batch_norm == "frozen_affine":
        return (ALL_AFFINE,)
    return (STEM_AFFINE,) if freeze_stem_affine else ()
