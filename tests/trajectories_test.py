"""Whole training runs of the LSR originals against ours.

Six steps of source-only training and four of LSR in three settings, each with the
originals' duplicated parameters (``dup``) and without (``dedup``): every loss, learning
rate, gradient norm, parameter, running statistic, prototype and pseudo-label.
"""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recorded
import seeded
import toy

from lsr_jax import models
from lsr_jax.methods import controls, lsr
from lsr_jax.ops import pseudo_labels
from lsr_jax.training import optimizer, state, step
from lsr_jax.types import Batch, BatchSpec, Images, Method

HEADS = {"clas": "head"}


class Watched(NamedTuple):
    """The norms of the last gradients, and the states of two optimisers: one runs."""

    duplicated: jax.Array
    norms: dict
    dup: optax.OptState
    dedup: optax.OptState


def watched(dup, dedup):
    """Both optimisers behind one flag, so that both runs share one compiled step."""

    def init(params):
        norms = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), params)
        return Watched(jnp.array(True), norms, dup.init(params), dedup.init(params))

    def update(grads, state, params):
        def first():
            updates, new = dup.update(grads, state.dup, params)
            return updates, state._replace(dup=new)

        def second():
            updates, new = dedup.update(grads, state.dedup, params)
            return updates, state._replace(dedup=new)

        updates, state = jax.lax.cond(state.duplicated, first, second)
        norms = jax.tree.map(lambda leaf: jnp.linalg.norm(leaf.ravel()), grads)
        return updates, state._replace(norms=norms)

    return optax.GradientTransformation(init, update)


class Seen(NamedTuple):
    """The method's own state; the terms of the last step, unrounded; its pseudo-labels."""

    method: lsr.LSRState
    terms: dict
    labels: jax.Array


def remembering(method, terms, labels, orders):
    """``method`` with what the goldens want to know in its state.

    ``labels`` is a list to which every trace of the loss adds the pseudo-labels;
    ``orders`` ``[steps, C]`` takes the place of the random key.
    """

    def loss(params, before, batch, ctx):
        ctx = ctx._replace(rng=jnp.asarray(orders)[ctx.step])
        total, aux = method.loss(params, before.method, batch, ctx)
        found = labels.pop() if labels else before.labels
        return total, aux._replace(
            method_state=Seen(aux.method_state, aux.metrics, found)
        )

    def init(key, params, model_state, spec):
        extra, start = method.init(key, params, model_state, spec)
        zeros = {name: jnp.zeros(()) for name in terms}
        return extra, Seen(start, zeros, None)

    return Method(init, loss, domains=method.domains, labelled=method.labelled)


@functools.cache
def unused_branches():
    """ASPP branches that never run: not in our tree, never moved in the originals'."""
    start = seeded.state_dict("lsr_resnet1111")
    names = [name for name in start if re.search(r"conv2d_list\.[23]", name)]
    return {name: start[name].astype(np.float32) for name in names}


def checksums(params, model_state, names, passes):
    """``[entries, 3]`` sum, sum of magnitudes and norm, in the order of the originals."""
    rows = []
    for name in names:
        value = seeded.leaf(params, model_state, name, HEADS)
        if name.endswith("num_batches_tracked"):
            value = passes
        elif value is None:
            value = unused_branches()[name]
        value = np.asarray(value, np.float64).ravel()
        rows.append((value.sum(), np.abs(value).sum(), np.linalg.norm(value)))
    return np.array(rows)


def gradient_norms(norms, names):
    """``[parameters]``, nan where nothing arrived."""
    found = [seeded.leaf(norms["model"], {}, name, HEADS) for name in names]
    found = np.array([0.0 if norm is None else norm for norm in found], np.float64)
    return np.where(found == 0, np.nan, found)


NETWORK = models.Architecture(64, 64, (1, 1, 1, 1))
TERMS = {
    "source_ce": "segmentation",
    "source_norm": "norm_source",
    "source_perp": "perpendicularity",
    "source_clust": "clustering_source",
    "target_norm": "norm_target",
    "target_clust": "clustering_target",
    "target_em": "entropy",
}
RELEASED = lsr.PRESETS["released"]
SETTINGS = {
    "A": RELEASED,
    "B": {
        **RELEASED,
        "class_frequency": "none",
        "target_labels": "histogram",
        "confidence": 0.1,
        "clustering_distance": "l2_mean",
        "norm_target": "class",
        "norm_relative": False,
        "norm_active_only": False,
    },
    "C": {
        **RELEASED,
        "class_frequency": "none",
        "target_labels": "prototype",
        "clustering_distance": "cosine",
        "norm_relative": False,
    },
}


