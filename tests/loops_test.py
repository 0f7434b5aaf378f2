"""Whole iterations of AdaptSegNet, ADVENT, CLAN and Feature To Adapt against ours.

Every loss, learning rate and parameter of the tiny network after every iteration, and
sums and norms of the discriminators' parameters. The networks are tiny, and everything is
in float64, so that what differs is the rounding of the originals alone.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded
import toy

from lsr_jax import losses
from lsr_jax.methods import adapt_seg_net, advent, clan, feature_to_adapt
from lsr_jax.training import optimizer, state, step
from lsr_jax.types import Batch, BatchSpec, Images, Outputs

pytestmark = pytest.mark.usefixtures("optimized")

NUM_CLASSES = 19
CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "classifier")
WATCHED = (
    "cross_entropy",
    "domain_loss",
    "focal_cross_entropy",
    "normalised_entropy",
    "stepwise_norm",
    "weight_discrepancy",
)


class Layer(NamedTuple):
    """A 1x1 convolution: its place in our tree, and its channels."""

    place: tuple[str, ...]
    inputs: int
    outputs: int


# The tiny networks, by the names of the originals.
ONE_LAYER = {
    "layer4": Layer(("backbone", "layer4"), 3, 8),
    "layer5": Layer(("aux_head",), 8, NUM_CLASSES),
    "layer6": Layer(("head",), 8, NUM_CLASSES),
}
HEADS_ONLY = {
    "aux": Layer(("aux_head",), 3, NUM_CLASSES),
    "main": Layer(("head",), 3, NUM_CLASSES),
}


def forward(size, params, model_state, images, train, rng=None):
    """Outputs at ``size``, whose images stand in the first rows and columns."""
    features = images[:, : size[0], : size[1]]
    if "backbone" in params:
        features = jax.nn.relu(linear(params["backbone"]["layer4"], features))
    logits = (linear(params[name], features) for name in ("head", "aux_head"))
    return Outputs(features, *logits), model_state


def linear(layer, x):
    return jnp.einsum("bhwi,io->bhwo", x, layer["kernel"]) + layer["bias"]


def rounded(array):
    """To float32, from which the originals started."""
    return array.astype(np.float32).astype(np.float64)


def tiny(network):
    """Name-seeded parameters."""
    params = {}
    for name, (place, inputs, outputs) in network.items():
        kernel = seeded.draw(f"{name}.weight", (outputs, inputs, 1, 1), "conv")
        bias = seeded.draw(f"{name}.bias", (outputs,), "bias")
        layer = {"kernel": kernel[..., 0, 0].T, "bias": bias}
        node = params
        for key in place[:-1]:
            node = node.setdefault(key, {})
        node[place[-1]] = jax.tree.map(lambda x: jnp.asarray(rounded(x)), layer)
    return params


def discriminator(name):
    """Name-seeded parameters of ``<name>_params.json``."""
    tensors = [jnp.asarray(rounded(x)) for x in seeded.state_dict(name).values()]
    pairs = zip(tensors[::2], tensors[1::2], strict=True)
    return {
        layer: {"kernel": kernel.transpose(2, 3, 1, 0), "bias": bias}
        for layer, (kernel, bias) in zip(CONVOLUTIONS, pairs, strict=True)
    }


def batches(golden):
    """One batch an iteration, and the ``(h, w)`` of the recorded, small images."""
    count = sum(key.startswith("loop__source_images") for key in golden.arrays)

    found = []
    for number in range(count):
        label = golden[f"loop__source_labels__it{number}"]
        large = {}
        for domain in ("source", "target"):
            small = golden[f"loop__{domain}_images__it{number}"]
            size = small.shape[1:3]
            large[domain] = np.zeros((*label.shape, small.shape[-1]))
            large[domain][:, : size[0], : size[1]] = small
        source = Images(large["source"], label)
        found.append(Batch(source, Images(large["target"], None)))
    return found, size


def watched(method, patch):
    """``method`` with every call of a loss among its metrics: ``domain_loss.0``, ..."""
    calls = {}

    def watch(name, original):
        def called(*arguments, **keywords):
            value = original(*arguments, **keywords)
            calls[f"{name}.{sum(key.startswith(name) for key in calls)}"] = value
            return value

        patch.setattr(losses, name, called)

    for name in WATCHED:
        watch(name, getattr(losses, name))

    def loss(params, method_state, batch, ctx):
        calls.clear()
        total, aux = method.loss(params, method_state, batch, ctx)
        return total, aux._replace(metrics={**aux.metrics, **calls})

    return method._replace(loss=loss)


def replay(golden, method, network, judges, **keywords):
    """``{quantity: [iterations, ...]}`` of all recorded iterations.

    Args:
      golden: the fixture; its ``loop__*_images`` and labels are read.
      method: ours.
      network: `ONE_LAYER` or `HEADS_ONLY`.
      judges: ``{level: list of weights}``.
      **keywords: of `start`.
    """
    with (
        jax.enable_x64(True),
        pytest.MonkeyPatch.context() as patch,
    ):
        recorded, size = batches(golden)
        whole, transformation = start(
            method, network, judges, recorded[0].target.image.shape[1:3], **keywords
        )
        train_step = jax.jit(
            step.make_step(
                watched(method, patch),
                transformation,
                functools.partial(forward, size),
                lambda _, batch: batch,
                toy.PIXELS,
            )
        )
        history = []
        for batch in recorded:
            whole, metrics = train_step(whole, batch)
            history.append({**metrics, **parameters(whole.params, network)})
        history = jax.device_get(history)
    return {key: np.stack([entry[key] for entry in history]) for key in history[0]}


def start(method, network, judges, size, *, head_multiplier=10.0, **keywords):
    """The state before iteration 0, and the optimiser."""
    key = jax.random.key(0)
    params = {"model": tiny(network)}
    if judges:
        params["disc"] = {level: discriminator(name) for level, name in judges.items()}
    spec = BatchSpec(NUM_CLASSES, 8, size, size)
    ours = jax.eval_shape(
        lambda: state.with_method(params["model"], {}, method, spec, key)
    )
    assert jax.tree.structure(ours) == jax.tree.structure((params, {}))
    groups = optimizer.model_groups(head_multiplier=head_multiplier)
    transformation = optimizer.make(params, groups, name="sgd", **keywords)
    return state.create(params, {}, {}, transformation, key), transformation


def parameters(params, network):
    """The tiny network's tensors as torch lays them out; sums and norms of the others'."""
    found = {}
    for name, layer in network.items():
        node = params["model"]
        for key in layer.place:
            node = node[key]
        found |= {f"{name}.weight": node["kernel"].T, f"{name}.bias": node["bias"]}
    for level, judge in params.get("disc", {}).items():
        leaves = [judge[c][leaf] for c in CONVOLUTIONS for leaf in ("kernel", "bias")]
        leaves = [np.asarray(leaf, np.float64).ravel() for leaf in leaves]
        found[level] = np.array([(x.sum(), np.linalg.norm(x)) for x in leaves])
    return found


# Those of tests/goldens/README.md. Adam makes whole steps of the noise of small
# gradients, so single parameters of a discriminator differ, and their sums.
LOSS, PARAMETER, NORM = 1e-4, 1e-5, 1e-4
UNIT = ("1", np.float64(1))


def hold_parameters(golden, stem, found, network):
    for name in network:
        for leaf in ("weight", "bias"):
            key = f"{name}.{leaf}"
            golden.holds(f"{stem}{key}", found[key], PARAMETER, scale=UNIT)


def hold_judge(golden, key, found, *, sums):
    scale = np.ones_like(golden[key]) * [sums / NORM, 1.0]
    scale[..., 1] = golden[key][..., 1]
    words = f"norm, {sums / NORM:g} for sums"
    golden.holds(key, found, NORM, scale=(words, scale))


def hold_losses(golden, stem, found):
    for key, value in found.items():
        golden.holds(f"{stem}{key}", np.float32(value), LOSS)


def hold_rates(golden, key, rates, **keywords):
    with jax.enable_x64(True):
        schedules = [optimizer.poly(rate, **keywords) for rate in rates]
        steps = range(len(golden[key]))
        found = [[schedule(jnp.asarray(t)) for schedule in schedules] for t in steps]
        golden.holds(key, np.array(found), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("gan", ["vanilla", pytest.param("ls", marks=pytest.mark.long)])
@pytest.mark.golden("adaptsegnet", "loop__.*")
def test_golden_adapt_seg_net(golden, gan):
    golden.only(f"loop__({gan}__.*|(?!vanilla|ls__).*)")
    rate, decay_steps = (
        float(golden["loop__learning_rate"]),
        int(golden["loop__num_steps"]),
    )
    keywords = {"decay_steps": decay_steps, "power": float(golden["loop__power"])}
    judge_rate = float(golden["loop__learning_rate_D"])
    method = adapt_seg_net.make(
        adversarial=float(golden["loop__lambda_adv_target2"]),
        auxiliary_adversarial=float(golden["loop__lambda_adv_target1"]),
        auxiliary=float(golden["loop__lambda_seg"]),
        kind={"vanilla": "cross_entropy", "ls": "least_squares"}[gan],
    )
    found = replay(
        golden,
        method,
        ONE_LAYER,
        {"main": "fc_discriminator", "aux": "fc_discriminator"},
        learning_rate=rate,
        discriminator_rate=judge_rate,
        momentum=float(golden["loop__momentum"]),
        weight_decay=float(golden["loop__weight_decay"]),
        warmup_steps=0,
        **keywords,
    )
    stem = f"loop__{gan}__"
    hold_losses(
        golden,
        stem,
        {
            "loss_seg_value1": found["cross_entropy.1"],
            "loss_seg_value2": found["cross_entropy.0"],
            "loss_adv_target_value1": found["adversarial_aux"],
            "loss_adv_target_value2": found["adversarial_main"],
            "loss_D_value1": found["discriminator_aux"] / 2,
            "loss_D_value2": found["discriminator_main"] / 2,
        },
    )
    hold_parameters(golden, stem, found, ONE_LAYER)
    for name, level in (("model_D1", "aux"), ("model_D2", "main")):
        hold_judge(golden, f"{stem}{name}_sum_l2", found[level], sums=2e-2)
    hold_rates(golden, f"{stem}lr", [rate, 10 * rate, judge_rate], **keywords)


def replay_advent(golden, method, judges):
    return replay(
        golden,
        method,
        HEADS_ONLY,
        judges,
        learning_rate=float(golden["loop__LEARNING_RATE"]),
        discriminator_rate=float(golden["loop__LEARNING_RATE_D"]),
        momentum=float(golden["loop__MOMENTUM"]),
        weight_decay=float(golden["loop__WEIGHT_DECAY"]),
        decay_steps=int(golden["loop__MAX_ITERS"]),
        power=float(golden["loop__POWER"]),
        head_multiplier=1.0,
        warmup_steps=0,
    )


@pytest.mark.slow
@pytest.mark.golden(
    "advent",
    "loop__((source|target)_.*|[A-KM-Z].*|LEARNING.*|LAMBDA_SEG.*)",
    "loop__(advent__.*|LAMBDA_ADV.*)",
)
def test_golden_adv_ent(golden):
    assert golden["loop__LAMBDA_SEG_MAIN"] == 1
    method = advent.adv_ent(
        adversarial=float(golden["loop__LAMBDA_ADV_MAIN"]),
        auxiliary_adversarial=float(golden["loop__LAMBDA_ADV_AUX"]),
        auxiliary=float(golden["loop__LAMBDA_SEG_AUX"]),
    )
    names = dict.fromkeys(("main", "aux"), "advent_discriminator")
    found = replay_advent(golden, method, names)
    stem = "loop__advent__"
    hold_losses(
        golden,
        stem,
        {
            "loss_seg_src_main": found["cross_entropy.0"],
            "loss_seg_src_aux": found["cross_entropy.1"],
            "loss_adv_trg_main": found["adversarial_main"],
            "loss_adv_trg_aux": found["adversarial_aux"],
            # The original logs the target's half.
            "loss_d_main": found["domain_loss.2"] / 2,
            "loss_d_aux": found["domain_loss.5"] / 2,
        },
    )
    hold_parameters(golden, stem, found, HEADS_ONLY)
    for level in names:
        hold_judge(golden, f"{stem}d_{level}_sum_l2", found[level], sums=1e-2)


@pytest.mark.golden(
    "advent",
    "loop__((source|target)_.*|[A-KM-Z].*|LEARNING.*|LAMBDA_SEG.*)",
    "loop__(minent__.*|LAMBDA_ENT.*)",
)
def test_golden_min_ent(golden):
    assert golden["loop__LAMBDA_SEG_MAIN"] == 1
    method = advent.min_ent(
        entropy=float(golden["loop__LAMBDA_ENT_MAIN"]),
        auxiliary_entropy=float(golden["loop__LAMBDA_ENT_AUX"]),
        auxiliary=float(golden["loop__LAMBDA_SEG_AUX"]),
    )
    found = replay_advent(golden, method, {})
    stem = "loop__minent__"
    hold_losses(
        golden,
        stem,
        {
            "loss_seg_src_main": found["cross_entropy.0"],
            "loss_seg_src_aux": found["cross_entropy.1"],
            "loss_ent_main": found["entropy_main"],
            "loss_ent_aux": found["entropy_aux"],
        },
    )
    hold_parameters(golden, stem, found, HEADS_ONLY)


def clan_keywords(golden):
    """Of `clan.make`, from the constants of the script."""
    return {
        "adversarial": float(golden["loop__Lambda_adv"]),
        "weight_discrepancy": 2 * float(golden["loop__Lambda_weight"]),
        "strength": float(golden["loop__Lambda_local"]),
        "epsilon": float(golden["loop__Epsilon"]),
        "decay_steps": int(golden["loop__NUM_STEPS"]),
        "discriminator_warmup_steps": int(golden["loop__PREHEAT_STEPS"]),
        "gamma": 2.0,
    }


def hold_clan(golden, method, keywords):
    """Everything that the loops of CLAN and Feature To Adapt have in common."""
    rate, judge_rate = (
        float(golden[f"loop__learning_rate{end}"]) for end in ("", "_D")
    )
    schedule = {
        "decay_steps": int(golden["loop__num_steps"]),
        "power": float(golden["loop__power"]),
        "warmup_steps": int(golden["loop__PREHEAT_STEPS"]),
    }
    found = replay(
        golden,
        method,
        ONE_LAYER,
        {"main": "fc_discriminator"},
        learning_rate=rate,
        discriminator_rate=judge_rate,
        momentum=float(golden["loop__momentum"]),
        weight_decay=float(golden["loop__weight_decay"]),
        **schedule,
    )
    damping = 1 - np.arange(len(found["total"])) / keywords["decay_steps"]
    hold_losses(
        golden,
        "loop__",
        {
            "loss_seg": found["segmentation"],
            "loss_adv": keywords["adversarial"] * damping * found["adversarial"],
            "loss_weight": keywords["weight_discrepancy"]
            * damping
            * found["weight_discrepancy"],
            "loss_D_s": found["domain_loss.1"],
            "loss_D_t": found["domain_loss.2"],
        },
    )
    hold_parameters(golden, "loop__", found, ONE_LAYER)
    hold_judge(golden, "loop__model_D_sum_l2", found["main"], sums=2e-2)
    hold_rates(golden, "loop__lr", [rate, 10 * rate, judge_rate], **schedule)
    golden.holds("loop__damping", damping.astype(np.float32))
    return found


@pytest.mark.slow
@pytest.mark.golden("clan", "loop__.*")
def test_golden_clan(golden):
    keywords = clan_keywords(golden)
    keywords["warmup_steps"] = keywords["discriminator_warmup_steps"]
    hold_clan(golden, clan.make(**keywords), keywords)


@pytest.mark.slow
@pytest.mark.golden("f2a", "loop__.*")
def test_golden_feature_to_adapt(golden):
    norm = float(golden["loop__lambda_norm"])
    keywords = {
        **clan_keywords(golden),
        "norm": norm,
        "norm_delta": float(golden["loop__delta_r"]),
    }
    found = hold_clan(golden, feature_to_adapt.make(**keywords), keywords)
    fading = 1 - 1.5 * np.arange(len(found["total"])) / keywords["decay_steps"]
    golden.holds("loop__damping_norm", fading.astype(np.float32))
    for key, domain in (("src", "source"), ("target", "target")):
        term = np.float32(norm * fading * found[f"norm_{domain}"])
        golden.holds(f"loop__loss_norm_{key}", term, LOSS)
