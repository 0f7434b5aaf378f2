"""The choices by which the paper's LSR and the released one differ."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax import losses
from lsr_jax.errors import InputError
from lsr_jax.methods import lsr, lsr_variants

FEATURES = jnp.asarray([[[[3.0, 4.0], [0.0, 1.0]]]])
LABELS = jnp.asarray([[[1, 0]]])


def test_the_defaults_are_the_papers():
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(lsr.make).parameters.items()
    }
    paper, released = lsr.PRESETS["paper"], lsr.PRESETS["released"]
    assert paper.items() <= defaults.items()
    assert paper.keys() == released.keys()
    assert not paper.items() & released.items()


@pytest.mark.parametrize("key", lsr_variants.CHOICES)
def test_an_unknown_choice_is_refused(key):
    with pytest.raises(InputError, match=rf"method\.{key}: .* found 'other'"):
        lsr.make(**{key: "other"})


def test_wanted_norm():
    def wanted(kind, previous):
        return lsr_variants.wanted_norm(
            FEATURES, LABELS, jnp.asarray(previous), kind=kind, num_classes=3
        )

    assert wanted("current", 7.0) == 3.0
    assert wanted("previous", 7.0) == 7.0
    assert wanted("previous", 0.0) == 3.0  # the first step has none before it
    np.testing.assert_array_equal(wanted("class", 7.0), [1.0, 5.0, 0.0])


def test_perpendicularity_of_the_batch_ignores_smoothed_prototypes():
    means = jnp.asarray([[1.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
    counts = jnp.asarray([2.0, 1.0, 0.0])
    smoothed = lsr_variants.Prototypes(means[::-1], jnp.asarray([True, True, True]))
    order = jnp.arange(3)
    found = {
        kind: lsr_variants.perpendicularity(means, counts, smoothed, order, kind=kind)
        for kind in ("batch", "smoothed")
    }
    np.testing.assert_allclose(found["batch"], np.sqrt(0.5), rtol=1e-6)
    expected = losses.perpendicularity(smoothed.mean, smoothed.seen)
    np.testing.assert_allclose(found["smoothed"], expected, rtol=1e-6)
