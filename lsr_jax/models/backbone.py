"""What `build` needs to know of a backbone: one subclass of `Backbone` a family."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import ClassVar

from flax import linen as nn

from lsr_jax.models.initialisation import Rule
from lsr_jax.models.layers import Options


class Backbone(abc.ABC):
    """A network body under the heads of DeepLab.

    Attributes:
      repeated: ``((pattern, count), ...)``: regular expressions, for ``re.search`` on
        paths, of parameters that the optimisers of the originals list ``count`` times
        and so update as often (once for every module that encloses them: LSR, OCE,
        MaxSquare, AdaptSegNet, ADVENT, CLAN, Feature To Adapt, BDL). First match wins.
      half_pixel: whether its networks enlarge logits with half-pixel corners, up to the
        image, as mmseg; else the loss enlarges them with aligned corners.
      initial: rules of the initial weights, by ``initialisation`` of `build`.
    """

    half_pixel = False
    repeated: ClassVar[Sequence[tuple[str, int]]]
    initial: ClassVar[Mapping[str, Rule]]

    @property
    @abc.abstractmethod
    def channels(self) -> Mapping[int, int]:
        """Output channels of the layers that the body can return, from 1 to 4."""

    @abc.abstractmethod
    def body(
        self,
        options: Options,
        levels: tuple[int, ...],
        *,
        architecture: str,
        freeze_stem_affine: bool,
    ) -> nn.Module:
        """Module ``(images, train) -> [outputs of levels]``, all non-negative."""

    @abc.abstractmethod
    def feature_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of layer4 in DeepLabV2 for an ``(H, W)`` image."""
