import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from shapes import ellipse, ellipsoid
from strategies import masks

from kitspipe.evaluation.diameters import (
    axial_diameters,
    largest_diameter_mm,
    sphere_diameter_mm,
)
from kitspipe.evaluation.outline import BEYOND_CENTRE

SPACING = (2.5, 0.7, 0.8)


def brute_force(mask, spacing):
    """Largest axial diameter over all pairs of outline points, without hulls."""
    longest = 0.0
    for plane in mask:
        y, x = np.nonzero(plane)
        if y.size == 0:
            continue
        steps = BEYOND_CENTRE * np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])
        points = ((np.stack([y, x], 1)[:, None] + steps) * spacing[1:]).reshape(-1, 2)
        gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
        longest = max(longest, gaps.max())
    return longest


@given(mask=masks())
def test_the_largest_axial_diameter_is_that_of_brute_force(mask):
    assume(mask.any())
    found = axial_diameters(mask, SPACING)
    assert found.largest_mm == pytest.approx(brute_force(mask, SPACING), abs=1e-9)


@given(mask=masks())
def test_the_lines_have_the_lengths_and_cross_at_a_right_angle(mask):
    assume(mask.any())
    found = axial_diameters(mask, SPACING)
    along, across = (
        np.diff(ends, axis=0)[0] * SPACING[1:]
        for ends in (found.largest_ends, found.perpendicular_ends)
    )
    assert np.linalg.norm(along) == pytest.approx(found.largest_mm)
    assert np.linalg.norm(across) == pytest.approx(found.perpendicular_mm)
    assert along @ across == pytest.approx(0, abs=1e-6)


@given(mask=masks())
def test_diameters_are_ordered_across_axial_in_space(mask):
    assume(mask.any())
    axial = axial_diameters(mask, SPACING)
    assert axial.perpendicular_mm <= axial.largest_mm + 1e-9
    assert axial.largest_mm <= largest_diameter_mm(mask, SPACING) + 1e-9


@given(mask=masks(), axes=st.permutations((1, 2)), flips=st.sets(st.sampled_from((0, 1, 2))))
def test_diameters_do_not_depend_on_mirrors_or_the_order_of_axes_in_a_slice(mask, axes, flips):
    assume(mask.any())
    spacing = np.array(SPACING)[[0, *axes]]
    turned = np.flip(mask.transpose(0, *axes), tuple(flips))
    here, there = axial_diameters(mask, SPACING), axial_diameters(turned, tuple(spacing))
    assert there.largest_mm == pytest.approx(here.largest_mm)
    assert largest_diameter_mm(turned, tuple(spacing)) == pytest.approx(
        largest_diameter_mm(mask, SPACING)
    )


@pytest.mark.parametrize("ratio", [1, 0.9, 0.8, 0.6])
@pytest.mark.parametrize("length", [10, 20, 40, 90])
@pytest.mark.parametrize("spacing", [(0.7, 0.7), (0.45, 0.45), (1.0, 0.6)])
def test_discs_and_ellipses_are_right_on_average_to_less_than_half_a_voxel(ratio, length, spacing):
    rng = np.random.default_rng(int(100 * ratio) + length)
    errors = []
    for _ in range(25):
        shift, angle = rng.uniform(-0.5, 0.5, 2) * spacing, rng.uniform(0, np.pi)
        long = length / 2 * rng.uniform(0.97, 1.03)
        mask = ellipse((long, ratio * long), angle, spacing, shift)
        found = axial_diameters(mask, (3.0, *spacing))
        errors.append(found.largest_mm - 2 * long)
        errors.append(found.perpendicular_mm - 2 * ratio * long)
    along, across = np.reshape(errors, (-1, 2)).mean(axis=0)
    assert abs(along) < 0.45 * max(spacing)
    assert abs(across) < 0.45 * max(spacing)


def test_over_all_ellipses_the_mean_error_is_below_a_quarter_of_a_voxel():
    rng = np.random.default_rng(7)
    errors = []
    for _ in range(150):
        long, ratio = rng.uniform(8, 45), rng.uniform(0.6, 1)
        shift = rng.uniform(-0.35, 0.35, 2)
        mask = ellipse((long, ratio * long), rng.uniform(0, np.pi), (0.7, 0.7), shift)
        errors.append(axial_diameters(mask, (3.0, 0.7, 0.7)).largest_mm - 2 * long)
    assert abs(np.mean(errors)) < 0.25 * 0.7


@pytest.mark.parametrize("spacing", [(5.0, 0.8, 0.8), (2.5, 0.7, 0.7), (1.0, 0.8, 0.8)])
@pytest.mark.parametrize("radii", [(10, 10, 10), (25, 25, 25), (30, 15, 15), (25, 18, 15)])
def test_turned_ellipsoids_have_their_length_and_their_spheres_diameter(spacing, radii):
    rng = np.random.default_rng(sum(radii))
    errors = []
    for _ in range(6):
        shift = rng.uniform(-0.5, 0.5, 3) * spacing
        turn = Rotation.from_euler("xyz", rng.uniform(0, 360, 3), degrees=True)
        mask = ellipsoid(radii, spacing, turn, shift)
        volume_ml = mask.sum() * np.prod(spacing) / 1000
        errors.append(
            (
                largest_diameter_mm(mask, spacing) - 2 * max(radii),
                sphere_diameter_mm(volume_ml) - 2 * np.prod(radii) ** (1 / 3),
            )
        )
    length, sphere = np.mean(errors, axis=0)
    assert abs(length) < 0.8
    assert abs(sphere) < 0.2


def test_a_square_is_measured_along_its_diagonal():
    mask = np.zeros((1, 12, 12), bool)
    mask[0, 1:11, 1:11] = True
    found = axial_diameters(mask, (5.0, 1.0, 1.0))
    # Centres are 9 apart on each axis; a quarter of a voxel on each end of one axis.
    assert found.largest_mm == pytest.approx(np.hypot(9.5, 9), abs=1e-9)
    assert found.perpendicular_mm == pytest.approx(found.largest_mm, rel=0.03)


def test_the_slice_is_the_one_with_the_longest_diameter():
    mask = np.zeros((5, 20, 20), bool)
    mask[1, 3:17, 3:17] = True
    mask[3, 9:11, :] = True
    assert axial_diameters(mask, (1.0, 1.0, 1.0)).z == 3


def test_one_voxel_is_half_a_voxel_across_and_a_slice_long():
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    found = axial_diameters(mask, SPACING)
    assert found.largest_mm == pytest.approx(0.5 * 0.8)
    assert found.perpendicular_mm == pytest.approx(0.5 * 0.7)
    assert largest_diameter_mm(mask, SPACING) == pytest.approx(2.5)


def test_an_empty_mask_has_no_diameter():
    empty = np.zeros((2, 3, 4), bool)
    assert largest_diameter_mm(empty, SPACING) == 0
    with pytest.raises(ValueError, match="empty"):
        axial_diameters(empty, SPACING)
