import math

import numpy as np
import pytest
from hypothesis import assume, given
from shapes import ellipsoid
from strategies import masks

from kitspipe.evaluation.contact import contact_area_mm2, gap_mm

SPACING = (2.5, 0.7, 0.8)
SHAPE = (6, 9, 8)


def brute_force_gap(a, b, spacing):
    """Over all pairs: the gap between two boxes is that of the axes where they don't overlap."""
    steps = np.abs(np.argwhere(a)[:, None] - np.argwhere(b)[None])
    return np.linalg.norm(np.maximum(steps - 1, 0) * spacing, axis=-1).min()


@given(a=masks(SHAPE), b=masks(SHAPE))
def test_gaps_are_between_brute_force_and_that_of_the_nearest_centres(a, b):
    assume(a.any() and b.any())
    least = brute_force_gap(a, b, SPACING)
    centres = np.linalg.norm((np.argwhere(a)[:, None] - np.argwhere(b)) * SPACING, axis=-1).min()
    assert least - 1e-9 <= gap_mm(a, b, SPACING) <= centres + 1e-9


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_along_an_axis_a_gap_is_the_voxels_between(axis):
    a, b = np.zeros((2, 9, 9, 9), bool)
    a[4, 4, 4] = True
    place = [4, 4, 4]
    place[axis] = 8
    b[tuple(place)] = True
    assert gap_mm(a, b, SPACING) == pytest.approx(3 * SPACING[axis])


def test_masks_that_touch_by_a_corner_have_no_gap():
    a, b = np.zeros((2, 3, 3, 3), bool)
    a[0, 0, 0] = b[1, 1, 1] = True
    assert gap_mm(a, b, SPACING) == 0


def test_without_a_mask_the_gap_is_infinite():
    a, b = np.zeros((2, 3, 3, 3), bool)
    a[0] = True
    assert math.isinf(gap_mm(a, b, SPACING))
    assert math.isinf(gap_mm(b, a, SPACING))


@pytest.mark.parametrize(
    ("spacing", "tolerance"),
    [((1.0, 0.8, 0.8), 0.02), ((2.5, 0.7, 0.7), 0.04), ((5.0, 0.8, 0.8), 0.08)],
)
@pytest.mark.parametrize("radius", [8, 15, 25])
def test_a_ball_in_tissue_touches_with_its_whole_surface(spacing, tolerance, radius):
    ball = ellipsoid((radius,) * 3, spacing, shift=(0.3, -0.2, 0.1))
    area = contact_area_mm2(ball, ~ball, spacing)
    assert area == pytest.approx(4 * math.pi * radius**2, rel=tolerance)


@pytest.mark.parametrize("normal", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0.2, -1, 0.5)])
def test_half_a_ball_touches_with_half_its_surface_whatever_the_direction(normal):
    spacing, radius = (1.5, 0.8, 0.8), 15
    ball = ellipsoid((radius,) * 3, spacing)
    points = (np.indices(ball.shape).T - (np.array(ball.shape) - 1) / 2).T * np.reshape(
        spacing, (3, 1, 1, 1)
    )
    tissue = ~ball & (np.tensordot(normal, points, 1) < 0)
    area = contact_area_mm2(ball, tissue, spacing)
    assert area == pytest.approx(2 * math.pi * radius**2, rel=0.06)


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
def test_a_plane_has_its_own_area_and_not_that_of_its_stairs(slope):
    x = np.arange(60) * 0.8
    z = np.arange(60)[:, None, None] * 1.0
    below = np.broadcast_to(z < 20 + slope * x, (60, 60, 60))
    inner = np.zeros(below.shape, bool)
    inner[:, 15:45, 15:45] = True
    area = contact_area_mm2(below & inner, ~below & inner, (1.0, 0.8, 0.8))
    assert area == pytest.approx((30 * 0.8) ** 2 * math.hypot(1, slope), rel=0.06)


def test_masks_that_do_not_touch_have_no_contact():
    a, b = np.zeros((2, 4, 4, 4), bool)
    a[0], b[2] = True, True
    assert contact_area_mm2(a, b, SPACING) == 0
    assert contact_area_mm2(np.zeros_like(a), b, SPACING) == 0
