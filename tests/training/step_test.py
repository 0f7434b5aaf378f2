"""A step that is not finite: skipped inside the compiled step, exactly."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
import toy

from lsr_jax.methods import METHODS
from lsr_jax.training import state
from lsr_jax.training.step import make_step
from lsr_jax.types import Aux, BatchSpec

SPEC = BatchSpec(toy.NUM_CLASSES, toy.FEATURES, toy.SIZE, toy.SIZE)


@pytest.fixture(scope="module")
def built():
    """State, step and batch of LSR, whose state is more than parameters."""
    key = jax.random.key(0)
    method = METHODS["lsr"].make()
    optimizer = optax.sgd(0.01, momentum=0.9)
    params, model_state = toy.init(key)
    params, method_state = state.with_method(params, model_state, method, SPEC, key)
    start = state.create(params, model_state, method_state, optimizer, key)
    step = make_step(
        method,
        optimizer,
        toy.forward,
        lambda key, batch: batch,
        toy.PIXELS,
        skip_nonfinite=True,
    )
    return start, jax.jit(step), toy.batch(key, 2, method)


def comparable(tree):
    return tree.replace(rng=jax.random.key_data(tree.rng))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_bad_batch_changes_nothing_but_the_step_and_the_count(built, bad):
    start, step, batch = built
    image = batch.target.image.at[0, 0, 0, 0].set(bad)
    poisoned = batch._replace(target=batch.target._replace(image=image))

    good, metrics = step(start, batch)
    assert metrics["skipped"] == 0
    assert not jnp.array_equal(
        good.method_state.prototypes.mean, start.method_state.prototypes.mean
    )
    skipped, metrics = step(good, poisoned)
    assert metrics["skipped"] == 1
    assert not jnp.isfinite(metrics["total"])
    expected = good.replace(step=good.step + 1, skipped=good.skipped + 1)
    chex.assert_trees_all_equal(comparable(skipped), comparable(expected))
    after, metrics = step(skipped, batch)
    assert metrics["skipped"] == 1
    assert jnp.isfinite(metrics["total"])
    chex.assert_tree_all_finite(after.params)


def test_where_nothing_is_wrong_skipping_changes_nothing(built):
    start, step, batch = built
    plain = make_step(
        METHODS["lsr"].make(),
        optax.sgd(0.01, momentum=0.9),
        toy.forward,
        lambda key, batch: batch,
        toy.PIXELS,
    )
    a, _ = step(start, batch)
    b, metrics = jax.jit(plain)(start, batch)
    assert "skipped" not in metrics
    chex.assert_trees_all_close(comparable(a), comparable(b), rtol=1e-5, atol=1e-7)


def test_no_key_of_a_method_is_that_of_dropout():
    """A method may split its key or fold numbers into it."""
    seen = {"dropout": []}

    def forward(params, model_state, images, train, rng):
        seen["dropout"].append(rng)
        return toy.forward(params, model_state, images, train)

    def loss(params, method_state, batch, ctx):
        seen["method"] = ctx.rng
        model = params["model"]
        outputs, model_state = ctx.forward(
            model, ctx.model_state, batch.source.image, True
        )
        return outputs.logits.sum(), Aux({}, method_state, model_state, {})

    method = METHODS["lsr"].make()._replace(loss=loss)
    key = jax.random.key(0)
    params, model_state = toy.init(key)
    optimizer = optax.sgd(0.01)
    start = state.create({"model": params}, model_state, (), optimizer, key)
    step = make_step(method, optimizer, forward, lambda key, batch: batch, toy.PIXELS)
    step(start, toy.batch(key, 2, method))
    derived = [
        *jax.random.split(seen["method"]),
        *(jax.random.fold_in(seen["method"], number) for number in range(3)),
    ]
    keys = [jax.random.key_data(jax.random.fold_in(base, 0)) for base in derived]
    (dropout,) = map(jax.random.key_data, seen["dropout"])
    assert not any(jnp.array_equal(found, dropout) for found in keys)
