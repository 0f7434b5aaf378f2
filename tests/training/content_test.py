"""Hashes of what a checkpoint holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax.training import content


def test_leaves_are_named_by_their_path():
    tree = {"params": {"model": [jnp.ones(2), jnp.zeros(())]}, "rng": jax.random.key(3)}
    assert set(content.digests(tree)) == {"params/model/0", "params/model/1", "rng"}


def test_a_digest_sees_every_bit_the_shape_and_the_dtype():
    one = np.arange(6, dtype=np.float32)
    flipped = one.copy()
    flipped.view(np.uint8)[-1] ^= 1
    others = [flipped, one.reshape(2, 3), one.astype(np.float64), -one, one[::-1]]
    found = {content.digest(array) for array in (one, *others)}
    assert len(found) == 6
    assert content.digest(one.reshape(2, 3).T) == content.digest(
        np.ascontiguousarray(one.reshape(2, 3).T)
    )
    assert content.digest(np.float32(-0.0)) != content.digest(np.float32(0.0))


def test_a_seal_covers_facts_and_arrays():
    sealed = content.seal({"step": 4, "best": None}, {"a": jnp.ones(2)})
    content.check_seal(sealed)
    for change in ({"step": 5}, {"arrays": {}}, {"sha256": ""}, {"more": 1}):
        with pytest.raises(ValueError, match="not what was saved"):
            content.check_seal({**sealed, **change})
    for foreign in ({"step": 4}, [], None):
        with pytest.raises(ValueError, match="no content hash"):
            content.check_seal(foreign)


def test_arrays_that_differ_are_named():
    sealed = content.seal({}, {"a": jnp.ones(2), "b": jnp.ones(2)})
    content.check_arrays(sealed, {"a": jnp.ones(2)}, whole=False)
    with pytest.raises(ValueError, match="another state: b"):
        content.check_arrays(sealed, {"a": jnp.ones(2)}, whole=True)
    with pytest.raises(ValueError, match="content of b is not"):
        content.check_arrays(sealed, {"b": jnp.zeros(2)}, whole=False)


def test_a_checkpoint_of_another_step_is_named():
    content.check_step({"step": 4}, 4)
    with pytest.raises(ValueError, match="as that of step 4"):
        content.check_step({"step": 4}, 5)


def test_another_type_is_named():
    wanted = {"rng": jax.random.key(3), "mean": jnp.ones(2)}
    numbers = jax.random.key_data(wanted["rng"])
    content.check_types(wanted, wanted)
    for name, leaf, message in (
        ("rng", numbers, r"rng is uint32\[2\] there and key"),
        ("mean", jnp.ones(2, jnp.bfloat16), r"bfloat16\[2\] there and float32\[2\]"),
        ("mean", jnp.ones((2, 1)), r"float32\[2, 1\] there and float32\[2\] here"),
    ):
        with pytest.raises(ValueError, match=message):
            content.check_types(wanted, {**wanted, name: leaf})


def test_another_shape_is_named():
    tree = {"params": {"model": {"head": np.zeros((3, 19))}}, "model_state": {}}
    other = {"params": {"model": {"head": np.zeros((3, 16))}}, "model_state": {}}
    with pytest.raises(ValueError, match=r"head is \(3, 19\) there and \(3, 16\) here"):
        content.check_network(other, tree)
