"""The losses of the two players. That neither moves the other is in descent_test.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from lsr_jax import models
from lsr_jax.errors import InputError
from lsr_jax.methods import adversarial
from lsr_jax.types import BatchSpec

SPEC = BatchSpec(toy.NUM_CLASSES, toy.FEATURES, toy.SIZE, toy.SIZE)


@pytest.mark.parametrize("kind", ["cross_entropy", "least_squares"])
@pytest.mark.parametrize("enlarge", [False, True])
def test_losses_by_hand(kind, enlarge, key):
    draw, apply = models.discriminator(toy.NUM_CLASSES)
    judge = draw(key)
    shape = (2, 2, 64, 96, toy.NUM_CLASSES)
    source, target = jax.nn.softmax(jax.random.normal(key, shape))
    weights = jax.random.uniform(key, (2, *((64, 96) if enlarge else (2, 3))))
    outputs = [np.asarray(apply(judge, maps), np.float64) for maps in (source, target)]
    if enlarge:
        rows, columns = (interpolation(n, m) for n, m in ((2, 64), (3, 96)))
        outputs = [np.einsum("ai,bijk,cj->back", rows, x, columns) for x in outputs]
    real, fake = (x[..., 0] for x in outputs)

    def away(x, label):
        if kind == "least_squares":
            return (x - label) ** 2
        return np.log1p(np.exp(x)) - label * x

    keywords = {"kind": kind, "enlarge": enlarge}
    found = adversarial.network_loss(judge, target, weights, **keywords)
    np.testing.assert_allclose(found, (weights * away(fake, 0)).mean(), rtol=1e-5)
    found, told = adversarial.discriminator_loss(
        judge, source, target, weights, **keywords
    )
    wanted = away(real, 0).mean() + (weights * away(fake, 1)).mean()
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    boundary = {"cross_entropy": 0, "least_squares": 0.5}[kind]
    for domain, right in (("source", real < boundary), ("target", fake > boundary)):
        share = told[f"discriminator_accuracy_{domain}"]
        np.testing.assert_allclose(share, right.mean(), atol=2e-3)


def interpolation(cells, pixels):
    """Align-corners interpolation from ``cells`` to ``pixels``, one row a pixel."""
    return np.stack(
        [
            np.interp(np.linspace(0, cells - 1, pixels), range(cells), row)
            for row in np.eye(cells)
        ],
        axis=1,
    )


def test_images_without_a_logit_are_refused(key):
    spec = SPEC._replace(target_size=(31, 64))
    with pytest.raises(InputError, match=r"data\.target\.size: .* found 31x64"):
        adversarial.discriminators(("main",))(key, {}, {}, spec)


def test_levels_start_apart(key):
    assert adversarial.discriminators(())(key, {}, {}, SPEC) == ({}, {})
    found, _ = adversarial.discriminators(("main", "aux"))(key, {}, {}, SPEC)
    kernels = [found["disc"][level]["conv1"]["kernel"] for level in ("main", "aux")]
    assert jnp.abs(kernels[0] - kernels[1]).max() > 0
