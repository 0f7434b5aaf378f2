"""One line for whatever a decoder raises, and nothing hidden that is not its."""

import re
import struct

import pytest

from lsr_jax import decoding, errors

FOUND = [
    (struct.error("odd"), "odd"),
    (RuntimeError("first\nsecond"), "first"),
    (AssertionError(), "AssertionError"),
    (KeyError("size"), "KeyError 'size'"),
    (FileNotFoundError(2, "No such file", "x"), "No such file"),
    (ValueError("y" * 9999), "y" * decoding.LONGEST),
]


@pytest.mark.parametrize(("error", "found"), FOUND)
def test_what_a_decoder_raises_is_one_line(error, found):
    line = f"a b: expected a map, found: {found}; draw it again"
    with (
        pytest.raises(errors.InputError, match=f"^{re.escape(line)}$") as caught,
        decoding.reading("a\nb", "a map", "draw it again"),
    ):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [errors.InputError("mine"), KeyboardInterrupt()])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, decoding.reading("a", "b", "c"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"{", b"\xff", b"", b"NaN"])
def test_json_that_is_no_object(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(errors.InputError, match=r"a\.json: expected b, found: .*; c$"):
        decoding.read_json(path, "b", "c")
    path.write_bytes(b'{"a": 1}')
    assert decoding.read_json(path, "b", "c") == {"a": 1}
