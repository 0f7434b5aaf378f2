"""Types shared by all packages, and the letters of array dimensions.

``B`` batch, ``H W`` image, ``h w`` feature map, ``C`` classes, ``D`` feature channels.
Arrays are channels-last; labels are integers with 255 = ignore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

IGNORE = 255

PyTree = Any


class Images(NamedTuple):
    """One domain's share of a batch.

    Attributes:
      image: ``[B, H, W, 3]``; uint8 RGB from the pipeline, then float32 network input.
      label: ``[B, H, W]`` trainIds, 255 = ignore; None where the method may not read it.
      trusted: ``[B, H, W]`` bool, False on the margins of target images where
        pseudo-labels count nothing; None without margins.
      drawn: ``[B]`` int32 from the pipeline, the class that an image was drawn for; None
        without rare class sampling, and in the network's input.
    """

    image: jax.Array
    label: jax.Array | None
    trusted: jax.Array | None = None
    drawn: jax.Array | None = None


class Batch(NamedTuple):
    """Both domains; None for a domain that the method does not read."""

    source: Images | None
    target: Images | None


class Detail(NamedTuple):
    """HRDA's logits of one window of each training image.

    Attributes:
      logits: ``[B, h, w, C]``, at the window's resolution.
      corners: ``[B, 2]`` int32, row and column of the window's first pixel.
    """

    logits: jax.Array
    corners: jax.Array


class Outputs(NamedTuple):
    """Outputs of a network for ``[B, H, W, 3]`` images.

    Attributes:
      features: ``[B, h, w, D]``, non-negative (after the last ReLU before the head).
      logits: ``[B, h, w, C]`` of the main head, at feature resolution; DAFormer's at
        that of the image, which it enlarges to with half-pixel corners.
      aux_logits: ``[B, h, w, C]`` of the second head, None for a one-head network.
      encoder: ``[B, h', w', D']``, signed output of the last stage of DAFormer's
        encoder; None for other networks.
      detail: HRDA's window in training; None elsewhere.
    """

    features: jax.Array
    logits: jax.Array
    aux_logits: jax.Array | None = None
    encoder: jax.Array | None = None
    detail: Detail | None = None


Forward = Callable[..., tuple[Outputs, PyTree]]
"""``forward(params, model_state, images, train, dropout=True) -> (Outputs, model_state)``.

Without dropout nothing is left out in training, and HRDA's detail covers the image.
"""


class Pixels(NamedTuple):
    """Conversions between RGB images and network input, both ``[B, H, W, 3]``.

    Attributes:
      normalise: RGB 0..255 -> network input.
      restore: network input -> RGB 0..255.
    """

    normalise: Callable[[jax.Array], jax.Array]
    restore: Callable[[jax.Array], jax.Array]


class Frozen(NamedTuple):
    """A part of a method's state that no step changes, such as the network of the start.

    The checkpoints of a stage share one copy of it.
    """

    value: PyTree


class Context(NamedTuple):
    """Further arguments of a loss, beside parameters, method state and batch.

    Attributes:
      forward: the network. Every call within a step draws its own dropout.
      model_state: BatchNorm running statistics before this step.
      step: int32 scalar, counted from 0 within the stage.
      rng: a key of this step alone.
      pixels: for methods that augment the network's input themselves.
    """

    forward: Forward
    model_state: PyTree
    step: jax.Array
    rng: jax.Array
    pixels: Pixels


class Aux(NamedTuple):
    """Auxiliary results of a loss.

    Attributes:
      metrics: scalars to log: the unweighted terms, and `diagnostics`.
      method_state: after this step.
      model_state: BatchNorm running statistics after it.
      outputs: of the trained network in train mode, by domain, for terms that are added
        to a method (`feature_norm.norm`).
    """

    metrics: Mapping[str, jax.Array]
    method_state: PyTree
    model_state: PyTree
    outputs: Mapping[str, Outputs] = {}


class BatchSpec(NamedTuple):
    """The static facts from which a method builds its state.

    Attributes:
      num_classes: ``C``.
      feature_dim: ``D``.
      source_size: ``(H, W)`` of the source images.
      target_size: ``(H, W)`` of the target images.
    """

    num_classes: int
    feature_dim: int
    source_size: tuple[int, int]
    target_size: tuple[int, int]


class Preparation(NamedTuple):
    """Arguments of a method's ``prepare``, which runs on the host before step 0.

    Attributes:
      forward: the network.
      params: of the pseudo-labeler, the network of an earlier stage, replicated.
      model_state: its BatchNorm running statistics.
      num_classes: ``C``.
      batches: ``(domain, labelled) -> iterator``: the training split once, in order and
        not augmented, as ``(Images of network input, valid [B], ids)``. Images are on
        the devices; images that are not valid are padding or unreadable. Labels of a
        domain are given only to a method that may read them.
      compile: `jax.jit` for functions of the batches; results are replicated, so that
        every process can read them.
      folder: of the stage, for files that the data pipeline reads back.
      writes: whether this process writes those files. All processes compute the same,
        the first writes.
    """

    forward: Forward
    params: PyTree
    model_state: PyTree
    num_classes: int
    batches: Callable[[str, bool], Iterator[tuple[Images, Any, tuple[str, ...]]]]
    compile: Callable[[Callable], Callable]
    folder: Path
    writes: bool


HEADS = ("single", "multi_level", "two_heads")


class Method(NamedTuple):
    """An adaptation method: a pair of pure functions, and the data that they need.

    Attributes:
      init: ``(key, params, model_state, spec) -> (extra_params, method_state)``.
      loss: ``(params, method_state, batch, context) -> (scalar, Aux)``.
      prepare: optional, ``(method_state, preparation) -> method_state``, on the host,
        once before step 0 of a stage.
      domains: which domains the data pipeline delivers.
      labelled: which of them have labels. Only an oracle has "target" here.
      pseudo_labelled: whether the target has the labels that ``prepare`` wrote into
        ``pseudo_labels/`` of the stage's folder.
      heads: values of ``head`` of `models.build` that the loss supports.
    """

    init: Callable[[jax.Array, PyTree, PyTree, BatchSpec], tuple[dict, PyTree]]
    loss: Callable[[PyTree, PyTree, Batch, Context], tuple[jax.Array, Aux]]
    prepare: Callable[[PyTree, Preparation], PyTree] | None = None
    domains: tuple[str, ...] = ("source", "target")
    labelled: tuple[str, ...] = ("source",)
    pseudo_labelled: bool = False
    heads: tuple[str, ...] = HEADS

    def gets_labels(self, domain: str) -> bool:
        """Whether batches have labels of ``domain``: true ones, or pseudo-labels."""
        pseudo = self.pseudo_labelled and domain == "target"
        return domain in self.labelled or pseudo
