import jax
import numpy as np
import pytest
import toy

from lsr_jax import losses, models
from lsr_jax.errors import InputError
from lsr_jax.methods import adapt_seg_net, common
from lsr_jax.ops import diagnostics, resample


def probabilities(logits):
    return jax.nn.softmax(resample.bilinear(logits, toy.SIZE))


def composed(params, batch, ctx, views, weights, *, auxiliary, kind):
    """The objective by hand; ``views`` are ``{level: outputs -> maps}``."""
    source, target, _ = common.both_domains(params, batch, ctx)
    total = common.segmentation(source, batch.source, auxiliary=auxiliary)
    for level, view in views.items():
        real, fake = view(source), view(target)
        _, apply = models.discriminator(real.shape[-1])
        real, fake = (apply(params["disc"][level], maps) for maps in (real, fake))
        total += weights[level] * losses.domain_loss(fake, domain="source", kind=kind)
        total += 0.5 * losses.domain_loss(real, domain="source", kind=kind)
        total += 0.5 * losses.domain_loss(fake, domain="target", kind=kind)
    return total


def test_multi_level(key):
    method = adapt_seg_net.make(
        adversarial=0.3, auxiliary_adversarial=0.2, auxiliary=0.5
    )
    params, state, batch, ctx = toy.problem(method, key)
    total, _ = method.loss(params, state, batch, ctx)
    views = {
        "main": lambda outputs: probabilities(outputs.logits),
        "aux": lambda outputs: probabilities(outputs.aux_logits),
    }
    wanted = composed(
        params,
        batch,
        ctx,
        views,
        {"main": 0.3, "aux": 0.2},
        auxiliary=0.5,
        kind="cross_entropy",
    )
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    assert method.heads == ("multi_level", "two_heads")


@pytest.mark.parametrize(
    ("preset", "kind", "size"),
    [
        ("single", "cross_entropy", None),
        ("least_squares", "least_squares", None),
        ("feature", "cross_entropy", (32, 32)),
    ],
)
def test_one_level(preset, kind, size, key):
    """Features of 4x6 cells reach the discriminator enlarged to 32x32."""
    keywords = adapt_seg_net.PRESETS[preset]
    method = adapt_seg_net.make(**keywords)
    params, state, batch, ctx = toy.problem(method, key)
    total, aux = method.loss(params, state, batch, ctx)

    def view(outputs):
        if size:
            return resample.bilinear(outputs.features, size)
        return probabilities(outputs.logits)

    weights = {"main": keywords["adversarial"]}
    wanted = composed(
        params, batch, ctx, {"main": view}, weights, auxiliary=0, kind=kind
    )
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    assert params["disc"].keys() == {"main"}
    names = {"segmentation", "adversarial_main", "discriminator_main"}
    assert diagnostics.without(aux.metrics).keys() == names
    assert "single" in method.heads


def test_features_of_a_real_size_are_not_enlarged(key):
    method = adapt_seg_net.make(**adapt_seg_net.PRESETS["feature"])
    params, state, batch, ctx = toy.problem(method, key)
    seen = []

    def forward(params, model_state, images, train):
        outputs, model_state = toy.forward(params, model_state, images, train)
        large = resample.bilinear(outputs.features, (33, 65))
        seen.append(large)
        return outputs._replace(features=large), model_state

    _, aux = method.loss(params, state, batch, ctx._replace(forward=forward))
    _, apply = models.discriminator(toy.FEATURES)
    logits = apply(params["disc"]["main"], seen[1])
    wanted = losses.domain_loss(logits, domain="source")
    np.testing.assert_allclose(aux.metrics["adversarial_main"], wanted, rtol=1e-6)


def test_features_have_one_level():
    message = r"method\.auxiliary_adversarial: expected 0"
    with pytest.raises(InputError, match=message):
        adapt_seg_net.make(space="feature")
