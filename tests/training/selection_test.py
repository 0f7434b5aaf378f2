"""Rules by which a checkpoint is chosen, and what they are called beside a number."""

import pytest

from lsr_jax.errors import InputError
from lsr_jax.training import selection, weights


def config(rule, heldout=""):
    return {
        "evaluation": {"selection": rule, "heldout": heldout},
        "data": {
            "source": {"val": "val"},
            "target": {"train": "train", "val": "val"},
        },
    }


@pytest.mark.parametrize(
    ("rule", "heldout", "split"),
    [
        ("last", "", None),
        ("source_val", "", ("source", "val")),
        ("target_heldout", "test", ("target", "test")),
        ("oracle", "", ("target", "val")),
        ("target_infomax", "", ("target", "train")),
        ("target_agreement", "", ("target", "train")),
    ],
)
def test_where_a_rule_looks(rule, heldout, split):
    assert selection.split_of(config(rule, heldout)) == split


@pytest.mark.parametrize(
    ("rule", "heldout", "message"),
    [
        ("target_heldout", "", r"evaluation\.heldout: .* found ''"),
        (
            "target_heldout",
            "val",
            r"evaluation\.heldout: .*reported 'val', found 'val'",
        ),
    ],
)
def test_rules_that_cannot_be(rule, heldout, message):
    with pytest.raises(InputError, match=message):
        selection.split_of(config(rule, heldout))


@pytest.mark.parametrize(
    ("best", "reported", "name"),
    [
        (None, "val", "last"),
        (("source_val", "val"), "val", "source_val"),
        (("target_agreement", "train"), "val", "target_agreement"),
        (("target_heldout", "test"), "val", "target_heldout"),
        # The same checkpoint, evaluated on the split that chose it.
        (("target_heldout", "test"), "test", "oracle"),
        (("oracle", "val"), "val", "oracle"),
        (("oracle", "val"), "test", "target_heldout"),
    ],
)
def test_a_choice_by_what_is_reported_is_an_oracles(best, reported, name):
    best = best and {"rule": best[0], "split": best[1]}
    assert weights.selection_label({"best": best}, reported) == name
