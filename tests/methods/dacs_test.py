"""DACS: its composition by hand, and where gradients go."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded
import toy

from lsr_jax import losses
from lsr_jax.methods import dacs
from lsr_jax.ops import classmix as mixing
from lsr_jax.ops import resample
from lsr_jax.training import optimizer, state, step
from lsr_jax.types import Batch, BatchSpec, Context, Images, Method, Outputs

SPEC = BatchSpec(toy.NUM_CLASSES, toy.FEATURES, toy.SIZE, toy.SIZE)
FORWARD = jax.jit(toy.forward, static_argnums=3)
PLAIN = {"jitter": 0.0, "blur_probability": 0.0}


@pytest.fixture
def start(key):
    """Student, teacher, and a batch; the two networks differ."""
    model, model_state = toy.init(key)
    other, other_state = toy.init(jax.random.fold_in(key, 1))
    batch = toy.batch(key, 2, dacs.make())
    return (
        {"model": model},
        model_state,
        dacs.Teacher(other, other_state),
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

    (x, y, *_), z = batch.source, batch.target.image
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
    teacher = dacs.Teacher(averaged, statistics)
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
    keywords = dacs.PRESETS[preset]
    method = dacs.make(mixed=0.7, confidence=0.6, **keywords, **PLAIN)
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
    method = dacs.make(mixed=0.0)

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
    method = dacs.make(teacher_momentum=momentum)
    ctx = context(key, model_state, 1)

    def loss(params, teacher):
        return method.loss(params, teacher, batch, ctx)[0]

    assert all(
        not np.any(leaf)
        for leaf in jax.tree.leaves(jax.jit(jax.grad(loss, argnums=1))(params, teacher))
    )

    def confidence(params):
        followed = dacs.follow(teacher, params["model"], ctx.step, momentum)
        _, confident, _ = dacs.predict(followed, batch.target.image, ctx)
        return confident.sum()

    assert not any(
        np.any(leaf) for leaf in jax.tree.leaves(jax.jit(jax.grad(confidence))(params))
    )


def test_the_mixed_image_is_augmented_as_rgb(start, key, monkeypatch):
    """Restored, jittered, blurred and normalised; labels and target stay as they are."""
    params, model_state, teacher, batch = start
    batch = batch._replace(target=Images(batch.target.image + 100, None))
    seen = []

    def forward(params, model_state, images, train, dropout=True):
        seen.append(np.asarray(jax.lax.stop_gradient(images)))
        return toy.forward(params, model_state, images, train)

    pixels = toy.PIXELS._replace(restore=lambda x: x + 20, normalise=lambda x: x - 20)
    monkeypatch.setattr(dacs.strong, "colour_jitter", lambda key, x, **_: 2 * x)
    monkeypatch.setattr(dacs.strong, "blur", lambda key, x, **_: x + 1)
    ctx = context(key, model_state)._replace(forward=forward, pixels=pixels)
    dacs.make().loss(params, teacher, batch, ctx)
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
    extra, teacher = dacs.make().init(None, model, model_state, SPEC)
    assert extra == {}
    assert teacher.params is model
    assert teacher.model_state is model_state


@pytest.mark.golden("dacs", "lr__.*")
def test_golden_rates(golden):
    with jax.enable_x64(True):
        for times in (1, 10):
            rate = optimizer.poly(times * 2.5e-4, decay_steps=250_000)
            ours = jax.vmap(rate)(golden["lr__iters"])
            golden.holds(f"lr__{times}x", ours, 1e-12)


class Seen(NamedTuple):
    """The method's state, and terms and mixed labels of the last step, unrounded."""

    teacher: dacs.Teacher
    terms: dict
    label: jax.Array


