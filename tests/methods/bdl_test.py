"""BDL: both players by hand, the pseudo-labels against numpy, and kills in between."""

import json

import chex
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from lsr_jax import losses, models
from lsr_jax.data import pseudo_label_store
from lsr_jax.methods import bdl
from lsr_jax.ops import diagnostics, resample
from lsr_jax.types import IGNORE, BatchSpec, Context

SPEC = BatchSpec(toy.NUM_CLASSES, toy.FEATURES, toy.SIZE, toy.SIZE)
STRONG = 0.5  # of the adversary, so that both players are felt


def started(method, key):
    model, model_state = toy.init(key)
    extra, state = method.init(key, model, model_state, SPEC)
    batch = toy.batch(key, 2, method)
    context = Context(toy.forward, model_state, jnp.int32(0), key, toy.PIXELS)

    @jax.jit
    def step(params):
        gradient = jax.value_and_grad(method.loss, has_aux=True)
        return gradient(params, state, batch, context)

    return {"model": model, **extra}, model_state, batch, step


def by_hand(model, disc, model_state, batch):
    """The terms, every map and loss spelled out."""
    source, moved = toy.forward(model, model_state, batch.source.image, True)
    target, _ = toy.forward(model, moved, batch.target.image, True)
    full = [resample.bilinear(x.logits, toy.SIZE) for x in (source, target)]
    _, judge = models.discriminator(toy.NUM_CLASSES)
    own, other = (judge(disc, jax.nn.softmax(x)) for x in full)
    return {
        "segmentation": losses.cross_entropy(full[0], batch.source.label),
        "adversarial": jax.nn.softplus(other).mean(),
        "discriminator": jax.nn.softplus(own).mean() + jax.nn.softplus(-other).mean(),
        "self_training": losses.cross_entropy(full[1], batch.target.label),
    }


def test_each_player_follows_its_own_loss(key):
    """No gradient of the network's loss in the discriminator, nor the reverse."""
    method = bdl.make(adversarial=STRONG)
    params, model_state, batch, step = started(method, key)
    (total, aux), gradient = step(params)

    def network(model):
        terms = by_hand(model, params["disc"]["main"], model_state, batch)
        rest = terms["segmentation"] + terms["self_training"]
        return rest + STRONG * terms["adversarial"], terms

    def discriminator(disc):
        terms = by_hand(params["model"], disc["main"], model_state, batch)
        return terms["discriminator"] / 2

    @jax.jit
    def both(params):
        value, gradient = jax.value_and_grad(network, has_aux=True)(params["model"])
        return value, {
            "model": gradient,
            "disc": jax.grad(discriminator)(params["disc"]),
        }

    (value, terms), expected = both(params)
    chex.assert_trees_all_close(diagnostics.without(aux.metrics), terms, rtol=1e-5)
    label = np.asarray(batch.target.label)
    assert aux.metrics["target_labelled"] == np.float32((label != IGNORE).mean())
    assert aux.metrics["target_classes"] == len(np.unique(label[label != IGNORE]))
    np.testing.assert_allclose(total, value + terms["discriminator"] / 2, rtol=1e-5)
    chex.assert_trees_all_close(gradient, expected, rtol=1e-3, atol=1e-6)


def test_a_weight_of_zero_builds_nothing(key):
    before = bdl.make(self_training=0.0)
    assert before.prepare is None
    assert not before.gets_labels("target")
    params, _, batch, step = started(before, key)
    assert batch.target.label is None
    (_, aux), _ = jax.eval_shape(step, params)
    terms = {"segmentation", "adversarial", "discriminator"}
    assert set(diagnostics.without(aux.metrics)) == terms
    assert "target_labelled" not in aux.metrics

    alone = bdl.make(adversarial=0.0)
    assert alone.gets_labels("target")
    assert alone.labelled == ("source",)
    params, *_, step = started(alone, key)
    assert set(params) == {"model"}
    (total, aux), _ = step(params)
    terms = diagnostics.without(aux.metrics)
    assert set(terms) == {"segmentation", "self_training"}
    np.testing.assert_allclose(total, sum(terms.values()), rtol=1e-6)


@pytest.fixture
def given(key, tmp_path):
    valid = ((True,) * 4, (True, False, True, False))
    return toy.preparation(key, bdl.make(), tmp_path / "stage", valid=valid)


def predictions(given):
    """Class and confidence of every pixel of every image, and whether it counts."""
    found = []
    for images, valid, _ in given.batches("target", False):
        outputs, _ = given.forward(given.params, given.model_state, images.image, False)
        maps = resample.bilinear(jax.nn.softmax(outputs.logits), toy.SIZE)
        found += zip(np.asarray(maps), valid, strict=True)
    maps = np.stack([each for each, _ in found])
    return maps.argmax(-1), maps.max(-1), np.array([valid for _, valid in found])


def labels_of(folder):
    return {
        int(path.stem): cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for path in folder.glob("*.png")
    }


def test_labels_against_numpy(given):
    bdl.write_pseudo_labels(given, portion=0.5, cap=0.6)
    label, confidence, valid = predictions(given)
    folder = given.folder / pseudo_label_store.FOLDER
    found = labels_of(folder)
    assert sorted(found) == [0, 1, 2, 3, 4, 6]
    summary = json.loads((folder / "summary.json").read_text())
    thresholds = []
    for c, row in enumerate(summary):
        own = np.sort(confidence[valid][label[valid] == c])
        assert row["class"] == c
        assert row["pixels"] == len(own)
        if not len(own):
            assert row["threshold"] == row["kept"] == 0
        else:
            median = min(own[min(round(0.5 * len(own)), len(own) - 1)], 0.6)
            assert 0 <= median - row["threshold"] < 1 / 4096
            kept = (own >= row["threshold"]).mean()
            np.testing.assert_allclose(row["kept"], kept, atol=2 / len(own))
        thresholds.append(row["threshold"])
    assert max(thresholds) == 0.6
    assert 0 < min(thresholds) < 0.6
    limit = np.array(thresholds)[label]
    expected = np.where(confidence >= limit, label, IGNORE)
    sure = np.abs(confidence - limit) > 1e-6
    assert (expected == IGNORE).any()
    for index, image in found.items():
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image[sure[index]], expected[index][sure[index]])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_twice_gives_the_same_files_and_a_kill_leaves_no_half(given, monkeypatch):
    method = bdl.make()
    folder = given.folder / pseudo_label_store.FOLDER
    write = pseudo_label_store.write

    def killed(place, index, label):
        if index == 3:
            raise KeyboardInterrupt
        write(place, index, label)

    monkeypatch.setattr(pseudo_label_store, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        method.prepare({}, given)
    assert not folder.exists()

    monkeypatch.setattr(pseudo_label_store, "write", write)
    assert method.prepare({}, given) == {}
    first = contents(folder)
    monkeypatch.setattr(pseudo_label_store, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        method.prepare({}, given)
    assert contents(folder) == first
    monkeypatch.setattr(pseudo_label_store, "write", write)
    method.prepare({}, given)
    assert contents(folder) == first
    assert [path.name for path in given.folder.iterdir()] == [pseudo_label_store.FOLDER]
