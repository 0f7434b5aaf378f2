"""From the sections of a config to what a stage runs; what is wrong with them, named."""

import dataclasses
import itertools

import chex
import jax
import numpy as np
import pytest
import toy

from lsr_jax import convert
from lsr_jax.errors import InputError
from lsr_jax.methods import METHODS, Entry, cag, max_square
from lsr_jax.training import sharding, stage, weights
from lsr_jax.training.stage import build_stage, build_stages, open_run


@pytest.fixture(scope="module", autouse=True)
def _surroundings(tmp_path_factory):
    """Data drawn once; optax's AdamW mixes integer counts and float rates."""
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setenv("LSR_JAX_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture
def config(load_config):
    return load_config("streets", "max_square,tiny") | {"num_devices": 2}


def test_the_norm_loss_goes_on_top_of_any_stage(load_config, key):
    config = load_config("streets", "max_square")
    plain = stage.build_method(config, "adapt")
    config["adapt"] |= {"steps": 40}
    config["adapt"]["feature_norm"] |= {"weight": 0.5, "delta": 0.1}
    assert config["adapt"]["feature_norm"] == {
        "weight": 0.5,
        "delta": 0.1,
        "rate": 1.5,
        "decay_steps": None,
    }
    params, state, batch, ctx = toy.problem(plain, key, step=8)
    base, _ = plain.loss(params, state, batch, ctx)
    for decay_steps, fade in ((None, 1 - 1.5 * 8 / 40), (16, 1 - 1.5 * 8 / 16)):
        config["adapt"]["feature_norm"]["decay_steps"] = decay_steps
        method = stage.build_method(config, "adapt")
        total, aux = method.loss(params, state, batch, ctx)
        assert {"feature_norm_source", "feature_norm_target"} < set(aux.metrics)
        np.testing.assert_allclose(total - base, 0.5 * fade * 2 * 0.01, atol=1e-6)


def test_no_stage_has_it_by_default(load_config, key):
    config = load_config("streets", "max_square")
    method = stage.build_method(config, "adapt")
    params, state, batch, ctx = toy.problem(method, key)
    _, aux = method.loss(params, state, batch, ctx)
    assert set(aux.metrics) == {"segmentation", "entropy"}


def test_a_network_with_the_wrong_heads_is_named(load_config):
    config = load_config("streets", "max_square")
    config["model"]["head"] = "multi_level"
    config["adapt"]["method"] = {"name": "clan"}
    with pytest.raises(InputError, match=r"model\.head: clan needs two_"):
        stage.build_method(config, "adapt")


def test_the_batch_is_that_of_the_pipeline(config, tmp_path):
    run = open_run(config, tmp_path)
    for name in config["stages"]:
        built = build_stage(run, name)
        batches = built.batches(0)
        found, _ = next(batches)
        batches.close()
        found = sharding.shard_batch(found, run.mesh)
        expected = stage.batch_shapes(built)
        chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
        placements = [x.sharding for x in jax.tree.leaves(expected)]
        assert placements == [x.sharding for x in jax.tree.leaves(found)]


def test_rare_classes_are_drawn_alike_after_a_restart(config, tmp_path):
    config["adapt"]["rare_classes"] |= {"temperature": 0.01, "min_pixels": 12}
    config["adapt"]["augment"]["source"] |= {
        "crop": (32, 64),
        "majority": 0.75,
        "drawn_pixels": 6,
    }
    run = open_run(config, tmp_path)
    assert build_stage(run, "source").rare_classes is None
    built = build_stage(run, "adapt")
    with built.batches(0) as batches:
        *_, (third, ids) = itertools.islice(batches, 3)
    with build_stage(run, "adapt").batches(2) as batches:
        again, ids_again = next(batches)
    assert ids == ids_again
    chex.assert_trees_all_equal(third, again)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        sharding.shard_batch(third, run.mesh), stage.batch_shapes(built)
    )
    for label, drawn in zip(third.source.label, third.source.drawn, strict=True):
        assert (label == drawn).sum() > 12
    assert built.traced
    config["adapt"]["rare_classes"]["min_pixels"] = 300
    with pytest.raises(InputError, match=r"adapt: rare_classes\.min_pixels.* bicycle"):
        build_stages(run)


def test_only_stages_that_are_not_finished_are_traced(config, tmp_path, monkeypatch):
    traced = []
    monkeypatch.setattr(
        stage.Stage, "traced", property(lambda self: traced.append(self.name))
    )
    last = str(config["source"]["steps"])
    (tmp_path / "source" / "checkpoints" / last).mkdir(parents=True)
    build_stages(open_run(config, tmp_path))
    assert traced == ["adapt"]


def test_a_method_is_built_once_for_each_stage(config, tmp_path, monkeypatch):
    run = open_run(config, tmp_path)
    made = []
    make = max_square.make
    entry = Entry(lambda **keywords: made.append(1) or make(**keywords))
    monkeypatch.setitem(METHODS, "max_square", entry)
    built = build_stage(run, "adapt")
    assert built.traced
    built.batches(0).close()
    assert made == [1]


