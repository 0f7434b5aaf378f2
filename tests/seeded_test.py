"""The weights with which the originals were recorded, drawn again."""

import numpy as np
import pytest
import seeded


def hold_seeded(golden, prefix, name):
    """Our reading of the rule by which the weights were drawn."""
    state = seeded.state_dict(name)
    values = [np.float64(value.astype(np.float32)) for value in state.values()]
    golden.equals(f"{prefix}param_names", list(state))
    lengths = np.array([np.linalg.norm(value) for value in values])
    golden.holds(f"{prefix}param_l2", lengths, 1e-12)
    magnitude = np.array([np.abs(value).sum() for value in values])
    sums = np.array([value.sum() for value in values])
    golden.holds(f"{prefix}param_sum", sums, 1e-12, scale=("magnitude", magnitude))


@pytest.mark.golden("deeplab_lsr", "param_.*")
def test_golden_seeded_weights_of_lsr(golden):
    hold_seeded(golden, "", "lsr_resnet101")


@pytest.mark.golden("deeplab_others", "(clan|multi)_resnet101__param_.*")
@pytest.mark.parametrize("name", ["clan_resnet101", "multi_resnet101"])
def test_golden_seeded_weights_of_the_others(golden, name):
    golden.only(f"{name}__.*")
    hold_seeded(golden, f"{name}__", name)


@pytest.mark.golden("deeplab_vgg", "vgg1[36]__param_.*")
@pytest.mark.parametrize("name", ["vgg16", "vgg13"])
def test_golden_seeded_weights_of_vgg(golden, name):
    golden.only(f"{name}__.*")
    hold_seeded(golden, f"{name}__", f"lsr_{name}")
