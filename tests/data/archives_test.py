import pickle
import zipfile

import pytest

from lsr_jax.data import archives
from lsr_jax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for name in (
        "a/x_image.png",
        "a/y_image.png",
        "b/x_image.png",
        "a/deep/z_image.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 20)
    return tmp_path


@pytest.fixture
def archive(folder, tmp_path):
    path = tmp_path / "files.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("a/x_image.png", "a/y_image.png", "b/x_image.png"):
            file.write(folder / name, name)
    return path


def test_folder_and_archive_agree(folder, archive):
    plain, zipped = archives.Folder(folder), archives.Zips([archive])
    expected = {("a", "x"): "a/x_image.png", ("a", "y"): "a/y_image.png"}
    for one in (plain, zipped, pickle.loads(pickle.dumps(zipped))):
        assert one.match("{a,c}/*_image.png") == {
            (k[1],): v for k, v in expected.items()
        }
        assert one.match("*/*_image.png") == expected | {("b", "x"): "b/x_image.png"}
        assert one.read("a/x_image.png") == b"a/x_image.png" * 20
        with one.open("a/y_image.png") as file:
            assert file.read(15) == b"a/y_image.pnga/"
        assert one.exists("a/y_image.png")
        assert not one.exists("a/z_image.png")
        assert one.where("a/x_image.png").endswith("/a/x_image.png")


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/etc/passwd", "a\\b"])
def test_no_name_leaves_the_root(name, folder, tmp_path):
    (tmp_path.parent / "secret").write_bytes(b"secret")
    reason = "has a backslash" if "\\" in name else "not below the data folder"
    with pytest.raises(InputError, match=reason):
        archives.Folder(folder).read(name)
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, b"content")
    with pytest.raises(InputError, match=f"evil.zip: member '.*': {reason}"):
        archives.Zips([path])


def test_unreadable_files_are_named(folder, archive):
    with pytest.raises(InputError, match=r"a/none.png: expected a file"):
        archives.Folder(folder).read("a/none.png")
    with pytest.raises(InputError, match=r"a/none.png: expected a file"):
        archives.Folder(folder).version("a/none.png")
    with pytest.raises(InputError, match=r"none.png: .* no item named"):
        archives.Zips([archive]).read("none.png")
    damaged = folder / "damaged.zip"
    data = bytearray(archive.read_bytes())
    data[60] ^= 255
    damaged.write_bytes(data)
    with pytest.raises(InputError, match=r"a/x_image.png: .* restore the file"):
        archives.Zips([damaged]).read("a/x_image.png")
    (folder / "no.zip").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"no.zip: expected a file"):
        archives.Zips([folder / "no.zip"])


def test_a_file_has_a_largest_size(folder, archive, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST", 100)
    for one in (archives.Folder(folder), archives.Zips([archive])):
        with pytest.raises(InputError, match=r"larger than 100 bytes"):
            one.read("a/x_image.png")


@pytest.mark.parametrize(
    ("mark", "place", "value", "found"),
    [
        (b"PK\1\2", 8, 1, "encrypted"),
        (b"PK\1\2", 10, 99, "compression method"),
        (b"PK\1\2", 6, 99, "version 9.9"),
    ],
)
def test_members_that_cannot_be_read_are_named(
    mark, place, value, found, folder, archive
):
    data = bytearray(archive.read_bytes())
    data[data.index(mark) + place] = value
    archive.write_bytes(data)

    def read():
        return archives.Zips([archive]).read("a/x_image.png")

    with pytest.raises(InputError, match=f"files.zip.*{found}.*restore the file"):
        read()


def test_no_name_breaks_a_line(folder):
    with zipfile.ZipFile(folder / "lines.zip", "w") as file:
        file.writestr("a/x\ny.png", b"content")
    (folder / "a" / "x\ny.png").write_bytes(b"content")
    with pytest.raises(InputError, match=r"member 'a/x\\ny.png': has a control char"):
        archives.Zips([folder / "lines.zip"])
    with pytest.raises(InputError, match=r"^'a/x\\ny.png': has a control character"):
        archives.Folder(folder).match("a/*.png")


def test_names_that_a_mac_adds_are_no_files(folder):
    for name in ("a/._x_image.png", "._a/x_image.png", "a/.hidden"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"Mac OS X")
    one = archives.Folder(folder)
    assert set(one.match("*/*_image.png")) == {("a", "x"), ("a", "y"), ("b", "x")}
    assert one.match("a/*") == {
        ("x_image.png",): "a/x_image.png",
        ("y_image.png",): "a/y_image.png",
    }


def test_endings_in_capitals_are_the_same(folder):
    (folder / "a" / "z_image.PNG").write_bytes(b"z")
    (folder / "a [1]").mkdir()
    (folder / "a [1]" / "z_image.Png").write_bytes(b"z")
    one = archives.Folder(folder)
    assert one.match("a/*_image.{png,jpg}")[("z",)] == "a/z_image.PNG"
    assert one.match("a [1]/*.png") == {("z_image",): "a [1]/z_image.Png"}
    assert ("z",) not in one.match("a/*_IMAGE.png")


def test_two_files_for_one_name_are_an_error(folder, archive):
    (folder / "a" / "x_image.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"a/x_image.png: a/x_image.jpg is a second"):
        archives.Folder(folder).match("a/*.{jpg,png}")
    with pytest.raises(InputError, match=r"a/x_image.png is a second file"):
        archives.Zips([archive, archive]).match("a/*.png")


def test_versions_change_with_the_content(folder, archive, tmp_path):
    one = archives.Folder(folder)
    before = one.version("a/x_image.png")
    (folder / "a" / "x_image.png").write_bytes(b"b/x_image.png" * 20)
    assert one.version("a/x_image.png") != before
    zipped = archives.Zips([archive])
    assert zipped.version("a/x_image.png") != zipped.version("b/x_image.png")
