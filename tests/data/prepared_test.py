"""Lists of a prepared folder that somebody changed: never another image in silence."""

import json

import pytest

from lsr_jax.data import prepare, prepared
from lsr_jax.data.labels import SPACES
from lsr_jax.data.layouts import LAYOUTS
from lsr_jax.errors import InputError

LAYOUT = LAYOUTS["gta5"]


@pytest.fixture
def folder(downloads, tmp_path):
    root = downloads / "gta5"
    return prepare.prepare(LAYOUT, root, size=(32, 64), out=tmp_path, progress=False)


def read(folder, split="train"):
    data = prepared.Prepared(LAYOUT, folder, space=SPACES["cityscapes"])
    return [record["id"] for record in data.open(split)]


CHANGES = {
    "missing": None,
    "one line more": lambda lines: [*lines, "images/00009.png"],
    "one line less": lambda lines: lines[:-1],
    "another order": lambda lines: lines[::-1],
    "another name": lambda lines: ["images/00000.png", *lines[1:]],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("older", [False, True])
def test_a_changed_list_is_one_line(change, older, folder):
    path = folder / prepared.names_file("train")
    names = path.read_text().splitlines()
    if older:  # a folder that was prepared before lists had a hash
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["splits"]["train"]["names_sha256"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
    assert read(folder) == names
    path.unlink()
    if CHANGES[change]:
        path.write_text("".join(f"{name}\n" for name in CHANGES[change](names)))
    for split in ("train", "val_lsr"):
        if older and (change, split) == ("another name", "val_lsr"):
            continue  # it is not among those that are read
        with pytest.raises(InputError, match=f"^{folder}: .*prepare gta5$") as caught:
            read(folder, split)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["dataset", "ids", "size", "splits"])
def test_a_manifest_without_a_key_is_one_line(key, folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: 3}))
    with pytest.raises(InputError, match=f"found: 3 for '{key}'; remove"):
        read(folder)
