"""OCE's terms against recorded runs of the released UDAclustering code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from held import widen

from lsr_jax import losses, prototypes, pseudo_labels, resample
from lsr_jax.methods import oce_centroids

C = 19
RULES = ("bilinear", "nearest")
# The weight of the old value; the original's smo_coeff weighs the current one.
MOMENTUM = {"smooff": 0.0, "smo0p8": 0.2}
CLUSTERING = ("c_dist", "f_dist_source", "f_dist_target")
NAMES = [f"order{p}__{name}" for p in (1, 2) for name in CLUSTERING]
NAMES += ["ortho_loss", "sparse_loss", "sparse_loss_exp3"]


def step(features, labels, state, momentum, temperature, threshold):
    """All terms of one step, in the order of `NAMES`, and the state after each pass."""
    first, second = oce_centroids.refresh(state, features, labels, C, momentum)
    values = []
    for order in (1, 2):
        pull = functools.partial(losses.contraction, order=order)
        values.append(losses.spacing(*first, order=order))
        values += [pull(f, x, *first) for f, x in zip(features, labels[0], strict=True)]
    values.append(losses.orthogonality(features, *second, temperature=temperature))
    for exponent in (2, 3):
        values.append(losses.sparsity(*second, threshold=threshold, exponent=exponent))
    return jnp.stack(values), (first, second)


def pulled(features, cotangent, labels, state, momentum, temperature, threshold):
    """Values, states, and the gradient of the weighted sum of the values."""

    def of(features):
        return step(features, labels, state, momentum, temperature, threshold)

    values, pull, states = jax.vjp(of, features, has_aux=True)
    return values, states, pull(cotangent)[0]


STEP, PULLED = (
    jax.jit(function, static_argnames="momentum") for function in (step, pulled)
)
EACH = np.eye(len(NAMES), dtype=np.float32)
SHRUNKEN = jax.jit(pseudo_labels.shrunken, static_argnames=("size", "rule"))


def labels_of(golden, number, size, ground_truth, rule):
    """Source and target labels at feature resolution, as `step` takes them."""
    prob = [golden[f"{d}_prob__step{number}"] for d in ("source", "target")]
    source, target = (
        SHRUNKEN(p, size=s, rule=rule) for p, s in zip(prob, size, strict=True)
    )
    if ground_truth:
        real = golden[f"source_gt__step{number}"]
        source = resample.nearest(real, size[0], rule="torch")
    return source, target


@pytest.mark.parametrize("ground_truth", [0, 1])
@pytest.mark.parametrize("smoothing", ["smooff", "smo0p8"])
@pytest.mark.golden("oce", ".*")
def test_golden_embedding(golden, smoothing, ground_truth):
    stem = f"{smoothing}_gt{ground_truth}__"
    golden.only(
        rf"{stem}.*|(source|target)_(feat|prob).*|ortho.*|sparse.*"
        rf"|{'source_gt.*' if ground_truth else 'none'}"
    )
    golden.used("sparse_exponent")
    options = [float(golden[key]) for key in ("ortho_temp", "sparse_rho")]
    options = MOMENTUM[smoothing], *options
    state = prototypes.init(C, 24)
    with jax.enable_x64(True):
        wide_state = prototypes.init(C, 24, dtype=jnp.float64)
    for number in range(3):
        features = [golden[f"{d}_feat__step{number}"] for d in ("source", "target")]
        size = [f.shape[1:3] for f in features]
        labels = [labels_of(golden, number, size, ground_truth, r) for r in RULES]
        for p, pair in enumerate(labels, start=1):
            for domain, ours in zip(("source", "target"), pair, strict=True):
                golden.holds(f"{stem}step{number}__pass{p}__{domain}_labels", ours)

        inputs = features, labels, state, *options
        found = [PULLED(features, one, *inputs[1:]) for one in EACH]
        values, states, _ = found[0]
        for p, after in enumerate(states, start=1):
            key = f"{stem}step{number}__pass{p}__"
            golden.holds(f"{key}centroids", after.mean, scale="largest")
            golden.holds(f"{key}valid", after.seen)
        jacobian = list(zip(*(gradient for *_, gradient in found), strict=True))
        with jax.enable_x64(True):
            wide_inputs = widen(features), labels, wide_state, *options
            wide, wide_states = STEP(*wide_inputs)
        hold_step(golden, stem, number, values, jacobian, wide)
        if smoothing != "smooff":
            state, wide_state = states[1], wide_states[1]


def hold_step(golden, stem, number, values, jacobian, wide):
    for name, value, precise, *rows in zip(NAMES, values, wide, *jacobian, strict=True):
        order, _, term = name.rpartition("__")
        key = (
            f"{stem}{order}__step{number}__{term}"
            if order
            else (f"{stem}step{number}__{term}")
        )
        if key not in golden.arrays:
            assert term == "sparse_loss_exp3"
            continue
        golden.holds(key, value)
        if f"{key}_f64" in golden.arrays:
            golden.holds(f"{key}_f64", precise)
        alone = f"{stem}step{number}__{name}" if order else key
        for domain, row in zip(("source", "target"), rows, strict=True):
            if f"{alone}_grad_{domain}" in golden.arrays:
                golden.holds_gradient(f"{alone}_grad_{domain}", row)
    for d, domain in enumerate(("source", "target")):
        for p in (1, 2):
            spacing, *pulls = jacobian[d][3 * (p - 1) : 3 * p]
            key = f"{stem}order{p}__step{number}__cluster_grad_{domain}"
            golden.holds_gradient(key, sum(pulls) - spacing)