def groups(duplicate_updates, frozen):
    return optimizer.model_groups(
        head_multiplier=10.0,
        frozen=frozen,
        repeated=NETWORK.repeated,
        duplicate_updates=duplicate_updates,
    )


@functools.cache
def replay(file, variant, dtype):
    """``{"dup": {quantity: [steps, ...]}, "dedup": ...}`` of one setting."""
    arrays = dict(np.load(recorded.GOLDENS / f"{file}.npz"))
    with (
        jax.enable_x64(dtype == "float64"),
        pytest.MonkeyPatch.context() as patch,
    ):
        return _replay(arrays, variant, dtype, patch)


def _replay(arrays, variant, dtype, patch):
    labels, batches = [], make_batches(arrays, variant, dtype)
    original = lsr.label_target_features

    def target_labels(*arguments, **keywords):
        labels.append(original(*arguments, **keywords))
        return labels[-1]

    patch.setattr(lsr, "label_target_features", target_labels)
    patch.setattr(lsr, "visiting_order", lambda order, num_classes: order)

    num_classes = int(arrays["num_classes"])
    orders = arrays.get(f"{variant}__perm_orders", np.zeros((len(batches), 0)))
    terms = TERMS.values() if variant else ["segmentation"]
    method = make_method(arrays, variant)
    method = remembering(method, terms, labels, orders)
    model = models.build(
        backbone=NETWORK, num_classes=num_classes, freeze_stem_affine=True, dtype=dtype
    )
    params, model_state = seeded.trees(
        "lsr_resnet1111", heads=HEADS, branches=2, dtype=dtype
    )
    target = batches[0].target
    spec = BatchSpec(num_classes, model.feature_dim, (65, 65), (57, 73))
    _, seen = method.init(None, params, model_state, spec)
    seen = jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, seen
    )
    if target is not None:
        size = model.feature_size(target.image.shape[1:3])
        seen = seen._replace(labels=jnp.zeros((len(target.image), *size), jnp.int32))

    params = {"model": params}
    transformation = make_optimizer(arrays, params, model.frozen_paths)
    train_step = jax.jit(
        step.make_step(
            method,
            transformation,
            model.forward,
            lambda _, batch: batch,
            toy.PIXELS,
        )
    )
    start = state.create(params, model_state, seen, transformation, jax.random.key(0))
    return {
        name: run(
            start.replace(
                opt_state=start.opt_state._replace(duplicated=jnp.array(name == "dup"))
            ),
            train_step,
            batches,
            arrays,
        )
        for name in ("dup", "dedup")
    }


def make_optimizer(arrays, params, frozen):
    """With duplicated parameters and without."""
    return watched(
        *(
            optimizer.make(
                params,
                groups(duplicate_updates, frozen),
                name="sgd",
                learning_rate=float(arrays["base_lr"]),
                weight_decay=float(arrays["weight_decay"]),
                momentum=float(arrays["momentum"]),
                decay_steps=int(arrays["iter_max"]),
                power=0.9,
                warmup_steps=0,
            )
            for duplicate_updates in ("sequential", "off")
        )
    )


def make_method(arrays, variant):
    if not variant:
        return controls.source_only()
    return lsr.make(
        **SETTINGS[variant],
        clustering=float(arrays["lambda_cluster"]),
        perpendicularity=float(arrays["lambda_ortho"]),
        norm=float(arrays["lambda_norm"]),
        entropy=float(arrays["lambda_entropy"]),
        entropy_ratio=float(arrays["IW_ratio"]),
        histogram_threshold=float(arrays["hist_th"]),
        prototype_momentum=float(arrays["centroids_smoothing"]),
    )


def make_batches(arrays, variant, dtype):
    """One batch a step; the settings with one image take the first."""
    if not variant:
        return [
            Batch(Images(image.astype(dtype), label), None)
            for image, label in zip(arrays["images"], arrays["labels"], strict=True)
        ]
    count = 2 if variant == "B" else 1
    return [
        Batch(
            Images(source[:count].astype(dtype), label[:count]),
            Images(target[:count].astype(dtype), None),
        )
        for source, label, target in zip(
            arrays["source_images"],
            arrays["source_labels"],
            arrays["target_images"],
            strict=True,
        )
    ]


