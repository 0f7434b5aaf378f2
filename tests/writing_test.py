"""A file is the old one or the new one."""

import errno

import pytest

from lsr_jax import writing


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "table.md"
    for content in ("old", "näher"):
        writing.text(path, content)
        assert path.read_text(encoding="utf-8") == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", [OSError, ZeroDivisionError])
def test_a_failure_leaves_the_old_file_and_nothing_else(kind, tmp_path):
    path = tmp_path / "panel.png"
    path.write_bytes(b"old")

    def write():
        with writing.replacing(path) as temporary:
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
    with pytest.raises(OSError, match=wanted), writing.naming(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="'other'"), writing.naming(path):
        raise OSError(errno.ENOSPC, "No space left on device", "other")
