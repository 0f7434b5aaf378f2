"""Camera and canvas: projection by hand, depth of planes, painting."""

import numpy as np
import pytest

from lsr_jax.streets import canvas

CAMERA = canvas.Camera(
    size=(40, 80), height=1.5, horizon=18.0, focal=70.0, centre=38.0, roll=0.02
)
LIGHT = canvas.Light(left=1.2, right=0.8, front=0.5)
RED = (0.8, 0.1, 0.2)


def test_projection_by_hand():
    camera = CAMERA._replace(roll=0.0)
    # One metre right at 10 m is 7 pixels; the ground is 1.5 m below the horizon.
    assert camera.project(1, 0, 10) == pytest.approx((45.0, 18 + 10.5))
    assert camera.project(0, 1.5, 10) == pytest.approx((38.0, 18.0))
    # With roll, 5 columns right of the image's middle lie 0.1 rows lower.
    assert CAMERA.project(1, 0, 10) == pytest.approx((45.0, 28.5 + 0.1))


def test_upright_points_project_like_any_other():
    points = [(-3, 0), (2, 4), (0.5, 1.5)]
    expected = [CAMERA.project(x, y, 7.5) for x, y in points]
    np.testing.assert_allclose(CAMERA.project_upright(points, 7.5), expected)


@pytest.mark.parametrize("z", [1.5, 8, 60])
@pytest.mark.parametrize("other", [-4.0, 0.5, 3.0])
def test_planes_give_the_inverse_depth_of_their_points(z, other):
    for plane, point in (
        (CAMERA.ground_plane(), (other, 0, z)),
        (CAMERA.side_plane(other), (other, 2.5, z)),
    ):
        u, v = CAMERA.project(*point)
        assert np.dot(plane, (u, v, 1)) == pytest.approx(1 / z)


def test_side_plane_stays_off_the_optical_axis():
    assert CAMERA.side_plane(0.01) == CAMERA.side_plane(0.3)
    assert CAMERA.side_plane(-0.01) == CAMERA.side_plane(-0.3)


def test_the_last_part_painted_is_the_one_seen():
    painting = canvas.Canvas(CAMERA._replace(roll=0.0), LIGHT, sky=(0.5, 0.6, 0.7))
    assert painting.part.max() == 0
    painting.front(-1, 1, 0, 1, 10, "car", RED)
    painting.front(0, 1, 0, 1, 9, "bus", RED, glows=True)
    painting.side(-4, 5, 20, 0, 3, "wall", RED)
    # The car's face: columns 31..45, rows 21.5..28.5; the bus covers its right half.
    assert painting.part[25, 33] == 1
    assert painting.part[25, 42] == 2
    assert painting.part[20, 33] == 0
    names = [part.label for part in painting.parts]
    assert names == [canvas.LABEL[name] for name in ("sky", "car", "bus", "wall")]
    brightness = [part.colour[0] for part in painting.parts[1:]]
    assert brightness == pytest.approx([0.8 * 0.5, 0.8, 0.8 * 1.2])


def test_shadow_marks_ground_and_changes_no_part():
    painting = canvas.Canvas(CAMERA, LIGHT, sky=RED)
    painting.shadow(-2, 2, 0.1, 8)
    assert painting.part.max() == 0
    assert 0 < painting.shaded.mean() < 0.6
    rows, _ = np.nonzero(painting.shaded)
    assert rows.min() > CAMERA.horizon
