"""Runs on one's own folders: targets without labels, and without the source data."""

import json
import os
import re

import numpy as np
import pytest
import quick
from PIL import Image

from lsr_jax import evaluate, report
from lsr_jax.configs import gta2cs
from lsr_jax.errors import InputError
from lsr_jax.evaluation import unsupervised
from lsr_jax.training import loop, stage
from lsr_jax.training.checkpoint import Checkpointer

CLASSES = 3
IGNORED = 9
BOTH = {"images": "photos/*.png", "labels": "masks/*.png"}
SIZE = (32, 48)


@pytest.fixture(scope="module", autouse=True)
def _small():
    with quick.backbones(mini=quick.ThreeLayers()):
        yield


def draw(root, *, labels=None, images=4):
    """A data set; ``labels`` makes one of its label maps, None leaves them out."""
    rng = np.random.default_rng(0)
    (root / "photos").mkdir(parents=True)
    (root / "masks").mkdir()
    for number in range(images):
        image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / "photos" / f"{number}.png")
        if labels:
            Image.fromarray(labels()).save(root / "masks" / f"{number}.png")
    split = BOTH if labels else {"images": BOTH["images"]}
    description = {
        "splits": {"train": split, "val": split},
        "label_format": "grey",
        "ids": {str(index): f"class {index}" for index in range(CLASSES)},
        "ignored": [IGNORED],
        "palette": {f"class {index}": [0, 0, index] for index in range(CLASSES)},
    }
    path = root / "data.json"
    path.write_text(json.dumps(description))
    return path


def noise(seed):
    rng = np.random.default_rng(seed)
    return lambda: rng.integers(0, CLASSES, SIZE, dtype=np.uint8)


def config_of(source, target, argument="max_square"):
    config = gta2cs.get_config(f"{argument},tiny").to_dict()
    for domain, path in (("source", source), ("target", target)):
        own = {"name": str(path), "root": str(path.parent), "space": "", "size": SIZE}
        config["data"][domain] |= {**own, "train": "train", "val": "val"}
    config |= {"num_devices": 1, "cpu_devices": 8}  # eight are in use by now
    config["model"] |= {"num_classes": CLASSES, "aspp_dilations": (1,)}
    config["evaluation"]["heldout"] = ""
    stage = config["stages"][-1]
    config["stages"] = (stage,)
    config[stage] |= {"steps": 2, "checkpoint_every": 2, "init_from": "scratch"}
    return config


def weights(workdir):
    with Checkpointer(workdir / "adapt" / "checkpoints", read_only=True) as found:
        return found.facts(2)["arrays"]


