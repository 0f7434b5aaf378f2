"""Files that a stage begins with; the rest is asked of the scripts."""

import numpy as np
import pytest

from lsr_jax.errors import InputError
from lsr_jax.methods import cag
from lsr_jax.training import preflight
from lsr_jax.training.stage import Experiment


@pytest.fixture
def config(load_config, tmp_path, monkeypatch):
    monkeypatch.setenv("LSR_JAX_DATA", str(tmp_path / "data"))
    config = load_config("streets", "cag,tiny")
    return config | {"num_devices": 1, "stages": ("source", "stage_1")}


def test_anchors_are_read_before_the_stage_begins(config, tmp_path):
    experiment = Experiment(config, tmp_path)
    preflight.anchors(experiment, "source")  # has none
    preflight.anchors(experiment, "stage_1")  # makes its own
    path = tmp_path / "anchors.npz"
    config["stage_1"]["method"]["anchors"] = str(path)
    with pytest.raises(InputError, match=r"^stage stage_1: method\.anchors .*No such"):
        preflight.check_stage(experiment, "stage_1")

    def write(classes):
        vectors = np.ones((classes, experiment.model.feature_dim), np.float32)
        count = np.ones(classes, np.float32)
        names = (cag.VECTORS, cag.COUNT)
        np.savez(path, **dict(zip(names, (vectors, count), strict=True)))

    write(experiment.model.num_classes - 1)
    with pytest.raises(InputError, match=r"method\.anchors .*expected \d+ classes of"):
        preflight.check_stage(experiment, "stage_1")
    write(experiment.model.num_classes)
    preflight.check_stage(experiment, "stage_1")

    # A stage that has begun holds its anchors in its checkpoints.
    path.unlink()
    (experiment.checkpoints("stage_1") / "5").mkdir(parents=True)
    preflight.check_stage(experiment, "stage_1")


@pytest.mark.parametrize("file", ["source", "source/checkpoints", "source/damaged"])
def test_a_file_where_a_folder_will_be_is_named(file, config, tmp_path):
    experiment = Experiment(config, tmp_path / "run")
    preflight.check_folders(experiment, "source")
    path = tmp_path / "run" / file
    path.parent.mkdir(parents=True)
    path.write_text("")
    with pytest.raises(InputError, match=f"^{path}: expected a folder .*found a file"):
        preflight.check_folders(experiment, "source")
