import jax
import numpy as np
from jax.sharding import AxisType

from lsr_jax import placement


def test_batches_are_split_and_the_rest_is_everywhere():
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    rows = np.arange(16.0).reshape(16, 1)
    split = placement.put_split({"rows": rows}, mesh)["rows"]
    whole = placement.put_replicated({"rows": rows}, mesh)["rows"]
    np.testing.assert_array_equal(split, rows)
    assert {shard.data.shape for shard in split.addressable_shards} == {(2, 1)}
    assert {shard.data.shape for shard in whole.addressable_shards} == {(16, 1)}
    assert split.sharding == placement.split(mesh)
    assert whole.sharding == placement.replicated(mesh)
