import errno
import re
import struct
from pathlib import Path

import pytest

from lsr_jax import errors, files
from lsr_jax.data import custom, listing
from lsr_jax.data.layouts import LAYOUTS
from lsr_jax.errors import InputError
from lsr_jax.training import weights


def test_a_home_folder_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.expanded("~/runs") == tmp_path / "runs"
    assert files.expanded(Path("runs/~")) == Path("runs/~")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "^--out: is empty$"),
        ("~nouser/x", "^--out ~nouser/x: no such home folder; write the whole path$"),
    ],
)
def test_a_path_that_is_none_is_one_line(path, message):
    with pytest.raises(InputError, match=message) as caught:
        files.expanded(path, key="--out")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "read",
    [
        weights.resolve,
        custom.read,
        lambda path: listing.read_list(path, LAYOUTS["gta5"], Path(), {}, bool),
        lambda path: listing.open_files(LAYOUTS["gta5"], path),
        lambda path: files.read_json(path, "a file", "restore it"),
    ],
)
def test_readers_name_the_home_folder_that_is_missing(read):
    with pytest.raises(InputError, match="~nouser/x: no such home folder"):
        read("~nouser/x")


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "table.md"
    for content in ("old", "näher"):
        files.text(path, content)
        assert path.read_text(encoding="utf-8") == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", [OSError, ZeroDivisionError])
def test_a_failure_leaves_the_old_file_and_nothing_else(kind, tmp_path):
    path = tmp_path / "panel.png"
    path.write_bytes(b"old")

    def write():
        with files.replacing(path) as temporary:
            assert temporary.suffix == ".png"
            temporary.write_bytes(b"half")
            raise kind

    with pytest.raises(kind):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    wanted = f"No space left on device: '{path}'"
    with pytest.raises(OSError, match=wanted), files.naming(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="'other'"), files.naming(path):
        raise OSError(errno.ENOSPC, "No space left on device", "other")


FOUND = [
    (struct.error("odd"), "odd"),
    (RuntimeError("first\nsecond"), "first"),
    (AssertionError(), "AssertionError"),
    (KeyError("size"), "KeyError 'size'"),
    (FileNotFoundError(2, "No such file", "x"), "No such file"),
    (ValueError("y" * 9999), "y" * files.LONGEST),
]


@pytest.mark.parametrize(("error", "found"), FOUND)
def test_what_a_decoder_raises_is_one_line(error, found):
    line = f"a b: expected a map, found: {found}; draw it again"
    with (
        pytest.raises(errors.InputError, match=f"^{re.escape(line)}$") as caught,
        files.reading("a\nb", "a map", "draw it again"),
    ):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [errors.InputError("mine"), KeyboardInterrupt()])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, files.reading("a", "b", "c"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"{", b"\xff", b"", b"NaN"])
def test_json_that_is_no_object(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(errors.InputError, match=r"a\.json: expected b, found: .*; c$"):
        files.read_json(path, "b", "c")
    path.write_bytes(b'{"a": 1}')
    assert files.read_json(path, "b", "c") == {"a": 1}
