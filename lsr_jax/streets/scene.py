"""One scene: random numbers, look, light, canvas, and the sizes of small things."""

from __future__ import annotations

import random
from typing import NamedTuple

from lsr_jax.streets import canvas
from lsr_jax.streets.looks import Look, Range, Rgb

SKIN = (0.80, 0.62, 0.50)
BLACK = (0.06, 0.06, 0.07)
RAGGED = canvas.circle(16)


def scaled(colour: Rgb, factor: float, offset: float = 0.0) -> Rgb:
    """Returns ``factor * colour + offset``."""
    red, green, blue = colour
    return red * factor + offset, green * factor + offset, blue * factor + offset


class Scene:
    """The state of one drawing, shared by all functions that draw objects.

    Attributes:
      random: the only source of randomness of this image.
      uniform: draws a number between two.
      look: tables of colours, ranges and probabilities.
      proportions: sizes of small things.
      tone: this image's own value of each range in `look.tone`.
      canvas: what has been painted so far.
    """

    def __init__(self, rng: random.Random, look: Look, proportions: Proportions, size):
        self.random, self.uniform = rng, rng.uniform
        self.look, self.proportions = look, proportions
        height, width = size
        camera = canvas.Camera(
            size=size,
            height=self.geometry("camera_height"),
            horizon=self.geometry("horizon") * height,
            focal=self.geometry("focal") * width,
            centre=self.geometry("vanishing") * width,
            roll=self.geometry("roll"),
        )
        self.tone = {name: rng.uniform(*pair) for name, pair in look.tone.items()}
        sun = self.tone["sun"] * rng.choice((-1, 1))
        light = canvas.Light(
            left=1 + 0.5 * sun, right=1 - 0.5 * sun, front=1 - 0.25 * abs(sun)
        )
        self.canvas = canvas.Canvas(camera, light, sky=self.colour("sky", jitter=0.5))

    def geometry(self, name: str) -> float:
        """Draws a number from the range `name` of the look's geometry."""
        return self.random.uniform(*self.look.geometry[name])

    def chance(self, probability: float | str) -> bool:
        """Returns True with a probability given as number or as name in the look."""
        if isinstance(probability, str):
            probability = self.look.probability[probability]
        return self.random.random() < probability

    def sign(self) -> int:
        """Draws -1 or 1: left or right."""
        return self.random.choice((-1, 1))

    def colour(self, name: str, jitter: float = 1.0) -> Rgb:
        """Draws a colour mode of a class, varied in brightness and a little in hue."""
        mode = self.random.choice(self.look.palette[name])
        spread = self.tone["colour_jitter"] * jitter
        brightness = 1 + self.random.gauss(0, spread)
        return tuple(
            min(1.2, max(0.02, c * brightness + self.random.gauss(0, 0.25 * spread)))
            for c in mode
        )

    def skin(self) -> Rgb:
        """Draws a skin colour."""
        return scaled(SKIN, self.uniform(0.35, 1.0))

    def glass(self) -> Rgb:
        """Returns the colour of a vehicle's panes."""
        pane = self.tone["glass"]
        return 0.8 * pane, 0.9 * pane, pane

    def windows(self) -> canvas.Pattern:
        """Draws the windows of one building."""
        pane = self.uniform(0.7, 1.3) * self.tone["glass"]
        return canvas.Pattern(
            pitch=(self.geometry("window_pitch"), self.uniform(2.6, 3.6)),
            fill=(self.uniform(0.3, 0.6), self.uniform(0.35, 0.62)),
            colour=(pane * 0.9, pane, pane * 1.1),
        )

    def foliage(self, x, y, z, radius_x, radius_y, colour: Rgb) -> None:
        """Paints a ragged ellipse of leaves."""
        outline = []
        for a, b in RAGGED:
            reach = self.uniform(0.75, 1.15)
            outline.append((radius_x * a * reach, radius_y * b * reach))
        self.canvas.billboard(x, y, z, outline, "vegetation", colour)


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
