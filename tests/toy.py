"""A network of two layers with BatchNorm-like state, for tests of everything above it."""

import jax
import jax.numpy as jnp
import numpy as np

from lsr_jax.types import (
    Batch,
    BatchSpec,
    Context,
    Images,
    Outputs,
    Pixels,
    Preparation,
)

NUM_CLASSES = 5
FEATURES = 6
SIZE = (32, 48)
FEATURE_SIZE = (4, 6)
# As if the input of the network were RGB 0..255.
PIXELS = Pixels(lambda image: image, lambda image: image)


def init(key, head="single"):
    """Parameters and state; every head but "single" adds a second one."""
    first, second, third, fourth = jax.random.split(key, 4)
    params = {
        "backbone": {"conv1": {"kernel": 0.1 * jax.random.normal(first, (8, 8, 3, 6))}},
        "head": {
            "kernel": jax.random.normal(second, (FEATURES, NUM_CLASSES)),
            "bias": 0.1 * jax.random.normal(third, (NUM_CLASSES,)),
        },
    }
    if head != "single":
        params["aux_head"] = {
            "kernel": jax.random.normal(fourth, (FEATURES, NUM_CLASSES)),
            "bias": jnp.full(NUM_CLASSES, 0.1, jnp.float32),
        }
    return params, {"mean": jnp.zeros(FEATURES), "var": jnp.ones(FEATURES)}


def forward(params, model_state, images, train, rng=None, dropout=True):
    """Convolution with stride 8, batch normalisation without affine, ReLU, linear heads."""
    x = jax.lax.conv_general_dilated(
        images,
        params["backbone"]["conv1"]["kernel"],
        window_strides=(8, 8),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    mean, var = model_state["mean"], model_state["var"]
    if train:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        model_state = {
            "mean": 0.9 * model_state["mean"] + 0.1 * mean,
            "var": 0.9 * model_state["var"] + 0.1 * var,
        }
    features = jax.nn.relu((x - mean) * jax.lax.rsqrt(var + 1e-5))
    logits, *others = (
        features @ params[name]["kernel"] + params[name]["bias"]
        for name in ("head", "aux_head")
        if name in params
    )
    return Outputs(features, logits, *others), model_state


def problem(method, key, *, step=0, batch_size=2):
    """``(params, method_state, batch, context)`` of one step of ``method``."""
    network, model_state = init(key, method.heads[0])
    spec = BatchSpec(NUM_CLASSES, FEATURES, SIZE, SIZE)
    extra, method_state = method.init(key, network, model_state, spec)
    context = Context(forward, model_state, jnp.asarray(step), key, PIXELS)
    params = {"model": network, **extra}
    return params, method_state, batch(key, batch_size, method), context


def images(key, batch_size, *, labelled=True, classes=NUM_CLASSES):
    """Blocks of random labels, so that cells of the feature map have a class."""
    image_key, label_key = jax.random.split(key)
    blocks = jax.random.randint(label_key, (batch_size, 2, 3), 0, classes)
    label = jnp.repeat(jnp.repeat(blocks, SIZE[0] // 2, 1), SIZE[1] // 3, 2)
    noise = jax.random.normal(image_key, (batch_size, *SIZE, 3))
    return Images(
        noise + label[..., None].astype(jnp.float32), label if labelled else None
    )


def batch(key, batch_size, method, **keywords):
    """What the pipeline would deliver to ``method``, as network input."""
    keys = dict(zip(("source", "target"), jax.random.split(key), strict=True))
    return Batch(
        **{
            name: images(
                keys[name], batch_size, labelled=method.gets_labels(name), **keywords
            )
            if name in method.domains
            else None
            for name in keys
        }
    )


def preparation(
    key, method, folder, *, valid=((True,) * 4, (True, True, False, False))
):
    """What ``method`` would prepare itself from: images of both domains.

    The pseudo-labeler is a fresh network; ``valid`` says which images of which batch count.
    """
    params, model_state = init(jax.random.fold_in(key, 100), method.heads[0])

    def batches(domain, labelled):
        assert not labelled or domain in method.labelled
        place = ("source", "target").index(domain)
        for number, present in enumerate(valid):
            own = jax.random.fold_in(key, 2 * number + place)
            found = images(own, len(present), labelled=labelled)
            yield found, np.array(present), tuple(map(str, range(len(present))))

    return Preparation(
        forward=forward,
        params=params,
        model_state=model_state,
        num_classes=NUM_CLASSES,
        batches=batches,
        compile=jax.jit,
        folder=folder,
        writes=True,
    )
