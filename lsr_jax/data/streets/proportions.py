"""How large and how near small things are."""

from __future__ import annotations

from typing import NamedTuple

from lsr_jax.data.streets.shift import Range


class Proportions(NamedTuple):
    """Sizes and distances of small things in metres, the same in both domains."""

    pole_depth: Range
    pole_radius: Range
    light_radius: float
    light_height: float
    sign_radius: Range
    person_breadth: float
    pavement_person_depth: Range
    road_person_depth: Range
    rider_depth: Range
    parked_cycle_depth: Range


PROPORTIONS = {
    "ordinary": Proportions(
        pole_depth=(5, 40),
        pole_radius=(0.07, 0.12),
        light_radius=0.2,
        light_height=0.95,
        sign_radius=(0.3, 0.5),
        person_breadth=1.0,
        pavement_person_depth=(4.5, 26),
        road_person_depth=(6, 26),
        rider_depth=(4.5, 20),
        parked_cycle_depth=(4.5, 16),
    ),
    # Nearer and thicker, so that they survive at 96 x 192 pixels.
    "enlarged": Proportions(
        pole_depth=(5.5, 13),
        pole_radius=(0.26, 0.38),
        light_radius=0.5,
        light_height=1.5,
        sign_radius=(0.8, 1.1),
        person_breadth=1.6,
        pavement_person_depth=(4, 9),
        road_person_depth=(4, 8),
        rider_depth=(3.5, 7),
        parked_cycle_depth=(3.5, 6),
    ),
}
