"""`python -m lsr_jax.predict` on a fresh network and a few pictures."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import saved

from lsr_jax import cli, predict, streets
from lsr_jax.data import label_spaces
from lsr_jax.errors import InputError
from lsr_jax.evaluation import predictor
from lsr_jax.training import weights


@pytest.fixture(scope="module")
def run(load_config, tmp_path_factory):
    config = load_config("streets", "source_only,tiny")
    config["num_devices"] = 2
    folder = tmp_path_factory.mktemp("runs") / "run"
    return saved.run(folder, config, {"source": (1,)})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three pictures, the first of the network's size."""
    folder = tmp_path_factory.mktemp("images")
    for number, size in enumerate(((64, 128), (80, 150), (40, 100))):
        image, _ = streets.draw(number, domain="camera", split="test", size=size)
        cv2.imwrite(os.fspath(folder / f"{number}.png"), image[..., ::-1])
    return folder


@pytest.fixture(autouse=True)
def _share_cpu(monkeypatch):
    # JAX is already in use here.
    monkeypatch.setattr(predict.compile, "configure", lambda cpu_devices: None)


def read(path):
    return cv2.imread(os.fspath(path), cv2.IMREAD_UNCHANGED)


def ask(workdir, images, out, **given):
    """The options of the command, with these values."""
    flags = cli.Flags()
    predict.define(flags)
    options, _ = cli.parse(flags, ["--workdir=", "--images=", "--out=out"])
    values = {"workdir": str(workdir), "images": str(images), "out": str(out), **given}
    vars(options).update(values)
    return options


def test_every_kind_of_every_image(run, images, tmp_path):
    out = tmp_path / "out"
    written = predict.predict(ask(run, f"{images}/*.png", out))
    assert len(written) == len(set(written)) == 12
    for name, size in (
        ("0.png", (64, 128)),
        ("1.png", (80, 150)),
        ("2.png", (40, 100)),
    ):
        train = read(out / "train_ids" / name)
        assert train.shape == size
        space = label_spaces.SPACES["cityscapes"]
        np.testing.assert_array_equal(
            space.encode(read(out / "cityscapes_ids" / name)), train
        )
        color = read(out / "color" / name)[..., ::-1]
        np.testing.assert_array_equal(color, label_spaces.colorize(train, space))
        overlay = read(out / "overlay" / name)[..., ::-1].astype(int)
        image = read(images / name)[..., ::-1].astype(int)
        assert np.abs(overlay - (image + color) / 2).max() <= 1


def test_predictions_are_those_of_the_network_of_the_run(run, images, tmp_path):
    place = weights.resolve(str(run))
    network = predict.load(place, place.config, predictor.ONE_VIEW)
    image = read(images / "0.png")[..., ::-1]
    expected = network.predictor.predict(*network[1:], image[None])[0]
    agreement = {}
    for mode in ("resize", "slide"):
        given = {"mode": mode, "kinds": ["train_ids"]}
        (file,) = predict.predict(ask(run, f"{images}/0.png", tmp_path, **given))
        agreement[mode] = (read(file) == expected).mean()
    # One window covers the image; a softmax of each pixel does not move its maximum.
    assert agreement == {"resize": 1, "slide": 1}


def test_what_is_wrong_is_named_before_anything_is_written(
    run, images, load_config, tmp_path
):
    config = load_config("streets", "source_only,tiny")
    base = {"workdir": run, "images": f"{images}/*.png", "out": tmp_path / "out"}
    (tmp_path / "w.safetensors").write_bytes(b"")
    (images / "bad.txt").write_text("no image")
    for changes, message in (
        ({"images": f"{images}/*.gif"}, "--images .*found none"),
        ({"out": f"{images}/0.png"}, "--out .*cannot be written"),
        ({"overlap": 0.2}, "--overlap: is for --mode slide, found resize"),
        (
            {"mode": "slide", "overlap": 1.0},
            "--overlap: expected 0 to below 1, found 1",
        ),
        ({"mode": "slide", "overlap": float("nan")}, "--overlap: expected"),
        ({"size": (99999999, 99999999)}, "expected at most 67108864 pixels"),
        ({"kinds": ["colour"]}, "--kinds: .*'colour'"),
        ({"scales": ["x"]}, "--scales: expected positive numbers"),
        ({"step": 5}, "found 5, expected one of the saved steps 1"),
        ({"workdir": str(tmp_path / "w.safetensors")}, "by --config"),
        ({"images": f"{images}/*.*"}, r"bad\.txt: expected an image file"),
        (
            {"workdir": str(tmp_path / "w.safetensors"), "config": config},
            "expected a PyTorch or safetensors file",
        ),
        (
            {"config": load_config("synthia2cs", "source_only,tiny")},
            "has 19 classes, the config 16; use the config of its data",
        ),
    ):
        with pytest.raises(InputError, match=message) as caught:
            predict.predict(ask(**{**base, **changes}))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


