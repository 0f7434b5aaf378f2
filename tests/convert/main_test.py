"""The command line, on a torchvision-layout ResNet-101 and on bad input."""

import json

import numpy as np
import pytest

from lsr_jax.convert import __main__ as command
from lsr_jax.convert import weight_files

RESNET101 = {"stem": 64, "width": 64, "blocks": (3, 4, 23, 3)}


def _convert(path, out, *more, model="deeplabv2_resnet101"):
    return command.main(
        ["from-torch", str(path), "--model", model, "--out", str(out), *more]
    )


def _rows(classes=1000):
    return {"fc.weight": np.ones((classes, 2048), np.float32)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix", [".safetensors", pytest.param(".pth", marks=pytest.mark.long)]
)
def test_resnet101_there_and_back(resnet_state, tmp_path, capsys, suffix):
    if suffix == ".pth":
        pytest.importorskip("torch")
    state = resnet_state(**RESNET101) | _rows()
    path, back = tmp_path / f"resnet101{suffix}", tmp_path / f"back{suffix}"
    weight_files.write(path, state)
    assert _convert(path, tmp_path / "folder") == 0
    printed = capsys.readouterr().out
    assert "layout torchvision_resnet" in printed
    assert "loaded and renamed: 520 arrays" in printed
    assert "ignored: 1 arrays, the ImageNet classifier" in printed
    assert "expects imagenet input" in printed
    info = json.loads((tmp_path / "folder" / "weights.json").read_text())
    assert info["arguments"]["backbone"] == "resnet101"
    assert info["sha256"] == weight_files.fingerprint(path)
    arguments = ["to-torch", str(tmp_path / "folder"), "--out", str(back)]
    assert command.main([*arguments, "--layout", "torchvision_resnet"]) == 0
    arrays = weight_files.read(back)
    assert arrays.keys() == state.keys() - {"fc.weight"}
    for name in info["loaded"]:
        assert arrays[name].tobytes() == state[name].tobytes()


@pytest.mark.parametrize(
    ("make", "model", "message"),
    [
        ("lsr", "deeplabv2_resnet101", "does not match the model; missing"),
        ("lsr16", "deeplabv2_resnet101", "head has 16 classes, the model 19"),
        ("vgg", "deeplabv2_resnet101", "holds a VGG (vgg16), expected resnet101"),
        ("advent", "deeplabv2_vgg16", "holds a ResNet"),
        ("torn", "deeplabv2_resnet101", "expected a safetensors file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    layout_state, vgg_state, write, tmp_path, capsys, make, model, message
):
    if make == "vgg":
        path = write(vgg_state(deeplab=False))
    elif make == "torn":
        path = write(layout_state("lsr")[0])
        path.write_bytes(path.read_bytes()[:100])
    else:
        name, classes = make.removesuffix("16"), 16 if make.endswith("16") else 19
        path = write(layout_state(name, classes)[0])
    assert _convert(path, tmp_path / "folder", model=model) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name}


def test_folder_that_is_none_of_ours(tmp_path, capsys):
    arguments = ["to-torch", str(tmp_path), "--layout", "lsr", "--out", "x.safetensors"]
    assert command.main(arguments) == 2
    assert "expected weights.safetensors and weights.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["to-torch", "x", "--layout", "lsr", "--skip_head"], "--skip_head: to-torch"),
        (["to-torch", "x", "--num_classes", "16"], "--num_classes: to-torch"),
        (["anchors", "x", "--entry", "model"], "--entry: anchors"),
        (["anchors", "x", "--layout", "cag"], "--layout: anchors"),
    ],
)
def test_flags_of_another_command_are_refused(arguments, flag, capsys):
    assert command.main([*arguments, "--out", "y"]) == 2
    assert f"error: {flag} does not use it" in capsys.readouterr().err
