"""Every term of every method has a weight in the config, and 0 takes the term away."""

import pytest
import variants
import weighing


@pytest.mark.parametrize(("name", "preset"), variants.VARIANTS)
def test_each_term_has_a_weight_that_takes_it_away(name, preset, key):
    weighing.hold(name, preset, key)
