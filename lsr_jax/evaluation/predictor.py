"""From networks and views of an image to scores of its classes, in two pure halves.

`network` scores with one network, from one or more views of every image: as it is,
mirrored, at other scales. `ensemble` adds the weighted scores of several. The class of a
pixel is the one with the largest score.

What is averaged over views decides where the softmax stands:

====================  ===============================================================
logits                none; views are added and enlarged. Feature To Adapt's ensemble
                      without flip (``evaluate.py``). One view: every original
probabilities         at feature resolution, before enlarging. Feature To Adapt with
                      flip
pixel_probabilities   after enlarging to the size of the result. MaxSquare and OCE
                      with flip, whose result has the size of the input
====================  ===============================================================

Enlarging is linear, so views of one size are added before it.

Predictions and confusion matrices over sets of images, jitted once per image size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lsr_jax.data import image_io
from lsr_jax.errors import InputError
from lsr_jax.evaluation import metrics
from lsr_jax.ops import resample
from lsr_jax.training import sharding
from lsr_jax.types import Forward, Images, Outputs, PyTree

AVERAGES = ("logits", "probabilities", "pixel_probabilities")
Size = tuple[int, int]


class Averaging(NamedTuple):
    """Which views of an image are averaged, and what of them.

    Attributes:
      flip: the mirrored image beside every view.
      scales: factors by which the network input is resized (bilinear, corners aligned).
      of: one of `AVERAGES`.
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    of: str = "logits"

    def check(self) -> Averaging:
        """Itself.

        Raises:
          InputError: no scale, one that is not positive, or an unknown average.
        """
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise InputError(
                f"scales: expected positive numbers such as 0.75,1,1.25, found "
                f"{','.join(map(str, self.scales)) or 'none'}"
            )
        if self.of not in AVERAGES:
            raise InputError(
                f"average: expected one of {', '.join(AVERAGES)}, found {self.of!r}"
            )
        return self

    def words(self) -> str:
        """``"flip, scales 0.75 1 1.25, probabilities"``; "one view" for nothing of it."""
        if self == ONE_VIEW:
            return "one view"
        scales = " ".join(f"{scale:g}" for scale in self.scales)
        parts = ["flip"] * self.flip + [f"scales {scales}"] * (self.scales != (1.0,))
        return ", ".join([*parts, self.of])


ONE_VIEW = Averaging()


class Scores(NamedTuple):
    """The two halves.

    Attributes:
      views: ``(params, model_state, images uint8 [B, H, W, 3]) -> maps``, what the
        network says of every view at its own resolution: a tree of ``[B, h, w, C]``.
      merge: ``(maps, size) -> [B, *size, C]`` float32.
    """

    views: Callable[[PyTree, PyTree, jax.Array], PyTree]
    merge: Callable[[PyTree, Size], jax.Array]


def parse(flip: bool, scales: Sequence[str], average: str | None) -> Averaging:
    """The averaging that flags ask for; of several views, by default probabilities.

    Raises:
      InputError: scales that are no numbers, or see `Averaging.check`.
    """
    try:
        numbers = tuple(float(scale) for scale in scales)
    except ValueError:
        raise InputError(
            f"scales: expected numbers such as 0.75,1,1.25, found {','.join(scales)!r}"
        ) from None
    default = "probabilities" if flip or len(numbers) > 1 else "logits"
    return Averaging(flip, numbers, average or default).check()


def resized(size: Size, scale: float) -> Size:
    """``(H, W)`` of the network input at a scale.

    Raises:
      InputError: larger than any image may be.
    """
    height, width = size
    if scale * height * scale * width > image_io.LARGEST_IMAGE:
        raise InputError(
            f"scales: expected at most {image_io.LARGEST_IMAGE} pixels, found "
            f"{image_io.by(size)} enlarged by {scale:g}; choose a smaller scale"
        )
    return max(1, round(scale * height)), max(1, round(scale * width))


def main_head(outputs: Outputs) -> jax.Array:
    """The logits of the main head."""
    return outputs.logits


