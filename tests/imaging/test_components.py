import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist
from strategies import masks

from kitspipe.imaging.components import (
    components,
    dilate,
    largest_component,
    remove_small,
    signed_distance,
)
from kitspipe.imaging.volume import Grid

SPACING = (2.5, 0.7, 0.8)
small_masks = masks(st.tuples(*(st.integers(1, 7),) * 3))


@given(mask=masks())
def test_components_are_scipys_numbered_by_falling_size(mask):
    numbered, n = components(mask)
    reference, n_reference = ndimage.label(mask, np.ones((3, 3, 3)))
    pairs = np.unique(np.stack([numbered.ravel(), reference.ravel()]), axis=1)
    sizes = np.bincount(numbered.ravel(), minlength=n + 1)[1:]
    assert n == n_reference
    assert numbered.dtype == np.int32
    assert pairs.shape[1] == len(np.unique(reference))  # one to one
    assert (np.diff(sizes) <= 0).all()


def test_the_largest_component_stays_and_touching_corners_connect():
    mask = np.zeros((5, 6, 7), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True
    mask[4, 4:6, 6] = True
    np.testing.assert_array_equal(np.argwhere(largest_component(mask)), [[0] * 3, [1] * 3, [2] * 3])
    assert not largest_component(np.zeros((2, 3, 4), bool)).any()


def test_components_below_the_minimal_volume_go():
    grid = Grid(shape=(4, 9, 9), spacing=(10, 10, 10))  # 1 ml a voxel
    mask = np.zeros(grid.shape, bool)
    mask[0, 0, :3] = mask[3, 5, :2] = True
    kept = remove_small(mask, 3.0, grid)
    np.testing.assert_array_equal(np.argwhere(kept), [[0, 0, 0], [0, 0, 1], [0, 0, 2]])
    assert not remove_small(mask, 3.1, grid).any()
    np.testing.assert_array_equal(remove_small(mask, 0, grid), mask)


def brute_distance(mask):
    """From every voxel to the nearest True, mm."""
    points = np.argwhere(np.ones_like(mask)) * SPACING
    if not mask.any():
        return np.full(mask.shape, np.inf)
    return cdist(points, np.argwhere(mask) * SPACING).min(axis=1).reshape(mask.shape)


@given(mask=small_masks, radius_mm=st.sampled_from((0.5, 0.7, 0.8, 2.1, 2.5, 3.3, 6.0)))
def test_dilation_and_erosion_are_all_voxels_within_the_radius(mask, radius_mm):
    np.testing.assert_array_equal(
        dilate(mask, radius_mm, SPACING), brute_distance(mask) <= radius_mm + 1e-9
    )
    np.testing.assert_array_equal(
        dilate(mask, -radius_mm, SPACING), mask & (brute_distance(~mask) > radius_mm + 1e-9)
    )


def test_dilation_by_nothing_is_a_copy():
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    same = dilate(mask, 0, SPACING)
    np.testing.assert_array_equal(same, mask)
    assert not np.shares_memory(same, mask)


@given(mask=small_masks)
def test_the_signed_distance_is_to_the_nearest_voxel_of_the_other_kind(mask):
    expected = np.where(mask, -brute_distance(~mask), brute_distance(mask))
    distance = signed_distance(mask, SPACING)
    assert distance.dtype == np.float32
    np.testing.assert_allclose(distance, expected, rtol=1e-6)


@pytest.mark.parametrize(("value", "expected"), [(False, np.inf), (True, -np.inf)])
def test_the_signed_distance_of_an_empty_or_full_mask_is_infinite(value, expected):
    assert (signed_distance(np.full((2, 3, 4), value), SPACING) == expected).all()
