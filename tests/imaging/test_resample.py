from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.ndimage import map_coordinates
from strategies import grids, label_volumes

from kitspipe.imaging.formats import read_labels
from kitspipe.imaging.resample import resample_image, resample_labels, resample_linear
from kitspipe.imaging.volume import Box, Grid, Volume


def indices_in(source, target):
    """Fractional source indices of the target's voxel centres, (3, Z, Y, X)."""
    where = np.stack(np.meshgrid(*map(np.arange, target.shape), indexing="ij"), axis=-1)
    return np.moveaxis(source.to_index(target.to_world(where)), -1, 0)


def plain_linear(array, source, target, fill=0.0):
    """scipy's float64 linear interpolation on world coordinates; edges held for half a voxel."""
    index = indices_in(source, target)
    values = map_coordinates(np.asarray(array, float), index, order=1, mode="nearest")
    ends = np.reshape(source.shape, (3, 1, 1, 1)) - 0.5
    outside = ((index < -0.5 - 1e-4) | (index > ends + 1e-4)).any(axis=0)
    values[outside] = fill
    return values


def noise(grid, seed=0):
    return np.random.default_rng(seed).random(grid.shape, np.float32)


@st.composite
def pairs(draw, longest=2.0):
    """A grid and one with the same axes elsewhere, voxels at most `longest` times as long."""
    source = draw(grids(largest=9))
    factor, shift = st.floats(0.3, longest), st.floats(-3, 3)
    start = draw(st.tuples(shift, shift, shift))
    factors = draw(st.tuples(factor, factor, factor))
    target = replace(
        source,
        shape=draw(st.tuples(*(st.integers(1, 9),) * 3)),
        spacing=tuple(s * f for s, f in zip(source.spacing, factors, strict=True)),
        origin=tuple(map(float, source.to_world(start))),
    )
    return source, target


@given(pair=pairs(), fill=st.sampled_from((0.0, -7.5)))
def test_linear_resampling_is_scipys_on_world_coordinates(pair, fill):
    source, target = pair
    found = resample_linear(noise(source), source, target, fill=fill)
    assert found.dtype == np.float32
    # Positions within 1e-4 voxels of the source's count as those.
    np.testing.assert_allclose(found, plain_linear(noise(source), source, target, fill), atol=5e-4)


@given(pair=pairs(longest=6.0), value=st.floats(-50, 50, width=32))
def test_a_constant_stays_constant_wherever_the_scan_is(pair, value):
    source, target = pair
    found = resample_linear(np.full(source.shape, value), source, target, fill=value)
    np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-5)


@given(grid=grids(), seed=st.integers(0, 99))
def test_resampling_to_the_same_grid_changes_nothing(grid, seed):
    values = np.random.default_rng(seed).integers(-1024, 3000, grid.shape).astype(np.int16)
    volume = Volume(array=values, grid=grid)
    np.testing.assert_array_equal(resample_image(volume, grid).array, values)
    np.testing.assert_array_equal(resample_linear(values, grid, grid), values)


def test_an_image_is_rounded_to_int16_and_air_beyond_the_scan(hard_grid):
    values = np.random.default_rng(0).integers(-1000, 2000, hard_grid.shape).astype(np.int16)
    wider = replace(
        hard_grid.with_spacing((2.1, 1.3, 0.5)), origin=tuple(hard_grid.to_world((-2, -3, 4)))
    )
    found = resample_image(Volume(array=values, grid=hard_grid), wider)
    exact = plain_linear(values, hard_grid, wider, fill=-1024)
    assert found.grid == wider
    assert found.array.dtype == np.int16
    assert (found.array == -1024).any()
    assert np.abs(found.array - exact).max() <= 0.5 + 1e-2


