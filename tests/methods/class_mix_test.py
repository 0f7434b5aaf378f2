"""DACS: its composition by hand, and where gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from lsr_jax import class_mix as mixing
from lsr_jax import losses, resample
from lsr_jax.errors import InputError
from lsr_jax.methods import class_mix, mean_teacher
from lsr_jax.types import BatchSpec, Context, Images

SPEC = BatchSpec(toy.NUM_CLASSES, toy.FEATURES, toy.SIZE, toy.SIZE)
FORWARD = jax.jit(toy.forward, static_argnums=3)
PLAIN = {"jitter": 0.0, "blur_probability": 0.0}


@pytest.fixture
def start(key):
    """Student, teacher, and a batch; the two networks differ."""
    model, model_state = toy.init(key)
    other, other_state = toy.init(jax.random.fold_in(key, 1))
    batch = toy.batch(key, 2, class_mix.make())
    return (
        {"model": model},
        model_state,
        mean_teacher.Teacher(other, other_state),
        batch,
    )


def context(key, model_state, number=3):
    return Context(toy.forward, model_state, jnp.int32(number), key, toy.PIXELS)


def by_hand(start, chosen, *, share, weigh_source, momentum, number, threshold):
    """``(segmentation, mixed, share)`` in numpy, from the outputs of the network."""
    params, model_state, teacher, batch = start
    weight = min(1 - 1 / number, momentum)
    averaged = jax.tree.map(
        lambda t, s: weight * t + (1 - weight) * s, teacher.params, params["model"]
    )

    def probabilities(model, statistics, images):
        outputs, statistics = FORWARD(model, statistics, images, True)
        logits = resample.bilinear(outputs.logits, toy.SIZE)
        return np.asarray(jax.nn.softmax(logits), np.float64), statistics

    (x, y), z = batch.source, batch.target.image
    x, y, z = np.asarray(x), np.asarray(y), np.asarray(z)
    source, model_state = probabilities(params["model"], model_state, x)
    target, statistics = probabilities(averaged, teacher.model_state, z)
    pasted = np.stack([np.isin(y[b], np.flatnonzero(chosen[b])) for b in range(len(y))])
    confident = target.max(-1) >= threshold
    q = {
        "batch": np.full(confident.shape, confident.mean()),
        "image": np.broadcast_to(
            confident.mean((1, 2))[:, None, None], confident.shape
        ),
        "pixel": confident.astype(float),
    }[share]
    weights = q if weigh_source else np.where(pasted, 1.0, q)
    label = np.where(pasted, y, target.argmax(-1))
    image = np.where(pasted[..., None], x, z)
    student, model_state = probabilities(params["model"], model_state, image)

    def pick(p, label):
        return -np.log(np.take_along_axis(p, label[..., None], -1)[..., 0])

    mixed = (weights * pick(student, label)).mean()
    teacher = mean_teacher.Teacher(averaged, statistics)
    told = {
        "confident": confident.mean(),
        "target_classes": len(np.unique(target.argmax(-1))),
    }
    return pick(source, y).mean(), mixed, told, model_state, teacher


@pytest.mark.parametrize(
    ("preset", "number"), [("paper", 7), ("released", 1), ("released", 500)]
)
def test_composition(start, key, preset, number):
    params, model_state, teacher, batch = start
    keywords = class_mix.PRESETS[preset]
    method = class_mix.make(mixed=0.7, confidence=0.6, **keywords, **PLAIN)
    ctx = context(key, model_state, number)
    total, aux = jax.jit(lambda p, t: method.loss(p, t, batch, ctx))(params, teacher)

    classes, _ = jax.random.split(jax.random.fold_in(key, 1))
    chosen = mixing.draw_classes(
        classes, batch.source.label, num_classes=5, void=keywords["void"]
    )
    segmentation, mixed, told, statistics, after = by_hand(
        start,
        np.asarray(chosen),
        share=keywords["share"],
        weigh_source=keywords["weigh_source"],
        momentum=keywords["teacher_momentum"],
        number=number,
        threshold=0.6,
    )
    assert 0.05 < told["confident"] < 0.95
    for name, value in told.items():
        np.testing.assert_allclose(aux.metrics[name], value, rtol=1e-6)
    np.testing.assert_allclose(aux.metrics["mixed"], mixed, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["segmentation"], segmentation, rtol=1e-5)
    np.testing.assert_allclose(total, segmentation + 0.7 * mixed, rtol=1e-5)
    close = {"rtol": 1e-5, "atol": 1e-6}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **close),
        (aux.model_state, aux.method_state),
        (statistics, after),
    )


def test_without_the_mixed_loss_only_the_source_teaches(start, key):
    params, model_state, teacher, batch = start
    ctx = context(key, model_state)
    method = class_mix.make(mixed=0.0)

    def loss(params):
        return method.loss(params, teacher, batch, ctx)

    grads, aux = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert "mixed" not in aux.metrics

    def source(params):
        outputs, _ = toy.forward(params["model"], model_state, batch.source.image, True)
        logits = resample.bilinear(outputs.logits, toy.SIZE)
        return losses.cross_entropy(logits, batch.source.label)

    expected = jax.jit(jax.grad(source))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        grads,
        expected,
    )


@pytest.mark.parametrize("momentum", [0.99, 0.0])
def test_no_gradient_reaches_the_teacher(start, key, momentum):
    """Nor the student by way of its average: labels and weights are constants."""
    params, model_state, teacher, batch = start
    method = class_mix.make(teacher_momentum=momentum)
    ctx = context(key, model_state, 1)

    def loss(params, teacher):
        return method.loss(params, teacher, batch, ctx)[0]

    assert all(
        not np.any(leaf)
        for leaf in jax.tree.leaves(jax.jit(jax.grad(loss, argnums=1))(params, teacher))
    )

    def confidence(params):
        followed = mean_teacher.follow(teacher, params["model"], ctx.step, momentum)
        _, confident, _ = mean_teacher.predict(followed, batch.target.image, ctx)
        return confident.sum()

    assert not any(
        np.any(leaf) for leaf in jax.tree.leaves(jax.jit(jax.grad(confidence))(params))
    )


def test_the_mixed_image_is_augmented_as_rgb(start, key, monkeypatch):
    """Restored, jittered, blurred and normalised; labels and target stay as they are."""
    params, model_state, teacher, batch = start
    batch = batch._replace(target=Images(batch.target.image + 100, None))
    seen = []

    def forward(params, model_state, images, train):
        seen.append(np.asarray(jax.lax.stop_gradient(images)))
        return toy.forward(params, model_state, images, train)

    pixels = toy.PIXELS._replace(restore=lambda x: x + 20, normalise=lambda x: x - 20)
    monkeypatch.setattr(
        class_mix.strong_effects, "colour_jitter", lambda key, x, **_: 2 * x
    )
    monkeypatch.setattr(class_mix.strong_effects, "blur", lambda key, x, **_: x + 1)
    ctx = context(key, model_state)._replace(forward=forward, pixels=pixels)
    class_mix.make().loss(params, teacher, batch, ctx)
    x, z, mixed = seen
    np.testing.assert_array_equal(x, batch.source.image)
    np.testing.assert_array_equal(z, batch.target.image)
    shown = (mixed + 20 - 1) / 2 - 20
    from_source = np.isclose(shown, x, atol=1e-4).all(-1)
    from_target = np.isclose(shown, z, atol=1e-4).all(-1)
    assert (from_source ^ from_target).all()
    # Whole classes of the source, and not all of them.
    for b, label in enumerate(np.asarray(batch.source.label)):
        shares = {from_source[b][label == c].mean() for c in np.unique(label)}
        assert shares == {0.0, 1.0}


def test_starts_as_a_copy(key):
    model, model_state = toy.init(key)
    extra, teacher = class_mix.make().init(None, model, model_state, SPEC)
    assert extra == {}
    assert teacher.params is model
    assert teacher.model_state is model_state


def test_an_unknown_share_is_refused():
    with pytest.raises(InputError, match=r"method\.share: .* found 'class'"):
        class_mix.make(share="class")
