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
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lsr_jax import resample
from lsr_jax.data import headers
from lsr_jax.errors import InputError
from lsr_jax.types import Forward, Outputs, PyTree

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
    if scale * height * scale * width > headers.LARGEST_IMAGE:
        raise InputError(
            f"scales: expected at most {headers.LARGEST_IMAGE} pixels, found "
            f"{headers.by(size)} enlarged by {scale:g}; choose a smaller scale"
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
