import numpy as np
import torch
from small_data import SPACING, painted
from small_model import Says
from small_plans import small_kidney_plan, small_plan, small_tumor_plan
from torch import nn

from kitspipe.imaging.volume import Grid, Volume
from kitspipe.prediction.cascade import (
    Cascade,
    find_kidneys,
    segment,
    tumors_in,
)
from kitspipe.prediction.effort import PLAIN
from kitspipe.prediction.kidneys import KidneyStage

CPU = torch.device("cpu")
PLAN = small_plan(
    kidney=small_kidney_plan(target_spacing_mm=SPACING, patch_size=(8, 32, 32)),
    tumor=small_tumor_plan(target_spacing_mm=SPACING),
)


class BrightIsKidney(nn.Module):
    """Logits that are positive above 0 HU: what is not fat here is kidney, tumor or cyst."""

    def forward_finest(self, image):
        window = PLAN.kidney.hu_window
        return (image * window.scale_hu + window.center_hu) * 100


class MiddleSlice(nn.Module):
    """Tumor where the slab's middle slice is between 40 and 120 HU, cyst below 40, inside."""

    def forward(self, slab):
        window = PLAN.tumor.hu_window
        hu = slab[:, slab.shape[1] // 2] * window.scale_hu + window.center_hu
        tumor = (hu > 40) & (hu < 120)
        cyst = (hu > -40) & (hu <= 40)
        return torch.stack((tumor, cyst), dim=1).float() * 20 - 10


def cascade(kidney=None, tumor=None):
    return Cascade(
        plan=PLAN, kidney=[kidney or BrightIsKidney()], tumor=[tumor or MiddleSlice()], device=CPU
    )


def flat(seed=0):
    """The painted anatomy without noise and texture."""
    _, labels = painted(seed)
    hu = np.choose(labels.array, [-80, 150, 80, 10]).astype(np.int16)
    return Volume(array=hu, grid=labels.grid), labels


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_a_cascade_of_perfect_networks_returns_the_labels():
    image, labels = flat()
    found = segment(image, cascade())
    assert found.labels.grid == image.grid
    for value in (1, 2, 3):
        assert dice(found.labels.array == value, labels.array == value) > 0.99
    assert [roi.side for roi in found.rois] == ["right", "left"]
    assert found.warnings == ()


def test_a_scan_without_kidney_is_an_empty_mask_with_a_warning():
    grid = Grid(shape=(5, 20, 20), spacing=SPACING)
    image = Volume(array=np.full(grid.shape, -500, np.int16), grid=grid)
    found = segment(image, cascade())
    assert not found.labels.array.any()
    assert found.warnings == ("no kidney found",)
    assert found.rois == ()


def test_one_cut_kidney_is_said():
    image, _ = flat()
    half = np.full(image.grid.shape, -500, np.int16)
    half[:8, :, :33] = image.array[7:, :, :33]
    found = segment(Volume(array=half, grid=image.grid), cascade())
    assert found.warnings == (
        "only one kidney found",
        "a kidney is cut by the scan's first or last slice",
    )


def test_specks_of_kidney_are_cleaned_away():
    image, labels = flat()
    array = image.array.copy()
    array[0, :2, :2] = 150
    kidneys = find_kidneys(Volume(array=array, grid=image.grid), cascade())
    assert kidneys.count == 2
    assert not kidneys.mask[0, :2, :2].any()
    assert dice(kidneys.mask, labels.array > 0) > 0.99


def test_folds_are_averaged_in_probability():
    hu = np.zeros((8, 32, 32), np.int16)
    networks = [Says(0.0), Says(2.0)]
    stage = KidneyStage(networks=networks, plan=PLAN.kidney, device=CPU, effort=PLAIN)
    found = stage.probability(hu)
    # The mean of 1/2 and 1 / (1 + e^-2), not the sigmoid of the mean logit.
    np.testing.assert_allclose(found, (0.5 + 1 / (1 + np.exp(-2.0))) / 2, atol=1e-6)


def test_an_empty_kidney_has_no_tumors():
    image, _ = flat()
    found, rois = tumors_in(image, np.zeros(image.grid.shape, bool), cascade())
    assert not found.classes.any()
    assert rois == ()
