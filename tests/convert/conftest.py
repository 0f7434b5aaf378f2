"""Synthetic weight files in the layouts of the PyTorch originals."""

import numpy as np
import pytest
import safetensors.numpy

EXPANSION = 4


def _resnet(stem=4, width=4, blocks=(1, 1, 2, 1), counters=True):
    draw = np.random.default_rng(0)
    state = {}

    def conv(name, out, inner, size):
        shape = (out, inner, size, size)
        state[f"{name}.weight"] = draw.standard_normal(shape, np.float32)

    def norm(name, channels):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{leaf}"] = draw.random(channels, np.float32)
        if counters:
            state[f"{name}.num_batches_tracked"] = np.array(7, np.int64)

    conv("conv1", stem, 3, 7)
    norm("bn1", stem)
    inner = stem
    for layer, count in enumerate(blocks, 1):
        middle = width * 2 ** (layer - 1)
        for index in range(count):
            name = f"layer{layer}.{index}"
            for i, (out, into, size) in enumerate(
                [
                    (middle, inner, 1),
                    (middle, middle, 3),
                    (EXPANSION * middle, middle, 1),
                ]
            ):
                conv(f"{name}.conv{i + 1}", out, into, size)
                norm(f"{name}.bn{i + 1}", out)
            if index == 0:
                conv(f"{name}.downsample.0", EXPANSION * middle, inner, 1)
                norm(f"{name}.downsample.1", EXPANSION * middle)
            inner = EXPANSION * middle
    return state


def _vgg(groups=(2, 2, 3, 3, 3), *, deeplab):
    draw = np.random.default_rng(1)
    state, index, inner = {}, 0, 3
    groups = list(zip((64, 128, 256, 512, 512), groups, strict=True))
    groups += [(1024, 2)] if deeplab else []
    for group, (width, count) in enumerate(groups):
        for _ in range(count):
            kernel = draw.random((width, inner, 3, 3), np.float32)
            state[f"features.{index}.weight"] = kernel
            state[f"features.{index}.bias"] = draw.random(width, np.float32)
            index, inner = index + 2, width
        index += 0 if deeplab and group >= 3 else 1
    if not deeplab:
        state["classifier.0.weight"] = np.zeros((4, 8), np.float32)
        state["classifier.0.bias"] = np.zeros(4, np.float32)
    return state


def _head(name, inner, classes=19):
    draw = np.random.default_rng(2)
    head = f"{name}.conv2d_list"
    return {
        f"{head}.{branch}.{leaf}": draw.random(shape, np.float32)
        for branch in range(4)
        for leaf, shape in (("weight", (classes, inner, 3, 3)), ("bias", (classes,)))
    }


def _deeplabv3plus_head(classes, width=16, context=128):
    draw = np.random.default_rng(3)
    state = {}
    for conv, norm, out, inner, size in (
        ("aspp.aspp1.atrous_conv", "aspp.aspp1.bn", width, context, 1),
        ("aspp.aspp2.atrous_conv", "aspp.aspp2.bn", width, context, 3),
        ("aspp.aspp3.atrous_conv", "aspp.aspp3.bn", width, context, 3),
        ("aspp.aspp4.atrous_conv", "aspp.aspp4.bn", width, context, 3),
        ("aspp.global_avg_pool.1", "aspp.global_avg_pool.2", width, context, 1),
        ("aspp.conv1", "aspp.bn1", width, 5 * width, 1),
        ("decoder.conv1", "decoder.bn1", 3, 16, 1),
        ("decoder.last_conv.0", "decoder.last_conv.1", width, width + 3, 3),
        ("decoder.last_conv.4", "decoder.last_conv.5", width, width, 3),
        ("decoder.last_conv.8", None, classes, width, 1),
    ):
        shape = (out, inner, size, size)
        state[f"{conv}.weight"] = draw.standard_normal(shape, np.float32)
        for leaf in ("weight", "bias", "running_mean", "running_var") if norm else ():
            state[f"{norm}.{leaf}"] = draw.random(out, np.float32)
        if norm:
            state[f"{norm}.num_batches_tracked"] = np.array(7, np.int64)
    state["decoder.last_conv.8.bias"] = draw.random(classes, np.float32)
    return state


def _layout(name, classes=19):
    """``(state_dict, wrapped)`` of a repository's file, with a tiny ResNet."""
    body, wide, narrow = _resnet(), 128, 64
    if name == "cag":
        state = {f"backbone.{key}": value for key, value in body.items()}
        return state | _deeplabv3plus_head(classes), False
    if name == "torchvision_resnet":
        fc = {"fc.weight": np.zeros((10, wide), np.float32)}
        return body | fc | {"fc.bias": np.zeros(10, np.float32)}, False
    if name == "deeplab_init":
        state = _resnet(counters=False) | _head("layer5", wide, 21)
        return {f"Scale.{key}": value for key, value in state.items()}, False
    if name in ("adaptsegnet_single", "bdl"):
        return body | _head("layer5", wide, classes), False
    if name in ("adaptsegnet", "advent"):
        aux = _head("layer5", narrow, classes)
        return body | aux | _head("layer6", wide, classes), False
    if name in ("clan", "f2a"):
        aux = _head("layer5", wide, classes)
        return body | aux | _head("layer6", wide, classes), False
    if name == "lsr":
        state = body | _head("clas", wide, classes)
    else:
        aux = _head("layer5", narrow, classes)
        state = body | aux | _head("layer6", wide, classes)
    return {f"module.{key}": value for key, value in state.items()}, True


@pytest.fixture
def resnet_state():
    return _resnet


@pytest.fixture
def vgg_state():
    return _vgg


@pytest.fixture
def head_state():
    return _head


@pytest.fixture
def layout_state():
    return _layout


@pytest.fixture
def write(tmp_path):
    """Writes a state_dict as ``tmp_path/name`` in .safetensors; returns the path."""

    def save(state, name="weights.safetensors"):
        path = tmp_path / name
        safetensors.numpy.save_file(state, path)
        return path

    return save
