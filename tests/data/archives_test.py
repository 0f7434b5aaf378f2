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
        head, tail, size = one.ends("a/y_image.png")
        assert head == (b"a/y_image.png" * 20)[: archives.HEAD]
        assert tail in (
            b"",
            b"y_image.png"[-archives.TAIL :].rjust(archives.TAIL, b"/"),
        )
        assert size == 260
        assert one.where("a/x_image.png").endswith("/a/x_image.png")


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/etc/passwd", "a\\b"])
def test_no_name_leaves_the_root(name, folder, tmp_path):
    (tmp_path.parent / "secret").write_bytes(b"secret")
    with pytest.raises(InputError, match=r"not below"):
        archives.Folder(folder).read(name)
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, b"content")
    assert not archives.Zips([path]).match("*/*")
    assert not archives.Zips([path]).match(name)


def test_unreadable_files_are_named(folder, archive):
    with pytest.raises(InputError, match=r"a/none.png: expected a file"):
        archives.Folder(folder).read("a/none.png")
    with pytest.raises(InputError, match=r"a/none.png: expected a file"):
        archives.Folder(folder).ends("a/none.png")
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
        file.writestr("a/z.png", b"content")
    found = archives.Zips([folder / "lines.zip"]).match("a/*.png")
    assert found == {("z",): "a/z.png"}
