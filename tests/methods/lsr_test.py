"""What LSR tells about its target labels and prototypes, against numpy."""

import jax
import numpy as np
import pytest
import toy

from lsr_jax import diagnostics, geometry, pseudo_labels, resample
from lsr_jax.methods import common, lsr


@pytest.mark.parametrize("weights", [{}, {"clustering": 0.0}])
def test_kept_cells_and_prototypes_are_told(weights, key):
    method = lsr.make(confidence=0.4, **weights)
    params, state, batch, ctx = toy.problem(method, key, batch_size=8)
    _, aux = jax.jit(lambda params: method.loss(params, state, batch, ctx))(params)
    names = diagnostics.NAMES & aux.metrics.keys()
    told = {name: float(aux.metrics[name]) for name in names}

    found = aux.method_state.prototypes
    table = np.asarray(found.mean)[found.seen]
    angles = geometry.angles(table)[np.triu_indices(len(table), k=1)]
    expected = {
        "prototype_classes": len(table),
        "prototype_norm_min": geometry.norms(table).min(),
        "prototype_norm_mean": geometry.norms(table).mean(),
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
        expected["target_kept"] = kept.size / label.size
        expected["target_classes"] = len(np.unique(kept))
    assert told == pytest.approx(expected, rel=1e-5)
