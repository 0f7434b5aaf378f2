"""Where stages start and who labels for them: refused before anything is trained."""

import jax.numpy as jnp
import pytest

from lsr_jax.errors import InputError
from lsr_jax.training import origins
from lsr_jax.training.checkpoint import Checkpointer


def config(**stages):
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


def check(config):
    origins.check_order(config)
    origins.check_paths(config)


def test_an_earlier_stage_may_label():
    chain = config(
        source={}, one={}, two={"init_from": "source", "pseudo_labeler": "one"}
    )
    check(chain)
    assert origins.origin(chain, "two") == "source"
    assert origins.origin(chain, "one") == "source"
    assert [origins.generation(chain, s) for s in chain["stages"]] == [0, 1, 1]


@pytest.mark.parametrize("start", ["scratch", "a weight file"])
def test_a_stage_alone_sees_what_it_sees_after_its_pretraining(start, tmp_path):
    weights, run = tmp_path / "resnet101.pth", tmp_path / "run"
    weights.write_bytes(b"")
    (run / "checkpoints" / "4").mkdir(parents=True)
    first = "scratch" if start == "scratch" else str(weights)
    whole = config(source={"init_from": first}, adapt={}, again={}) | {"seed": 3}
    alone = config(adapt={"init_from": str(run)}, again={}) | {"seed": 3}
    check(whole)
    check(alone)
    seeds = [origins.stream_seed(whole, stage) for stage in whole["stages"]]
    assert [origins.stream_seed(alone, s) for s in alone["stages"]] == seeds[1:]
    assert len(set(seeds)) == 3


@pytest.fixture
def other(tmp_path):
    """A stage of another run, with two checkpoints."""
    for step in (2, 4):
        save(tmp_path / "other", step)
    return tmp_path / "other"


def save(stage, step):
    with Checkpointer(stage / "checkpoints", keep_every=2) as checkpoints:
        checkpoints.save(step, {"x": jnp.float32(step)}, {"step": step, "best": None})


def test_what_a_stage_begins_with_is_known_until_it_has_begun(other, tmp_path):
    weights, anchors = tmp_path / "w.safetensors", tmp_path / "anchors.npz"
    weights.write_bytes(b"weights")
    anchors.write_bytes(b"anchors")
    named = config(
        source={"init_from": str(weights)},
        one={
            "init_from": str(other),
            "pseudo_labeler": str(other / "checkpoints" / "2"),
        },
        two={"pseudo_labeler": "one", "method": {"anchors": str(anchors)}},
    )

    def found(begun=False):
        prints = [origins.fingerprints(named, s, begun=begun) for s in named["stages"]]
        return {key: value for part in prints for key, value in part.items()}

    before = found()
    keys = (
        "source.init_from",
        "one.init_from",
        "one.pseudo_labeler",
        "two.method.anchors",
    )
    assert tuple(before) == keys
    assert len(set(before.values())) == 4
    assert found() == before
    assert found(begun=True) == {keys[0]: before[keys[0]]}
    save(other, 6)
    weights.write_bytes(b"others")
    anchors.write_bytes(b"others")
    after = found()
    assert [key for key in keys if after[key] != before[key]] == [*keys[:2], keys[3]]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "stages: expected at least one stage, found none"),
        (("one", "one"), "stages: expected every stage once, found 'one' twice"),
        (("one", "two"), "stages: 'two' has no section in the config"),
    ],
)
def test_stages_that_are_no_sequence_are_named(stages, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        origins.check_order(config(one={}) | {"stages": stages})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"pseudo_labeler": "two"},
            "one.pseudo_labeler: 'two' is not trained before 'one'",
        ),
        (
            {"pseudo_labeler": "one"},
            "one.pseudo_labeler: 'one' is not trained before 'one'",
        ),
        ({"init_from": "two"}, "one.init_from: 'two' is not trained before 'one'"),
        ({"pseudo_labeler": "nobody"}, "one.pseudo_labeler nobody: expected a workdir"),
        (
            {"init_from": "nobody"},
            "one.init_from nobody: expected a weight file, a work",
        ),
    ],
)
def test_who_does_not_exist_yet_is_named(section, message):
    with pytest.raises(InputError, match=message) as caught:
        check(config(source={}, one=section, two={}))
    assert "\n" not in str(caught.value)
