import math

import numpy as np
import pytest
from small_data import painted

from kitspipe.evaluation.metrics import KITS_LABELS
from kitspipe.evaluation.review_volume import (
    HIGH_HU,
    LOW_HU,
    MOST_VOXELS,
    TUMOR,
    _grid_to_show,
    review_volume,
)
from kitspipe.imaging.volume import Grid, Volume
from kitspipe.planning.plan import Labels


def edited(volume, change):
    array = np.array(volume.array)
    change(array)
    return Volume(array=array, grid=volume.grid)


def test_every_masked_voxel_is_on_the_page():
    image, labels = painted(0)
    shown = review_volume(image, labels, None, KITS_LABELS)
    counts = [np.bincount(array.ravel(), minlength=4)[1:] for array in (labels.array, shown.labels)]
    np.testing.assert_array_equal(*counts)


def test_voxels_stay_where_they_are_in_the_patient():
    image, labels = painted(1)
    shown = review_volume(image, labels, labels, KITS_LABELS)
    middles = [
        grid.to_world(np.argwhere(array == TUMOR).mean(axis=0))
        for array, grid in ((labels.array, labels.grid), (shown.labels, shown.grid))
    ]
    np.testing.assert_allclose(*middles, atol=1e-6)
    np.testing.assert_array_equal(shown.reference, shown.labels)


def test_bytes_are_hu_in_the_window():
    image, labels = painted(0)
    shown = review_volume(image, labels, None, KITS_LABELS)
    hu = LOW_HU + shown.image / 255 * (HIGH_HU - LOW_HU)
    start = np.rint(image.grid.to_index(shown.grid.to_world((0, 0, 0)))).astype(int)
    slices = tuple(slice(a, a + n) for a, n in zip(start, shown.grid.shape, strict=True))
    assert np.abs(hu - np.clip(image.array[slices], LOW_HU, HIGH_HU)).max() <= 1


def test_the_scan_is_cropped_around_two_kidneys():
    image, labels = painted(0, shape=(15, 90, 120))
    shown = review_volume(image, labels, None, KITS_LABELS)
    assert math.prod(shown.grid.shape) < 0.8 * math.prod(image.grid.shape)


def test_where_a_kidney_is_missing_the_whole_width_is_shown():
    image, labels = painted(0, shape=(15, 90, 120))

    def drop_left(array):
        array[:, :, 33:] = 0

    shown = review_volume(image, edited(labels, drop_left), None, KITS_LABELS)
    assert shown.grid.shape[2] == 120


def test_without_any_mask_the_whole_scan_is_shown():
    image, labels = painted(0)
    empty = Volume(array=np.zeros_like(labels.array), grid=labels.grid)
    shown = review_volume(image, empty, None, KITS_LABELS)
    assert shown.grid.shape == image.grid.shape
    assert shown.focus == tuple(n // 2 for n in image.grid.shape)


def test_the_focus_is_the_slice_of_each_plane_with_most_tumor():
    image, labels = painted(0)
    shown = review_volume(image, labels, None, KITS_LABELS)
    tumor = shown.labels == TUMOR
    for axis, index in enumerate(shown.focus):
        areas = np.moveaxis(tumor, axis, 0).sum(axis=(1, 2))
        assert areas[index] == areas.max() > 0


def test_the_focus_of_a_missed_tumor_is_where_the_reference_has_it():
    image, labels = painted(0)

    def drop_tumor(array):
        array[array == 2] = 1

    shown = review_volume(image, edited(labels, drop_tumor), labels, KITS_LABELS)
    assert (shown.reference[shown.focus[0]] == TUMOR).any()


def test_labels_have_the_pages_values_whatever_the_masks_are():
    image, labels = painted(0)
    other = Volume(array=labels.array * np.uint8(40), grid=labels.grid)
    shown = [
        review_volume(image, labels, None, KITS_LABELS),
        review_volume(image, other, None, Labels(kidney=40, tumor=80, cyst=120)),
    ]
    np.testing.assert_array_equal(shown[0].labels, shown[1].labels)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((1000, 512, 512), (0.5, 0.7, 0.7)),
        ((60, 2000, 2000), (5.0, 0.2, 0.2)),
        ((9, 31, 23), (2.5, 0.7, 0.8)),
    ],
)
def test_a_page_never_holds_more_voxels_than_it_may(shape, spacing, hard_grid):
    grid = Grid(shape=shape, spacing=spacing, direction=hard_grid.direction)
    shown = _grid_to_show(grid)
    assert math.prod(shown.shape) <= MOST_VOXELS
    np.testing.assert_allclose(shown.extent_mm, grid.extent_mm, atol=max(shown.spacing))
    assert all(a >= b - 1e-9 for a, b in zip(shown.spacing, spacing, strict=True))
