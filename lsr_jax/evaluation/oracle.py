"""IoU of networks trained on target labels, to which adapted ones are compared (ASR)."""

from __future__ import annotations

from lsr_jax.data import labels

SOURCE = "LSR, Table 1 (CVPRW 2021)"
PUBLISHED = dict(
    zip(
        labels.NAMES,
        (
            *(0.965, 0.738, 0.884, 0.422, 0.437, 0.407, 0.461, 0.586, 0.885, 0.549),
            *(0.919, 0.687, 0.462, 0.907, 0.688, 0.699, 0.488, 0.476, 0.645),
        ),
        strict=True,
    )
)
"""Cityscapes val, DeepLabV2 with ResNet-101, "target only"; mean 0.648."""
