"""The programs in examples/ run and do what they claim."""

import runpy
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from lsr_jax import convert, models, streets
from lsr_jax.data import label_spaces

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(request):
    return runpy.run_path(str(EXAMPLES / request.param))


@pytest.mark.parametrize("example", ["lsr_losses.py"], indirect=True)
def test_lsr_losses_train_a_foreign_network(example):
    with jax.numpy_dtype_promotion("standard"):  # optax.adam needs it
        history = example["train"](steps=30, count=2)
    assert np.isfinite([list(terms.values()) for terms in history]).all()
    first, last = history[0], history[-1]
    assert last["segmentation"] < 0.8 * first["segmentation"]
    assert all(value > 0 for value in last.values())


@pytest.mark.parametrize("example", ["predict_folder.py"], indirect=True)
def test_predict_folder_writes_what_the_network_predicts(
    example, tmp_path, monkeypatch, capsys
):
    model = models.build(backbone=models.Architecture(4, 4, (1, 1, 1, 1)))
    params, model_state = model.init(jax.random.key(0), (32, 64))
    info = {"arguments": model.arguments}
    imported = convert.Imported(params, model_state, info)
    convert.export(imported, tmp_path / "lsr.safetensors", layout="lsr")
    (tmp_path / "images").mkdir()
    image, _ = streets.draw(0, domain="camera", split="test", size=(48, 96))
    cv2.imwrite(str(tmp_path / "images" / "a.png"), image[..., ::-1])
    (tmp_path / "images" / "notes.txt").write_text("not an image")

    arguments = ["predict_folder.py", "lsr.safetensors", "images", "out"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [*arguments, "--size", "64x32"])
    example["main"]()

    assert capsys.readouterr().out == "1 files in out\n"
    color = cv2.imread("out/a.png")[..., ::-1]
    classes = example["load"](Path("lsr.safetensors"))
    resized = cv2.resize(image, (64, 32), interpolation=cv2.INTER_CUBIC)
    expected = label_spaces.colorize(
        classes(resized).astype(np.uint8), label_spaces.SPACES["cityscapes"]
    )
    assert color.shape == image.shape
    np.testing.assert_array_equal(
        color, cv2.resize(expected, (96, 48), interpolation=cv2.INTER_NEAREST)
    )
