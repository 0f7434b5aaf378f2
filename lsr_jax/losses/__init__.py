"""Pure losses of arrays: no weights, no configuration, no state.

Every loss is a scalar, finite in value and gradient also when classes are absent or all
labels are ignored.
"""

from lsr_jax.losses.entropy import (
    entropy,
    image_weights,
    max_squares,
    soft_cross_entropy,
)
from lsr_jax.losses.latent import (
    class_mean_norms,
    clustering,
    mean_norm,
    norm_alignment,
    perpendicularity,
)
from lsr_jax.losses.segmentation import cross_entropy, focal_cross_entropy

__all__ = [
    "class_mean_norms",
    "clustering",
    "cross_entropy",
    "entropy",
    "focal_cross_entropy",
    "image_weights",
    "max_squares",
    "mean_norm",
    "norm_alignment",
    "perpendicularity",
    "soft_cross_entropy",
]
