"""Networks: ``build`` a segmenter; ``discriminator`` and ``attention_pyramid``, domains."""

from lsr_jax.models.attention_pyramid import attention_pyramid
from lsr_jax.models.build import BACKBONES, Model, build
from lsr_jax.models.discriminator import discriminator
from lsr_jax.models.resnet import Architecture

__all__ = [
    "BACKBONES",
    "Architecture",
    "Model",
    "attention_pyramid",
    "build",
    "discriminator",
]
