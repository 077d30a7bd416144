from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from strategies import boxes, grids, masks

from kitspipe.imaging.volume import Box, Grid, Volume


@given(grid=grids(), seed=st.integers(0, 999))
def test_index_to_world_and_back_is_where_it_began(grid, seed):
    index = np.random.default_rng(seed).uniform(-5, 20, (7, 3))
    np.testing.assert_allclose(grid.to_index(grid.to_world(index)), index, atol=1e-9)


def test_world_points_are_those_of_simpleitk(hard_grid):
    image = sitk.Image(hard_grid.shape[::-1], sitk.sitkUInt8)
    image.SetSpacing(hard_grid.spacing[::-1])
    image.SetOrigin(hard_grid.origin)
    image.SetDirection(np.asarray(hard_grid.direction)[:, ::-1].ravel().tolist())
    expected = image.TransformIndexToPhysicalPoint((4, 9, 13))
    np.testing.assert_allclose(hard_grid.to_world((13, 9, 4)), expected, atol=1e-9)


@given(data=st.data(), grid=grids())
def test_a_crop_keeps_its_voxels_in_place(data, grid):
    box = data.draw(boxes(grid.shape))
    crop = grid.crop(box)
    assert crop.shape == box.shape
    np.testing.assert_allclose(crop.to_world((0, 0, 0)), grid.to_world(box.start), atol=1e-9)


@given(grid=grids(), factor=st.floats(0.3, 3))
def test_another_spacing_keeps_the_middle_in_place(grid, factor):
    other = grid.with_spacing(tuple(s * factor for s in grid.spacing))
    middles = [g.to_world((np.asarray(g.shape) - 1) / 2) for g in (grid, other)]
    np.testing.assert_allclose(*middles, atol=1e-6)


def test_another_spacing_covers_the_same_extent_to_half_a_voxel():
    grid = Grid(shape=(10, 4, 4), spacing=(5, 1, 1))
    # 50 mm in slices of 2 mm are 25; borders at -2.5 mm, so the first centre is at -1.5 mm.
    finer = grid.with_spacing((2, 1, 1))
    assert finer.shape == (25, 4, 4)
    assert finer.origin == (0, 0, -1.5)


def test_refined_voxels_lie_inside_the_coarse_ones():
    grid = Grid(shape=(3, 4, 5), spacing=(2, 1, 1))
    finer = grid.refined((2, 1, 1))
    assert finer.shape == (6, 4, 5)
    np.testing.assert_allclose(finer.to_world((1, 0, 0)), (0, 0, 0.5))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shape": (0, 2, 2)}, "shape"),
        ({"spacing": (1, -1, 1)}, "spacing"),
        ({"spacing": (1, float("nan"), 1)}, "spacing"),
        ({"origin": (float("inf"), 0, 0)}, "origin"),
        ({"direction": ((0, 0, 1), (0, 1, 0.3), (1, 0, 0))}, "sheared"),
    ],
)
def test_a_grid_that_can_not_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(Grid(shape=(2, 2, 2), spacing=(1, 1, 1)), **wrong)


@given(grid=grids())
def test_grids_up_to_twenty_degrees_off_are_canonical_and_flipped_ones_not(grid):
    flipped = tuple((-a, b, c) for a, b, c in grid.direction)
    assert grid.is_canonical
    assert not replace(grid, direction=flipped).is_canonical


def test_grids_are_close_up_to_the_tolerance_at_every_corner(hard_grid):
    x, y, z = hard_grid.origin
    assert hard_grid.close_to(replace(hard_grid, origin=(x, y, z + 0.009)))
    assert not hard_grid.close_to(replace(hard_grid, origin=(x, y, z + 0.02)))
    # 16 steps of 0.001 mm more move the far end by 0.016 mm.
    assert not hard_grid.close_to(replace(hard_grid, spacing=(2.501, 0.7, 0.8)))


@given(mask=masks())
def test_the_box_around_a_mask_is_the_smallest(mask):
    box = Box.around(mask)
    if box is None:
        assert not mask.any()
        return
    where = np.argwhere(mask)
    assert box.start == tuple(where.min(axis=0))
    assert box.stop == tuple(where.max(axis=0) + 1)


def test_the_overlap_of_two_boxes_is_what_lies_in_both():
    a, b = np.zeros((6, 7, 8), bool), np.zeros((6, 7, 8), bool)
    one, other = Box(start=(1, 0, 2), stop=(5, 4, 8)), Box(start=(0, 2, 3), stop=(4, 7, 6))
    a[one.slices], b[other.slices] = True, True
    assert one.overlap(other) == other.overlap(one) == Box.around(a & b)


def test_a_dilated_box_grows_by_whole_voxels_and_clips_to_the_array(hard_grid):
    box = Box(start=(3, 3, 3), stop=(5, 5, 5)).dilate(5.0, hard_grid)
    # 5 mm are 2 voxels of 2.5, 8 of 0.7 (7.14), 7 of 0.8 (6.25).
    assert (box.start, box.stop) == ((1, -5, -4), (7, 13, 12))
    assert box.clip(hard_grid.shape).start == (1, 0, 0)
    with pytest.raises(ValueError, match="empty"):
        Box(start=(20, 0, 0), stop=(21, 1, 1)).clip(hard_grid.shape)


def test_a_volume_can_not_be_written_to_nor_hold_less_than_air(hard_grid):
    volume = Volume(array=np.zeros(hard_grid.shape, np.int16), grid=hard_grid)
    with pytest.raises(ValueError, match="read-only"):
        volume.array[0, 0, 0] = 1
    with pytest.raises(ValueError, match="-1024"):
        Volume(array=np.full(hard_grid.shape, -1025, np.int16), grid=hard_grid)
    with pytest.raises(ValueError, match="fill"):
        Volume(array=np.zeros((2, 2, 2), np.int16), grid=hard_grid)


def test_a_cropped_volume_has_the_crops_voxels_and_grid(hard_grid):
    array = np.arange(np.prod(hard_grid.shape), dtype=np.float32).reshape(hard_grid.shape)
    box = Box(start=(1, 2, 3), stop=(4, 6, 8))
    crop = Volume(array=array, grid=hard_grid).crop(box)
    np.testing.assert_array_equal(crop.array, array[1:4, 2:6, 3:8])
    assert crop.grid == hard_grid.crop(box)
