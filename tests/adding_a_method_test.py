"""The page docs/adding_a_method.md, done: its file, its lines, a step on `streets`."""

import importlib.util
import re
from pathlib import Path

import chex
import jax
import pytest
import toy

from configs import streets
from lsr_jax import methods
from lsr_jax.methods import listing
from lsr_jax.training import build
from lsr_jax.types import Context

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
    line = eval(f"{{{pieces[1]}}}", {"confident": module})
    for name, value in line.items():
        monkeypatch.setitem(methods.METHODS, name, value)
    for name, value in eval(f"{{{pieces[2]}}}").items():
        monkeypatch.setitem(streets.WEIGHTS, name, value)
    return module


def test_the_method_is_complete_in_under_forty_lines(pieces):
    assert len(pieces[0].splitlines()) < 40


def test_the_new_method_is_listed_and_configured(method_file):
    assert listing.facts("confident").passes == ("source", "target")
    config = streets.get_config("confident,tiny").to_dict()
    assert config["adapt"]["method"] == {
        "name": "confident",
        "self_training": 1.0,
        "confidence": 0.9,
    }
    assert build.method(config, "adapt").domains == ("source", "target")


def test_the_new_method_learns_from_its_own_labels(method_file, key):
    def gradient(confidence):
        method = method_file.make(self_training=1.0, confidence=confidence)
        model, model_state = toy.init(key)
        batch = toy.batch(key, 2, method)
        ctx = Context(toy.forward, model_state, 0, key, toy.PIXELS)

        def total(params):
            return method.loss({"model": params}, {}, batch, ctx)

        (_, aux), grads = jax.value_and_grad(total, has_aux=True)(model)
        chex.assert_tree_all_finite(grads)
        return float(aux.metrics["self_training"]), grads

    trusting, found = gradient(0.0)
    doubting, other = gradient(0.999999)
    assert trusting > 0
    assert doubting == 0
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(found, other)
