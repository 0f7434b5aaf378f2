"""The network of a run in one file is the network of the run."""

import re

import chex
import pytest
import saved

from lsr_jax import cli, convert, export
from lsr_jax.data import label_spaces
from lsr_jax.errors import InputError
from lsr_jax.training import sharding, weights


@pytest.fixture(scope="module")
def run(load_config, tmp_path_factory):
    config = load_config("streets", "source_only,tiny")
    return saved.run(
        tmp_path_factory.mktemp("runs") / "run", config, {"source": (1, 2)}
    )


def command(*arguments):
    return cli.run(export.define, export.export, arguments, arguments=["RUN"])


def test_a_file_is_the_network_of_its_run(run, tmp_path, capsys):
    out = tmp_path / "network.safetensors"
    assert command(str(run), f"--out={out}") == 0
    assert convert.fingerprint(out) in capsys.readouterr().out
    (tmp_path / "other").touch()
    assert out.stat().st_mode == (tmp_path / "other").stat().st_mode
    mesh = sharding.make_mesh(1)
    source = weights.resolve(str(out))
    own = weights.load(weights.resolve(str(run)), mesh=mesh)
    config = weights.resolve(str(run)).config
    found = weights.load(source, mesh=mesh, config=config)
    chex.assert_trees_all_equal(found.params, own.params)
    chex.assert_trees_all_equal(found.model_state, own.model_state)
    assert (found.weights, found.selection) == (own.weights, "file")
    assert command(str(run), f"--out={tmp_path / 'first.safetensors'}", "--step=1") == 0
    assert convert.fingerprint(tmp_path / "first.safetensors") != convert.fingerprint(
        out
    )
    assert command(str(run), f"--out={out}") == 2
    assert "already exists" in capsys.readouterr().err


def test_a_file_knows_its_classes(run, tmp_path):
    out = tmp_path / "network.safetensors"
    imported = convert.load(weights.resolve("streets_mini").path)
    convert.save(out, imported)
    source = weights.resolve(str(out))
    weights.check_classes(source, label_spaces.NAMES)
    with pytest.raises(InputError, match="trained on the classes road, sidewalk"):
        weights.check_classes(source, label_spaces.NAMES[::-1])


@pytest.mark.parametrize(
    ("run_name", "out", "message"),
    [
        ("RUN", "network.pth", r"--out: expected a name ending in \.safetensors"),
        ("nothing", "network.safetensors", "RUN nothing: no weights"),
        ("streets_mini", "network.safetensors", "expected a run with its config.json"),
    ],
)
def test_what_cannot_be_exported(run, run_name, out, message, tmp_path, capsys):
    run_name = str(run) if run_name == "RUN" else run_name
    assert command(run_name, f"--out={tmp_path / out}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
