import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from lsr_jax.data import encoded


@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 3)])
def test_png_is_lossless(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = np.asarray(Image.open(io.BytesIO(encoded.png(pixels))))
    np.testing.assert_array_equal(found, pixels)


def test_a_tally_counts_what_passes():
    records = [
        encoded.Record(name, b"", b"", f"{name} hash", np.eye(256, dtype=int)[number])
        for number, name in enumerate("ab")
    ]
    tally = encoded.Tally()
    assert list(tally.watch(records)) == records
    assert tally.count == 2
    assert tally.pixels[:3].tolist() == [1, 1, 0]
    expected = hashlib.sha256(b"a a hash\nb b hash\n").hexdigest()
    assert tally.sha256 == expected
    splits = {"z": {"sha256": "1"}, "y": {"sha256": "2"}}
    expected = hashlib.sha256(b"y 2\nz 1\n").hexdigest()
    assert encoded.combined_sha256(splits) == expected


def test_digest_is_over_image_then_label():
    image, label = np.ones((1, 2, 3), np.uint8), np.zeros((1, 2), np.uint8)
    expected = hashlib.sha256(b"\1" * 6 + b"\0" * 2).hexdigest()
    assert encoded.digest(image, label) == expected
