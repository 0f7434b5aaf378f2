"""A toy network with BatchNorm, and batches of random images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax.types import Images, Outputs

CLASSES, BATCH, HEIGHT, WIDTH = 5, 8, 9, 17


def preprocess(image):
    return image.astype(jnp.float32) / 255


def forward(params, model_state, images, train):
    """Every second pixel -> batch norm -> 1x1 convolution."""
    x = images[:, ::2, ::2]
    if train:
        count = x.size // x.shape[-1]
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        batch = {"mean": mean, "var": variance * (count / (count - 1))}
        new_state = jax.tree.map(lambda r, b: 0.9 * r + 0.1 * b, model_state, batch)
    else:
        mean, variance = model_state["mean"], model_state["var"]
        new_state = model_state
    features = (x - mean) / jnp.sqrt(variance + 1e-5)
    return Outputs(features, features @ params["kernel"]), new_state


@pytest.fixture
def params():
    kernel = np.random.default_rng(1).normal(size=(3, CLASSES)).astype(np.float32)
    return {"kernel": jnp.asarray(kernel)}


@pytest.fixture
def model_state():
    return {"mean": jnp.full(3, 0.5), "var": jnp.full(3, 0.08)}


def draw(number, label_size=(HEIGHT, WIDTH), seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (number, HEIGHT, WIDTH, 3)).astype(np.uint8)
    image[1::2] //= 3
    labels = rng.choice([0, 1, 2, 3, 4, 255], (number, *label_size)).astype(np.uint8)
    return image, labels


def batched(image, label, size=BATCH):
    """Batches; the last one is filled with a bright image and wrong labels."""
    for start in range(0, len(image), size):
        valid = np.arange(start, start + size) < len(image)
        fill = ((0, size - valid.sum()),)
        part = np.pad(
            image[start : start + size], fill + ((0, 0),) * 3, constant_values=255
        )
        truth = np.pad(label[start : start + size], fill + ((0, 0),) * 2)
        yield Images(part, truth), valid, np.arange(start, start + size)
