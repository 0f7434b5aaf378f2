"""Follow the page docs/adding_a_method.md: its file, its lines, its row, a train step."""

import importlib.util
import re
from pathlib import Path

import chex
import jax
import pytest
import toy
import variants

from lsr_jax import methods
from lsr_jax.configs import streets
from lsr_jax.methods import catalog
from lsr_jax.training import stage

PAGE = Path(__file__).parents[1] / "docs" / "adding_a_method.md"


@pytest.fixture
def pieces():
    """The Python blocks of the page: file, line in METHODS, line in WEIGHTS."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def method_file(pieces, tmp_path, monkeypatch):
    """The page's method, registered as its lines say."""
    path = tmp_path / "confident.py"
    path.write_text(pieces[0])
    spec = importlib.util.spec_from_file_location("confident", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = {"confident": module, "Entry": methods.Entry}
    line = eval(f"{{{pieces[1]}}}", names)
    for name, value in line.items():
        monkeypatch.setitem(methods.METHODS, name, value)
    for name, value in eval(f"{{{pieces[2]}}}").items():
        monkeypatch.setitem(streets.WEIGHTS, name, value)
    return module


def test_the_method_is_complete_in_under_fifty_lines(pieces):
    assert len(pieces[0].splitlines()) < 50


def test_the_new_method_is_listed_and_configured(method_file):
    assert catalog.facts("confident").passes == ("source", "target")
    config = streets.get_config("confident,tiny").to_dict()
    assert config["adapt"]["method"] == {
        "name": "confident",
        "segmentation": 1.0,
        "self_training": 1.0,
        "confidence": 0.9,
    }
    assert stage.build_method(config, "adapt").domains == ("source", "target")


def test_its_terms_have_weights(method_file, key):
    variants.check_weights("confident", None, key)


def test_its_row_is_in_the_table(method_file, monkeypatch):
    assert "python -m lsr_jax.methods --markdown" in PAGE.read_text()
    only = {"confident": methods.Entry(method_file.make)}
    monkeypatch.setattr(catalog, "METHODS", only)
    table = catalog.markdown(catalog.all_facts())
    assert f"| confident | {method_file.make.__doc__} |" in table


def test_a_train_step_learns_from_its_own_labels(method_file, key, tmp_path):
    def trained(confidence):
        method = method_file.make(self_training=1.0, confidence=confidence)
        whole, train_step = variants.start(method, key, tmp_path)
        after, metrics = jax.jit(train_step)(whole, toy.batch(key, 2, method))
        chex.assert_tree_all_finite((after.params, metrics))
        assert after.step == 1
        return float(metrics["self_training"]), after.params

    trusting, found = trained(0.0)
    doubting, other = trained(0.999999)
    assert trusting > 0
    assert doubting == 0
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(found, other)
