import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax.ops import masking


@pytest.mark.parametrize("number", range(5))
@pytest.mark.golden("mic", "mask.__.*")
def test_mask_is_that_of_the_original(golden, number, monkeypatch):
    golden.only(f"mask{number}__.*")
    height, width, block = (int(x) for x in golden[f"mask{number}__size"])
    drawn = golden[f"mask{number}__uniform"]

    def uniform(key, shape, dtype):
        assert shape == drawn.shape
        return jnp.asarray(drawn)

    monkeypatch.setattr(jax.random, "uniform", uniform)
    ours = masking.block_mask(
        jax.random.key(0),
        (len(drawn), height, width),
        block=block,
        ratio=float(golden[f"mask{number}__ratio"]),
    )
    golden.holds(f"mask{number}__mask", ours.astype(jnp.int32))


def test_share_and_blocks(key):
    mask = masking.block_mask(key, (8, 64, 96), block=4, ratio=0.7)
    assert mask.dtype == bool
    blocks = np.asarray(mask).reshape(8, 16, 4, 24, 4)
    assert (blocks == blocks[:, :, :1, :, :1]).all()
    np.testing.assert_allclose(mask.mean(), 0.3, atol=0.03)