def run(whole, train_step, batches, arrays):
    names = [key.split("__value__")[1] for key in arrays if "dup__value__" in key]
    passes = 2 if batches[0].target is not None else 1
    history = []
    for number, batch in enumerate(batches, start=1):
        whole, _ = train_step(whole, batch)
        model, seen = whole.params["model"], whole.method_state
        entry = {
            "state": checksums(
                model, whole.model_state, arrays["param_names"], passes * number
            ),
            "grad_l2": gradient_norms(whole.opt_state.norms, arrays["trainable_names"]),
            "labels": seen.labels,
            **{f"term__{name}": value for name, value in seen.terms.items()},
        }
        if batch.target is not None:
            table = np.asarray(seen.method.prototypes.mean, np.float64)
            entry["norm_reference"] = seen.method.source_norm
            entry["proto_state"] = np.stack(
                [table.sum(1), np.abs(table).sum(1), np.linalg.norm(table, axis=1)], 1
            )
        for name in set(names) - unused_branches().keys():
            entry[f"value__{name}"] = seeded.leaf(model, whole.model_state, name, HEADS)
        history.append(jax.device_get(entry))
    return {
        key: np.stack([entry[key] for entry in history])
        for key in history[0]
        if history[0][key] is not None
    }


class Tolerances(NamedTuple):
    """Relative errors allowed: of losses, of checksums, of gradient norms."""

    loss: float
    state: float
    gradient: float


# Those of tests/goldens/README.md, or tighter where that holds. The originals keep the
# weights of the entropy term in float32 also in their float64 runs.
WIDE = Tolerances(loss=1e-10, state=1e-10, gradient=1e-8)
NARROW = Tolerances(loss=1e-4, state=1e-4, gradient=2e-2)
ENTROPY = 1e-6
ROUNDED = 1e-7


def hold_run(golden, found, prefix, suffix, tolerances):
    """Checksums of every parameter and statistic, and gradient norms, of every step."""
    recorded_state = golden[f"{prefix}state{suffix}"]
    magnitude = recorded_state[..., 1]
    scale = np.stack([magnitude, magnitude, recorded_state[..., 2]], -1)
    golden.holds(
        f"{prefix}state{suffix}",
        found["state"],
        tolerances.state,
        scale=("magnitude", scale),
    )
    golden.holds(f"{prefix}grad_l2{suffix}", found["grad_l2"], tolerances.gradient)


