"""Plans of hand-made configs: what is shared, cut and rewritten."""

import copy
from pathlib import Path

import pytest

from lsr_jax.study import plan
from lsr_jax.study.plan import Line

FOLDER = Path("study")


def section(name, init_from="source", pseudo_labeler="start", **keywords):
    method = {"name": name, **keywords}
    return {
        "method": method,
        "init_from": init_from,
        "pseudo_labeler": pseudo_labeler,
        "steps": 5,
    }


SOURCE = section("source_only", "previous")
CHAINS = {
    "source_only": {},
    "lsr": {"adapt": section("lsr", norm=0.5, entropy=1.0)},
    "bdl": {
        "adversarial": section("bdl", "previous", self_training=0.0),
        "round_1": section("bdl", pseudo_labeler="adversarial", self_training=1.0),
        "round_2": section(
            "bdl", "round_1", pseudo_labeler="source", self_training=1.0
        ),
    },
}


def load(method, seed):
    config = {"seed": seed, "model": {"head": "single"}, "data": {"workers": 0}}
    if method == "target_only":
        return {**config, "stages": ["target"], "target": section(method, "scratch")}
    chain = copy.deepcopy(CHAINS[method])
    return {**config, "stages": ["source", *chain], "source": SOURCE, **chain}


def test_one_pretraining_a_seed_comes_first_and_is_the_cell_of_source_only():
    lines = [Line(name, name) for name in ("lsr", "source_only", "bdl", "target_only")]
    cells = plan.plan_cells(load, lines, (3, 4, 3), FOLDER)
    assert [(c.line.label, c.seed) for c in cells] == [
        (line.label, seed) for seed in (3, 4) for line in lines
    ]
    digits = plan.fingerprint(load("lsr", 3))
    assert [run.folder.name for run in plan.plan_runs(cells)] == [
        f"pretraining-{digits}-3",
        f"pretraining-{digits}-4",
        "lsr-3",
        "bdl-3",
        "target_only-3",
        "lsr-4",
        "bdl-4",
        "target_only-4",
    ]
    adapted, pretrained, _, oracle = cells[:4]
    assert pretrained.run == adapted.run.needs
    assert pretrained.run.needs is None
    assert pretrained.stage == "source"
    assert pretrained.run.config == load("source_only", 3)
    assert oracle.run == (FOLDER / "target_only-3", load("target_only", 3), None)


def test_a_chain_starts_from_the_pretraining_wherever_it_named_the_source_stage():
    (cell,) = plan.plan_cells(load, [Line("bdl", "bdl")], (0,), FOLDER)
    config, pretraining = cell.run.config, str(cell.run.needs.folder)
    assert config["stages"] == ["adversarial", "round_1", "round_2"]
    assert "source" not in config
    assert [
        (config[stage]["init_from"], config[stage]["pseudo_labeler"])
        for stage in config["stages"]
    ] == [
        (pretraining, "start"),
        (pretraining, "adversarial"),
        ("round_1", pretraining),
    ]
    assert CHAINS["bdl"]["adversarial"]["init_from"] == "previous"


def test_a_removed_term_weighs_nothing():
    lines = [Line("lsr", "lsr"), Line("lsr without norm", "lsr", "norm")]
    whole, without = plan.plan_cells(load, lines, (0,), FOLDER)
    assert without.run.folder.name == "lsr-without-norm-0"
    assert without.run.needs == whole.run.needs
    method = {"name": "lsr", "norm": 0.0, "entropy": 1.0}
    assert without.run.config["adapt"]["method"] == method
    assert whole.run.config["adapt"]["method"]["norm"] == 0.5


@pytest.mark.parametrize(
    ("part", "key", "value", "same"),
    [
        ("model", "head", "multi_level", False),
        ("data", "size", 7, False),
        ("source", "steps", 6, False),
        ("adapt", "steps", 6, True),
        ("data", "workers", 2, True),
    ],
)
def test_what_makes_another_pretraining(part, key, value, same):
    config = load("lsr", 0)
    changed = {**config, part: {**config[part], key: value}}
    assert (plan.fingerprint(changed) == plan.fingerprint(config)) is same