def network(
    forward: Forward,
    preprocess: Callable[[jax.Array], jax.Array],
    *,
    prediction: Callable[[Outputs], jax.Array] = main_head,
    averaging: Averaging = ONE_VIEW,
) -> Scores:
    """The scores of one network.

    Args:
      forward: the network, run in evaluation mode.
      preprocess: uint8 images -> network input.
      prediction: ``Outputs -> [B, h, w, C]``, the logits to evaluate.
      averaging: over views.

    Raises:
      InputError: see `Averaging.check`; when it scores, see `resized`.
    """
    averaging.check()
    at_features = averaging.of != "pixel_probabilities"
    soften = averaging.of == "probabilities"

    def logits(params, model_state, inputs):
        outputs, _ = forward(params, model_state, inputs, False)
        values = prediction(outputs).astype(jnp.float32)
        return jax.nn.softmax(values) if soften else values

    def views(params, model_state, images):
        inputs = preprocess(images)
        maps = []
        for scale in averaging.scales:
            scaled = inputs
            if scale != 1:
                scaled = resample.bilinear(inputs, resized(inputs.shape[1:3], scale))
            found = [logits(params, model_state, scaled)]
            if averaging.flip:
                mirrored = logits(params, model_state, scaled[:, :, ::-1])
                found.append(mirrored[:, :, ::-1])
            maps += [sum(found) / len(found)] if at_features else found
        return tuple(maps)

    def merge(maps, size):
        enlarged = (resample.bilinear(one, size) for one in maps)
        if not at_features:
            enlarged = map(jax.nn.softmax, enlarged)
        return sum(enlarged) / len(maps)

    return Scores(views, merge)


def ensemble(members: Sequence[Scores], weights: Sequence[float]) -> Scores:
    """The weighted sum of the members' scores.

    Parameters and model states become tuples with one entry a member. Feature To Adapt
    adds 0.7 of its first network and 0.3 of its second, probabilities with flip and
    logits without.

    Raises:
      InputError: a weight that is not positive.
    """
    if not weights or not all(0 < weight < math.inf for weight in weights):
        raise InputError(f"ensemble: expected positive weights, found {list(weights)}")

    def views(params, model_states, images):
        triples = zip(members, params, model_states, strict=True)
        return tuple(member.views(p, state, images) for member, p, state in triples)

    def merge(maps, size):
        triples = zip(weights, members, maps, strict=True)
        return sum(w * member.merge(own, size) for w, member, own in triples)

    return Scores(views, merge)


Protocol = Literal["native", "resized"]
PROTOCOLS: tuple[Protocol, ...] = ("native", "resized")
Batches = Iterable[tuple[Images, np.ndarray, Any]]
"""``(images, valid [B], ids)``; ``valid`` is False where an image only fills up."""


