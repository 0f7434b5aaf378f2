"""MinEnt and AdvEnt against compositions by hand."""

import jax
import numpy as np
import pytest
import toy

from lsr_jax import losses, models
from lsr_jax.methods import advent, common
from lsr_jax.ops import diagnostics, resample


def information(logits):
    p = jax.nn.softmax(resample.bilinear(logits, toy.SIZE))
    return losses.self_information(p)


@pytest.mark.parametrize(
    ("adversarial", "auxiliary_adversarial"), [(0.3, 0.2), (0.3, 0.0), (0.0, 0.2)]
)
def test_adv_ent_composition_and_ablation(adversarial, auxiliary_adversarial, key):
    method = advent.adv_ent(
        adversarial=adversarial,
        auxiliary_adversarial=auxiliary_adversarial,
        auxiliary=0.5,
    )
    params, state, batch, ctx = toy.problem(method, key)
    total, aux = method.loss(params, state, batch, ctx)

    source, target, _ = common.both_domains(params, batch, ctx)
    wanted = common.segmentation(source, batch.source, auxiliary=0.5)
    _, apply = models.discriminator(toy.NUM_CLASSES)
    weights = {"main": adversarial, "aux": auxiliary_adversarial}
    levels = {level: weight for level, weight in weights.items() if weight != 0}
    for level, weight in levels.items():
        name = {"main": "logits", "aux": "aux_logits"}[level]
        real, fake = (
            apply(params["disc"][level], information(getattr(outputs, name)))
            for outputs in (source, target)
        )
        wanted += weight * losses.domain_loss(fake, domain="source")
        wanted += 0.5 * losses.domain_loss(real, domain="source")
        wanted += 0.5 * losses.domain_loss(fake, domain="target")
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    assert params["disc"].keys() == levels.keys()
    names = {f"{kind}_{k}" for kind in ("adversarial", "discriminator") for k in levels}
    told = {
        f"discriminator_accuracy_{domain}_{k}"
        for domain in ("source", "target")
        for k in levels
    }
    assert aux.metrics.keys() == {"segmentation", *names, *told}
    assert diagnostics.without(aux.metrics).keys() == {"segmentation", *names}


def test_without_adversary_there_is_no_discriminator(key):
    method = advent.adv_ent(adversarial=0.0, auxiliary_adversarial=0.0, auxiliary=0.0)
    params, state, batch, ctx = toy.problem(method, key)
    assert params.keys() == {"model"}
    total, aux = method.loss(params, state, batch, ctx)
    assert aux.metrics == {"segmentation": total}
    assert "single" in method.heads


def entropy_by_hand(logits):
    """Mean over the pixels, in units of the largest possible."""
    p = np.asarray(jax.nn.softmax(resample.bilinear(logits, toy.SIZE)), np.float64)
    return -(p * np.log(p)).sum(-1).mean() / np.log(toy.NUM_CLASSES)


@pytest.mark.parametrize(
    ("entropy", "auxiliary_entropy"), [(0.3, 0.2), (0.3, 0.0), (0.0, 0.2)]
)
def test_min_ent_composition_and_ablation(entropy, auxiliary_entropy, key):
    method = advent.min_ent(
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
    assert "single" in advent.min_ent(**advent.MIN_ENT_PRESETS["single"]).heads
    assert "single" not in advent.min_ent().heads
    assert "single" not in advent.min_ent(auxiliary=0.0).heads
