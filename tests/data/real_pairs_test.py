"""The three configs of real data, trained and reported on folders in their layouts."""

import json

import pytest
import quick

from lsr_jax import report
from lsr_jax.configs import cs2crosscity, gta2cs, synthia2cs
from lsr_jax.training import loop

RUNS = {
    "gta2cs": (gta2cs, "gta5", "cityscapes", 19),
    "synthia2cs": (synthia2cs, "synthia_rand_cityscapes", "zips", 16),
    "cs2crosscity": (cs2crosscity, "cityscapes", "cross_city", 13),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "gta2cs",
        pytest.param("synthia2cs", marks=pytest.mark.long),
        pytest.param("cs2crosscity", marks=pytest.mark.long),
    ],
)
def test_tiny_runs_end_to_end(name, downloads, tmp_path, capsys):
    module, source, target, classes = RUNS[name]
    config = module.get_config("lsr,tiny")
    config.data.source.root = str(downloads / source)
    config.data.target.root = str(downloads / target)
    config.num_devices = 1
    # The first stage is the same for every pair; once is enough.
    if name != "synthia2cs":
        config.stages = ("adapt",)
        config.adapt.init_from = "scratch"
    with quick.backbones(mini=quick.ThreeLayers()):
        report.write(loop.train(config.to_dict(), tmp_path))
    rows = json.loads((tmp_path / "report" / "metrics.json").read_text())
    target_rows = [row for row in rows if row["domain"] == "target"]
    assert {row["bn"] for row in target_rows} == {"running", "target"}
    for row in rows:
        assert len(row["iou"]) == classes
    table = capsys.readouterr().out
    assert ("of 13" in table) == (classes == 16)
    assert ("miou_13" in target_rows[0]) == (classes > 13)
    assert ("miou_16" in target_rows[0]) == (classes > 16)


def test_class_counts_and_sizes_are_those_of_the_benchmarks():
    configs = {name: run[0].get_config() for name, run in RUNS.items()}
    assert [c.model.num_classes for c in configs.values()] == [19, 16, 13]
    for config in configs.values():
        assert config.stages == ("source", "adapt")
        assert config.adapt.optimizer.learning_rate == 2.5e-4
    assert configs["synthia2cs"].adapt.method.norm == 0.1
    assert configs["synthia2cs"].adapt.method.class_frequency == "synthia"
    assert configs["cs2crosscity"].adapt.method.class_frequency == "cityscapes13"
    assert gta2cs.get_config("lsr,vgg16").adapt.method.clustering == 0.2
    assert cs2crosscity.get_config("lsr,tokyo").data.target.val == "tokyo_test"
