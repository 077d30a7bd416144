"""The kidney stage: a coarse search and a close look find what every window of the plan finds."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from small_model import Says
from small_plans import AUGMENTATION, WINDOW, small_kidney_plan
from torch import nn
from torch.nn import functional as F

from kitspipe.imaging.volume import Grid
from kitspipe.prediction import kidneys
from kitspipe.prediction.effort import DEFAULT, FAST, PLAIN, effort_of
from kitspipe.prediction.kidneys import KidneyStage
from kitspipe.prediction.passes import flips
from kitspipe.prediction.windows import window_slices

CPU = torch.device("cpu")
SPACING = (4.0, 4.0, 4.0)
PATCH = (16, 32, 32)
THIN = 4
"""Slices of a search's windows: a quarter of the patch."""
FAT, KIDNEY = -90, 150
SIZES = ((1, 300), (20, 70), (20, 70))


def plan(**edits):
    values = {"target_spacing_mm": SPACING, "patch_size": PATCH, "window_stride": (8, 16, 16)}
    return small_kidney_plan(**values | edits)


class BrightIsKidney(nn.Module):
    """Logits that are positive above 0 HU, on coarser voxels those of their mean."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward_finest(self, image):
        self.seen.append(tuple(image.shape[2:]))
        return (image * WINDOW.scale_hu + WINDOW.center_hu) / 10

    def forward_coarse(self, image, below):
        self.seen.append(tuple(image.shape[2:]))
        by = {1: (2, 2, 2), 2: (2, 4, 4)}[below]
        return F.avg_pool3d(image * WINDOW.scale_hu + WINDOW.center_hu + 60, by) / 10


def stage(effort, network=None, **edits):
    networks = [network or BrightIsKidney()]
    return KidneyStage(networks=networks, plan=plan(**edits), device=CPU, effort=effort)


def scan(shape, kidneys):
    """Fat with air in front of it, and bright blocks in it, given by first and last voxels."""
    hu = np.full(shape, FAT, np.int16)
    hu[:, :2] = -1000
    for block in kidneys:
        hu[tuple(slice(*ends) for ends in block)] = KIDNEY
    return hu, Grid(shape=shape, spacing=SPACING)


def kidney_of(found, hu, grid):
    """Where the regions' probability reaches the threshold, on the scan's voxels."""
    mask = np.zeros(hu.shape, bool)
    for region in found:
        start = np.rint(grid.to_index(region.grid.origin)).astype(int)
        # Windows are padded around a scan that is smaller.
        z, y, x = (
            np.arange(size) + first for size, first in zip(region.grid.shape, start, strict=True)
        )
        inside = [(axis >= 0) & (axis < n) for axis, n in zip((z, y, x), hu.shape, strict=True)]
        part = region.probability[np.ix_(*inside)] >= 0.5
        mask[np.ix_(z[inside[0]], y[inside[1]], x[inside[2]])] |= part
    return mask


@st.composite
def anatomies(draw, shortest):
    """Scans of any depth with up to three kidneys, none shorter than the gaps of a search."""
    depth, rows, columns = (draw(st.integers(low, high)) for low, high in SIZES)
    kidneys = []
    for _ in range(draw(st.integers(0, 3))):
        # It may be cut by an end of the scan; 8 voxels are 32 mm.
        length = draw(st.integers(shortest, 2 * shortest))
        first = draw(st.integers(0, max(0, depth - length)))
        row, column = draw(st.integers(6, rows - 14)), draw(st.integers(6, columns - 14))
        kidneys.append(((first, first + length), (row, row + 8), (column, column + 8)))
    return (depth, rows, columns), kidneys


@settings(max_examples=60)
@given(anatomy=anatomies(shortest=THIN + 2), blend=st.sampled_from(["center", "gaussian"]))
def test_search_and_close_look_find_what_all_windows_find(anatomy, blend):
    hu, grid = scan(*anatomy)
    plain = kidney_of(stage(PLAIN, window_blend=blend).regions(hu, grid), hu, grid)
    np.testing.assert_array_equal(plain, hu == KIDNEY)
    found = kidney_of(stage(DEFAULT, window_blend=blend).regions(hu, grid), hu, grid)
    np.testing.assert_array_equal(found, plain)


def test_a_kidney_that_ends_beside_no_window_is_looked_at_further():
    # The lower end of the upper kidney lies in a gap of the search, above a shorter kidney.
    hu, grid = scan((40, 20, 20), [((18, 24), (6, 14), (6, 14)), ((0, 6), (6, 14), (6, 14))])
    found = stage(DEFAULT, window_blend="center").regions(hu, grid)
    np.testing.assert_array_equal(kidney_of(found, hu, grid), hu == KIDNEY)


@settings(max_examples=20)
@given(anatomy=anatomies(shortest=3 * THIN))
def test_a_preview_finds_every_kidney_within_a_coarse_voxel(anatomy):
    assume(anatomy[0][0] >= PATCH[0])
    hu, grid = scan(*anatomy)
    found = kidney_of(stage(FAST).regions(hu, grid), hu, grid)
    kidney = hu == KIDNEY
    assert not (ndimage.binary_erosion(kidney, np.ones((5, 5, 5)), border_value=1) & ~found).any()
    assert not (found & ~ndimage.binary_dilation(kidney, np.ones((5, 5, 5)))).any()


def test_windows_of_the_close_look_lie_over_the_body_and_reach_its_skin(monkeypatch):
    looked_at = []

    def remembered(window, patch_size):
        looked_at.append([span.start for span in window])
        return window_slices(window, patch_size)

    monkeypatch.setattr(kidneys, "window_slices", remembered)
    air, first, last = -1000, 70, 140
    hu = np.full((16, 200, 200), air, np.int16)
    hu[:, first:last, first:last] = FAT
    # Right under the skin, where the search does not look.
    hu[4:12, last - 40 : last - 1, 100:110] = KIDNEY
    grid = Grid(shape=hu.shape, spacing=SPACING)
    found = stage(DEFAULT).regions(hu, grid)
    np.testing.assert_array_equal(kidney_of(found, hu, grid), hu == KIDNEY)
    coarse = 4
    for _, row, column in looked_at:
        assert first - coarse <= row <= last - PATCH[1] + coarse
        assert first - coarse <= column <= last - PATCH[2] + coarse


def test_where_the_search_sees_nothing_every_slice_is_looked_at():
    network = BrightIsKidney()
    hu, grid = scan((60, 40, 40), [])
    assert stage(DEFAULT, network).regions(hu, grid) == []
    depths = {depth for depth, _, _ in network.seen}
    assert depths == {THIN, PATCH[0]}
    whole = sum(depth for depth, _, _ in network.seen if depth == PATCH[0])
    assert whole >= 60


def test_the_close_look_leaves_out_what_holds_no_kidney():
    network = BrightIsKidney()
    hu, grid = scan((300, 64, 64), [((100, 125), (20, 40), (10, 30))])
    stage(DEFAULT, network).regions(hu, grid)
    close = sum(shape == PATCH for shape in network.seen)
    everything = BrightIsKidney()
    stage(PLAIN, everything).regions(hu, grid)
    assert 0 < close <= len(everything.seen) / 4


def test_no_window_is_run_twice():
    images = []

    class Records(BrightIsKidney):
        def forward_finest(self, image):
            images.append(image.numpy().tobytes())
            return super().forward_finest(image)

    # Noise, so that no two windows are alike; the kidney's end lies in a gap of the search.
    hu, grid = scan((40, 64, 64), [((0, 6), (20, 40), (10, 30)), ((18, 24), (20, 40), (10, 30))])
    hu = hu + np.random.default_rng(0).integers(-9, 10, hu.shape, dtype=np.int16)
    stage(DEFAULT, Records(), window_blend="center").regions(hu, grid)
    assert len(images) == len(set(images)) > 0


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ((), [()]),
        (("x",), [(), (-1,)]),
        (("z", "x"), [(), (-3,), (-1,), (-3, -1)]),
    ],
)
def test_mirroring_looks_at_every_combination_of_the_axes_that_were_trained(axes, expected):
    assert flips(axes, mirror=True) == expected
    assert flips(axes, mirror=False) == [()]


class RightIsKidney(nn.Module):
    """Says kidney where a window's columns are low, whatever it shows."""

    def forward_finest(self, image):
        columns = torch.arange(image.shape[-1], dtype=torch.float32)
        return (columns - 10).expand_as(image)

    def forward_coarse(self, image, below):
        z, y, x = image.shape[2:]
        return torch.ones(1, 1, z // 2, y // 2**below, x // 2**below)


def test_mirrored_looks_are_turned_back_and_averaged_in_probability():
    hu, grid = np.zeros(PATCH, np.int16), Grid(shape=PATCH, spacing=SPACING)
    edits = {"augmentation": msgspec.structs.replace(AUGMENTATION, mirror_axes=("x",))}
    [region] = stage(replace(PLAIN, mirror=True), RightIsKidney(), **edits).regions(hu, grid)
    once = 1 / (1 + np.exp(-(np.arange(32) - 10.0)))
    expected = (once + once[::-1]) / 2
    np.testing.assert_allclose(region.probability[3, 5], expected, atol=1e-5)
    assert effort_of(mirror=True).mirror
    assert effort_of(fast=True, mirror=True).mirror


def test_folds_are_averaged_in_probability_in_the_close_look_too():
    hu, grid = np.full(PATCH, KIDNEY, np.int16), Grid(shape=PATCH, spacing=SPACING)
    both = KidneyStage(networks=[Says(0.5), Says(3.0)], plan=plan(), device=CPU, effort=DEFAULT)
    [region] = both.regions(hu, grid)
    expected = (1 / (1 + np.exp(-0.5)) + 1 / (1 + np.exp(-3.0))) / 2
    np.testing.assert_allclose(region.probability, expected, atol=1e-5)
