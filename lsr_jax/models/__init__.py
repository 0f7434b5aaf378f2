"""Networks: ``build`` a segmenter, ``discriminator`` for the adversarial methods."""

from lsr_jax.models.discriminator import discriminator
from lsr_jax.models.resnet import Architecture
from lsr_jax.models.segmenter import Model, build

__all__ = ["Architecture", "Model", "build", "discriminator"]