def test_an_axis_that_shrinks_to_less_than_half_is_a_triangle_average():
    source = Grid(shape=(40, 1, 1), spacing=(1, 1, 1))
    target = source.with_spacing((4, 1, 1))
    values = noise(source)
    # Centres at 1.5, 5.5, ...; weights max(0, 1 - distance / 4), made to sum to 1.
    weights = np.maximum(0, 1 - np.abs(np.arange(40) - (1.5 + 4 * np.arange(10))[:, None]) / 4)
    expected = weights @ values[:, 0, 0] / weights.sum(axis=1)
    found = resample_linear(values, source, target)[:, 0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shrinking_does_not_alias(axis):
    shape, spacing = [6, 6, 6], [1.0, 1.0, 1.0]
    shape[axis], spacing[axis] = 60, 0.5
    source = Grid(shape=tuple(shape), spacing=tuple(spacing))
    stripes = np.moveaxis(np.broadcast_to(np.arange(60) % 2, (6, 6, 60)), -1, axis)
    wider = list(spacing)
    wider[axis] = 2.5
    found = resample_linear(stripes.astype(np.float32), source, source.with_spacing(tuple(wider)))
    inner = np.moveaxis(found, axis, 0)[1:-1]
    np.testing.assert_allclose(inner, 0.5, atol=0.03)


def test_grids_with_other_axes_are_refused(hard_grid):
    straight = Grid(shape=(3, 3, 3), spacing=(1, 1, 1))
    with pytest.raises(ValueError, match="axes differ"):
        resample_linear(noise(hard_grid), hard_grid, straight)


def test_a_grid_far_away_gets_the_fill(hard_grid):
    away = replace(hard_grid, origin=(5000.0, 0.0, 0.0))
    assert (resample_linear(noise(hard_grid), hard_grid, away, fill=3) == 3).all()
    ones = Volume(array=np.ones(hard_grid.shape, np.uint8), grid=hard_grid)
    assert not resample_labels(ones, away).array.any()


@given(volume=label_volumes(largest=8), data=st.data())
def test_labels_are_those_that_cover_most_of_a_voxel(volume, data):
    factor = st.floats(0.4, 1.9)
    factors = data.draw(st.tuples(factor, factor, factor))
    spacing = tuple(s * f for s, f in zip(volume.grid.spacing, factors, strict=True))
    target = replace(volume.grid.with_spacing(spacing), shape=data.draw(st.just((5, 7, 6))))
    coverages = np.stack(
        [plain_linear(volume.array == v, volume.grid, target, float(v == 0)) for v in range(4)]
    )
    found = resample_labels(volume, target)
    assert found.array.dtype == np.uint8
    chosen = np.take_along_axis(coverages, found.array[None].astype(int), axis=0)[0]
    assert (chosen >= coverages.max(axis=0) - 1e-3).all()


def test_of_labels_with_equal_coverage_the_higher_wins():
    source = Grid(shape=(1, 1, 6), spacing=(1, 1, 1))
    labels = np.array([[[0, 2, 1, 2, 0, 0]]], np.uint8)
    found = resample_labels(Volume(array=labels, grid=source), source.with_spacing((1, 1, 2)))
    # Voxel pairs (0, 2), (1, 2), (0, 0), each half and half.
    assert found.array.ravel().tolist() == [2, 2, 0]


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def along_z(array, source, target):
    """scipy's float64 linear interpolation between grids that differ in Z only."""
    steps = np.stack([np.arange(target.shape[0]), *np.zeros((2, target.shape[0]))], axis=-1)
    positions = source.to_index(target.to_world(steps))[:, 0].clip(0, source.shape[0] - 1)
    return interp1d(np.arange(source.shape[0]), array.astype(float), axis=0)(positions)


def best_hard_dice(mask, source, target):
    """The most that any mask on the target's slices can give.

    Carried back linearly and cut at 0.5, a slice takes the value of the nearest coarse one, so
    the best coarse mask is, in each column, what most of its fine voxels are.
    """
    fine = np.stack([np.arange(len(mask)), *np.zeros((2, len(mask)))], axis=-1)
    nearest = np.rint(target.to_index(source.to_world(fine))[:, 0] - 1e-6)
    nearest = nearest.clip(0, target.shape[0] - 1)
    back = np.zeros_like(mask)
    for k in np.unique(nearest):
        back[nearest == k] = mask[nearest == k].mean(axis=0) >= 0.5
    return dice(mask, back)


def check_round_trips(path, z_mm):
    """Carry a real mask to a stage's grid and back: Dice lost to a soft mask, kidney and tumor."""
    lost = []
    labels, _ = read_labels(path)
    box = Box.around(labels.array > 0).dilate(10, labels.grid).clip(labels.array.shape)
    labels = labels.crop(box)
    grid = labels.grid
    stage = grid.with_spacing((z_mm, *grid.spacing[1:]))
    carried = resample_labels(labels, stage).array
    for mask, moved in ((labels.array > 0, carried > 0), (labels.array == 2, carried == 2)):
        found = dice(mask, resample_linear(moved, stage, grid) >= 0.5)
        soft = along_z(along_z(mask, grid, stage), stage, grid)
        expected = dice(mask, soft >= 0.5)
        lost.append(expected - found)
        if grid.spacing[0] < z_mm:
            # Slices are lost: no hard mask can hold the halves that a soft one holds there.
            expected = min(expected, best_hard_dice(mask, grid, stage))
        assert found >= expected - 0.002
    return lost


@pytest.mark.parametrize(
    "case", ["case_00003", "case_00004", "case_00014", "case_00036", "case_00040"]
)
@pytest.mark.parametrize("z_mm", [2.0, 1.0])
def test_real_masks_survive_the_stage_grids(shared_data, case, z_mm):
    check_round_trips(shared_data / "kits_masks" / case / "segmentation.nii.gz", z_mm)


@pytest.mark.slow
def test_all_real_masks_survive_the_stage_grids(shared_data):
    files = sorted((shared_data / "kits_masks").glob("*/segmentation.nii.gz"))
    assert files
    kidney_stage, tumor_stage = (
        np.mean([check_round_trips(file, z_mm) for file in files], axis=0) for z_mm in (2.0, 1.0)
    )
    # Each stage's own targets: the whole kidney, and the tumor inside.
    assert kidney_stage[0] < 0.002
    assert tumor_stage.max() < 0.002
