import itertools
import math

import numpy as np
import official_kits
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from surface_distance import lookup_tables

from kitspipe.evaluation import distances

SPACING = (2.5, 0.7, 0.8)


def brute_force_surface_dice(a, b, spacing, tolerance_mm):
    """Every corner of every voxel against every other, in loops."""
    areas = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)

    def elements(mask):
        padded = np.pad(mask, 1)
        for corner in itertools.product(*(range(n + 1) for n in mask.shape)):
            cube = padded[tuple(slice(c, c + 2) for c in corner)]
            if cube.any() and not cube.all():
                code = int((cube * lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL).sum())
                yield np.multiply(corner, spacing), areas[code]

    sides = [list(elements(a)), list(elements(b))]
    overlap = total = 0.0
    for own, other in (sides, sides[::-1]):
        for place, area in own:
            total += area
            overlap += area * any(math.dist(place, p) <= tolerance_mm for p, _ in other)
    return overlap / total


pairs = st.tuples(*[st.integers(1, 5)] * 3).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)
spacings = st.tuples(*[st.floats(0.4, 5)] * 3)


def test_surface_dice_of_empties():
    empty, full = np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool)
    assert math.isnan(distances.surface_dice(empty, empty, spacing=SPACING, tolerance_mm=1))
    assert distances.surface_dice(empty, full, spacing=SPACING, tolerance_mm=1) == 0
    assert distances.surface_dice(full, empty, spacing=SPACING, tolerance_mm=1) == 0


@pytest.mark.parametrize("voxel", [(0, 0, 0), (2, 3, 4), (1, 0, 3)])
def test_a_voxel_agrees_with_itself(voxel):
    mask = np.zeros((3, 4, 5), bool)
    mask[voxel] = True
    assert distances.surface_dice(mask, mask, spacing=SPACING, tolerance_mm=0) == 1


def test_a_voxel_moved_by_one_is_within_its_spacing_and_not_below():
    # The 8 corners of a voxel weigh the same. Moved along Y by 0.7 mm, 4 of the 8 meet corners
    # of the other voxel and the other 4 lie 0.7 mm away from them.
    a, b = np.zeros((2, 3, 5, 4), bool)
    a[1, 2, 2] = b[1, 3, 2] = True
    assert distances.surface_dice(a, b, spacing=SPACING, tolerance_mm=0.69) == pytest.approx(0.5)
    assert distances.surface_dice(a, b, spacing=SPACING, tolerance_mm=0.7) == 1


@given(pairs, spacings, st.floats(0, 6))
@settings(max_examples=60, deadline=None)
def test_surface_dice_is_the_packages(pair, spacing, tolerance_mm):
    a, b = pair
    if a.any() and b.any():
        expected = official_kits.package_surface_dice(a, b, spacing, tolerance_mm)
        found = distances.surface_dice(a, b, spacing=spacing, tolerance_mm=tolerance_mm)
        assert found == pytest.approx(expected, abs=1e-12)


@given(pairs, st.floats(0, 3))
@settings(max_examples=25, deadline=None)
def test_surface_dice_is_the_brute_force_one(pair, tolerance_mm):
    a, b = pair
    if a.any() and b.any():
        expected = brute_force_surface_dice(a, b, SPACING, tolerance_mm)
        found = distances.surface_dice(a, b, spacing=SPACING, tolerance_mm=tolerance_mm)
        assert found == pytest.approx(expected, abs=1e-12)


@given(pairs, st.permutations(range(3)), st.sets(st.integers(0, 2)))
@settings(max_examples=40, deadline=None)
def test_surface_dice_does_not_depend_on_the_order_and_direction_of_axes(pair, order, flipped):
    a, b = pair
    turned = [np.flip(np.transpose(mask, order), sorted(flipped)) for mask in pair]
    spacing = tuple(SPACING[axis] for axis in order)
    expected = distances.surface_dice(a, b, spacing=SPACING, tolerance_mm=1)
    found = distances.surface_dice(*turned, spacing=spacing, tolerance_mm=1)
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def brute_force_hausdorff(a, b, spacing):
    """The farthest of all nearest corners, from each mask's to the other's, in loops."""

    def corners(mask):
        padded = np.pad(mask, 1)
        for corner in itertools.product(*(range(n + 1) for n in mask.shape)):
            cube = padded[tuple(slice(c, c + 2) for c in corner)]
            if cube.any() and not cube.all():
                yield np.multiply(corner, spacing)

    sides = [list(corners(a)), list(corners(b))]
    return max(
        min(math.dist(place, p) for p in other)
        for own, other in (sides, sides[::-1])
        for place in own
    )


def test_hausdorff_of_empties():
    empty, full = np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool)
    assert math.isnan(distances.hausdorff(empty, empty, spacing=SPACING))
    assert distances.hausdorff(empty, full, spacing=SPACING) == math.inf
    assert distances.hausdorff(full, empty, spacing=SPACING) == math.inf


@given(pairs, spacings, st.sampled_from((50, 90, 95)))
@settings(max_examples=60, deadline=None)
def test_hausdorff_is_the_packages(pair, spacing, percent):
    a, b = pair
    if a.any() and b.any():
        found = distances.hausdorff(a, b, spacing=spacing, percent=percent)
        # Where a step of the cumulated area is at the percentile, rounding decides.
        low, high = (
            official_kits.package_hausdorff(a, b, spacing, percent + slack)
            for slack in (-1e-7, 1e-7)
        )
        assert low - 1e-9 <= found <= high + 1e-9


@given(pairs, spacings)
@settings(max_examples=30, deadline=None)
def test_the_whole_hausdorff_distance_is_the_brute_force_one(pair, spacing):
    a, b = pair
    if a.any() and b.any():
        found = distances.hausdorff(a, b, spacing=spacing, percent=100)
        assert found == pytest.approx(brute_force_hausdorff(a, b, spacing), abs=1e-9)


@pytest.mark.parametrize("gap", [1, 4, 5, 6, 30])
def test_hausdorff_of_two_voxels_apart_is_their_gap_near_and_far(gap):
    # All 8 corners of one voxel are farthest from the other's nearest ones by 0.8 mm less or the
    # gap itself; half of the area lies at each.
    a, b = np.zeros((2, 3, 4, 40), bool)
    a[1, 1, 2], b[1, 1, 2 + gap] = True, True
    assert distances.hausdorff(a, b, spacing=SPACING) == pytest.approx(0.8 * gap)


def test_a_small_part_of_the_surface_far_away_does_not_count():
    a = np.zeros((12, 40, 60), bool)
    a[2:10, 5:35, 5:35] = True
    b = a.copy()
    b[5, 20, 55] = True
    assert distances.hausdorff(a, b, spacing=SPACING) == 0
    assert distances.hausdorff(a, b, spacing=SPACING, percent=100) > 15


def test_different_shapes_have_no_distance():
    with pytest.raises(ValueError, match="differ"):
        distances.hausdorff(np.ones((1, 2, 3), bool), np.ones((1, 2, 4), bool), spacing=SPACING)
