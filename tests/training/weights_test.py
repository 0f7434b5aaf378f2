"""Names of trained networks, and what is loaded for them."""

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import pytest
import saved

from lsr_jax import convert
from lsr_jax.errors import InputError
from lsr_jax.training import checkpoint, sharding, weights
from lsr_jax.training.checkpoint import Checkpointer


@pytest.fixture(scope="module")
def config(load_config):
    return load_config("streets", "lsr,tiny")


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return saved.run(folder, config, {"source": (1, 2), "adapt": (3,)})


@pytest.fixture(scope="module")
def chosen(config, tmp_path_factory):
    """A run whose rule chose step 1 on the test split of the target."""
    best = {"step": 1, "score": 0.5, "rule": "target_heldout", "split": "test"}
    folder = tmp_path_factory.mktemp("runs") / "chosen"
    return saved.run(folder, config, {"source": (1, 2)}, best)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(2)


@pytest.fixture(scope="module")
def weight_folder(config, tmp_path_factory):
    """A folder of the converter with the network of key 7."""
    params, model_state = jax.device_get(saved.network(config, 7))
    info = saved.weight_info(config["model"])
    folder = tmp_path_factory.mktemp("weights") / "mini"
    convert.save(folder, convert.Imported(params, model_state, info))
    return folder


@pytest.mark.parametrize(
    ("name", "step", "key", "facts"),
    [
        ("{run}", None, 3, ("adapt", "lsr", 0, 3, "last")),
        ("{run}:source", None, 2, ("source", "source_only", 0, 2, "last")),
        ("{run}:source", 1, 1, ("source", "source_only", 0, 1, "named")),
        ("{run}/source", 1, 1, ("source", "source_only", 0, 1, "named")),
        ("{run}/adapt/checkpoints", None, 3, ("adapt", "lsr", 0, 3, "last")),
        (
            "{run}/source/checkpoints/1",
            None,
            1,
            ("source", "source_only", 0, 1, "named"),
        ),
    ],
)
def test_every_name_of_a_checkpoint(name, step, key, facts, run, mesh, config):
    place = weights.resolve(name.format(run=run), step=step)
    found = weights.load(place, mesh=mesh)
    chex.assert_trees_all_equal(
        jax.device_get((found.params, found.model_state)),
        jax.device_get(saved.network(config, key)),
    )
    assert (
        found.stage,
        found.method,
        found.seed,
        found.step,
        found.selection,
    ) == facts
    leaf = jax.tree.leaves(found.params)[0]
    assert leaf.sharding == sharding.replicated(mesh)


def test_checkpoints_outside_of_a_run_need_a_config(config, run, mesh, tmp_path):
    (run / "adapt" / "checkpoints").rename(tmp_path / "kept")
    try:
        place = weights.resolve(str(tmp_path / "kept"))
        with pytest.raises(InputError, match="describe the network with --config"):
            weights.load(place, mesh=mesh)
        found = weights.load(place, mesh=mesh, config=config)
        assert (found.method, found.seed, found.step) == ("-", None, 3)
    finally:
        (tmp_path / "kept").rename(run / "adapt" / "checkpoints")


def test_a_weight_folder_is_a_network(config, weight_folder, mesh):
    found = weights.load(weights.resolve(str(weight_folder)), mesh=mesh, config=config)
    chex.assert_trees_all_equal(
        jax.device_get(found.params), dict(jax.device_get(saved.network(config, 7)[0]))
    )
    assert (found.stage, found.selection, found.step) == ("mini", "file", None)
    other = {**config, "data": {**config["data"], "preprocessing": "caffe"}}
    with pytest.raises(InputError, match="trained on 'imagenet' input"):
        weights.load(weights.resolve(str(weight_folder)), mesh=mesh, config=other)


def test_other_preprocessing_can_be_allowed(config, weight_folder):
    network = saved.network(config, 0)
    given = {"model": config["model"], "preprocessing": "caffe"}
    with pytest.raises(
        InputError, match="mini: trained on 'imagenet' input, the config"
    ):
        weights.import_file(weight_folder, network, **given)
    params, _ = weights.import_file(
        weight_folder, network, **given, allow_other_preprocessing=True
    )
    chex.assert_trees_all_equal(params, dict(saved.network(config, 7)[0]))


def test_weights_without_head_are_refused(config, mesh, tmp_path):
    params, model_state = jax.device_get(saved.network(config, 7))
    info = saved.weight_info(config["model"]) | {"fresh": ["params/head"]}
    body = {"backbone": params["backbone"]}
    convert.save(tmp_path / "body", convert.Imported(body, model_state, info))
    place = weights.resolve(str(tmp_path / "body"))
    with pytest.raises(InputError, match="body: weights without a head"):
        weights.load(place, mesh=mesh, config=config)


