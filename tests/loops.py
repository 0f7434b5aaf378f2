"""Training loops of the adversarial originals on tiny networks, run by the real step.

In float64, so that what differs is the rounding of the originals alone.
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
from lsr_jax.training import optimizer, state, step
from lsr_jax.types import Batch, BatchSpec, Images, Outputs

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
