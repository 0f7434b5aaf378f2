"""Use LSR's losses in your own training loop, with any network and any optax optimizer.

    python -m examples.lsr_losses --steps 100

Everything taken from lsr_jax is a pure function of arrays: losses, class prototypes, label
downsampling. The network has to return a feature map beside its logits. Here it is a small
convolutional network, and the images are drawn by `lsr_jax.streets`; replace both.
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lsr_jax import losses, streets
from lsr_jax.ops import prototypes, pseudo_labels, resample

NUM_CLASSES = 19
FEATURES = 64
WEIGHTS = {"clustering": 0.1, "perpendicularity": 0.2, "norm": 0.025}


class Network(nn.Module):
    """Stands for your network."""

    @nn.compact
    def __call__(self, images):
        """Return features and logits at an eighth of the size of the images."""
        x = images
        for width in (16, 32, FEATURES):
            x = nn.relu(nn.Conv(width, (3, 3), strides=2)(x))
        return x, nn.Conv(NUM_CLASSES, (1, 1))(x)


def loss_fn(params, state, source, label, target):
    """Cross-entropy on the source and LSR's terms (equations 1 to 8) on both domains.

    Args:
      params: of the network.
      state: smoothed prototypes, and the mean feature norm of the previous step.
      source: labeled images ``[B, H, W, 3]``.
      label: ``[B, H, W]``, 255 where there is none.
      target: unlabeled images ``[B, H, W, 3]``.

    Returns:
      total loss, (next state, unweighted terms).
    """
    old, previous_norm = state
    features_s, logits_s = Network().apply(params, source)
    features_t, logits_t = Network().apply(params, target)
    cells = features_s.shape[1:3]

    # Labels of feature vectors: from the ground truth, and from confident predictions.
    label_s = pseudo_labels.histogram_downsample(
        label, size=cells, num_classes=NUM_CLASSES
    )
    label_t = pseudo_labels.confident(
        resample.bilinear(logits_t, target.shape[1:3]), size=cells
    )

    means, counts = prototypes.class_means(features_s, label_s, num_classes=NUM_CLASSES)
    smoothed = prototypes.update(old, means, counts)
    norm = losses.mean_norm(features_s)
    wanted = jnp.where(previous_norm == 0, norm, previous_norm)

    terms = {
        "clustering": sum(
            losses.clustering(features, cell_label, smoothed.mean, smoothed.seen)
            for features, cell_label in ((features_s, label_s), (features_t, label_t))
        ),
        "perpendicularity": losses.perpendicularity(means, counts > 0),
        "norm": losses.norm_alignment(features_s, wanted, delta=0.002)
        + losses.norm_alignment(features_t, wanted, delta=0.002, side="below"),
    }
    segmentation = losses.cross_entropy(
        resample.bilinear(logits_s, source.shape[1:3]), label
    )
    total = segmentation + sum(WEIGHTS[name] * term for name, term in terms.items())
    return total, ((smoothed, norm), {"segmentation": segmentation, **terms})


def images_of(domain, count, size=(64, 128)):
    """Images in [-1, 1] and labels of a domain of `streets`."""
    drawn = [
        streets.draw(i, domain=domain, split="train", size=size) for i in range(count)
    ]
    images, labels = (np.stack(arrays) for arrays in zip(*drawn, strict=True))
    return images.astype(np.float32) / 127.5 - 1, labels.astype(np.int32)


def train(steps, count=8):
    """Train on ``count`` images of each domain; the terms of every step."""
    source, label = images_of("rendered", count)
    target, _ = images_of("camera", count)
    optimizer = optax.adam(1e-3)
    params = Network().init(jax.random.key(0), source[:1])
    opt_state = optimizer.init(params)
    state = (prototypes.init(NUM_CLASSES, FEATURES), jnp.zeros(()))

    @jax.jit
    def step(params, opt_state, state):
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (_, (state, terms)), grads = grad_fn(params, state, source, label, target)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, state, terms

    history = []
    for _ in range(steps):
        params, opt_state, state, terms = step(params, opt_state, state)
        history.append(jax.tree.map(float, terms))
    return history


def main():
    """Train and print every tenth step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    for number, terms in enumerate(train(parser.parse_args().steps)):
        if number % 10 == 0:
            values = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
            print(f"step {number:4d}  {values}")


if __name__ == "__main__":
    main()
