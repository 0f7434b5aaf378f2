import chex
import jax
import numpy as np
import pytest
import saved

from lsr_jax import convert, networks
from lsr_jax.errors import InputError
from lsr_jax.training import sharding


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
    best = {"step": 1, "miou": 0.5, "domain": "target", "split": "test"}
    folder = tmp_path_factory.mktemp("runs") / "chosen"
    return saved.run(folder, config, {"source": (1, 2)}, best)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(2)


@pytest.fixture(scope="module")
def weights(config, tmp_path_factory):
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
    place = networks.find(name.format(run=run), step=step)
    found = networks.load(place, mesh=mesh)
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
        place = networks.find(str(tmp_path / "kept"))
        with pytest.raises(InputError, match="expected --config with the network"):
            networks.load(place, mesh=mesh)
        found = networks.load(place, mesh=mesh, config=config)
        assert (found.method, found.seed, found.step) == ("-", None, 3)
    finally:
        (tmp_path / "kept").rename(run / "adapt" / "checkpoints")


def test_a_weight_folder_is_a_network(config, weights, mesh):
    found = networks.load(networks.find(str(weights)), mesh=mesh, config=config)
    chex.assert_trees_all_equal(
        jax.device_get(found.params), dict(jax.device_get(saved.network(config, 7)[0]))
    )
    assert (found.stage, found.selection, found.step) == ("mini", "file", None)
    other = {**config, "data": {**config["data"], "preprocessing": "caffe"}}
    with pytest.raises(InputError, match="trained on 'imagenet' input"):
        networks.load(networks.find(str(weights)), mesh=mesh, config=other)


def test_weights_without_head_are_refused(config, mesh, tmp_path):
    params, model_state = jax.device_get(saved.network(config, 7))
    info = saved.weight_info(config["model"]) | {"fresh": ["params/head"]}
    body = {"backbone": params["backbone"]}
    convert.save(tmp_path / "body", convert.Imported(body, model_state, info))
    place = networks.find(str(tmp_path / "body"))
    with pytest.raises(InputError, match="body: expected a whole network"):
        networks.load(place, mesh=mesh, config=config)


@pytest.mark.parametrize(
    ("split", "rule"),
    [(None, "target_heldout"), ("test", "oracle"), ("val", "target_heldout")],
)
def test_a_choice_on_the_split_that_is_measured_is_an_oracles(
    split, rule, config, chosen, mesh
):
    place = networks.find(f"{chosen}:source")
    found = networks.load(place, mesh=mesh, config=config, split=split)
    assert (found.step, found.newest, found.selection) == (1, 2, rule)
    named = networks.load(place._replace(step=2), mesh=mesh, split=split)
    assert (named.step, named.newest, named.selection) == (2, None, "named")


def test_the_fingerprint_is_that_of_every_array(config):
    params, state = jax.device_get(saved.network(config, 1))
    print_ = networks.fingerprint(params, state)
    assert len(print_) == 64
    assert print_ == networks.fingerprint(jax.tree.map(np.array, params), state)
    leaves, structure = jax.tree.flatten(state)
    changed = [np.nextafter(leaves[0], 2.0, dtype=np.float32), *leaves[1:]]
    assert print_ != networks.fingerprint(params, structure.unflatten(changed))
    assert print_ != networks.fingerprint(state, params)


@pytest.mark.parametrize(
    ("name", "step", "message"),
    [
        ("{run}", 9, r"kept steps 3, found 9"),
        ("{run}:source", 3, r"kept steps 1, 2, found 3"),
        ("{run}:oracle", None, r"stages source, adapt, found 'oracle'"),
        ("{run}/source/checkpoints/1", 2, "found step 2 beside it"),
        ("{run}/nothing", None, "found nothing"),
        ("{run}/config.json", 3, "no stage and no step for a weight file"),
        ("{run}/source:adapt", None, "expected a workdir before ':'"),
        ("{empty}", None, "found none of them"),
    ],
)
def test_wrong_names_are_one_line(name, step, message, run, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        networks.find(name.format(run=run, empty=tmp_path), step=step)
    assert "\n" not in str(caught.value)


def test_a_stage_that_was_not_trained_is_named(config, tmp_path):
    saved.run(tmp_path / "new", config, {})
    with pytest.raises(InputError, match=r"checkpoints in .*adapt/checkpoints"):
        networks.find(str(tmp_path / "new"))


def test_finished_stages_start_from_nothing(config):
    found = networks.finished(config)
    assert {found[stage]["init_from"] for stage in found["stages"]} == {"scratch"}
    assert config["adapt"]["init_from"] == "source"
