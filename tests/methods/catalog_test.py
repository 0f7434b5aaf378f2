from pathlib import Path

import pytest

from lsr_jax.methods import METHODS, catalog

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


@pytest.fixture(scope="module")
def rows():
    return catalog.all_facts()


@pytest.mark.full_size
def test_the_page_is_what_the_command_prints(rows):
    assert PAGE.read_text().endswith(catalog.markdown(rows))


def test_passes_are_counted_by_what_goes_through_the_network():
    assert catalog.facts("source_only").passes == ("source",)
    assert catalog.facts("target_only").passes == ("target",)
    assert catalog.facts("lsr").passes == ("source", "target")


def test_state_and_presets_are_named():
    lsr = catalog.facts("lsr")
    assert lsr.state == ("prototypes", "source_norm")
    assert lsr.presets == ("paper", "released")
    assert lsr.extra_parameters == 0
    assert catalog.facts("max_square").state == ()


@pytest.mark.full_size
def test_every_method_has_a_summary_of_its_own_and_a_line(rows):
    assert len({row.summary for row in rows}) == len(METHODS)
    printed = catalog.text(rows)
    assert all(f"\n{name} " in f"\n{printed}" for name in METHODS)
