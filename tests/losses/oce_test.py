import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from held import widen

from lsr_jax import losses
from lsr_jax.methods import oce
from lsr_jax.ops import prototypes, pseudo_labels, resample

DISTANCES = [
    {"order": order, "distance_of": rows}
    for order in (1, 2)
    for rows in ("block", "vectors")
]
REDUCE = {"mean": np.mean, "sum": np.sum}


def distance(block, order, distance_of):
    if distance_of == "vectors":
        return np.mean([np.linalg.norm(row, order) for row in block])
    return np.linalg.norm(block.ravel(), order) / block.size


def slow_contraction(features, labels, centroids, seen, **options):
    present = [c for c in range(len(seen)) if seen[c] and (labels == c).any()]
    return np.mean(
        [distance(centroids[c] - features[labels == c], **options) for c in present]
    )


def slow_spacing(centroids, seen, **options):
    found = centroids[seen]
    return np.mean(
        [
            distance(found[j] - np.delete(found, j, axis=0), **options)
            for j in range(len(found))
        ]
    )


def slow_orthogonality(domains, centroids, seen, temperature, reduce):
    terms = []
    for f in np.concatenate([d.reshape(-1, d.shape[-1]) for d in domains]):
        q = np.exp(centroids[seen] @ f / temperature)
        q /= q.sum()
        terms.extend(-q * np.log(q))
    return REDUCE[reduce](terms)


def slow_sparsity(centroids, seen, threshold, exponent, reduce):
    terms = [abs(c / c.max() - threshold) ** exponent for c in centroids[seen]]
    return -REDUCE[reduce](terms)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    features = rng.uniform(size=(2, 3, 4, 6)).astype(np.float32)
    labels = rng.choice([0, 1, 3, 255], (2, 3, 4)).astype(np.int32)
    table = rng.uniform(size=(5, 6)).astype(np.float32)
    return features, labels, table, np.array([True, True, True, False, True])


@pytest.mark.parametrize("options", DISTANCES, ids=str)
def test_clustering_against_loops(data, options):
    # Class 3 has features and no centroid, 2 and 4 a centroid and no features.
    loss = functools.partial(losses.contraction, **options)
    expected = slow_contraction(*data, **options)
    np.testing.assert_allclose(loss(*data), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(loss)(*data), expected, rtol=1e-5)
    loss = functools.partial(losses.spacing, **options)
    expected = slow_spacing(*data[2:], **options)
    np.testing.assert_allclose(loss(*data[2:]), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(loss)(*data[2:]), expected, rtol=1e-5)


@pytest.mark.parametrize("reduce", REDUCE)
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_orthogonality_against_loops(data, temperature, reduce):
    features, _, table, seen = data
    domains = [features, features[:1, :2]]
    options = {"temperature": temperature, "reduce": reduce}
    loss = functools.partial(losses.orthogonality, **options)
    expected = slow_orthogonality(domains, table, seen, **options)
    np.testing.assert_allclose(loss(domains, table, seen), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(loss)(domains, table, seen), expected, rtol=1e-5)


@pytest.mark.parametrize("reduce", REDUCE)
@pytest.mark.parametrize(("threshold", "exponent"), [(0.5, 2), (0.3, 3)])
def test_sparsity_against_loops(data, threshold, exponent, reduce):
    options = {"threshold": threshold, "exponent": exponent, "reduce": reduce}
    loss = functools.partial(losses.sparsity, **options)
    expected = slow_sparsity(*data[2:], **options)
    np.testing.assert_allclose(loss(*data[2:]), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(loss)(*data[2:]), expected, rtol=1e-5)