def rows(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.slow
def test_target_labels_do_not_reach_the_weights(tmp_path):
    source = draw(tmp_path / "source", labels=noise(0))
    found = []
    for number in (1, 2):
        target = draw(tmp_path / f"target_{number}", labels=noise(number))
        loop.train(config_of(source, target), tmp_path / f"run_{number}")
        found.append(weights(tmp_path / f"run_{number}"))
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_target_without_labels_and_then_without_the_source(tmp_path, capsys):
    source = draw(tmp_path / "source", labels=noise(0))
    target = draw(tmp_path / "target")
    workdir = tmp_path / "run"
    steps = {"check": report.check, "finish": report.write}
    loop.train(config_of(source, target), workdir, **steps)
    folder = workdir / "report"
    assert {row["domain"] for row in rows(folder)} == {"source"}
    remark = "target val is not scored: it has no labels"
    assert remark in capsys.readouterr().out
    for name in ("table.md", "model_card.md", "index.html"):
        assert remark in (folder / name).read_text()
    assert (folder / "panel.png").is_file()

    assert evaluate.main(["--workdir", str(workdir), "--out", str(tmp_path / "a")]) == 0
    assert rows(tmp_path / "a") == rows(folder)
    draw_again = ["--workdir", str(workdir), "--figures", "--out", str(tmp_path / "b")]
    assert evaluate.main(draw_again) == 2
    assert f"labels of both domains; {remark}" in capsys.readouterr().err

    source.unlink()
    assert evaluate.main(["--workdir", str(workdir), "--out", str(tmp_path / "c")]) == 0
    assert rows(tmp_path / "c") == []
    assert (
        "source val is not scored: its data folder is missing"
        in capsys.readouterr().out
    )


@pytest.mark.slow
def test_the_target_is_scored_without_the_source_and_training_images(tmp_path, capsys):
    source = draw(tmp_path / "source", labels=noise(0))
    target = draw(tmp_path / "target", labels=noise(1))
    workdir = tmp_path / "run"
    loop.train(config_of(source, target), workdir, finish=report.write)
    (tmp_path / "source").rename(tmp_path / "gone")
    checkpoints = str(workdir / "adapt" / "checkpoints")
    words = ["--checkpoint", checkpoints, "--out", str(tmp_path / "out")]
    assert evaluate.main(words) == 0
    both = [row for row in rows(workdir / "report") if row["domain"] == "target"]
    assert [row["iou"] for row in rows(tmp_path / "out")] == [r["iou"] for r in both]

    content = json.loads(target.read_text())
    content["splits"]["train"] = {"images": "gone/*.png"}
    target.write_text(json.dumps(content))
    assert evaluate.main(words) == 0
    found = rows(tmp_path / "out")
    running = [row["iou"] for row in both if row["bn"] == "running"]
    assert [row["iou"] for row in found] == running
    assert "target train has no images: BatchNorm statistics" in capsys.readouterr().out
    (tmp_path / "gone").rename(tmp_path / "source")
    with pytest.raises(InputError, match="split 'train', found none among the 0"):
        loop.train(config_of(source, target), tmp_path / "other")


def test_the_split_of_the_selection_belongs_to_a_run(tmp_path):
    source = draw(tmp_path / "source", labels=noise(0))
    target = draw(tmp_path / "target", labels=noise(1))
    config = config_of(source, target)
    for number, name in enumerate(("train", "val", "heldout")):
        path = tmp_path / f"{name}.txt"
        path.write_text(f"photos/{number}.png")
        config["data"]["target"][name] = str(path)
    held_out = config["data"]["target"].pop("heldout")
    config["evaluation"] |= {"selection": "target_heldout", "heldout": held_out}

    def data():
        run = stage.open_run(config, tmp_path / "run")
        return loop.inputs(run, ())["data"]

    before = data()
    os.utime(tmp_path / "target" / "masks" / "2.png", ns=(1, 1))
    after = data()
    assert {k for k in before if before[k] != after[k]} == {"evaluation.selection"}


@pytest.mark.parametrize("split", ["val", "heldout"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, r"masks/3\.png: id 7 is unknown"),
        (IGNORED, "target .*{}.txt: no pixel has one of the classes, so there is no"),
    ],
)
def test_bad_labels_that_will_be_scored_are_found_before_training(
    value, message, split, tmp_path
):
    source = draw(tmp_path / "source", labels=noise(0))
    target = draw(tmp_path / "target", labels=noise(1))
    bad = np.full(SIZE, value, np.uint8)
    Image.fromarray(bad).save(tmp_path / "target" / "masks" / "3.png")
    lists = {name: tmp_path / f"{name}.txt" for name in ("val", "heldout")}
    for name, path in lists.items():
        path.write_text("photos/3.png" if name == split else "photos/0.png")
    config = config_of(source, target)
    config["data"]["target"]["val"] = str(lists["val"])
    chosen = {"selection": "target_heldout", "heldout": str(lists["heldout"])}
    config["evaluation"] |= chosen
    with pytest.raises(InputError, match=message.format(split)):
        loop.train(config, tmp_path / "run", check=report.check)
    assert not (tmp_path / "run").exists()


def test_statistics_of_target_images_need_no_labels(tmp_path):
    """Also where there are labels, and bad ones: no method has read them."""
    source = draw(tmp_path / "source", labels=noise(0))
    target = draw(tmp_path / "target", labels=lambda: np.full(SIZE, 7, np.uint8))
    run = stage.open_run(config_of(source, target), tmp_path / "run")
    with run.statistics_batches() as batches:
        assert [images.label for images, _, _ in batches] == [None, None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batchnorm_images": 17}, r"evaluation\.batchnorm_images: 17 .* group of 1 "),
        (
            {"selection": "oracle"},
            "evaluation.selection: oracle scores the target split ",
        ),
    ],
)
def test_what_the_report_needs_is_checked_before_training(changes, message, tmp_path):
    labels = None if "selection" in changes else noise(1)
    source = draw(tmp_path / "source", labels=noise(0))
    target = draw(tmp_path / "target", labels=labels, images=17)
    config = config_of(source, target, "source_only,like=cag")
    config["evaluation"] |= changes
    with pytest.raises(InputError, match=message):
        loop.train(config, tmp_path / "run", check=report.check)
    assert not (tmp_path / "run").exists()


def test_criteria_without_labels_are_traced_before_training(tmp_path, monkeypatch):
    """Also those of a target that is not scored: its training images are judged."""

    def trace(self, params, model_state, image):
        raise InputError(f"the network refuses {image.shape}")

    source = draw(tmp_path / "source", labels=noise(0))
    config = config_of(source, draw(tmp_path / "target"), "source_only,like=cag")
    monkeypatch.setattr(unsupervised.Estimator, "trace", trace)
    shape = (config["evaluation"]["batch_size"], *SIZE, 3)
    with pytest.raises(InputError, match=re.escape(f"refuses {shape}")):
        loop.train(config, tmp_path / "run", check=report.check)
    assert not (tmp_path / "run").exists()


def test_a_source_without_labels(tmp_path):
    source = draw(tmp_path / "source")
    with pytest.raises(
        InputError, match=r"data\.source\.train: .* the split train has n"
    ):
        loop.train(config_of(source, source), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_pattern_of_labels_that_matches_nothing(tmp_path):
    source = draw(tmp_path / "source", labels=noise(0))
    for mask in (tmp_path / "source" / "masks").iterdir():
        mask.unlink()
    with pytest.raises(InputError, match=r"splits\.train\.labels: no file matches"):
        loop.train(config_of(source, source), tmp_path / "run")
