import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import seeded

from lsr_jax.errors import InputError
from lsr_jax.models import segmenter
from lsr_jax.training import optimizer


def stepped(transformation, params, grads):
    """The parameters after one step."""
    updates, _ = transformation.update(grads, transformation.init(params), params)
    return optax.apply_updates(params, updates)


HEADS = {"layer5": "aux_head", "layer6": "head", "clas": "head", "classifier": "head"}


def hold_multiplicity(golden, prefix, frozen=()):
    """How often each original lists each parameter at 1x and at 10x."""
    choices = optimizer.model_groups(
        head_multiplier=10.0, frozen=frozen, duplicate_updates="sequential"
    )
    chosen = seeded.groups(golden[f"{prefix}optim_names"], HEADS, choices)
    counts = [
        (0 if group.multiplier is None else group.repeats * (group.multiplier == base))
        for base in (1, 10)
        for group in chosen
    ]
    golden.equals(f"{prefix}optim_multiplicity", np.reshape(counts, (2, -1)))


@pytest.mark.golden("deeplab_lsr", "optim_.*")
def test_golden_duplicates_of_lsr(golden):
    hold_multiplicity(golden, "", [segmenter.STEM_AFFINE])


@pytest.mark.golden("deeplab_vgg", ".*__optim_.*")
def test_golden_duplicates_of_vgg(golden):
    for name in ("vgg16", "vgg13"):
        hold_multiplicity(golden, f"{name}__")


@pytest.mark.golden("deeplab_others", ".*__optim_.*")
def test_golden_duplicates_of_the_others(golden):
    for name in ("maxsquare", "udaclustering"):
        hold_multiplicity(golden, f"{name}__", [segmenter.STEM_AFFINE])
    for name in ("adaptsegnet", "advent", "clan", "f2a_multi"):
        hold_multiplicity(golden, f"{name}__", [segmenter.ALL_AFFINE])


PARAMS = {
    "model": {
        "backbone": {
            "bn1": {"scale": jnp.ones(2)},
            "conv1": {"kernel": jnp.ones(2)},
            "layer1_0": {
                "conv1": {"kernel": jnp.ones(2)},
                "downsample_conv": {"kernel": jnp.ones(2)},
            },
        },
        "head": {"conv2d_list_0": {"kernel": jnp.ones(2)}},
    }
}
KEYWORDS = {
    "learning_rate": 0.01,
    "weight_decay": 0.5,
    "momentum": 0.9,
    "horizon": 10,
    "power": 0.9,
    "warmup_steps": 0,
}


def groups(duplicate_updates):
    return optimizer.model_groups(
        head_multiplier=10.0,
        frozen=(r"(^|/)backbone/bn1/(scale|bias)$",),
        duplicate_updates=duplicate_updates,
    )


@pytest.mark.parametrize(
    ("duplicate_updates", "ratios"), [("off", (1, 1, 1)), ("sequential", (1, 3, 4))]
)
def test_groups_scale_freeze_and_repeat(duplicate_updates, ratios):
    transformation = optimizer.make(
        PARAMS, groups(duplicate_updates), name="sgd", **{**KEYWORDS, "weight_decay": 0}
    )
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    found = stepped(transformation, PARAMS, grads)["model"]
    backbone = found["backbone"]
    np.testing.assert_array_equal(backbone["bn1"]["scale"], 1.0)
    moves = [
        1 - tree["kernel"][0]
        for tree in (
            backbone["conv1"],
            backbone["layer1_0"]["conv1"],
            backbone["layer1_0"]["downsample_conv"],
            found["head"]["conv2d_list_0"],
        )
    ]
    # In the first step every repetition starts a fresh buffer: moves add up plainly.
    np.testing.assert_allclose(moves, [0.01 * r for r in (*ratios, 10)], rtol=1e-5)


def test_a_frozen_group_is_not_decayed():
    transformation = optimizer.make(PARAMS, groups("off"), name="sgd", **KEYWORDS)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    found = stepped(transformation, PARAMS, zeros)["model"]["backbone"]
    np.testing.assert_array_equal(found["bn1"]["scale"], 1.0)
    np.testing.assert_allclose(found["conv1"]["kernel"], 1 - 0.01 * 0.5, rtol=1e-6)


def test_adamw_decays_decoupled():
    transformation = optimizer.make(PARAMS, groups("off"), name="adamw", **KEYWORDS)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    with jax.numpy_dtype_promotion("standard"):  # optax's bias correction needs it
        found = stepped(transformation, PARAMS, zeros)["model"]["backbone"]
    np.testing.assert_allclose(found["conv1"]["kernel"], 1 - 0.01 * 0.5, rtol=1e-6)


def test_a_leaf_in_no_group_is_named():
    params = {**PARAMS, "extra": {"kernel": jnp.ones(2)}}
    with pytest.raises(InputError, match="'extra/kernel' belongs to no group"):
        optimizer.make(params, groups("off"), name="sgd", **KEYWORDS)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match=r"optimizer\.name.*'adam'"):
        optimizer.make(PARAMS, groups("off"), name="adam", **KEYWORDS)
    with pytest.raises(InputError, match=r"duplicate_updates.*'foreach'"):
        groups("foreach")