def hold_values(golden, found, prefix):
    """Some parameters and statistics in full, recorded in float32."""
    for key in [key for key in golden.arrays if key.startswith(f"{prefix}value__")]:
        name = key.split("__value__")[1]
        if name in unused_branches():
            start = unused_branches()[name]
            golden.equals(key, np.broadcast_to(start, golden[key].shape))
            continue
        value = found[f"value__{name}"]
        if name == "conv1.weight":
            value = value[-1]
        else:
            value = value[:, :: value.shape[1] // golden[key].shape[1]]
        golden.holds(key, value, ROUNDED, scale="largest")


def hold_rates(golden, key, steps):
    """Rates of backbone and head before every step."""
    base, decay_steps = 2.5e-4, 20
    with jax.enable_x64(True):
        rates = [
            [
                optimizer.poly(rate, decay_steps=decay_steps)(step)
                for rate in (base, 10 * base)
            ]
            for step in range(steps)
        ]
    golden.holds(key, np.array(rates), 1e-12)


def hold_groups(golden):
    """Which parameter is updated how often and at which rate."""
    golden.equals("param_names", list(seeded.state_dict("lsr_resnet1111")))
    frozen = models.build(backbone=NETWORK, freeze_stem_affine=True).frozen_paths
    chosen = seeded.groups(
        golden["trainable_names"], HEADS, groups("sequential", frozen)
    )
    repeats = [0 if group.multiplier is None else group.repeats for group in chosen]
    golden.equals("multiplicity", repeats)
    golden.equals("group_10x", [group.multiplier == 10 for group in chosen])


INPUTS = ("num_classes", "base_lr", "iter_max", "momentum", "weight_decay")


@pytest.mark.long  # LSR in the released setting runs the same network and optimizer
@pytest.mark.golden(
    "trajectory_ce",
    "(?!.*__).*",
    "(de)?dup__(lr|(loss|state|grad_l2)_f64|value__.*)",
)
def test_golden_source_only(golden):
    golden.used("images", "labels", *INPUTS)
    hold_groups(golden)
    found = replay("trajectory_ce", "", "float64")
    for name in ("dup", "dedup"):
        prefix, ours = f"{name}__", found[name]
        golden.holds(f"{prefix}loss_f64", ours["term__segmentation"], WIDE.loss)
        hold_run(golden, ours, prefix, "_f64", WIDE)
        hold_values(golden, ours, prefix)
        hold_rates(golden, f"{prefix}lr", steps=6)


@pytest.mark.long  # in float64 the same steps are held to more digits
@pytest.mark.golden("trajectory_ce", "(de)?dup__(loss|state|grad_l2)")
def test_golden_source_only_in_float32(golden):
    found = replay("trajectory_ce", "", "float32")
    for name in ("dup", "dedup"):
        prefix, ours = f"{name}__", found[name]
        golden.holds(f"{prefix}loss", ours["term__segmentation"], NARROW.loss)
        hold_run(golden, ours, prefix, "", NARROW)


# The released setting by default: every setting compiles a step of its own.
VARIANTS = [
    pytest.param(name, marks=() if name == "A" else pytest.mark.long)
    for name in SETTINGS
]
WEIGHTS = {
    "norm": "lambda_norm",
    "perp": "lambda_ortho",
    "clust": "lambda_cluster",
    "ce": None,
    "em": None,
}


def hold_terms(golden, found, prefix, suffix, tolerance):
    """Every term of the loss, unweighted but for the entropy, and the two sums."""
    arrays = np.load(recorded.GOLDENS / "trajectory_lsr.npz")
    totals = {"source": 0.0, "target": 0.0}
    for name, ours in TERMS.items():
        domain, kind = name.split("_")
        value = found[f"term__{ours}"]
        if kind == "em":
            value = value * arrays["lambda_entropy"]
        rtol = max(tolerance, ENTROPY) if kind == "em" else tolerance
        golden.holds(f"{prefix}{name}{suffix}", value, rtol)
        weight = arrays[WEIGHTS[kind]] if WEIGHTS[kind] else 1.0
        totals[domain] = totals[domain] + weight * value
    source, target = totals["source"], totals["target"]
    golden.holds(f"{prefix}source_total{suffix}", source, tolerance)
    golden.holds(f"{prefix}target_total{suffix}", target, max(tolerance, ENTROPY))


@pytest.mark.slow
@pytest.mark.golden("trajectory_lsr", "(?!.*__).*", "[ABC]__(perm_orders|labels_down)")
def test_golden_lsr_inputs(golden):
    golden.used("source_images", "target_images", *INPUTS)
    golden.used("IW_ratio", "centroids_smoothing", "hist_th", "delta_norm")
    golden.used("lambda_entropy", "lambda_norm", "lambda_ortho", "lambda_cluster")
    hold_groups(golden)
    assert golden["delta_norm"] == RELEASED["norm_delta"]
    np.random.seed(int(golden["perm_seed"]))  # noqa: NPY002
    orders = np.stack([np.random.permutation(19) for _ in range(4)])  # noqa: NPY002
    for variant, setting in SETTINGS.items():
        golden.equals(f"{variant}__perm_orders", orders)
        frequency = pseudo_labels.CLASS_FREQUENCY.get(setting["class_frequency"])
        ours = [
            pseudo_labels.histogram_downsample(
                labels[: 2 if variant == "B" else 1],
                size=(9, 9),
                num_classes=19,
                threshold=float(golden["hist_th"]),
                window=setting["histogram_window"],
                class_frequency=frequency,
            )
            for labels in jnp.asarray(golden["source_labels"])
        ]
        golden.holds(f"{variant}__labels_down", np.stack(ours))


@pytest.mark.slow
@pytest.mark.golden(
    "trajectory_lsr", ".*_f64", ".*__(lr|pseudo_labels)", ".*__value__.*"
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_golden_lsr(golden, variant):
    golden.only(f"{variant}__.*")
    found = replay("trajectory_lsr", variant, "float64")
    for name in ("dup", "dedup"):
        prefix, ours = f"{variant}__{name}__", found[name]
        hold_terms(golden, ours, prefix, "_f64", WIDE.loss)
        golden.holds(f"{prefix}pseudo_labels", ours["labels"])
        golden.holds(f"{prefix}proto_state_f64", ours["proto_state"], WIDE.state)
        if variant != "B":  # which moves norms to those of their classes
            reference = ours["norm_reference"]
            golden.holds(f"{prefix}norm_reference_f64", reference, WIDE.loss)
        hold_run(golden, ours, prefix, "_f64", WIDE)
        hold_values(golden, ours, prefix)
        hold_rates(golden, f"{prefix}lr", steps=4)


@pytest.mark.golden(
    "trajectory_lsr",
    "[ABC]__(de)?dup__(source|target)_(ce|em|norm|perp|clust|total)",
    "[ABC]__(de)?dup__(state|grad_l2)",
)
@pytest.mark.long
@pytest.mark.parametrize("variant", SETTINGS)
def test_golden_lsr_in_float32(golden, variant):
    """The originals in float32; ours too where the setting is the released one."""
    golden.only(f"{variant}__.*")
    dtype = "float32" if variant == "A" else "float64"
    found = replay("trajectory_lsr", variant, dtype)
    for name in ("dup", "dedup"):
        prefix, ours = f"{variant}__{name}__", found[name]
        hold_terms(golden, ours, prefix, "", NARROW.loss)
        hold_run(golden, ours, prefix, "", NARROW)
