import jax
import numpy as np
import pytest
import toy

from lsr_jax.methods import common, min_ent
from lsr_jax.ops import resample


def entropy_by_hand(logits):
    """Mean over the pixels, in units of the largest possible."""
    p = np.asarray(jax.nn.softmax(resample.bilinear(logits, toy.SIZE)), np.float64)
    return -(p * np.log(p)).sum(-1).mean() / np.log(toy.NUM_CLASSES)


@pytest.mark.parametrize(
    ("entropy", "auxiliary_entropy"), [(0.3, 0.2), (0.3, 0.0), (0.0, 0.2)]
)
def test_composition_and_ablation(entropy, auxiliary_entropy, key):
    method = min_ent.make(
        entropy=entropy, auxiliary_entropy=auxiliary_entropy, auxiliary=0.5
    )
    params, state, batch, ctx = toy.problem(method, key)
    total, aux = method.loss(params, state, batch, ctx)

    source, target, model_state = common.both_domains(params, batch, ctx)
    main, second = (
        common.segmentation(source._replace(logits=logits), batch.source)
        for logits in (source.logits, source.aux_logits)
    )
    wanted = (
        main
        + 0.5 * second
        + entropy * entropy_by_hand(target.logits)
        + auxiliary_entropy * entropy_by_hand(target.aux_logits)
    )
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    terms = {"entropy_main": entropy, "entropy_aux": auxiliary_entropy}
    built = {name for name, weight in terms.items() if weight != 0}
    assert aux.metrics.keys() == {"segmentation", *built}
    np.testing.assert_array_equal(aux.model_state["mean"], model_state["mean"])


def test_one_head_is_enough_for_the_preset():
    assert "single" in min_ent.make(**min_ent.PRESETS["single"]).heads
    assert "single" not in min_ent.make().heads
    assert "single" not in min_ent.make(auxiliary=0.0).heads
