import numpy as np
import pytest

from lsr_jax.data import labels
from lsr_jax.evaluation import metrics, oracle


def test_the_published_row_has_the_printed_means():
    assert tuple(oracle.PUBLISHED) == labels.NAMES
    row = np.array(list(oracle.PUBLISHED.values()))
    # LSR prints 64.8, and 66.1 and 71.7 follow for the classes of SYNTHIA.
    assert 100 * metrics.mean_iou(row) == pytest.approx(64.76, abs=0.006)
    for names, mean in ((labels.NAMES_16, 66.13), (labels.NAMES_13, 71.65)):
        chosen = labels.SPACES["cityscapes"].indices(names)
        assert 100 * metrics.mean_iou(row, chosen) == pytest.approx(mean, abs=0.006)
