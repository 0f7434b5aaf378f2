"""`python -m lsr_jax.predict` on a fresh network and a few pictures."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import saved

from lsr_jax import predict, streets
from lsr_jax.data import label_spaces
from lsr_jax.errors import InputError
from lsr_jax.evaluation.evaluate import Evaluator
from lsr_jax.predict import Request
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
    monkeypatch.setattr(predict.sharding, "share_cpu", lambda count: None)


def read(path):
    return cv2.imread(os.fspath(path), cv2.IMREAD_UNCHANGED)


def test_every_kind_of_every_image(run, images, tmp_path, capsys):
    out = tmp_path / "out"
    written = predict.carry_out(Request(str(run), f"{images}/*.png", str(out)))
    assert len(written) == len(set(written)) == 12
    assert "3/3" in capsys.readouterr().err
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


def test_the_network_of_the_run_has_spoken(run, images, tmp_path):
    place = weights.resolve(str(run))
    mesh = predict.sharding.make_mesh(1)
    trained = weights.load(place, mesh=mesh)
    evaluator = Evaluator(
        trained.model.forward, num_classes=19, preprocess=trained.normalise
    )
    image = read(images / "0.png")[..., ::-1]
    expected = evaluator.predict(trained.params, trained.model_state, image[None])[0]
    agreement = {}
    for mode in ("resize", "slide"):
        request = Request(str(run), f"{images}/0.png", str(tmp_path), mode=mode)
        (file,) = predict.carry_out(request._replace(kinds=["train_ids"]))
        agreement[mode] = (read(file) == expected).mean()
    # One window covers the image; a softmax of each pixel does not move its maximum.
    assert agreement == {"resize": 1, "slide": 1}


def test_what_is_wrong_is_named_before_the_network_runs(run, images, tmp_path):
    base = Request(str(run), f"{images}/*.png", str(tmp_path / "out"))
    (tmp_path / "w.safetensors").write_bytes(b"")
    for changes, message in (
        ({"images": f"{images}/*.gif"}, "--images .*found none"),
        ({"out": f"{images}/0.png"}, "--out .*cannot be written"),
        ({"overlap": 1.0}, "--overlap: expected 0 to below 1, found 1"),
        ({"overlap": float("nan")}, "--overlap"),
        ({"size": (99999999, 99999999)}, "expected at most 67108864 pixels"),
        ({"kinds": ["colour"]}, "--kinds: .*'colour'"),
        ({"scales": ["x"]}, "scales: expected numbers"),
        ({"step": 5}, "found 5, expected one of the saved steps 1"),
        ({"workdir": str(tmp_path / "w.safetensors")}, "expected --config"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            predict.carry_out(base._replace(**changes))
        assert "\n" not in str(caught.value)


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
