"""No loss builds a tensor that is larger than what the network already returns.

Nor than a parameter of the method, whose gradient every step holds.
"""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

from lsr_jax.methods import METHODS
from lsr_jax.types import Batch, BatchSpec, Context, Images, Outputs, Pixels

C, D = 19, 2048
SIZE, CELLS = (720, 1280), (90, 160)
# Enlarged logits, or features; both are there in any training step.
LARGEST = max(math.prod(SIZE) * C, math.prod(CELLS) * D)


def arrays(jaxpr):
    """Shapes of everything that is computed, also inside of calls."""
    for equation in jaxpr.eqns:
        for value in equation.outvars:
            yield equation.primitive.name, value.aval.shape
        for inner in core.jaxprs_in_params(equation.params):
            yield from arrays(inner)


def network(heads):
    """Parameters that are the outputs of their network, and two heads beside them."""
    kernel = {"conv2d_list_0": {"kernel": jnp.ones((3, 3, D, C)), "bias": jnp.ones(C)}}
    features, logits = jnp.zeros((1, *CELLS, D)), jnp.zeros((1, *CELLS, C))
    outputs = Outputs(features, logits, None if heads == "single" else logits)
    return {"backbone": {}, "head": kernel, "aux_head": kernel, "outputs": outputs}


def forward(params, state, images, train, dropout=True):
    return params["outputs"], state


VARIANTS = [
    pytest.param(name, preset, id=f"{name}-{preset or 'default'}")
    for name, module in METHODS.items()
    if not module.make().prepare
    for preset in (None, *module.presets)
]


@pytest.mark.parametrize(("name", "preset"), VARIANTS)
def test_nothing_is_larger_than_logits_and_features(name, preset, monkeypatch):
    # Images of this size need an accelerator. A CPU's convolutions pad their input.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    module = METHODS[name]
    method = module.make(**(module.presets[preset] if preset else {}))

    def init(key):
        return method.init(
            key, network(method.heads[0]), {}, BatchSpec(C, D, SIZE, SIZE)
        )

    def gradient(extra, state, key, source, target):
        params = network(method.heads[0])
        context = Context(
            forward,
            {},
            jnp.zeros((), jnp.int32),
            key,
            Pixels(lambda image: image, lambda image: image),
        )
        batch = Batch(Images(*source), Images(*target))
        return jax.grad(
            lambda params: method.loss(params, state, batch, context), has_aux=True
        )({"model": params, **extra})

    images = (jnp.zeros((1, *SIZE, 3)), jnp.zeros((1, *SIZE), jnp.int32))
    extra, state = jax.eval_shape(init, jax.random.key(0))
    parameters = {leaf.shape for leaf in jax.tree.leaves(extra)}
    arguments = extra, state, jax.random.key(0), images, images
    jaxpr = jax.make_jaxpr(gradient)(*arguments).jaxpr
    found = [
        (math.prod(shape), *rest, shape)
        for *rest, shape in arrays(jaxpr)
        if shape not in parameters
    ]
    assert max(found)[0] == LARGEST  # so the test sees what the loss builds
    large = [entry for entry in found if entry[0] > LARGEST]
    assert not large
