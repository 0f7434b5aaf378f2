"""OCE: its composition by hand over two steps, its ablations and its state."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from lsr_jax import losses
from lsr_jax.methods import common, oce
from lsr_jax.ops import diagnostics, numerics, pseudo_labels, resample
from lsr_jax.types import BatchSpec, Context

SPEC = BatchSpec(toy.NUM_CLASSES, toy.FEATURES, toy.SIZE, toy.SIZE)
WEIGHTS = {
    "clustering": 0.3,
    "contraction_source": 1.0,
    "contraction_target": 0.5,
    "spacing": 2.0,
    "orthogonality": 0.4,
    "sparsity": 0.6,
    "entropy": 0.7,
}


@pytest.fixture
def start(key):
    """Parameters, statistics and two batches, far enough apart to be told apart."""
    model, model_state = toy.init(key)
    method = oce.make()
    batches = [toy.batch(jax.random.fold_in(key, i), 2, method) for i in range(2)]
    return {"model": model}, model_state, batches


def context(key, model_state):
    return Context(toy.forward, model_state, jnp.int32(0), key, toy.PIXELS)


def centroids(features, labels, old, momentum):
    """``{class: centroid}`` of both domains; ``old`` are those of the pass before."""
    found = dict(old)
    rows = np.concatenate([f.reshape(-1, f.shape[-1]) for f in features])
    label = np.concatenate([x.ravel() for x in labels])
    for c in np.unique(label):
        mean = rows[label == c].mean(0)
        found[c] = momentum * found.get(c, mean) + (1 - momentum) * mean
    return found


def norm(x, order, distance_of):
    powers = np.abs(x) ** order
    if distance_of == "vectors":
        return (powers.sum(-1) ** (1 / order)).mean()
    return powers.sum() ** (1 / order) / x.size


def by_hand(outputs, labels, old, *, distance, reduce, momentum):
    """Terms and centroids of one step; ``labels`` of every refreshing."""
    features = [np.asarray(o.features, np.float64) for o in outputs]
    passes = []
    for pair in labels:
        old = centroids(features, pair, old if momentum else {}, momentum)
        passes.append(old)
    first, last = passes[0], passes[-1]
    terms = {}
    for name, f, label in zip(("source", "target"), features, labels[0], strict=True):
        terms[f"contraction_{name}"] = np.mean(
            [norm(first[c] - f[label == c], *distance) for c in np.unique(label)]
        )
    terms["spacing"] = np.mean(
        [
            norm(np.array([a - b for k, b in first.items() if k != c]), *distance)
            for c, a in first.items()
        ]
    )
    table = np.array(list(last.values()))
    rows = np.concatenate([f.reshape(-1, f.shape[-1]) for f in features])
    q = np.exp(rows @ table.T / 2.0)
    q /= q.sum(1, keepdims=True)
    reduced = {"mean": np.mean, "sum": np.sum}[reduce]
    terms["orthogonality"] = -reduced(q * np.log(q))
    relative = table / table.max(1, keepdims=True)
    terms["sparsity"] = -reduced((relative - 0.5) ** 2)
    return terms, last


def health(target_label, old):
    """Every cell has a label; norms of the centroids and angles between them."""
    table = np.array(list(old.values()))
    angles = numerics.angles(table)[np.triu_indices(len(table), k=1)]
    return {
        "target_labelled": 1.0,
        "target_classes": len(np.unique(target_label)),
        "prototype_classes": len(table),
        "prototype_norm_min": numerics.norms(table).min(),
        "prototype_norm_mean": numerics.norms(table).mean(),
        "prototype_angle_min": angles.min(),
        "prototype_angle_mean": angles.mean(),
    }


def labels_of(outputs, batch, rule, source_labels):
    images = (batch.source.image, batch.target.image)
    pair = []
    for out, image in zip(outputs, images, strict=True):
        probabilities = common.upsampled_probabilities(out.logits, image)
        size = toy.FEATURE_SIZE
        found = pseudo_labels.shrunken(probabilities, size=size, rule=rule)
        pair.append(np.asarray(found))
    if source_labels == "ground_truth":
        truth = resample.nearest(batch.source.label, toy.FEATURE_SIZE, rule="torch")
        pair[0] = np.asarray(truth)
    return pair


@pytest.mark.parametrize(
    ("labels", "source_labels", "distance", "reduce", "momentum"),
    [
        ("both", "prediction", (1, "block"), "mean", 0.0),
        ("both", "ground_truth", (1, "block"), "mean", 0.2),
        ("nearest", "prediction", (2, "block"), "sum", 0.8),
        ("bilinear", "ground_truth", (2, "block"), "mean", 0.0),
        ("nearest", "prediction", (2, "vectors"), "sum", 0.0),
    ],
)
def test_two_steps_by_hand(
    start, key, labels, source_labels, distance, reduce, momentum
):
    params, model_state, batches = start
    method = oce.make(
        **WEIGHTS,
        distance_order=distance[0],
        distance_of=distance[1],
        reduce=reduce,
        temperature=2.0,
        labels=labels,
        source_labels=source_labels,
        prototype_momentum=momentum,
    )
    _, state = method.init(None, params["model"], model_state, SPEC)
    old = {}

    @jax.jit
    def loss(state, batch, model_state):
        return method.loss(params, state, batch, context(key, model_state))

    @jax.jit
    def passes(batch, model_state):
        return common.both_domains(params, batch, context(key, model_state))

    rules = ("bilinear", "nearest") if labels == "both" else (labels,)
    for batch in batches:
        total, aux = loss(state, batch, model_state)
        *outputs, model_state = passes(batch, model_state)
        shrunk = [labels_of(outputs, batch, rule, source_labels) for rule in rules]
        terms, old = by_hand(
            outputs, shrunk, old, distance=distance, reduce=reduce, momentum=momentum
        )
        terms["segmentation"] = common.segmentation(outputs[0], batch.source)
        terms["entropy"] = common.sharpness(outputs[1], batch.target.image, ratio=0.2)
        terms |= health(shrunk[0][1], old)
        assert terms.keys() == aux.metrics.keys()
        for name, value in terms.items():
            np.testing.assert_allclose(
                aux.metrics[name], value, rtol=2e-5, err_msg=name
            )
        expected = (
            terms["segmentation"]
            + 0.3 * terms["contraction_source"]
            + 0.15 * terms["contraction_target"]
            - 0.6 * terms["spacing"]
            + 0.4 * terms["orthogonality"]
            + 0.6 * terms["sparsity"]
            + 0.7 * terms["entropy"]
        )
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            aux.model_state,
            model_state,
        )
        state = aux.method_state
        if momentum:
            seen = np.flatnonzero(state.seen)
            np.testing.assert_array_equal(seen, sorted(old))
            table = np.array([old[c] for c in seen])
            np.testing.assert_allclose(state.mean[seen], table, rtol=1e-5, atol=1e-6)
        else:
            assert state == {}


def test_weights_of_zero_leave_the_source(start, key):
    params, model_state, (batch, _) = start
    ctx = context(key, model_state)
    nothing = dict.fromkeys(("clustering", "orthogonality", "sparsity", "entropy"), 0.0)
    method = oce.make(**nothing)

    def loss(params):
        return method.loss(params, {}, batch, ctx)

    grads, aux = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert set(aux.metrics) == {"segmentation"}

    def source(params):
        outputs, _, _ = common.both_domains(params, batch, ctx)
        logits = resample.bilinear(outputs.logits, toy.SIZE)
        return losses.cross_entropy(logits, batch.source.label)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        grads,
        jax.jit(jax.grad(source))(params),
    )
    method = oce.make(**nothing | {"sparsity": 1.0})
    _, aux = jax.eval_shape(loss, params)
    assert set(diagnostics.without(aux.metrics)) == {"segmentation", "sparsity"}


def test_the_presets_are_the_slides_and_the_code(start, key):
    """The defaults are the code's; the slides' terms are larger by what they sum."""
    params, model_state, (batch, _) = start

    @functools.partial(jax.jit, static_argnums=0)
    def metrics(preset):
        method = oce.make(**dict(oce.PRESETS.get(preset, {}), labels="nearest"))
        ctx = context(key, model_state)
        return method.loss(params, {}, batch, ctx)[1].metrics

    paper, released, default = map(metrics, ("paper", "released", "default"))
    chex.assert_trees_all_equal(released, default)
    assert oce.PRESETS["released"]["labels"] == "both"
    seen = paper["sparsity"] / released["sparsity"] / toy.FEATURES
    np.testing.assert_allclose(seen, round(float(seen)), rtol=1e-5)
    cells = 2 * 2 * np.prod(toy.FEATURE_SIZE)
    ratio = paper["orthogonality"] / released["orthogonality"]
    np.testing.assert_allclose(ratio, cells * round(float(seen)), rtol=1e-5)
    for name in ("contraction_source", "contraction_target", "spacing"):
        assert paper[name] > np.sqrt(toy.FEATURES) * released[name] > 0


@pytest.fixture
def step(key):
    """Outputs on both domains and their batch."""
    params, model_state = toy.init(key)
    batch = toy.batch(key, 2, oce.make())
    ctx = Context(toy.forward, model_state, jnp.int32(0), key, toy.PIXELS)
    *outputs, _ = common.both_domains({"model": params}, batch, ctx)
    return outputs, batch


def test_centroids_are_pulled_by_both_domains(step):
    """The spacing is a function of the centroids alone, yet moves all features."""
    outputs, batch = step
    labels = [
        oce.centroid_labels(*outputs, batch, rule="nearest", source_labels="prediction")
    ]

    def spacing(features):
        (found,) = oce.refresh({}, features, labels, toy.NUM_CLASSES, 0.0)
        return losses.spacing(*found)

    for gradient in jax.grad(spacing)([o.features for o in outputs]):
        assert (np.abs(gradient).sum(-1) > 0).mean() > 0.9


def test_the_truth_is_the_sources_alone(step):
    outputs, batch = step
    predicted, real = (
        oce.centroid_labels(*outputs, batch, rule="bilinear", source_labels=kind)
        for kind in ("prediction", "ground_truth")
    )
    every = toy.SIZE[0] // toy.FEATURE_SIZE[0]
    expected = batch.source.label[:, ::every, ::every]
    np.testing.assert_array_equal(real[0], expected)
    assert (predicted[0] != real[0]).any()
    np.testing.assert_array_equal(predicted[1], real[1])


def test_without_momentum_no_centroid_outlives_its_refreshing(step):
    outputs, _ = step
    features = [o.features for o in outputs]
    zeros = [jnp.zeros(f.shape[:3], jnp.int32) for f in features]
    first, second = oce.refresh(
        {}, features, [zeros, [1 + x for x in zeros]], toy.NUM_CLASSES, 0.0
    )
    np.testing.assert_array_equal(np.flatnonzero(first.seen), [0])
    np.testing.assert_array_equal(np.flatnonzero(second.seen), [1])
    mean = np.concatenate([f.reshape(-1, toy.FEATURES) for f in features]).mean(0)
    np.testing.assert_allclose(second.mean[1], mean, rtol=1e-5)