def tiny(params, model_state, images, train, rng=None):
    """The network of the recorded loop: convolution, BatchNorm, ReLU, 1x1 convolution."""
    x = jax.lax.conv_general_dilated(
        images,
        params["backbone"]["conv1"]["kernel"],
        window_strides=(4, 4),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    assert train
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    count = x.size // x.shape[-1]
    now = {"mean": mean, "var": var * count / (count - 1)}
    model_state = jax.tree.map(
        lambda old, new: 0.9 * old + 0.1 * new, model_state, {"bn1": now}
    )
    affine = params["backbone"]["bn1"]
    x = (x - mean) * jax.lax.rsqrt(var + 1e-5) * affine["scale"] + affine["bias"]
    features = jax.nn.relu(x)
    head = params["head"]["layer5"]
    return Outputs(
        features, features @ head["kernel"][0, 0] + head["bias"]
    ), model_state


def watched(method, labels, draws):
    """``method`` with recorded draws, that shows what the goldens want to know."""

    def loss(params, before, batch, ctx):
        ctx = ctx._replace(rng=jax.random.key(0))
        labels.append(jnp.asarray(draws)[ctx.step])
        total, aux = method.loss(params, before.teacher, batch, ctx)
        return total, aux._replace(
            method_state=Seen(aux.method_state, aux.metrics, labels.pop())
        )

    return Method(None, loss)


def recorded_run(golden, dtype, patch):
    """The states after every step of the original's loop, by our step."""
    draws = np.zeros((4, 2, 20), bool)
    for i, b in np.ndindex(4, 2):
        classes = golden[f"loop__classes__it{i}__im{b}"]
        draws[i, b, np.where(classes == 255, 19, classes)] = True
    labels = []
    original = losses.weighted_cross_entropy

    def weighted(logits, label, weights):
        labels.append(label)
        return original(logits, label, weights)

    patch.setattr(mixing, "draw_classes", lambda *_, **__: labels.pop())
    patch.setattr(losses, "weighted_cross_entropy", weighted)

    model, statistics = seeded.trees("dacs_tiny", heads={}, branches=0, dtype=dtype)
    layer5 = model["backbone"].pop("layer5")
    scale = np.float32(golden["loop__logit_scale"]).astype(dtype)
    model["head"] = {"layer5": {**layer5, "kernel": layer5["kernel"] * scale}}
    statistics = statistics["backbone"]
    fresh = {"bn1": {"mean": jnp.zeros(8, dtype), "var": jnp.ones(8, dtype)}}
    params = {"model": model}
    start = Seen(
        dacs.Teacher(model, fresh),
        {
            "segmentation": jnp.zeros((), dtype),
            "mixed": jnp.zeros((), dtype),
            "confident": jnp.zeros((), jnp.float32),
        },
        jnp.zeros((2, 24, 32), jnp.int32),
    )
    transformation = optimizer.make(
        params,
        optimizer.model_groups(head_multiplier=10.0, frozen=("backbone/bn1",)),
        name="sgd",
        learning_rate=float(golden["loop__learning_rate"]),
        weight_decay=float(golden["loop__weight_decay"]),
        momentum=float(golden["loop__momentum"]),
        decay_steps=int(golden["loop__num_iterations"]),
        power=float(golden["loop__lr_power"]),
        warmup_steps=0,
    )
    method = dacs.make(
        teacher_momentum=float(golden["loop__alpha"]), jitter=0.0, blur_probability=0.0
    )
    train_step = jax.jit(
        step.make_step(
            watched(method, labels, draws),
            transformation,
            tiny,
            lambda _, batch: batch,
            toy.PIXELS,
        )
    )
    whole = state.create(params, statistics, start, transformation, jax.random.key(0))
    history = []
    for i in range(4):
        batch = Batch(
            Images(
                jnp.asarray(golden[f"loop__source_images__it{i}"], dtype),
                golden[f"loop__source_labels__it{i}"],
            ),
            Images(jnp.asarray(golden[f"loop__target_images__it{i}"], dtype), None),
        )
        whole, _ = train_step(whole, batch)
        history.append(whole)
    return history


@pytest.mark.golden("dacs", "loop__.*")
def test_golden_loop(golden):
    """Four iterations of ``trainUDA.py``: losses, labels, both networks, statistics."""
    with pytest.MonkeyPatch.context() as patch:
        narrow = recorded_run(golden, np.float32, patch)
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        wide = recorded_run(golden, np.float64, patch)
        for i, whole in enumerate(wide):
            hold_iteration(golden, i, narrow[i].method_state, whole)
        for net, params, statistics in (
            ("student", whole.params["model"], whole.model_state),
            ("teacher", *whole.method_state.teacher[:2]),
        ):
            stem = f"loop__{net}__final__bn1."
            for name, value in (
                ("running_mean", statistics["bn1"]["mean"]),
                ("running_var", statistics["bn1"]["var"]),
                ("weight", params["backbone"]["bn1"]["scale"]),
                ("bias", params["backbone"]["bn1"]["bias"]),
            ):
                golden.holds(f"{stem}{name}_f64", value, 1e-8, scale="largest")


def hold_iteration(golden, i, narrow, whole):
    seen = whole.method_state
    golden.holds(f"loop__mixed_labels__it{i}", seen.label)
    golden.holds(f"loop__share__it{i}", seen.terms["confident"], 1e-7)
    for key, name in (("loss_l", "segmentation"), ("loss_u", "mixed")):
        golden.holds(f"loop__{key}__it{i}", narrow.terms[name], 1e-4)
        golden.holds(f"loop__{key}__it{i}_f64", seen.terms[name], 1e-8)
    student = whole.params["model"]
    # The original's teacher at the end of an iteration is ours at the start of the next.
    teacher = dacs.follow(seen.teacher, student, whole.step, 0.99).params
    for net, params in (("student", student), ("teacher", teacher)):
        for name, value in (
            ("conv1.weight", params["backbone"]["conv1"]["kernel"]),
            ("layer5.weight", params["head"]["layer5"]["kernel"]),
            ("layer5.bias", params["head"]["layer5"]["bias"]),
        ):
            key = f"loop__{net}__it{i}__{name}_f64"
            golden.holds(key, value, 1e-8, scale="largest")


def test_follows_what_the_optimiser_made():
    """Parameters of steps 0 to 3 by hand: a copy, a copy, the mean, two thirds."""
    student = [{"w": jnp.array([x])} for x in (4.0, 1.0, 3.0, 9.0)]
    state = dacs.Teacher(student[0], {"mean": jnp.zeros(1)})
    found = []
    for number, params in enumerate(student):
        state = dacs.follow(state, params, jnp.int32(number), 0.6)
        found.append(float(state.params["w"][0]))
    np.testing.assert_allclose(found, [4, 1, 2, 0.6 * 2 + 0.4 * 9], rtol=1e-6)
    assert state.model_state == {"mean": jnp.zeros(1)}


@pytest.mark.parametrize("number", [0, 1, 1000])
def test_without_momentum_the_student_is_its_own_teacher(number):
    state = dacs.Teacher({"w": jnp.array([1e3, -5.0])}, {})
    student = {"w": jnp.array([0.1, 0.7])}
    followed = dacs.follow(state, student, jnp.int32(number), 0.0)
    np.testing.assert_array_equal(followed.params["w"], student["w"])


@pytest.mark.golden("dacs", "ema__.*")
def test_golden_teacher(golden):
    once = jax.jit(dacs.average)
    teacher, student = {"w": jnp.ones(())}, {"w": jnp.zeros(())}
    with jax.enable_x64(True):
        unit = jax.tree.map(lambda x: x.astype(jnp.float64), (teacher, student))
        ours = [once(*unit, i, 0.99)["w"] for i in golden["ema__alpha_iters"]]
    golden.holds("ema__alpha", np.array(ours), 1e-12)

    teacher = {name: golden[f"ema__teacher_init__{name}"] for name in "wb"}
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(np.float64), teacher)
    for number, iteration in enumerate(golden["ema__iters"]):
        student = {name: golden[f"ema__student__step{number}__{name}"] for name in "wb"}
        teacher = once(teacher, student, iteration, 0.99)
        for name in "wb":
            key = f"ema__teacher__step{number}__{name}"
            golden.holds(key, teacher[name], 1e-6, scale=("1", np.float64(1)))
        with jax.enable_x64(True):
            wide_student = jax.tree.map(lambda x: x.astype(np.float64), student)
            wide = once(wide, wide_student, iteration, 0.99)
    golden.holds("ema__teacher_last__w_f64", wide["w"], 1e-12, scale="largest")


@pytest.mark.golden("daformer_mixing", "ema__.*")
def test_golden_teacher_of_daformer(golden):
    """It follows at the start of an iteration; at iteration 0 it is a copy."""
    names = "wbs"
    with jax.enable_x64(True):
        wide = {
            name: jnp.asarray(golden[f"ema__teacher_init__{name}"], jnp.float64)
            for name in names
        }
        state = dacs.Teacher(wide, {})
        found = []
        for number, iteration in enumerate(golden["ema__iters"]):
            student = {
                name: jnp.asarray(
                    golden[f"ema__student__step{number}__{name}"], jnp.float64
                )
                for name in names
            }
            state = dacs.follow(state, student, iteration, 0.999, ramp_from=0)
            for name in names:
                key = f"ema__teacher__step{number}__{name}_f64"
                golden.holds(key, state.params[name], 1e-12, scale="largest")
            one = {"w": jnp.ones(())}
            zero = {"w": jnp.zeros(())}
            found.append(dacs.average(one, zero, iteration, 0.999)["w"])
    golden.holds("ema__alpha", np.asarray(found), 1e-12)
