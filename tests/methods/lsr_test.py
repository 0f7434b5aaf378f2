"""What LSR tells about its target labels and prototypes, against numpy."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from lsr_jax import losses
from lsr_jax.methods import common, lsr
from lsr_jax.ops import diagnostics, numerics, pseudo_labels, resample


@pytest.mark.parametrize("weights", [{}, {"clustering": 0.0}])
def test_kept_cells_and_prototypes_are_told(weights, key):
    method = lsr.make(confidence=0.4, **weights)
    params, state, batch, ctx = toy.problem(method, key, batch_size=8)
    _, aux = jax.jit(lambda params: method.loss(params, state, batch, ctx))(params)
    names = aux.metrics.keys() - diagnostics.without(aux.metrics).keys()
    told = {name: float(aux.metrics[name]) for name in names}

    found = aux.method_state.prototypes
    table = np.asarray(found.mean)[found.seen]
    angles = numerics.angles(table)[np.triu_indices(len(table), k=1)]
    expected = {
        "prototype_classes": len(table),
        "prototype_norm_min": numerics.norms(table).min(),
        "prototype_norm_mean": numerics.norms(table).mean(),
        "prototype_angle_min": angles.min(),
        "prototype_angle_mean": angles.mean(),
    }
    if not weights:
        _, target, _ = common.both_domains(params, batch, ctx)
        label = np.asarray(
            pseudo_labels.confident(
                resample.bilinear(target.logits, toy.SIZE),
                size=toy.FEATURE_SIZE,
                threshold=0.4,
            )
        )
        kept = label[label != 255]
        assert 0 < kept.size < label.size
        expected["target_labelled"] = kept.size / label.size
        expected["target_classes"] = len(np.unique(kept))
    assert told == pytest.approx(expected, rel=1e-5)


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


def test_wanted_norm():
    def wanted(kind, previous):
        return lsr.wanted_norm(
            FEATURES, LABELS, jnp.asarray(previous), kind=kind, num_classes=3
        )

    assert wanted("current", 7.0) == 3.0
    assert wanted("previous", 7.0) == 7.0
    assert wanted("previous", 0.0) == 3.0  # the first step has none before it
    np.testing.assert_array_equal(wanted("class", 7.0), [1.0, 5.0, 0.0])


def test_perpendicularity_of_the_batch_ignores_smoothed_prototypes():
    means = jnp.asarray([[1.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
    counts = jnp.asarray([2.0, 1.0, 0.0])
    smoothed = lsr.Prototypes(means[::-1], jnp.asarray([True, True, True]))
    order = jnp.arange(3)
    found = {
        kind: lsr.perpendicularity_term(means, counts, smoothed, order, kind=kind)
        for kind in ("batch", "smoothed")
    }
    np.testing.assert_allclose(found["batch"], np.sqrt(0.5), rtol=1e-6)
    expected = losses.perpendicularity(smoothed.mean, smoothed.seen)
    np.testing.assert_allclose(found["smoothed"], expected, rtol=1e-6)
