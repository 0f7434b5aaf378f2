import os
from pathlib import Path

import pytest

from lsr_jax import decoding, networks, paths
from lsr_jax.data import description, listing
from lsr_jax.data.layouts import LAYOUTS
from lsr_jax.errors import InputError

FOREIGN = os.fsdecode(b"caf\xe9")  # Latin-1


def test_a_home_folder_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.expanded("~/runs") == tmp_path / "runs"
    assert paths.expanded(Path("runs/~")) == Path("runs/~")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "^--out: expected a path, found nothing$"),
        ("~nouser/x", "^--out ~nouser/x: expected the home folder of ~nouser, found"),
        (FOREIGN, r"^--out caf\\udce9: expected a name in UTF-8"),
    ],
)
def test_a_path_that_is_none_is_one_line(path, message):
    with pytest.raises(InputError, match=message) as caught:
        paths.expanded(path, key="--out")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "read",
    [
        networks.find,
        description.read,
        listing.read_list,
        lambda path: listing.open_files(LAYOUTS["gta5"], path),
        lambda path: decoding.read_json(path, "a file", "restore it"),
    ],
)
def test_readers_name_the_home_folder_that_is_missing(read):
    with pytest.raises(InputError, match="~nouser/x: expected the home folder"):
        read("~nouser/x")
