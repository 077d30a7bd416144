import base64
import io
import json
import zlib

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from PIL import Image
from strategies import grids

from kitspipe.evaluation import pictures
from kitspipe.evaluation.pictures import COLORS, PLANES, plane_of, ras_affine, volume_script
from kitspipe.evaluation.review_volume import MOST_VOXELS, ReviewVolume
from kitspipe.imaging.formats import write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Grid, Volume

# Of color vision without red, green or blue cones, on linear RGB. Source: Machado, Oliveira,
# Fernandes 2009, severity 1.0.
BLINDNESS = {
    "protan": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "deutan": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    "tritan": ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
}


def shown(shape=(9, 31, 23), focus=(4, 15, 11), reference=None, seed=0):
    rng = np.random.default_rng(seed)
    image = np.clip(rng.normal(120, 8, shape), 0, 255).astype(np.uint8)
    labels = rng.integers(0, 4, shape).astype(np.uint8)
    grid = Grid(shape=shape, spacing=(2.5, 0.7, 0.8))
    return ReviewVolume(image=image, labels=labels, reference=reference, grid=grid, focus=focus)


def read_script(script):
    text = script.decode().removeprefix("window.kitspipeVolume = ").removesuffix(";\n")
    return json.loads(text)


def unpacked(data):
    """Slices and labels as the page's script takes them out."""
    raw = base64.b64decode(data["image"].removeprefix("data:image/webp;base64,"))
    sheet = np.asarray(Image.open(io.BytesIO(raw)).convert("L"))
    depth, height, width = data["shape"]
    slices = [
        sheet[
            z // data["columns"] * height : (z // data["columns"] + 1) * height,
            z % data["columns"] * width : (z % data["columns"] + 1) * width,
        ]
        for z in range(depth)
    ]
    labels = np.frombuffer(zlib.decompress(base64.b64decode(data["labels"])), np.uint8)
    return np.stack(slices), labels.reshape(data["shape"])


@pytest.mark.parametrize("shape", [(1, 5, 4), (9, 31, 23), (64, 7, 40)])
def test_a_page_gets_the_labels_exactly_and_the_scan_nearly(shape):
    made = shown(shape, (0, 0, 0))
    image, labels = unpacked(read_script(volume_script(made)))
    np.testing.assert_array_equal(labels, made.labels)
    assert np.abs(image.astype(int) - made.image).mean() < 8


def test_the_largest_scan_takes_two_megabytes():
    # So a hundred stay below 200 MB. The noise is twice that of CT; a tenth of the slices.
    made = shown((10, 200, MOST_VOXELS // 20_000), (0, 0, 0))
    smooth = np.zeros_like(made.labels)
    smooth[:, 50:100, 50:100] = 1
    part = ReviewVolume(
        image=made.image, labels=smooth, reference=smooth, grid=made.grid, focus=made.focus
    )
    assert len(volume_script(part)) * 10 < 2_000_000


@given(grids())
def test_the_affine_is_niftis(grid):
    affine = ras_affine(grid)
    # Voxels are (X, Y, Z) there, and space is RAS where ours is LPS.
    corner = np.array(grid.shape) - 1
    x, y, z = grid.to_world(corner)
    np.testing.assert_allclose(
        nib.affines.apply_affine(affine, corner[::-1]), (-x, -y, z), atol=1e-6
    )


def test_nibabel_reads_the_same_affine_from_a_mask(hard_grid, tmp_path):
    labels = Volume(array=np.zeros(hard_grid.shape, np.uint8), grid=hard_grid)
    write_labels(tmp_path / "mask.nii.gz", labels, header_for(hard_grid, axes="LPS"))
    read = nib.load(tmp_path / "mask.nii.gz").affine
    np.testing.assert_allclose(ras_affine(hard_grid), read, atol=1e-3)


def test_a_reader_sees_the_right_side_left_and_the_head_above():
    array = np.zeros((3, 4, 5), np.uint8)
    array[2, 0, 0] = 1  # superior, anterior, right
    where = {
        plane: tuple(int(i) for i in np.argwhere(plane_of(array, plane, (2, 0, 0)))[0])
        for plane in PLANES
    }
    assert where == {"axial": (0, 0), "coronal": (0, 0), "sagittal": (0, 0)}


def test_overlays_have_square_pixels_of_one_scale():
    made = shown()
    sizes = {plane: pictures.overlay_size(made, plane)[:2] for plane in PLANES}
    # mm across over pixels across: 23 x 0.8 mm wide, 31 x 0.7 mm deep, 9 x 2.5 mm high.
    assert sizes["axial"][0] / 18.4 == pytest.approx(sizes["axial"][1] / 21.7, rel=0.01)
    assert sizes["coronal"][0] / 18.4 == pytest.approx(sizes["coronal"][1] / 22.5, rel=0.01)
    assert sizes["sagittal"][0] / 21.7 == pytest.approx(sizes["axial"][0] / 18.4, rel=0.01)
    for plane in PLANES:
        assert Image.open(io.BytesIO(pictures.overlay(made, plane))).size == sizes[plane]


def test_an_overlay_shows_each_class_in_its_color_and_the_reference_in_white():
    labels = np.zeros((3, 40, 40), np.uint8)
    labels[:, 5:15, 5:15] = 2
    truth = np.zeros_like(labels)
    truth[:, 20:30, 20:30] = 2
    grid = Grid(shape=labels.shape, spacing=(3.0, 1.0, 1.0))
    image = np.full(labels.shape, 60, np.uint8)
    made = ReviewVolume(image=image, labels=labels, reference=truth, grid=grid, focus=(1, 10, 10))
    seen = np.asarray(Image.open(io.BytesIO(pictures.overlay(made, "axial")))).astype(int)
    scale = seen.shape[0] / 40
    inside = seen[int(10 * scale), int(10 * scale)]
    assert inside[0] > 80 > inside[2]  # yellow
    line = seen[int(25 * scale), int(19 * scale) : int(21 * scale)]
    assert line.min(axis=1).max() > 180  # white
    assert np.ptp(seen[int(35 * scale), int(35 * scale)]) < 12  # gray elsewhere


def linear(color):
    values = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE L*a*b* of linear RGB, white D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = xyz @ np.clip(rgb, 0, 1) / (0.9505, 1.0, 1.089)
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colors_are_told_apart_by_everybody(blindness):
    seen = [lab(np.array(BLINDNESS[blindness]) @ linear(color)) for color in COLORS.values()]
    # From each other, and from the grays of a scan: a difference of 2.3 can just be seen.
    distances = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    grays = [np.linalg.norm(color[1:]) for color in seen]
    assert min(distances) > 35
    assert min(grays) > 25
