"""CAG's total loss as recorded, its ablations, its anchors against loops and files."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from lsr_jax import losses
from lsr_jax.errors import InputError
from lsr_jax.methods import cag
from lsr_jax.ops import diagnostics, pseudo_labels
from lsr_jax.types import Batch, BatchSpec, Context, Frozen, Images, Outputs

TERMS = (
    *("segmentation", "anchor_labels", "probability_labels"),
    *("distance_source", "distance_target"),
)
WEIGHTS = dict(zip(TERMS, (1.0, 0.5, 0.5, 0.7, 0.7), strict=True))


def stubbed(method, networks, state, labels, run=jax.jit):
    """Value and gradients of the loss when the network returns what is given.

    Args:
      method: CAG.
      networks: outputs of the trained network on source and target, ``params["model"]``.
      state: whose ``pseudo_labeler`` is the output of the pseudo_labeler on the target.
      labels: of the source.
      run: `jax.jit`, or `traced` for shapes alone.
    """
    calls = []
    images = jnp.zeros((*labels.shape, 3))
    batch = Batch(Images(images, labels), Images(images, None))

    def forward(params, model_state, images, train):
        calls.append(train)
        if not train:
            return Outputs(*params), model_state
        name = "source" if calls.count(True) == 1 else "target"
        return Outputs(*params[name]), model_state

    def total(model, state):
        calls.clear()
        context = Context(forward, {}, jnp.int32(0), jax.random.key(0), toy.PIXELS)
        return method.loss({"model": model}, state, batch, context)

    step = run(jax.value_and_grad(total, (0, 1), has_aux=True, allow_int=True))
    return *step(networks, state), list(calls)


def traced(function):
    return functools.partial(jax.eval_shape, function)


@pytest.mark.golden(
    "cag",
    "anchors",
    "(source|target)_(feat|output)|source_labels|pred_(feat|output)",
    "step__(loss|loss_GTA|loss_L2_source|loss_L2_target|ce_.*|grad_.*)",
)
def test_golden_step(golden):
    networks = {
        domain: (golden[f"{domain}_feat"], golden[f"{domain}_output"])
        for domain in ("source", "target")
    }
    anchors = jnp.asarray(golden["anchors"])
    pseudo_labeler = golden["pred_feat"], golden["pred_output"]
    state = cag.CAGState(
        anchors, jnp.ones(len(anchors)), Frozen(pseudo_labeler), Frozen({})
    )
    (value, aux), (gradient, still), calls = stubbed(
        cag.make(), networks, state, jnp.asarray(golden["source_labels"])
    )
    assert calls == [True, True, False]
    golden.holds("step__loss", value)
    for term, key in zip(
        TERMS,
        ("loss_GTA", "ce_cluster", "ce_threshold", "loss_L2_source", "loss_L2_target"),
        strict=True,
    ):
        golden.holds(f"step__{key}", aux.metrics[term])
    for domain, (features, logits) in gradient.items():
        golden.holds_gradient(f"step__grad_{domain}_feat", features)
        golden.holds_gradient(f"step__grad_{domain}_output", logits)
    # Labeller and anchors are constants, in the gradient and in the state.
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(still))
    chex.assert_trees_all_equal(aux.method_state, state)


@pytest.fixture
def stub():
    rng = np.random.default_rng(0)

    def outputs():
        features = rng.uniform(size=(2, 4, 6, 7)).astype(np.float32)
        return features, 4 * rng.normal(size=(2, 4, 6, 5)).astype(np.float32)

    anchors = rng.uniform(size=(5, 7)).astype(np.float32)
    count = jnp.array([3.0, 1.0, 0.0, 2.0, 9.0])
    labels = jnp.asarray(rng.integers(0, 5, (2, 4, 6)).repeat(4, 1).repeat(4, 2))
    networks = {"source": outputs(), "target": outputs()}
    state = cag.CAGState(anchors, count, Frozen(outputs()), Frozen({}))
    return networks, state, labels.astype(jnp.int32)


@pytest.mark.parametrize("distance_of", ["image_means", "cells"])
def test_the_total_is_the_weighted_sum_and_0_builds_nothing(stub, distance_of):
    choices = {"minimum": 1, "gap": 0.1, "distance_of": distance_of}
    (whole, aux), _, _ = stubbed(cag.make(**choices), *stub)
    terms = diagnostics.without(aux.metrics)
    assert set(terms) == set(TERMS)
    assert all(value > 0 for value in terms.values())
    parts = sum(WEIGHTS[name] * value for name, value in terms.items())
    np.testing.assert_allclose(whole, parts, rtol=1e-6)
    for name in TERMS[1:]:
        method = cag.make(**choices, **{name: 0.0})
        (_, less), *_ = stubbed(method, *stub, run=traced)
        assert set(diagnostics.without(less.metrics)) == set(TERMS) - {name}


def test_without_target_terms_nobody_labels(stub):
    method = cag.make(anchor_labels=0, probability_labels=0, distance_target=0)
    (_, aux), _, calls = stubbed(method, *stub, run=traced)
    assert calls == [True, True]
    assert set(aux.metrics) == {"segmentation", "distance_source"}


def test_what_both_rules_keep_is_told(stub):
    _, state, _ = stub
    (_, aux), *_ = stubbed(cag.make(gap=0.1, probability=0.9), *stub)
    features, logits = state.pseudo_labeler.value
    by_anchor = pseudo_labels.nearest_anchor(
        features, state.anchors, state.count > 0, gap=0.1
    )
    by_probability = pseudo_labels.thresholded(jax.nn.softmax(logits), threshold=0.9)
    for rule, label in (("anchor", by_anchor), ("probability", by_probability)):
        kept = np.asarray(label)[label != 255]
        assert 0 < kept.size < label.size
        share = aux.metrics[f"target_labelled_{rule}"]
        np.testing.assert_allclose(share, kept.size / label.size, rtol=1e-6)
        assert aux.metrics[f"target_classes_{rule}"] == len(np.unique(kept))


def test_the_poster_pulls_single_cells(stub):
    networks, state, labels = stub
    method = cag.make(**cag.PRESETS["paper"], gap=0.1)
    (_, aux), *_ = stubbed(method, networks, state, labels)
    features, label = networks["source"][0], np.asarray(labels)[:, ::4, ::4]
    far = np.linalg.norm(features - state.anchors[label], axis=-1)
    expected = far[label != 2].mean()  # class 2 has no anchor
    np.testing.assert_allclose(aux.metrics["distance_source"], expected, rtol=1e-5)


def test_a_class_without_anchor_is_neither_label_nor_aim(stub):
    networks, state, labels = stub
    none = state._replace(count=jnp.zeros(5))
    (_, aux), _, _ = stubbed(cag.make(minimum=1), networks, none, labels)
    for name in ("anchor_labels", "distance_source", "distance_target"):
        assert aux.metrics[name] == 0


def slow_anchors(given, *, minimum, cap):
    """Image after image, class after class."""
    anchors = np.zeros((toy.NUM_CLASSES, toy.FEATURES))
    count = np.zeros(toy.NUM_CLASSES)
    for images, valid, _ in given.batches("source", True):
        outputs, _ = given.forward(given.params, given.model_state, images.image, False)
        rows = np.arange(4) * toy.SIZE[0] // 4
        columns = np.arange(6) * toy.SIZE[1] // 6
        labels = np.asarray(images.label)[:, rows][:, :, columns]
        for b in np.flatnonzero(valid):
            predicted = np.asarray(outputs.logits[b]).argmax(-1)
            for c in range(toy.NUM_CLASSES):
                own = (labels[b] == c) & (predicted == c)
                if own.sum() >= minimum:
                    mean = np.asarray(outputs.features[b], float)[own].mean(0)
                    anchors[c] = (count[c] * anchors[c] + mean) / (count[c] + 1)
                    count[c] = min(count[c] + 1, cap)
    return anchors, count


@pytest.fixture
def given(key, tmp_path):
    whole = (True,) * 4
    valid = (whole, whole, (True, False, False, False))
    return toy.preparation(key, cag.make(), tmp_path, valid=valid)


def test_anchors_against_loops(key, given):
    method = cag.make(minimum=2, cap=2)
    params, model_state = toy.init(key)
    spec = BatchSpec(toy.NUM_CLASSES, toy.FEATURES, toy.SIZE, toy.SIZE)
    _, state = method.init(key, params, model_state, spec)
    prepared = method.prepare(state, given)
    anchors, count = slow_anchors(given, minimum=2, cap=2)
    assert 0 < (count == 2).sum() < 5
    np.testing.assert_array_equal(prepared.count, count)
    np.testing.assert_allclose(prepared.anchors, anchors, rtol=1e-5)
    chex.assert_trees_all_equal(prepared.pseudo_labeler.value, given.params)
    chex.assert_trees_all_equal(prepared.pseudo_labeler_state.value, given.model_state)
    chex.assert_trees_all_equal(method.prepare(prepared, given), prepared)


def test_anchors_from_files(key, given, tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.uniform(size=(toy.NUM_CLASSES, toy.FEATURES))
    vectors[3] = 0
    np.save(tmp_path / "bare.npy", vectors)
    entries = {"objective_vectors": vectors, "objective_num": np.arange(5)}
    np.savez(tmp_path / "released.npz", **entries)
    for name, count in (("bare.npy", [1, 1, 1, 0, 1]), ("released.npz", range(5))):
        method = cag.make(anchors=str(tmp_path / name))
        state = cag.CAGState(
            jnp.zeros(vectors.shape), jnp.zeros(5), Frozen({}), Frozen({})
        )
        prepared = method.prepare(state, given)
        np.testing.assert_array_equal(prepared.anchors, vectors.astype(np.float32))
        np.testing.assert_array_equal(prepared.count, list(count))
        chex.assert_trees_all_equal(prepared.pseudo_labeler.value, given.params)


ONES = np.ones((5, 6))


def write_bad(folder):
    np.save(folder / "narrow.npy", np.ones((5, 3)))
    np.savez(folder / "other.npz", vectors=np.ones((5, 6)))
    np.save(folder / "pickled.npy", {"objective_vectors": 1}, allow_pickle=True)
    (folder / "text.npz").write_text("no archive")
    np.savez(folder / "whole.npz", objective_vectors=ONES, objective_num=ONES[:, 0])
    (folder / "cut.npz").write_bytes((folder / "whole.npz").read_bytes()[:-100])
    (folder / "empty.npy").write_bytes(b"")
    np.save(folder / "words.npy", np.full((5, 6), "1"))
    np.save(folder / "complex.npy", ONES.astype(complex))
    np.save(folder / "nan.npy", np.full((5, 6), np.nan))
    np.save(folder / "large.npy", np.full((5, 6), 1e300))
    np.savez(folder / "less.npz", objective_vectors=ONES, objective_num=-ONES[:, 0])
    yield "narrow.npy", r"expected 5 classes of 6 channels, found .*\(5, 3\)"
    yield "nan.npy", "found: numbers that are not finite"
    yield "large.npy", "found: numbers that are not finite"
    yield "less.npz", "found: a count below 0"
    for name in (
        *("other.npz", "pickled.npy", "text.npz", "none.npz", "cut.npz", "empty.npy"),
        *("words.npy", "complex.npy"),
    ):
        yield name, "expected an .npy file or an .npz with 'objective_vectors'"


def test_bad_anchors_are_one_line(tmp_path):
    for name, message in write_bad(tmp_path):
        with pytest.raises(InputError, match=f"{name}.*{message}") as caught:
            cag.read_anchors(str(tmp_path / name), (5, 6))
        assert "\n" not in str(caught.value)


def test_gradient_stays_finite_on_an_anchor():
    features = jnp.ones((1, 2, 2, 3))
    label, seen = jnp.zeros((1, 2, 2), jnp.int32), jnp.ones(1, bool)
    pull = jax.grad(losses.cell_anchor_distance)
    assert not pull(features, label, jnp.ones((1, 3)), seen).any()
    far = pull(features, label, jnp.zeros((1, 3)), seen)
    np.testing.assert_allclose(far, 3**-0.5 / 4, rtol=1e-6)
