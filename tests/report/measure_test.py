import types

import numpy as np
import pytest

from lsr_jax import models
from lsr_jax.data.records import First
from lsr_jax.report.measure import Entry, Evaluation
from lsr_jax.training.weights import Trained


def trained(name, *, seed=0, step=9, selection="last", batch_norm="train"):
    model = models.build(
        backbone="mini", num_classes=5, aspp_dilations=(1,), batch_norm=batch_norm
    )
    facts = (step, name, f"method_{name}", seed, selection, name * 64)
    return Trained({}, {"mean": name}, *facts, model, "unit")


A, B = trained("a"), trained("b", seed=1, step=None, selection="file")


def test_a_network_stands_with_its_own_facts():
    assert Entry("adapt", (A,)).facts() == {
        "method": "method_a",
        "seed": 0,
        "step": 9,
        "selection": "last",
        "weights": "a" * 64,
    }


def test_an_ensemble_stands_with_the_facts_of_its_members():
    facts = Entry("ensemble", (A, B), (0.7, 0.3)).facts()
    assert facts["method"] == "0.7 method_a + 0.3 method_b"
    assert (facts["seed"], facts["step"]) == (None, None)
    assert facts["selection"] == "last/file"
    assert [member["weight"] for member in facts["members"]] == [0.7, 0.3]
    assert facts["members"][1]["stage"] == "b"
    assert facts["members"][1]["weights"] == "b" * 64
    assert Entry("ensemble", (A, A), (0.5, 0.5)).facts()["seed"] == 0


def test_the_weights_of_an_ensemble_are_part_of_its_fingerprint():
    prints = {
        Entry("ensemble", members, weights).facts()["weights"]
        for members in ((A, B), (B, A))
        for weights in ((0.7, 0.3), (0.5, 0.5))
    }
    assert len(prints) == 4
    assert {len(print_) for print_ in prints} == {64}


@pytest.mark.parametrize(
    ("batch_norm", "kinds"), [("train", ["running", "target"]), ("eval", ["running"])]
)
def test_target_statistics_of_networks_that_can_re_estimate_them(
    batch_norm, kinds, monkeypatch
):
    monkeypatch.setattr(
        Evaluation, "target_statistics", lambda self, network: "re-estimated"
    )
    evaluation = Evaluation.__new__(Evaluation)
    evaluation.has_training_images = True
    network = trained("c", batch_norm=batch_norm)
    found = evaluation.statistics(Entry("c", (network,)))
    assert list(found) == kinds
    assert found["running"] == {"mean": "c"}
    both = evaluation.statistics(Entry("e", (A, network), (0.5, 0.5)))
    assert both["running"] == ({"mean": "a"}, {"mean": "c"})
    assert list(both) == kinds


def test_the_steps_of_a_stage_stand_beside_a_step_that_a_rule_chose():
    assert Entry("a", (A._replace(newest=20),)).facts()["newest"] == 20
    assert "newest" not in Entry("a", (A,)).facts()


def test_examples_are_spread_and_keep_labels_of_several_sizes():
    image = np.zeros((4, 6, 3), np.uint8)
    small = np.arange(24, dtype=np.uint8).reshape(4, 6)
    large = small.repeat(3, 0).repeat(2, 1)
    records = [
        {"id": str(i), "image": image, "label": label}
        for i, label in enumerate((small, small, large))
    ]
    evaluation = Evaluation.__new__(Evaluation)
    evaluation.run = types.SimpleNamespace(open=lambda *_: records)
    positions, images, labels = evaluation.examples("target", 2)
    assert positions == [0, 1]
    assert images.shape == (2, 4, 6, 3)
    np.testing.assert_array_equal(labels, [small, small])
    *_, labels = evaluation.examples("target", 9)
    assert [label.shape for label in labels] == [(4, 6), (4, 6), (12, 12)]


def test_first_records_only():
    found = First(np.arange(9), 3)
    assert [found[i] for i in range(len(found))] == [0, 1, 2]
