"""Networks: ``build`` a segmenter, ``discriminator`` for the adversarial methods."""

from lsr_jax.models.build import BACKBONES, Model, build
from lsr_jax.models.discriminator import discriminator
from lsr_jax.models.resnet import Architecture

__all__ = ["BACKBONES", "Architecture", "Model", "build", "discriminator"]
