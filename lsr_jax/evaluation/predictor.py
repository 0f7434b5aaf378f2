"""Class scores and predictions of a network or of an ensemble of networks.

Test-time augmentation averages over views of an image: mirrored, at other scales. What
is averaged decides where the softmax stands:

====================  ===============================================================
logits                no softmax; views are added and enlarged. Feature To Adapt's
                      ensemble without flip (``evaluate.py``). One view: all originals
probabilities         softmax at feature resolution, before enlarging. Feature To
                      Adapt with flip
pixel_probabilities   softmax after enlarging to the size of the result. MaxSquare and
                      OCE with flip, whose result has the size of the input
====================  ===============================================================

Enlarging is linear, so views of one size are added before it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lsr_jax.data import image_io
from lsr_jax.errors import InputError
from lsr_jax.evaluation import confusion
from lsr_jax.models import Model
from lsr_jax.ops import resample, windows
from lsr_jax.training import sharding
from lsr_jax.types import Forward, Images, Outputs, PyTree

Size = tuple[int, int]
Protocol = Literal["native", "resized"]
PROTOCOLS: tuple[Protocol, ...] = ("native", "resized")
Batches = Iterable[tuple[Images, np.ndarray, Any]]
"""``(images, valid [B], ids)``; ``valid`` is False for padding."""
MAIN_HEAD = operator.attrgetter("logits")  # of `Outputs`


class TestTimeAugmentation(NamedTuple):
    """Which views of an image are averaged, and what of them.

    Attributes:
      flip: add the mirrored image to every view.
      scales: factors by which the network input is resized (bilinear, corners aligned).
      average: "logits", "probabilities" or "pixel_probabilities", see above.
      window: ``(H, W)`` of windows that slide over the network input, see
        `windows.slide`; None for those of the config, see `configured`, () for the
        whole input.
    """

    __test__ = False  # not a class of tests

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    average: str = "logits"
    window: Size | tuple[()] | None = None

    def configured(self, config: Mapping) -> TestTimeAugmentation:
        """The same with the windows of ``config.evaluation``, if it names none."""
        window = config["evaluation"]["window"] if self.window is None else self.window
        return self._replace(window=tuple(window) if window else None)

    def describe(self) -> str:
        """``"flip, scales 0.75 1 1.25, probabilities"``, or ``"one view"``."""
        if self == ONE_VIEW:
            return "one view"
        scales = " ".join(f"{scale:g}" for scale in self.scales)
        parts = ["flip"] * self.flip + [f"scales {scales}"] * (self.scales != (1.0,))
        if self.window:
            parts.append(f"windows {self.window[1]}x{self.window[0]}")
        if self.window == ():
            parts.append("whole images")
        return ", ".join([*parts, self.average])


ONE_VIEW = TestTimeAugmentation()


def parse_augmentation(
    flip: bool,
    scales: Sequence[str],
    average: str | None,
    window: Size | tuple[()] | None = None,
) -> TestTimeAugmentation:
    """The augmentation of command-line flags; several views average probabilities.

    Raises:
      InputError: a scale that is not a positive number.
    """
    try:
        factors = tuple(float(scale) for scale in scales)
    except ValueError:
        factors = ()
    if not factors or not all(0 < factor < math.inf for factor in factors):
        raise InputError(
            f"--scales: expected positive numbers such as 0.75,1,1.25, found "
            f"{','.join(scales)!r}"
        )
    default = "probabilities" if flip or len(factors) > 1 else "logits"
    return TestTimeAugmentation(flip, factors, average or default, window)


class Scores(NamedTuple):
    """Class scores in two pure halves.

    Attributes:
      maps: ``(params, model_state, images uint8 [B, H, W, 3]) -> maps``: the network's
        outputs for all views at feature resolution, a tree of ``[B, h, w, C]``.
      merge: ``(maps, size) -> [B, *size, C]`` float32.
    """

    maps: Callable[[PyTree, PyTree, jax.Array], PyTree]
    merge: Callable[[PyTree, Size], jax.Array]


def network(
    forward: Forward,
    preprocess: Callable[[jax.Array], jax.Array],
    *,
    prediction: Callable[[Outputs], jax.Array] = MAIN_HEAD,
    corners: resample.Corners = "aligned",
    augmentation: TestTimeAugmentation = ONE_VIEW,
) -> Scores:
    """The scores of one network.

    Args:
      forward: the network, run in evaluation mode.
      preprocess: uint8 images -> network input.
      prediction: ``Outputs -> [B, h, w, C]``, the logits to evaluate.
      corners: how they are enlarged to the labels.
      augmentation: views and their average.

    Raises:
      InputError: when called: a scale makes images too large.
    """
    at_features = augmentation.average != "pixel_probabilities"
    window = augmentation.window or None

    def logits(params, model_state, inputs):
        def run(images):
            outputs, _ = forward(params, model_state, images, False)
            values = prediction(outputs).astype(jnp.float32)
            if window is None:
                return values
            return resample.bilinear(values, window, corners=corners)

        if window is None:
            values = run(inputs)
        else:
            height, width = inputs.shape[1:3]
            if window[0] > height or window[1] > width:
                raise InputError(
                    f"--window or evaluation.window: {window[1]}x{window[0]} does not fit "
                    f"into images of {width}x{height} (WIDTHxHEIGHT); choose a smaller one"
                )
            values = windows.slide(run, inputs, window)
        soften = augmentation.average == "probabilities"
        return jax.nn.softmax(values) if soften else values

    def maps(params, model_state, images):
        inputs = preprocess(images)
        found = []
        for scale in augmentation.scales:
            scaled = inputs
            if scale != 1:
                scaled = resample.bilinear(inputs, _scaled(inputs.shape[1:3], scale))
            views = [logits(params, model_state, scaled)]
            if augmentation.flip:
                mirrored = logits(params, model_state, scaled[:, :, ::-1])
                views.append(mirrored[:, :, ::-1])
            found += [sum(views) / len(views)] if at_features else views
        return tuple(found)

    def merge(maps, size):
        enlarged = (resample.bilinear(one, size, corners=corners) for one in maps)
        if not at_features:
            enlarged = map(jax.nn.softmax, enlarged)
        return sum(enlarged) / len(maps)

    return Scores(maps, merge)


def ensemble(members: Sequence[Scores], weights: Sequence[float]) -> Scores:
    """The weighted sum of the members' scores; weights are positive.

    Parameters and model states become tuples with one entry a member. Feature To Adapt
    adds 0.7 of its first network and 0.3 of its second, probabilities with flip and
    logits without.
    """

    def maps(params, model_states, images):
        triples = zip(members, params, model_states, strict=True)
        return tuple(member.maps(p, state, images) for member, p, state in triples)

    def merge(maps, size):
        triples = zip(weights, members, maps, strict=True)
        return sum(w * member.merge(own, size) for w, member, own in triples)

    return Scores(maps, merge)


class Predictor:
    """Predictions and confusion matrices, jitted once for each image size.

    It holds no parameters, so one predictor serves all checkpoints of a network.

    Args:
      scores: of `network` or `ensemble`.
      num_classes: ``C``.
      mesh: every batch is split over its axis ``data``; the batch size must be a
        multiple of the size of that axis.
    """

    def __init__(self, scores: Scores, *, num_classes: int, mesh: Mesh):
        self.halves = scores
        self.num_classes = num_classes
        self._mesh = mesh
        self._maps = jax.jit(scores.maps)
        # Replicated, so that every process can read the results.
        whole = sharding.replicated(mesh)
        self._count = jax.jit(self._count, static_argnames="sizes", out_shardings=whole)
        self._label = jax.jit(self._label, static_argnames="size", out_shardings=whole)
        self._finite = jax.jit(_all_finite, out_shardings=whole)
        self._score = jax.jit(scores.merge, static_argnums=1, out_shardings=whole)

    @classmethod
    def of(
        cls,
        model: Model,
        preprocess: Callable[[jax.Array], jax.Array],
        *,
        mesh: Mesh,
        augmentation: TestTimeAugmentation = ONE_VIEW,
    ) -> Predictor:
        """The predictor of one `models.Model`."""
        scores = network(
            model.forward,
            preprocess,
            prediction=model.prediction,
            corners=model.corners,
            augmentation=augmentation,
        )
        return cls(scores, num_classes=model.num_classes, mesh=mesh)

    def confusion(
        self, params: PyTree, model_state: PyTree, batches: Batches
    ) -> np.ndarray:
        """The native confusion matrix ``[C, C]`` over ``batches``; see `confusions`."""
        found = self.confusions(params, model_state, batches, protocols=("native",))
        return found["native",]

    def confusions(
        self,
        params: PyTree,
        model_state: PyTree,
        batches: Batches,
        *,
        protocols: Sequence[Protocol] = PROTOCOLS,
    ) -> dict[tuple[Protocol, ...], np.ndarray]:
        """Confusion matrices over ``batches`` in evaluation mode, from one forward pass.

        Args:
          params: parameters of the network.
          model_state: BatchNorm statistics to normalise with.
          batches: labelled images.
          protocols: "native" enlarges the prediction to the label as it is stored
            (AdaptSegNet, ADVENT, CLAN, BDL, CAG), "resized" shrinks the label to the
            network input as PIL's nearest does (MaxSquare, OCE, LSR).

        Returns:
          int64 ``[C, C]``, rows = truth, for each protocol: ``{(name,): matrix}``. Where
          all labels have the size of the images the protocols are the same, and are
          counted once: ``{("native", "resized"): matrix}``.

        Raises:
          InputError: scores that are not finite.
        """
        params, model_state = sharding.replicate((params, model_state), self._mesh)
        shape = self.num_classes, self.num_classes
        total = {protocol: np.zeros(shape, np.int64) for protocol in protocols}
        alike, pending = True, None
        for images, valid, _ in batches:
            size = images.image.shape[1:3]
            both = {"native": images.label.shape[1:], "resized": size}
            wanted = {protocol: both[protocol] for protocol in protocols}
            sizes = tuple(dict.fromkeys(wanted.values()))
            alike &= images.label.shape[1:] == size
            image, label, valid = sharding.shard_whole_batch(
                (images.image, images.label, np.asarray(valid)), self._mesh
            )
            maps = self._maps(params, model_state, image)
            counts, finite = self._count(maps, label, valid, sizes=sizes)
            # Read one batch late: the device works while the host loads the next.
            if pending is not None:
                _add(total, *pending)
            pending = wanted, dict(zip(sizes, counts, strict=True)), finite
        if pending is not None:
            _add(total, *pending)
        if alike:
            return {tuple(protocols): total[protocols[0]]}
        return {(protocol,): matrix for protocol, matrix in total.items()}

    def trace(self, params, model_state, images: Images, valid, sizes) -> None:
        """Trace `confusions` of one batch for labels or predictions of these sizes."""
        maps = jax.eval_shape(self._maps, params, model_state, images.image)
        count = partial(self._count, sizes=sizes)
        jax.eval_shape(count, maps, images.label, np.asarray(valid))

    def predict(
        self, params: PyTree, model_state: PyTree, images: np.ndarray
    ) -> np.ndarray:
        """Class of every pixel, uint8 ``[B, H, W]`` of any number of images."""
        maps = self.maps(params, model_state, images)
        return self.labels(maps, images.shape[1:3])[: len(images)]

    def maps(self, params: PyTree, model_state: PyTree, images: np.ndarray) -> PyTree:
        """The first half of the scores, ``[B or more, h, w, C]``.

        Images are repeated until the devices divide their number.

        Raises:
          InputError: scores that are not finite.
        """
        number, devices = len(images), self._mesh.shape["data"]
        padded = np.asarray(images)[np.arange(-(-number // devices) * devices) % number]
        params, model_state = sharding.replicate((params, model_state), self._mesh)
        padded = sharding.shard_whole_batch(padded, self._mesh)
        maps = self._maps(params, model_state, padded)
        check_finite(self._finite(maps))
        return maps

    def labels(self, maps: PyTree, size: Size) -> np.ndarray:
        """The class with the largest score: uint8 ``[B, *size]``."""
        return np.asarray(self._label(maps, size=tuple(size)))

    def scores(self, maps: PyTree, size: Size) -> np.ndarray:
        """The scores: float32 ``[B, *size, C]``."""
        return np.asarray(self._score(maps, tuple(size)))

    def _label(self, maps, *, size):
        return jnp.argmax(self.halves.merge(maps, size), axis=-1).astype(jnp.uint8)

    def _count(self, maps, label, valid, *, sizes):
        def count(size):
            truth = label if label.shape[1:] == size else resample.nearest(label, size)
            found = self._label(maps, size=size)
            return confusion.confusion_matrix(truth, found, self.num_classes, valid)

        return [count(size) for size in sizes], _all_finite(maps)


def _scaled(size: Size, scale: float) -> Size:
    height, width = size
    if scale * height * scale * width > image_io.LARGEST_IMAGE:
        raise InputError(
            f"--scales: expected at most {image_io.LARGEST_IMAGE} pixels, found "
            f"{image_io.by(size)} enlarged by {scale:g}; choose a smaller scale"
        )
    return max(1, round(scale * height)), max(1, round(scale * width))


def _all_finite(maps):
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(maps)]).all()


def check_finite(finite: jax.Array | bool) -> None:
    """Raise InputError for scores that are not ``finite``."""
    # The largest of scores that are not numbers is the first: class 0 everywhere.
    if not finite:
        raise InputError(
            "the scores of the network are not finite; its weights or BatchNorm "
            "statistics are damaged, or too large for this precision"
        )


def _add(total, wanted, counts, finite):
    check_finite(finite)
    for protocol, size in wanted.items():
        total[protocol] += np.asarray(counts[size])


class Network(NamedTuple):
    """A predictor with the parameters and BatchNorm statistics that it runs with."""

    predictor: Predictor
    params: PyTree
    model_state: PyTree

    def maps(self, images: list[np.ndarray], batch_size: int) -> PyTree:
        """`Predictor.maps` of images, padded with the last one to ``batch_size``."""
        padded = images + [images[-1]] * (batch_size - len(images))
        return self.predictor.maps(self.params, self.model_state, np.stack(padded))


def resize(
    network: Network, images: Sequence[np.ndarray], *, size: Size, batch_size: int
) -> list[np.ndarray]:
    """Class maps of images that are resized to ``size`` for the network.

    Images are resized as training images are (PIL's bicubic), scores are enlarged to
    each image's own size.

    Args:
      network: trained.
      images: at most ``batch_size`` of uint8 ``[H, W, 3]``, of any sizes.
      size: ``(H, W)`` of the network's input.
      batch_size: to which the images are padded, so that one program serves all.
    """
    inputs = [image_io.resize_image(image, size) for image in images]
    maps = network.maps(inputs, batch_size)
    return [
        network.predictor.labels(
            jax.tree.map(lambda x, row=row: x[row : row + 1], maps), image.shape[:2]
        )[0]
        for row, image in enumerate(images)
    ]


def slide(
    network: Network,
    image: np.ndarray,
    *,
    window: Size,
    overlap: float,
    batch_size: int,
) -> np.ndarray:
    """The class map of one image from windows at its own resolution.

    Scores of all windows over a pixel are averaged. An image smaller than the window is
    padded by its border. Scores are stored for one row of windows at a time, so memory
    grows with the width of the image alone.

    Args:
      network: trained; probabilities are better averaged than logits.
      image: uint8 ``[H, W, 3]``.
      window: ``(H, W)`` of the network's input.
      overlap: share of a window that the next one covers again, 0 to below 1.
      batch_size: windows that pass through the network together.
    """
    height, width = image.shape[:2]
    missing = max(0, window[0] - height), max(0, window[1] - width)
    image = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    tops = window_starts(image.shape[0], window[0], overlap)
    lefts = window_starts(image.shape[1], window[1], overlap)
    result = np.empty(image.shape[:2], np.uint8)
    shape = window[0], image.shape[1], network.predictor.num_classes
    band = np.zeros(shape, np.float32)
    for top, following in zip(tops, [*tops[1:], image.shape[0]], strict=True):
        strip = image[top : top + window[0]]
        for first in range(0, len(lefts), batch_size):
            batch = lefts[first : first + batch_size]
            crops = [strip[:, left : left + window[1]] for left in batch]
            maps = network.maps(crops, batch_size)
            scores = network.predictor.scores(maps, window)
            for left, one in zip(batch, scores, strict=False):
                band[:, left : left + window[1]] += one
        # Below the next row of windows the sums are not complete yet.
        done = following - top
        result[top:following] = band[:done].argmax(-1)
        band = np.concatenate([band[done:], np.zeros_like(band[:done])])
    return result[:height, :width]


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin: a stride apart, the last one at the end.

    >>> window_starts(10, 4, 0.5)
    [0, 2, 4, 6]
    >>> window_starts(9, 4, 0.0)
    [0, 4, 5]
    """
    stride = max(1, round(window * (1 - overlap)))
    count = -(-(length - window) // stride) + 1
    return [min(i * stride, length - window) for i in range(count)]