class Predictor:
    """Classes of pixels from scores. It holds no parameters.

    The network is compiled once for each size of its input; what compares with labels
    or enlarges to another size is compiled apart.
    """

    def __init__(self, scores: Scores, *, num_classes: int, mesh: Mesh | None = None):
        """Describes what is run.

        Args:
          scores: of a network or an ensemble.
          num_classes: ``C``.
          mesh: splits every batch over its axis ``data``; the batch size must then be a
            multiple of the size of that axis.
        """
        self.num_classes = num_classes
        self._mesh = mesh
        self._merge = scores.merge
        self._views = jax.jit(scores.views)
        # Whole on every device, so that every process can read the results.
        whole = None if mesh is None else sharding.replicated(mesh)
        self._count = jax.jit(self._count, static_argnames="sizes", out_shardings=whole)
        self._label = jax.jit(self._label, static_argnames="size", out_shardings=whole)
        self._score = jax.jit(scores.merge, static_argnums=1, out_shardings=whole)

    def confusion(
        self,
        params: PyTree,
        model_state: PyTree,
        batches: Batches,
        *,
        protocol: Protocol = "native",
    ) -> np.ndarray:
        """Confusion matrix over ``batches`` under one protocol; see `confusions`.

        Returns:
          int64 ``[C, C]``, rows = truth.
        """
        found = self.confusions(params, model_state, batches, protocols=(protocol,))
        return found[(protocol,)]

    def confusions(
        self,
        params: PyTree,
        model_state: PyTree,
        batches: Batches,
        *,
        protocols: Sequence[Protocol] = PROTOCOLS,
    ) -> dict[tuple[Protocol, ...], np.ndarray]:
        """Confusion matrices over ``batches``, in evaluation mode, the network run once.

        Args:
          params: parameters of the network.
          model_state: the statistics to normalise with.
          batches: labelled images.
          protocols: "native" enlarges the prediction to the label as it is stored
            (AdaptSegNet, ADVENT, CLAN, BDL, CAG), "resized" shrinks the label to the
            network input as PIL's nearest does (MaxSquare, OCE, LSR).

        Returns:
          int64 ``[C, C]``, rows = truth, for each protocol: ``{(name,): matrix}``. Where
          all labels have the size of the images the protocols are the same, and are
          counted once: ``{("native", "resized"): matrix}``.
        """
        unknown = set(protocols) - set(PROTOCOLS)
        if unknown or not protocols:
            raise ValueError(f"protocols must be of {PROTOCOLS}, got {protocols!r}")
        params, model_state = self._replicate((params, model_state))
        empty = np.zeros((self.num_classes, self.num_classes), np.int64)
        total = {protocol: empty.copy() for protocol in protocols}
        alike, previous = True, None
        for images, valid, _ in batches:
            size = images.image.shape[1:3]
            wanted = {"native": images.label.shape[1:], "resized": size}
            wanted = {protocol: wanted[protocol] for protocol in protocols}
            sizes = tuple(dict.fromkeys(wanted.values()))
            alike &= images.label.shape[1:] == size
            image, label, valid = self._split(
                (images.image, images.label, np.asarray(valid))
            )
            maps = self._views(params, model_state, image)
            counts = self._count(maps, label, valid, sizes=sizes)
            # Read one batch late: the device works while the host loads the next.
            if previous is not None:
                _add(total, *previous)
            previous = wanted, dict(zip(sizes, counts, strict=True))
        if previous is not None:
            _add(total, *previous)
        if alike:
            return {tuple(protocols): total[protocols[0]]}
        return {(protocol,): matrix for protocol, matrix in total.items()}

    def predict(
        self,
        params: PyTree,
        model_state: PyTree,
        images: np.ndarray,
        *,
        size: Size | None = None,
    ) -> np.ndarray:
        """Class of every pixel, any number of images.

        Args:
          params: parameters of the network.
          model_state: the statistics to normalise with.
          images: uint8 ``[B, H, W, 3]``.
          size: size of the result, that of the images by default.

        Returns:
          uint8 ``[B, H, W]``.
        """
        maps = self.views(params, model_state, images)
        return self.labels(maps, size or images.shape[1:3])[: len(images)]

    def views(self, params: PyTree, model_state: PyTree, images: np.ndarray) -> PyTree:
        """The first half of the scores; rows are repeated until the devices divide them.

        Args:
          params: parameters of the network.
          model_state: the statistics to normalise with.
          images: uint8 ``[B, H, W, 3]``.

        Returns:
          A tree of ``[B or more, h, w, C]``.
        """
        number = len(images)
        devices = 1 if self._mesh is None else self._mesh.shape["data"]
        filled = np.asarray(images)[np.arange(-(-number // devices) * devices) % number]
        params, model_state = self._replicate((params, model_state))
        return self._views(params, model_state, self._split(filled))

    def labels(self, maps: PyTree, size: Size) -> np.ndarray:
        """The second half, decided: uint8 ``[B, *size]``."""
        return np.asarray(self._label(maps, size=tuple(size)))

    def scores(self, maps: PyTree, size: Size) -> np.ndarray:
        """The second half: float32 ``[B, *size, C]``."""
        return np.asarray(self._score(maps, tuple(size)))

    def _label(self, maps, *, size):
        return jnp.argmax(self._merge(maps, size), axis=-1).astype(jnp.uint8)

    def _count(self, maps, label, valid, *, sizes):
        def count(size):
            truth = label
            if label.shape[1:] != size:
                truth = resample.nearest(label, size)
            predictions = self._label(maps, size=size)
            return metrics.confusion_matrix(truth, predictions, self.num_classes, valid)

        return [count(size) for size in sizes]

    def _replicate(self, tree):
        return tree if self._mesh is None else sharding.replicate(tree, self._mesh)

    def _split(self, tree):
        return (
            tree if self._mesh is None else sharding.shard_whole_batch(tree, self._mesh)
        )


def _add(total, wanted, counts):
    for protocol, size in wanted.items():
        total[protocol] += np.asarray(counts[size])
