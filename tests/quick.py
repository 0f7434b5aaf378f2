"""Small networks and little optimisation, for steps that are compiled once and run a few times."""

import contextlib
import dataclasses
import importlib
from typing import ClassVar

import pytest
from flax import linen as nn

from lsr_jax.models import BACKBONES, initialisation, layers
from lsr_jax.models.backbone import Backbone

# The package's attributes of these names are the functions.
DISCRIMINATOR = importlib.import_module("lsr_jax.models.discriminator")
ATTENTION_PYRAMID = importlib.import_module("lsr_jax.models.attention_pyramid")


class Body(nn.Module):
    """Three convolutions, each with BatchNorm and ReLU: layer1, layer3 and layer4."""

    width: int
    options: layers.Options
    strides: tuple[int, int, int]
    levels: tuple[int, ...]

    @nn.compact
    def __call__(self, x, train):
        found = {}
        for level, stride in zip((1, 3, 4), self.strides, strict=True):
            features = self.width * 2 ** (level - 1)
            name = f"conv{level}"
            x = layers.Conv(features, stride, stride=stride, name=name)(x)
            x = nn.relu(layers.BatchNorm(self.options, name=f"bn{level}")(x, train))
            found[level] = x
        return [found[level] for level in self.levels]


@dataclasses.dataclass(frozen=True)
class ThreeLayers(Backbone):
    """A backbone that compiles in a second, with the feature sizes of a VGG."""

    width: int = 8
    repeated = ()
    initial: ClassVar = {
        "scratch": initialisation.he_normal,
        "released": initialisation.small_classifier,
    }

    @property
    def channels(self):
        return {level: self.width * 2 ** (level - 1) for level in (1, 3, 4)}

    def body(self, options, levels, *, architecture, freeze_stem_affine):
        last = {"deeplabv2": 1, "deeplabv3plus": 2}[architecture]
        return Body(self.width, options, (4, 2, last), levels)

    def feature_size(self, image_size):
        return tuple(side // 8 for side in image_size)


@contextlib.contextmanager
def backbones(**chosen):
    """Replace backbones by others, such as ``mini=ThreeLayers()``."""
    with pytest.MonkeyPatch.context() as patch:
        for name, backbone in chosen.items():
            patch.setitem(BACKBONES, name, backbone)
        yield


@contextlib.contextmanager
def discriminators():
    """Narrow ones: seconds are spent on 2.8 million parameters each."""
    narrow = {name: min(width, 4) for name, width in DISCRIMINATOR.WIDTHS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DISCRIMINATOR, "WIDTHS", narrow)
        patch.setattr(ATTENTION_PYRAMID, "WIDTH", 4)
        patch.setattr(ATTENTION_PYRAMID, "HIDDEN", 3)
        yield