def test_by_hand():
    features = jnp.array([[[[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [9.0, 9.0]]]])
    labels = jnp.array([[[0, 0, 1, 255]]])
    centroids = jnp.array([[2.0, 0.0], [0.0, 4.0], [7.0, 7.0]])
    seen = jnp.array([True, True, False])
    # Both similarities of the zero vector are 0: q = 1/2 twice.
    zero = jnp.zeros((1, 1, 1, 2))

    @jax.jit
    def all_terms():
        pull = functools.partial(losses.contraction, features, labels)
        return {
            "contraction": [pull(centroids, seen, order=p) for p in (1, 2)],
            "spacing": [losses.spacing(centroids, seen, order=p) for p in (1, 2)],
            "sparsity": losses.sparsity(centroids, seen),
            "orthogonality": losses.orthogonality([zero], centroids, seen),
        }

    ours = all_terms()
    np.testing.assert_allclose(
        ours["contraction"], [(2 / 4 + 2 / 2) / 2, (2**0.5 / 4 + 2 / 2) / 2], rtol=1e-6
    )
    np.testing.assert_allclose(ours["spacing"], [(2 + 4) / 2, 20**0.5 / 2], rtol=1e-6)
    np.testing.assert_allclose(ours["sparsity"], -0.25)
    np.testing.assert_allclose(ours["orthogonality"], np.log(2) / 2, rtol=1e-6)


def test_the_slides_by_hand():
    features = jnp.array([[[[5.0, 4.0], [2.0, 0.0], [0.0, 2.0], [9.0, 9.0]]]])
    labels = jnp.array([[[0, 0, 1, 255]]])
    centroids = jnp.array([[2.0, 0.0], [0.0, 4.0], [7.0, 7.0]])
    seen = jnp.array([True, True, False])
    triangle = jnp.array([[2.0, 0.0], [5.0, 4.0], [2.0, 4.0]])  # sides 5, 4 and 3

    def pull(features, order):
        return losses.contraction(
            features, labels, centroids, seen, order=order, distance_of="vectors"
        )

    def push(order):
        return losses.spacing(
            triangle, jnp.ones(3, bool), order=order, distance_of="vectors"
        )

    zeros = [jnp.zeros((1, 1, 2, 2)), jnp.zeros((1, 1, 1, 2))]

    @jax.jit
    def all_terms(features):
        return {
            "contraction": [pull(features, p) for p in (1, 2)],
            "spacing": [push(p) for p in (1, 2)],
            "gradient": jax.grad(pull)(features, 2)[0, 0],
            "sparsity": losses.sparsity(centroids, seen, reduce="sum"),
            "orthogonality": losses.orthogonality(zeros, centroids, seen, reduce="sum"),
        }

    ours = all_terms(features)
    np.testing.assert_allclose(
        ours["contraction"], [(7 / 2 + 2) / 2, (5 / 2 + 2) / 2], rtol=1e-6
    )
    np.testing.assert_allclose(
        ours["spacing"], [(11 / 2 + 10 / 2 + 7 / 2) / 3, (9 + 8 + 7) / 2 / 3], rtol=1e-6
    )
    # Unit vectors, not differences; none where feature and centroid are the same.
    expected = [[0.6 / 4, 0.8 / 4], [0, 0], [0, -1 / 2], [0, 0]]
    np.testing.assert_allclose(ours["gradient"], expected, rtol=1e-6)
    np.testing.assert_allclose(ours["sparsity"], -4 * 0.25)
    np.testing.assert_allclose(ours["orthogonality"], 3 * np.log(2), rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "wrong"),
    [
        (losses.spacing, {"order": 3}),
        (losses.spacing, {"distance_of": "rows"}),
        (
            functools.partial(losses.orthogonality, [jnp.ones((1, 1, 1, 3))]),
            {"reduce": 0},
        ),
        (losses.sparsity, {"reduce": "none"}),
    ],
)
def test_an_unknown_choice_is_refused(loss, wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        loss(jnp.ones((2, 3)), jnp.ones(2, bool), **wrong)


def terms(features, labels, seen):
    means, counts = prototypes.class_means(features, labels, num_classes=len(seen))
    table = means, seen & (counts > 0)
    values = {
        "orthogonality": [
            losses.orthogonality([features], *table, reduce=r) for r in REDUCE
        ],
        "sparsity": [
            losses.sparsity(*table, exponent=e, reduce=r)
            for e in (2, 3)
            for r in REDUCE
        ],
        "contraction": [
            losses.contraction(features, labels, *table, **o) for o in DISTANCES
        ],
        "spacing": [losses.spacing(*table, **o) for o in DISTANCES],
    }
    return {name: jnp.stack(found) for name, found in values.items()}


def total(*inputs):
    return jnp.concatenate(list(terms(*inputs).values())).sum()


TERMS = jax.jit(terms)
GRADIENT = jax.jit(jax.grad(total))


@pytest.mark.parametrize("classes", [[255], [1, 255], [0, 1, 3]])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_absent_classes_and_extreme_features_stay_finite(data, classes, scale):
    features = np.float32(scale) * data[0]
    labels = np.resize(np.array(classes, np.int32), data[1].shape)
    for seen in (np.ones(5, bool), np.zeros(5, bool)):
        values = TERMS(features, labels, seen)
        gradient = GRADIENT(features, labels, seen)
        chex.assert_tree_all_finite((values, gradient))
        if classes == [255] or not seen.any():
            assert not any(value.any() for value in values.values())
            assert not gradient.any()
    single = TERMS(features, np.ones_like(labels), np.ones(5, bool))
    assert not single["spacing"].any()  # one centroid keeps no distance


C = 19
RULES = ("bilinear", "nearest")
# The weight of the old value; the original's smo_coeff weighs the current one.
MOMENTUM = {"smooff": 0.0, "smo0p8": 0.2}
CLUSTERING = ("c_dist", "f_dist_source", "f_dist_target")
NAMES = [f"order{p}__{name}" for p in (1, 2) for name in CLUSTERING]
NAMES += ["ortho_loss", "sparse_loss", "sparse_loss_exp3"]


def step(features, labels, state, momentum, temperature, threshold):
    """All terms of one step, in the order of `NAMES`, and the state after each pass."""
    first, second = oce.refresh(state, features, labels, C, momentum)
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
