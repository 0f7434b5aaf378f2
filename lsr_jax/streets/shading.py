"""Turn part numbers into image and label: texture, shadow, haze, camera optics."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

from lsr_jax.streets.canvas import LABEL, Canvas, Facing
from lsr_jax.streets.scene import Scene

NEAREST, FARTHEST = 0.5, 300.0  # metres; depth is clipped to them
LUMINANCE = (0.3, 0.59, 0.11)


class Noise(NamedTuple):
    """Fixed tables, the same for every image."""

    fine: np.ndarray  # [256, 256] texture that repeats without seams, small grain
    coarse: np.ndarray  # the same with larger grain
    sensor: np.ndarray  # [2**18] standard normal numbers


class Pixels(NamedTuple):
    """Geometry of each of the ``N = H * W`` pixels; lengths in metres."""

    part: np.ndarray  # number of its part
    facing: np.ndarray  # orientation of the part
    depth: np.ndarray  # distance ahead
    footprint: np.ndarray  # length of world that one pixel spans at that depth
    along: np.ndarray  # world coordinates along the two axes of the part
    across: np.ndarray


def shade(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Returns the image, uint8 RGB ``[H, W, 3]``, and the label, uint8 ``[H, W]``."""
    canvas, size = scene.canvas, scene.canvas.camera.size
    labels = np.array([part.label for part in canvas.parts], np.uint8)
    colours = np.array([part.colour for part in canvas.parts], np.float32)
    pixels = _locate(canvas)
    label = labels.take(pixels.part)
    colour = colours.take(pixels.part, axis=0)
    _paint_patterns(colour, canvas, pixels)
    colour *= (1 + _texture(scene.look.texture.take(label, axis=0), pixels))[:, None]
    shaded = (canvas.shaded.ravel() > 0) & (pixels.facing == Facing.UP)
    _light(colour, canvas, scene.tone, pixels, label, shaded)
    # Fresh normal numbers for every pixel would cost more than all the rest; each image
    # starts at its own place of one table instead.
    offset = scene.random.randrange(len(noise().sensor) - 1)
    image = _photograph(colour.reshape(*size, 3), scene.tone, offset)
    return image, label.reshape(size)


@functools.cache
def noise() -> Noise:
    """Draws the tables once a process, always with the same seed."""
    rng = np.random.default_rng(7)

    def texture(sigma):
        grain = rng.standard_normal((256, 256), np.float32)
        # The middle of three by three copies has no seams.
        smooth = cv2.GaussianBlur(np.tile(grain, (3, 3)), (0, 0), sigma)
        smooth = smooth[256:512, 256:512]
        return np.clip(smooth / smooth.std() * 0.6, -1.5, 1.5)

    return Noise(texture(0.8), texture(2.0), rng.standard_normal(1 << 18, np.float32))


@functools.cache
def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns and rows of all pixels, and the squared distance from the centre."""
    v, u = np.mgrid[:height, :width].astype(np.float32)
    radius = 4 * (u / width - 0.5) ** 2 + 4 * (v / height - 0.5) ** 2
    return u.ravel(), v.ravel(), radius[..., None]


def _locate(canvas: Canvas) -> Pixels:
    camera, part = canvas.camera, canvas.part.ravel().astype(np.intp)
    u, v, _ = _grid(*camera.size)
    planes = np.array([part.plane for part in canvas.parts], np.float32)
    facings = np.array([part.facing for part in canvas.parts], np.uint8)
    slope_u, slope_v, offset = (column.take(part) for column in planes.T)
    inverse = slope_u * u + slope_v * v + offset
    depth = 1 / np.clip(inverse, 1 / FARTHEST, 1 / NEAREST)
    footprint = depth / np.float32(camera.focal)
    tilt = camera.roll * (u - camera.size[1] / 2)
    x = (u - camera.centre) * footprint
    y = camera.height - (v - camera.horizon - tilt) * footprint
    facing = facings.take(part)
    along = np.where(facing == Facing.SIDE, depth, x)
    across = np.where(facing == Facing.UP, depth, y)
    return Pixels(part, facing, depth, footprint, along, across)


def _paint_patterns(colour: np.ndarray, canvas: Canvas, pixels: Pixels) -> None:
    """Blends in windows and slabs, less where they shrink towards one pixel."""
    table = np.zeros((len(canvas.parts), 7), np.float32)
    for row, part in zip(table, canvas.parts, strict=True):
        if part.pattern is not None:
            row[:] = (*part.pattern.pitch, *part.pattern.fill, *part.pattern.colour)
    where = np.flatnonzero((table[:, 0] > 0).take(pixels.part))
    rows = table.take(pixels.part[where], axis=0)
    pitch, fill = rows[:, 0:2], rows[:, 2:4]
    position = np.stack([pixels.along[where], pixels.across[where]], 1) / pitch
    inside = (position - np.floor(position) < fill).all(1)
    visible = np.clip(pitch[:, 0] * 0.5 / pixels.footprint[where], 0, 1)
    weight = (inside * visible)[:, None]
    colour[where] += (rows[:, 4:7] - colour[where]) * weight


def _texture(amplitude: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Relative brightness of the material; grain finer than a pixel fades away."""
    tables = noise()

    def grain(table, per_metre, offset=0):
        row = (pixels.across * per_metre + offset).astype(np.int32) & 255
        column = (pixels.along * per_metre).astype(np.int32) & 255
        return table.ravel().take(row * 256 + column)

    fine = np.clip(0.09 / pixels.footprint, 0, 1) * grain(tables.fine, 12)
    coarse = np.clip(0.5 / pixels.footprint, 0, 1) * grain(tables.coarse, 2.5, 91)
    return amplitude[:, 0] * fine + amplitude[:, 1] * coarse


def _light(colour, canvas, tone, pixels, label, shaded) -> None:
    """Darkens shaded ground, then adds haze: ``c*t + haze*(1 - t)``, t = exp(-kz)."""
    clear = np.exp(-np.float32(tone["haze"]) * pixels.depth)
    clear[label == LABEL["sky"]] = 0.85
    haze = np.array(canvas.sky, np.float32) * 0.5 + 0.42
    colour[shaded] *= np.float32(tone["shadow"])
    colour *= clear[:, None]
    colour += haze * (1 - clear)[:, None]


def _photograph(image, tone: Mapping[str, float], noise_offset: int) -> np.ndarray:
    """White balance, saturation, blur, vignetting, contrast, noise, gamma, 8 bits."""
    height, width, _ = image.shape
    gain = np.array([tone["red"], tone["green"], tone["blue"]]) * tone["exposure"]
    saturation = tone["saturation"]
    matrix = saturation * np.eye(3) + (1 - saturation) * np.array([LUMINANCE])
    image = cv2.transform(image, (matrix * gain[:, None]).astype(np.float32))
    if tone["blur"] > 0.2:
        sigma = tone["blur"] * max(1.0, width / 256)
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    _, _, radius = _grid(height, width)
    image *= 1 - np.float32(tone["vignette"]) * radius
    indices = np.arange(noise_offset, noise_offset + image.size)
    grain = np.take(noise().sensor, indices, mode="wrap")
    middle = np.float32(0.5 + tone["lift"])
    image = (image - 0.5) * np.float32(tone["contrast"]) + middle
    image += grain.reshape(image.shape) * np.float32(tone["noise"])
    np.clip(image, 0, 1, out=image)
    image **= np.float32(tone["gamma"])
    return (image * 255 + 0.5).astype(np.uint8)