def test_another_config_says_the_size(run, images, load_config, tmp_path, monkeypatch):
    sizes = []

    def resize(network, images, *, size, batch_size):
        sizes.append(size)
        return [np.zeros(image.shape[:2], np.uint8) for image in images]

    monkeypatch.setattr(predict.predictor, "resize", resize)
    config = load_config("streets", "source_only,tiny") | {"num_devices": 2}
    config["data"]["target"]["size"] = (32, 64)
    for given, size in ((None, (64, 128)), (config, (32, 64))):
        predict.predict(ask(run, f"{images}/0.png", tmp_path, config=given))
        assert sizes.pop() == size


def test_sizes_come_from_the_config_or_the_flag(load_config):
    streets_config = load_config("streets", "lsr")
    assert predict.network_size(streets_config, None) == (96, 192)
    real = load_config("gta2cs", "lsr")
    assert predict.network_size(real, None) == (640, 1280)
    assert predict.network_size(real, (320, 640)) == (320, 640)
    real["data"]["target"]["size"] = (0, 0)
    with pytest.raises(InputError, match="--size: expected WIDTHxHEIGHT"):
        predict.network_size(real, None)


def test_classes_come_from_the_config_without_data(load_config, tmp_path):
    for name, classes in (("gta2cs", 19), ("synthia2cs", 16), ("cs2crosscity", 13)):
        assert predict.label_space(load_config(name)).num_classes == classes


def test_the_command_says_what_is_wrong_on_one_line(tmp_path):
    command = [sys.executable, "-m", "lsr_jax.predict", "--images=x", "--out=y"]
    command.append(f"--workdir={tmp_path / 'nothing'}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'nothing'}: no weights")
    assert done.stderr.count("\n") == 1


SIXTEEN = label_spaces.SPACES["cityscapes16"]
OWN = label_spaces.make_space(
    "own", {1: "road", 2: "river"}, ("road", "river"), ((0, 0, 9),) * 2
)


def test_ids_are_those_of_the_nineteen_classes():
    label = np.arange(16, dtype=np.uint8)[None]
    image = np.zeros((1, 16, 3), np.uint8)
    train = predict.render("train_ids", label, image, SIXTEEN)
    np.testing.assert_array_equal(
        train, [[0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18]]
    )
    server = predict.render("cityscapes_ids", label, image, SIXTEEN)
    np.testing.assert_array_equal(
        server, [[7, 8, 11, 12, 13, 17, 19, 20, 21, 23, 24, 25, 26, 28, 32, 33]]
    )
    # Read back as a label file, the ids are the classes.
    np.testing.assert_array_equal(SIXTEEN.encode(server), label)


def test_own_classes_keep_their_index_and_have_no_cityscapes_ids():
    np.testing.assert_array_equal(predict.class_ids("train_ids", OWN), [0, 1])
    assert predict.select_kinds((), OWN) == ("color", "train_ids", "overlay")
    with pytest.raises(InputError, match=r"cityscapes_ids .*'river'"):
        predict.select_kinds(("cityscapes_ids",), OWN)


def test_colours_and_overlays():
    label = np.array([[0, 15]], np.uint8)
    image = np.array([[[10, 20, 31], [255, 255, 255]]], np.uint8)
    color = predict.render("color", label, image, SIXTEEN)
    np.testing.assert_array_equal(color, [[(128, 64, 128), (119, 11, 32)]])
    overlay = predict.render("overlay", label, image, SIXTEEN)
    np.testing.assert_array_equal(overlay, (image.astype(int) + color) // 2)


@pytest.fixture
def folder(tmp_path):
    for name in ("b/two.png", "a/one.png", "a/deep/three.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
        cv2.imwrite(os.fspath(path), image)
    return tmp_path


def test_patterns_find_files_in_order(folder):
    found = predict.find_images(f"{folder}/**/*.*")
    assert [path.name for path in found] == ["three.jpg", "one.png", "two.png"]
    names = predict.name_outputs(found)
    assert [str(name) for name in names.values()] == [
        *("a/deep/three.png", "a/one.png", "b/two.png")
    ]
    (alone,) = predict.name_outputs([folder / "a/one.png"]).values()
    assert alone == Path("one.png")


def test_no_images_are_one_line(folder):
    for pattern, message in (
        (f"{folder}/*.gif", "found none"),
        (f"{folder}/a", r"name the files in it, as DIR/\*\.png"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            predict.find_images(pattern)
        assert pattern in str(caught.value)


def test_two_images_of_one_name_are_named(folder):
    paths = [folder / "a/one.jpg", folder / "a/one.png"]
    with pytest.raises(InputError, match=r"one\.jpg and .*one\.png"):
        predict.name_outputs(paths)


def test_reading_names_the_file(folder):
    image = predict.read_image(folder / "a/one.png")
    assert image.shape == (5, 7, 3)
    broken = folder / "broken.png"
    broken.write_bytes((folder / "a/one.png").read_bytes()[:40])
    (folder / "text.jpg").write_text("no image")
    for path in (broken, folder / "text.jpg", folder / "missing.png"):
        with pytest.raises(InputError, match=path.name):
            predict.read_image(path)


def test_an_enormous_image_is_refused_before_it_is_decoded(folder):
    data = bytearray((folder / "a/one.png").read_bytes())
    data[16:24] = (2**20).to_bytes(4, "big") * 2  # width and height in the header
    (folder / "huge.png").write_bytes(data)
    with pytest.raises(InputError, match="at most 67108864 pixels"):
        predict.read_image(folder / "huge.png")
