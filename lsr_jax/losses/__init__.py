"""Pure losses of arrays: no weights, no configuration, no state.

Every loss is a scalar, finite in value and gradient also when classes are absent or all
labels are ignored.
"""

from lsr_jax.losses.adversarial import (
    cosine_discrepancy,
    domain_loss,
    local_weights,
    weight_discrepancy,
)
from lsr_jax.losses.cag import anchor_distance, cell_anchor_distance, image_class_means
from lsr_jax.losses.entropy import (
    entropy,
    image_weights,
    max_squares,
    normalised_entropy,
    self_information,
    soft_cross_entropy,
)
from lsr_jax.losses.feature_distance import feature_distance, majority_labels
from lsr_jax.losses.feature_norm import damping, stepwise_norm
from lsr_jax.losses.lsr import (
    class_mean_norms,
    clustering,
    mean_norm,
    norm_alignment,
    perpendicularity,
)
from lsr_jax.losses.oce import contraction, orthogonality, spacing, sparsity
from lsr_jax.losses.segmentation import (
    cross_entropy,
    focal_cross_entropy,
    weighted_cross_entropy,
)
from lsr_jax.losses.swd import (
    absolute_discrepancy,
    random_directions,
    sliced_wasserstein,
)