@pytest.mark.parametrize(
    ("split", "rule"),
    [(None, "target_heldout"), ("test", "oracle"), ("val", "target_heldout")],
)
def test_a_choice_on_the_split_that_is_measured_is_an_oracles(
    split, rule, config, chosen, mesh
):
    place = weights.resolve(f"{chosen}:source")
    found = weights.load(place, mesh=mesh, config=config, split=split)
    assert (found.step, found.newest, found.selection) == (1, 2, rule)
    named = weights.load(place._replace(step=2), mesh=mesh, split=split)
    assert (named.step, named.newest, named.selection) == (2, None, "named")


@pytest.mark.parametrize(
    ("name", "step", "message"),
    [
        ("{run}", 9, r"found 9, expected one of the saved steps 3"),
        ("{run}:source", 3, r"found 3, expected one of the saved steps 1, 2"),
        ("{run}:oracle", None, r"found 'oracle', expected one of source, adapt"),
        ("{run}/source/checkpoints/1", 2, "step 2 was asked for"),
        ("{run}/nothing", None, "found nothing"),
        ("{run}/config.json", 3, "a weight file has neither stages nor steps"),
        ("{run}/source:adapt", None, "name a workdir before ':'"),
        ("{empty}", None, "found none in it"),
    ],
)
def test_wrong_names_are_one_line(name, step, message, run, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        weights.resolve(name.format(run=run, empty=tmp_path), step=step)
    assert "\n" not in str(caught.value)


def test_a_stage_that_was_not_trained_is_named(config, tmp_path):
    saved.run(tmp_path / "new", config, {})
    with pytest.raises(InputError, match=r"checkpoint in .*adapt/checkpoints"):
        weights.resolve(str(tmp_path / "new"))


def save(stage, step):
    with Checkpointer(stage / "checkpoints", keep_every=2) as checkpoints:
        checkpoints.save(step, {"x": jnp.float32(step)}, {"step": step, "best": None})


def test_a_fingerprint_is_that_of_the_step_or_file_that_init_from_means(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"weights")
    names = [str(path), str(tmp_path / "run"), str(tmp_path / "run/checkpoints/2")]

    def fingerprints():
        return [weights.fingerprint(weights.resolve(name)) for name in names]

    save(tmp_path / "run", 2)
    save(tmp_path / "run", 4)
    before = fingerprints()
    assert len(set(before)) == 3
    assert fingerprints() == before
    save(tmp_path / "run", 6)
    path.write_bytes(b"others")
    changed = [old != new for old, new in zip(before, fingerprints(), strict=True)]
    assert changed == [True, True, False]


def test_a_checkpoint_of_the_first_edition_is_refused(config, run, tmp_path):
    """Its facts have no format version."""
    folder = shutil.copytree(run / "adapt", tmp_path / "adapt")
    path = folder / "checkpoints" / "3" / "facts" / "metadata"
    facts = json.loads(path.read_text())
    del facts["format"], facts["sha256"]
    path.write_text(json.dumps({**facts, "sha256": checkpoint.json_digest(facts)}))
    source = weights.resolve(str(folder))
    message = r"written by lsr_jax 0\.1 \(found format 1, expected 2\)"
    for step in (None, 3):
        with pytest.raises(InputError, match=message):
            weights.load(
                source._replace(step=step), mesh=sharding.make_mesh(1), config=config
            )


def test_a_file_of_another_network_is_refused(config, weight_folder, mesh):
    other = {"head": "two_heads", "aspp_dilations": (6, 12)}
    other = {**config, "model": {**config["model"], **other}}
    message = (
        r"has head single instead of two_heads and aspp_dilations \(2, 4, 6, 8\) instead "
        r"of \(6, 12\); set them below config.model"
    )
    with pytest.raises(InputError, match=message):
        weights.load(weights.resolve(str(weight_folder)), mesh=mesh, config=other)


def test_a_checkpoint_of_values_that_are_not_finite_is_refused(
    config, mesh, tmp_path, monkeypatch
):
    params, model_state = saved.network(config, 0)
    model_state["backbone"]["bn1"]["var"] = -model_state["backbone"]["bn1"]["var"]
    monkeypatch.setattr(saved, "network", lambda *_: (params, model_state))
    saved.run(tmp_path, config, {"source": (1,)})
    message = (
        r"checkpoints/1: damaged weights; variances below 0 1: model_state/backbone"
    )
    for step in (None, 1):
        with pytest.raises(InputError, match=message):
            weights.load(weights.resolve(f"{tmp_path}:source", step=step), mesh=mesh)