@pytest.mark.parametrize("kind", [InputError, AttributeError, MemoryError])
def test_only_errors_of_the_input_name_their_stage(kind, config, tmp_path, monkeypatch):
    """A typo in a new method is a traceback, not bad input."""

    def broken(*_):
        raise kind("first line")

    run = open_run(config, tmp_path)
    method = max_square.make()._replace(loss=broken)
    monkeypatch.setitem(METHODS, "max_square", Entry(lambda **_: method))
    message = r"^stage adapt: first line$" if kind is InputError else "^first line"
    with pytest.raises(kind, match=message):
        build_stages(run)


def test_anchors_are_read_before_the_stage_begins(load_config, tmp_path):
    config = load_config("streets", "cag,tiny")
    config |= {"num_devices": 1, "stages": ("stage_1",)}
    config["stage_1"]["init_from"] = "scratch"
    run = open_run(config, tmp_path)
    built = build_stage(run, "stage_1")
    built.check_inputs()  # makes its own
    path = tmp_path / "anchors.npz"
    built = dataclasses.replace(
        built, config={**built.config, "method": {"anchors": str(path)}}
    )
    with pytest.raises(InputError, match=r"^method\.anchors .*No such"):
        built.check_inputs()

    def write(classes):
        vectors = np.ones((classes, run.model.feature_dim), np.float32)
        count = np.ones(classes, np.float32)
        names = (cag.VECTORS, cag.COUNT)
        np.savez(path, **dict(zip(names, (vectors, count), strict=True)))

    write(run.model.num_classes - 1)
    with pytest.raises(InputError, match=r"method\.anchors .*expected \d+ classes of"):
        built.check_inputs()
    write(run.model.num_classes)
    built.check_inputs()
    (fingerprint,) = built.weight_fingerprints().items()
    assert fingerprint == ("stage_1.method.anchors", convert.fingerprint(path))
    (built.checkpoints / "5").mkdir(parents=True)
    assert built.weight_fingerprints() == {}  # its checkpoints contain them


def order(**stages):
    sections = {
        name: {
            "method": {},
            "init_from": "previous",
            "pseudo_labeler": "start",
            **section,
        }
        for name, section in stages.items()
    }
    return {"stages": tuple(stages), **sections}


def test_stages_of_one_origin_are_one_generation(tmp_path):
    chain = order(
        source={}, one={}, two={"init_from": "source", "pseudo_labeler": "one"}
    )
    stage.check_order(chain)
    found = [stage._generation(chain, name) for name in chain["stages"]]
    assert found == [0, 1, 1]
    # A stage alone sees the data order that it sees after its pre-training, and a weight
    # file is no stage.
    alone = order(adapt={"init_from": str(tmp_path)}, again={})
    assert [stage._generation(alone, name) for name in alone["stages"]] == [1, 2]
    path = tmp_path / "resnet101.pth"
    path.write_bytes(b"")
    first = order(source={"init_from": str(path)}, adapt={})
    assert [stage._generation(first, name) for name in first["stages"]] == [0, 1]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "stages: expected at least one stage, found none"),
        (("one", "one"), "stages: 'one' is named twice"),
        (("one", "two"), "stages: 'two' has no section in the config"),
    ],
)
def test_stages_that_are_no_sequence_are_named(stages, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        stage.check_order(order(one={}) | {"stages": stages})


@pytest.mark.parametrize("key", ["init_from", "pseudo_labeler"])
@pytest.mark.parametrize("name", ["one", "two"])
def test_a_later_stage_cannot_be_an_origin(key, name):
    config = order(source={}, one={key: name}, two={})
    message = rf"one\.{key}: '{name}' is not trained before 'one'"
    with pytest.raises(InputError, match=message):
        stage.check_order(config)


@pytest.mark.parametrize("key", ["init_from", "pseudo_labeler"])
def test_weights_that_are_not_there_are_named(key, config, tmp_path):
    config["adapt"][key] = "absent"
    run = open_run(config, tmp_path)
    with pytest.raises(InputError, match=f"^{key} absent: no weights") as caught:
        build_stage(run, "adapt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("skip_head", True), ("entry", "ema")])
def test_options_of_weight_files_are_not_dropped(key, value, config, tmp_path):
    """The stage "source" comes first: its head would be used."""
    config["adapt"]["weights"][key] = value
    run = open_run(config, tmp_path)
    with pytest.raises(InputError, match=rf"^weights\.{key}: .* init_from"):
        build_stage(run, "adapt")
    config["adapt"]["init_from"] = "scratch"
    assert build_stage(run, "adapt").origin is None


def test_a_weight_file_makes_no_labels(config, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"")
    config["adapt"]["pseudo_labeler"] = str(path)
    assert weights.resolve(str(path)).is_file
    with pytest.raises(InputError, match="found a weight file"):
        build_stage(open_run(config, tmp_path), "adapt")
