"""Criteria of a network that need no labels, to choose steps and weights on a target.

With the class probabilities ``p_i`` of all feature cells ``i`` of unlabelled images, ``C``
classes and the entropy ``H``, larger values are better, 0 to 1:

infomax
  ``(H(mean_i p_i) - mean_i H(p_i)) / log C``, the mutual information of cell and class
  (Bridle et al., "Unsupervised Classifiers, Mutual Information and 'Phantom Targets'",
  1991): predictions are certain, and of many classes. Mean entropy alone is best for a
  network that predicts one class everywhere.
agreement
  the share of cells with the same class in the image and in a view of it, mirrored and
  with `DARKER` times the brightness.

How well they follow the mIoU is measured in docs/results/streets.md and camvid.md.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lsr_jax.evaluation.predictor import MAIN_HEAD, Batches, check_finite
from lsr_jax.training import sharding
from lsr_jax.types import Forward, Outputs, PyTree

CRITERIA = ("infomax", "agreement")
RULES = {f"target_{name}": name for name in CRITERIA}  # of ``evaluation.selection``
DARKER = 0.7


class Estimator:
    """``(params, model_state, batches) -> {criterion: value}``.

    Args:
      forward: the network, run in evaluation mode.
      preprocess: uint8 ``[B, H, W, 3]`` -> network input.
      mesh: over whose axis ``data`` batches are split.
      prediction: ``Outputs -> [B, h, w, C]``, the logits to judge.
    """

    def __init__(
        self,
        forward: Forward,
        preprocess: Callable[[jax.Array], jax.Array],
        *,
        mesh: Mesh,
        prediction: Callable[[Outputs], jax.Array] = MAIN_HEAD,
    ):
        def sums(params, model_state, image, valid):
            def logits(image):
                outputs, _ = forward(params, model_state, preprocess(image), False)
                return prediction(outputs).astype(jnp.float32)

            view = (DARKER * image[:, :, ::-1].astype(jnp.float32)).astype(jnp.uint8)
            own, other = logits(image), logits(view)[:, :, ::-1]
            log = jax.nn.log_softmax(own)
            cells = jnp.broadcast_to(valid[:, None, None], own.shape[:3])

            def total(values):
                mask = cells if values.ndim == 3 else cells[..., None]
                return jnp.where(mask, values, 0).sum((0, 1, 2), dtype=jnp.float32)

            return (
                total(jnp.ones_like(cells, jnp.float32)),
                total(-(jnp.exp(log) * log).sum(-1)),
                total((own.argmax(-1) == other.argmax(-1)).astype(jnp.float32)),
                total(jnp.exp(log)),
            )

        self._mesh = mesh
        self._sums = jax.jit(sums, out_shardings=sharding.replicated(mesh))

    def trace(self, params: PyTree, model_state: PyTree, image: jax.Array) -> None:
        """Trace what is computed of one batch of images or their shape."""
        valid = jax.ShapeDtypeStruct(image.shape[:1], bool)
        jax.eval_shape(self._sums, params, model_state, image, valid)

    def __call__(self, params: PyTree, model_state: PyTree, batches: Batches) -> dict:
        """The criteria of a network, by name.

        Raises:
          InputError: scores of the network that are not finite.
        """
        mesh = self._mesh
        params, model_state = sharding.replicate((params, model_state), mesh)
        whole = None
        for images, valid, _ in batches:
            placed = sharding.shard_whole_batch((images.image, np.asarray(valid)), mesh)
            found = jax.tree.map(np.float64, self._sums(params, model_state, *placed))
            whole = found if whole is None else jax.tree.map(np.add, whole, found)
        cells, entropy, agreeing, probability = whole
        check_finite(np.isfinite(entropy))
        mean = probability / cells
        marginal = -(mean * np.log(np.where(mean > 0, mean, 1))).sum()
        infomax = (marginal - entropy / cells) / np.log(len(mean))
        return {"infomax": float(infomax), "agreement": float(agreeing / cells)}
