import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from kitspipe.imaging.volume import Box
from kitspipe.training.changes import AugmentationParameters, change_of
from kitspipe.training.warp import moved_image, moved_target

SCAN = (3, 70, 90)
FAR = 200

parameters = st.builds(
    AugmentationParameters,
    mirrored=st.sets(st.sampled_from([1, 2, 3])).map(tuple),
    rotation_degrees=st.floats(-180, 180),
    scale=st.floats(0.5, 2.0),
    translation=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
)


def extended(array, refinement=(1, 1), fill=0):
    """The scan with so much around it that no patch reaches its end."""
    widths = [(0, 0), *((FAR * r, FAR * r) for r in refinement)]
    return np.pad(array, widths, constant_values=fill)


def read(array, box, refinement=(1, 1), fill=0):
    """What the store gives."""
    rows, columns = (
        slice((a + FAR) * r, (b + FAR) * r)
        for a, b, r in zip(box.start[1:], box.stop[1:], refinement, strict=True)
    )
    return extended(array, refinement, fill)[:, rows, columns]


def sources(patch, drawn, refinement=(1, 1)):
    """Where each voxel of the patch comes from in the extended scan: (2, rows, columns)."""
    size = np.array(patch.shape[1:], float)
    fine = np.array(refinement, float)[:, None]
    places = np.indices([int(n * r) for n, r in zip(size, refinement, strict=True)])
    voxels = (places.reshape(2, -1) + 0.5) / fine - 0.5
    away = voxels - ((size - 1) / 2 + np.array(drawn.translation) * size)[:, None]
    angle = np.deg2rad(drawn.rotation_degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    back = np.array([cos * away[0] - sin * away[1], sin * away[0] + cos * away[1]]) / drawn.scale
    back *= np.array([[-1 if 2 in drawn.mirrored else 1], [-1 if 1 in drawn.mirrored else 1]])
    source = back + ((size - 1) / 2 + np.array(patch.start[1:]))[:, None] + FAR
    return ((source + 0.5) * fine - 0.5).reshape(places.shape)


def warped_whole(array, patch, drawn, order, refinement=(1, 1), fill=0):
    """By scipy from the whole scan: each voxel of the patch asks where it comes from."""
    places = sources(patch, drawn, refinement)
    result = np.array(
        [
            map_coordinates(plane, places, order=order, mode="nearest")
            for plane in extended(array, refinement, fill)
        ]
    )
    return result[::-1] if 3 in drawn.mirrored else result


@settings(max_examples=40, deadline=None)
@given(drawn=parameters, start=st.tuples(st.integers(-20, 60), st.integers(-20, 80)))
def test_a_warped_patch_is_cut_from_the_warped_scan(drawn, start):
    scan = np.random.default_rng(0).normal(size=SCAN).astype(np.float32)
    patch = Box(start=(0, *start), stop=(3, start[0] + 24, start[1] + 32))
    change = change_of(drawn, patch, SCAN)
    found = moved_image(read(scan, change.read, fill=-3)[None], change)[0]
    np.testing.assert_allclose(found, warped_whole(scan, patch, drawn, 1, fill=-3), atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    drawn=parameters,
    start=st.tuples(st.integers(-20, 60), st.integers(-20, 80)),
    refinement=st.sampled_from([(1, 1), (2, 2), (1, 3)]),
)
def test_a_finer_target_is_cut_from_the_warped_scans(drawn, start, refinement):
    shape = (SCAN[0], SCAN[1] * refinement[0], SCAN[2] * refinement[1])
    labels = np.random.default_rng(0).integers(1, 5, shape).astype(np.uint8)
    patch = Box(start=(0, *start), stop=(3, start[0] + 24, start[1] + 32))
    change = change_of(drawn, patch, SCAN)
    found = moved_target(read(labels, change.read, refinement), change, refinement)
    expected = warped_whole(labels, patch, drawn, 0, refinement)
    # Midway between two voxels, rounding errors decide.
    midway = np.abs(sources(patch, drawn, refinement) % 1 - 0.5).min(axis=0) < 1e-6
    np.testing.assert_array_equal(found[:, ~midway], expected[:, ~midway])
    assert found.shape == expected.shape


def test_corners_show_what_really_lies_there():
    scan = np.random.default_rng(0).uniform(1, 2, SCAN).astype(np.float32)
    patch = Box(start=(0, 25, 35), stop=(3, 45, 55))
    change = change_of(AugmentationParameters(rotation_degrees=45, scale=0.8), patch, SCAN)
    assert moved_image(read(scan, change.read), change).min() >= 1


@given(axes=st.sets(st.sampled_from([1, 2, 3])), start=st.integers(-5, 60))
def test_a_mirrored_patch_is_flipped_exactly(axes, start):
    scan = np.random.default_rng(0).normal(size=SCAN).astype(np.float32)
    patch = Box(start=(0, start, start), stop=(3, start + 9, start + 12))
    change = change_of(AugmentationParameters(mirrored=tuple(axes)), patch, SCAN)
    there = read(scan, patch)
    flipped = np.flip(there, [axis for axis in range(3) if 3 - axis in axes])
    np.testing.assert_array_equal(moved_image(read(scan, change.read), change), flipped)


@pytest.mark.parametrize("angle", [90, -90])
def test_a_quarter_turn_is_rot90(angle):
    scan = np.random.default_rng(0).normal(size=SCAN).astype(np.float32)
    patch = Box(start=(0, 20, 20), stop=(3, 41, 41))
    change = change_of(AugmentationParameters(rotation_degrees=angle), patch, SCAN)
    turned = moved_image(read(scan, change.read), change)
    # rot90 turns Y to X: counter-clockwise where Y runs down, as seen from the feet.
    expected = np.rot90(scan[:, 20:41, 20:41], -angle // 90, axes=(1, 2))
    np.testing.assert_allclose(turned, expected, atol=1e-5)


def test_a_translation_by_whole_voxels_is_a_shift():
    scan = np.random.default_rng(0).normal(size=SCAN).astype(np.float32)
    patch = Box(start=(0, 20, 20), stop=(3, 40, 60))
    change = change_of(AugmentationParameters(translation=(0.1, 0.05)), patch, SCAN)
    found = moved_image(read(scan, change.read), change)
    np.testing.assert_allclose(found, scan[:, 18:38, 18:58], atol=1e-5)


def test_a_scan_of_one_column_is_warped_too():
    patch = Box(start=(0, -3, -3), stop=(3, 5, 5))
    change = change_of(AugmentationParameters(rotation_degrees=30), patch, (3, 1, 1))
    found = moved_image(read(np.ones((3, 1, 1), np.float32), change.read), change)
    assert found.shape == (3, 8, 8)
    assert found.max() <= 1
