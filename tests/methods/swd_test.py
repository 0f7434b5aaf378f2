"""SWD: gradients of three steps in one scalar, and the demo's training without a race."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from lsr_jax import losses
from lsr_jax.methods import common, controls, swd
from lsr_jax.types import Context

CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture
def start(key):
    model, model_state = toy.init(key, "two_heads")
    return {"model": model}, model_state, toy.batch(key, 2, swd.make())


def context(key, model_state):
    return Context(toy.forward, model_state, jnp.int32(0), key, toy.PIXELS)


def differentiated(method, batch, ctx):
    def loss(params):
        return method.loss(params, {}, batch, ctx)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def parts(start, key, measure):
    """``(L_s, D)`` as functions of the parameters, nothing scaled."""
    _, model_state, batch = start
    ctx = context(key, model_state)

    def source(params):
        outputs, _, _ = common.both_domains(params, batch, ctx)
        return sum(
            common.segmentation(outputs._replace(logits=logits), batch.source)
            for logits in (outputs.logits, outputs.aux_logits)
        )

    def discrepancy(params):
        _, outputs, _ = common.both_domains(params, batch, ctx)
        pair = [jax.nn.softmax(z) for z in (outputs.logits, outputs.aux_logits)]
        if measure == "absolute":
            return jnp.abs(pair[0] - pair[1]).mean()
        drawn = losses.random_directions(jax.random.fold_in(key, 1), 5, count=7)
        units = drawn / jnp.linalg.norm(drawn, axis=0)
        first, second = (jnp.sort(p.reshape(-1, 5) @ units, axis=0) for p in pair)
        return jnp.square(first - second).mean()

    return source, discrepancy


@pytest.mark.parametrize("measure", ["sliced_wasserstein", "absolute"])
@pytest.mark.parametrize("weight", [0.0, 30.0])
def test_composition(start, key, measure, weight):
    params, model_state, batch = start
    method = swd.make(discrepancy=weight, measure=measure, directions=7)
    ctx = context(key, model_state)
    (value, aux), grads = differentiated(method, batch, ctx)(params)
    source, discrepancy = parts(start, key, measure)
    (loss, by_source), (gap, by_gap) = (
        jax.jit(jax.value_and_grad(part))(params) for part in (source, discrepancy)
    )
    np.testing.assert_allclose(value, loss + weight * gap, rtol=1e-5)
    assert ("discrepancy" in aux.metrics) == (weight != 0)
    for name in grads["model"]:
        twice, sign = (2, -1) if name in swd.HEAD_PARTS else (1, 1)
        expected = jax.tree.map(
            lambda s, d, twice=twice, sign=sign: twice * s + sign * weight * d,
            by_source["model"][name],
            by_gap["model"][name],
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, **CLOSE),
            grads["model"][name],
            expected,
        )
    *_, after = jax.jit(lambda p: common.both_domains(p, batch, ctx))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), aux.model_state, after
    )


def test_a_weight_of_zero_is_the_control_but_for_the_heads(start, key):
    params, model_state, batch = start
    ctx = context(key, model_state)
    found = [
        differentiated(method, batch, ctx)(params)
        for method in (
            swd.make(discrepancy=0.0),
            controls.batchnorm_only(auxiliary=1.0),
        )
    ]
    ((ours, aux), grads), ((control, control_aux), expected) = found
    np.testing.assert_allclose(ours, control, rtol=1e-6)
    chex.assert_trees_all_close(aux.model_state, control_aux.model_state, **CLOSE)
    for name in swd.HEAD_PARTS:
        doubled = jax.tree.map(lambda x: 2 * x, expected["model"][name])
        chex.assert_trees_all_close(grads["model"][name], doubled, **CLOSE)
    backbone = grads["model"]["backbone"]
    chex.assert_trees_all_close(backbone, expected["model"]["backbone"], **CLOSE)


def test_directions_are_drawn_afresh(start, key):
    params, model_state, batch = start
    method = swd.make(directions=3)

    @jax.jit
    def loss(key):
        return method.loss(params, {}, batch, context(key, model_state))[1].metrics

    found = [loss(k) for k in (key, key, jax.random.fold_in(key, 5))]
    first, again, other = (float(metrics["discrepancy"]) for metrics in found)
    assert first == again != other


MODULES = {"backbone": "Generator", "head": "Classifier1", "aux_head": "Classifier2"}
MEASURES = {"swd": losses.sliced_wasserstein, "mcd": losses.absolute_discrepancy}


def dense(layers, x, last):
    for i, layer in enumerate(layers):
        x = x @ layer["weights"] + layer["biases"]
        x = last(x) if i == 2 else jax.nn.relu(x)
    return x


def predictions(model, points):
    """The outputs of both classifiers of the demo, ``[n, 1]`` each."""
    features = dense(model["backbone"], points, jax.nn.relu)
    return [dense(model[name], features, jax.nn.sigmoid) for name in swd.HEAD_PARTS]


def demo(model, points, epsilon, measure):
    """``(scalar, (loss_s, loss_dis))`` of the demo, with our scaling of gradients."""
    on_source, on_target = swd.opponents(model)
    source, label, target = points

    def entropy(p):
        log_p, log_q = jnp.log(p + epsilon), jnp.log(1 - p + epsilon)
        return -(label * log_p + (1 - label) * log_q).mean()

    loss_s = sum(entropy(p) for p in predictions(on_source, source))
    loss_dis = measure(*predictions(on_target, target))
    return loss_s + loss_dis, (loss_s, loss_dis)


def train(golden, dtype, measure):
    """Losses before, and parameters after every step."""
    points = [golden[f"toy__{name}"].astype(dtype) for name in ("x_s", "y_s", "x_t")]
    rate, epsilon = float(golden["toy__lr"]), float(golden["toy__log_eps"])
    model = {
        ours: [
            {
                part: golden[f"toy__init__{theirs}.fc{i}.{part}"].astype(dtype)
                for part in ("weights", "biases")
            }
            for i in range(3)
        ]
        for ours, theirs in MODULES.items()
    }
    step = jax.jit(jax.grad(lambda m: demo(m, points, epsilon, measure), has_aux=True))
    history = []
    for _ in range(int(golden["toy__steps"])):
        gradients, terms = step(model)
        model = jax.tree.map(lambda x, g: x - rate * g, model, gradients)
        history.append((terms, model))
    return history


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.golden(
    "swd",
    "toy__(x_s|y_s|x_t|lr|steps|log_eps|param_names|init__.*)",
    "toy__(swd|mcd)__simul__.*",
)
def test_golden_demo(golden, name):
    stem = f"toy__{name}__simul__"
    golden.only(rf"{stem}.*|toy__(?!(swd|mcd)__).*")
    names = [str(parameter) for parameter in golden["toy__param_names"]]
    narrow = train(golden, np.float32, MEASURES[name])
    with jax.enable_x64(True):
        wide = train(golden, np.float64, MEASURES[name])
    for i, term in enumerate(("loss_s", "loss_dis")):
        ours = np.array([terms[i] for terms, _ in narrow])
        golden.holds(f"{stem}{term}", ours, 1e-4)
        golden.holds(f"{stem}{term}_f64", np.array([terms[i] for terms, _ in wide]))

    def leaf(model, parameter):
        module, layer, part = parameter.split(".")
        ours = {theirs: ours for ours, theirs in MODULES.items()}[module]
        return np.asarray(model[ours][int(layer[2:])][part])

    table = [[leaf(model, parameter) for parameter in names] for _, model in wide]
    magnitude = np.array([[np.abs(x).sum() for x in row] for row in table])
    total = np.array([[x.sum() for x in row] for row in table])
    scale = ("magnitude", magnitude)
    golden.holds(f"{stem}param_sum", total, 1e-8, scale=scale)
    length = np.array([[np.linalg.norm(x) for x in row] for row in table])
    golden.holds(f"{stem}param_l2", length, 1e-8)
    for parameter, value in zip(names, table[-1], strict=True):
        key = f"{stem}final__{parameter}_f64"
        if key in golden.arrays:
            golden.holds(key, value, 1e-8, scale="largest")
            single = leaf(narrow[-1][1], parameter)
            np.testing.assert_allclose(single, golden[key], atol=1e-4)
