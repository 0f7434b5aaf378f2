"""Every speed benchmark runs, at a size too small for conclusions."""

import json

import numpy as np
import pytest

from benchmarks import (
    downsample,
    evaluation_speed,
    method_overhead,
    scaling,
    steps,
    timing,
    train_step,
)
from lsr_jax.models import BACKBONES, resnet
from lsr_jax.ops import pseudo_labels

SMALL = ["--quick", "--repeats=2", "--cpu_devices=8"]
NETWORK = [*SMALL, "--backbone=tiny"]
SIZES = ["--source_size=96x64", "--target_size=64x48"]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    tiny = resnet.Architecture(8, 4, (1, 1, 1, 1))
    monkeypatch.setitem(BACKBONES, "tiny", tiny)


@pytest.mark.long
def test_train_step(capsys, tmp_path):
    """Also of parts and several devices; the JSON says what was measured."""
    file = tmp_path / "numbers.json"
    extra = ["--batch_size=4", "--devices=2", "--micro_batches=2", f"--json={file}"]
    result = train_step.main([*NETWORK, *SIZES, *extra, "--dtype=bfloat16"])
    printed = capsys.readouterr().out
    assert json.loads(printed.splitlines()[0]) == json.loads(file.read_text())
    (step,) = result["steps"]
    assert step["step"] == (
        "lsr tiny bfloat16 96x64+64x48 batch 4+4 2 devices 2 micro-batches"
    )
    assert step["seconds"]["low"] <= step["seconds"]["median"]
    rate = 8 / step["seconds"]["median"]
    assert step["images_per_second"] == pytest.approx(rate)
    assert 0 < step["teraflop"] < 1
    assert 0 < step["memory_gigabytes"] < 1
    assert result["versions"]["jax"] in printed
    assert f"| {step['step']} " in printed


@pytest.mark.long
def test_method_overhead(capsys):
    result = method_overhead.main([*NETWORK, *SIZES, "--method=lsr"])
    assert result["methods"]["lsr"]["ratio"]["count"] == 2
    assert "<= 1.10: " in capsys.readouterr().out


@pytest.mark.long
def test_scaling():
    result = scaling.main([*NETWORK, *SIZES, "--devices", "1", "2"])
    rates = [result["devices"][n]["images_per_second"] for n in (1, 2)]
    efficiency = result["devices"][2]["efficiency"]
    assert efficiency == pytest.approx(rates[1] / rates[0] / 2)


def test_evaluate():
    result = evaluation_speed.main([*NETWORK, "--batch_size=4", "--devices=2"])
    numbers = result["evaluation"]["float32"]
    seconds = numbers["seconds"]["median"]
    assert numbers["images_per_second"] == pytest.approx(10 / seconds)


def test_downsample(capsys):
    result = downsample.main([*SMALL, "--size=160x96"])
    assert result["cells"] == [13, 21]
    assert ">= 6: " in capsys.readouterr().out


@pytest.mark.parametrize("size", [(13, 21), (12, 20), (7, 9)])
def test_the_other_side_of_downsample_gives_the_same_labels(size):
    draw = np.random.default_rng(1)
    label = steps.images(draw, 1, (96, 160), True).label
    noisy = draw.random(label.shape) < 0.3
    label[noisy] = draw.choice([0, 3, 18, 255], noisy.sum())
    ours = pseudo_labels.histogram_downsample(label, size=size, num_classes=19)
    np.testing.assert_array_equal(ours[0], downsample.by_window(label[0], size))


def test_sides_take_turns():
    order = []
    sides = {name: lambda name=name: order.append(name) for name in "ab"}
    samples = timing.alternate(sides, repeats=3, warmup=1)
    assert order == list("abababab")
    assert {name: len(times) for name, times in samples.items()} == {"a": 3, "b": 3}


def test_spread_is_of_the_middle_half():
    assert timing.spread([5.0, 1.0, 2.0, 3.0, 4.0]) == (3.0, 2.0, 4.0, 5)
    assert timing.spread([7.0]) == (7.0, 7.0, 7.0, 1)
    assert timing.ratios([4.0, 6.0], [2.0, 2.0]).median == 2.5


def test_sizes_are_width_times_height():
    assert timing.size("1280x720") == (720, 1280)
    with pytest.raises(Exception, match="expected WIDTHxHEIGHT"):
        timing.size("1280")
