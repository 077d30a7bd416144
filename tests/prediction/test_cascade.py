import numpy as np
import pytest
import torch
from small_data import SPACING, painted
from small_plans import small_kidney_plan, small_plan, small_tumor_plan
from torch import nn

from kitspipe.imaging.volume import Grid, Volume
from kitspipe.prediction.cascade import (
    Cascade,
    classes_of,
    find_kidneys,
    segment,
    tumor_probability,
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
    class Says(nn.Module):
        def __init__(self, logit):
            super().__init__()
            self.logit = logit

        def forward_finest(self, image):
            return torch.full_like(image, self.logit)

    hu = np.zeros((8, 32, 32), np.int16)
    networks = [Says(0.0), Says(2.0)]
    stage = KidneyStage(networks=networks, plan=PLAN.kidney, device=CPU, effort=PLAIN)
    found = stage.probability(hu)
    # The mean of 1/2 and 1 / (1 + e^-2), not the sigmoid of the mean logit.
    np.testing.assert_allclose(found, (0.5 + 1 / (1 + np.exp(-2.0))) / 2, atol=1e-6)


def test_tumors_are_looked_for_only_inside_the_dilated_kidney():
    class AllTumor(nn.Module):
        def forward(self, slab):
            return torch.full((len(slab), 2, *slab.shape[2:]), 5.0)

    shape = (3, 20, 21)
    distance = np.abs(np.arange(21) - 10.0) * 2.5 - 2.5
    distance = np.broadcast_to(distance, shape).astype(np.float32)
    found = tumor_probability(np.zeros(shape, np.int16), distance, [AllTumor()], PLAN.tumor, CPU)
    assert found.shape == (2, *shape)
    # Dilation 3 mm: columns up to 2 beside the middle one lie within.
    assert (found[0, 0, 0] > 0.5).nonzero()[0].tolist() == [8, 9, 10, 11, 12]


def test_the_slices_of_a_slab_are_neighbors_and_ends_repeat():
    class Sum(nn.Module):
        def forward(self, slab):
            digits = torch.tensor([1.0, 10.0, 100.0])[:, None, None]
            return torch.logit((slab * digits).sum(1) / 1e4)[:, None].repeat(1, 2, 1, 1)

    # Slices of 1, 2, 3, 4 in network units.
    window = PLAN.tumor.hu_window
    hu = np.arange(1, 5) * window.scale_hu / 10 + window.center_hu
    image = np.broadcast_to(hu[:, None, None], (4, 8, 8)).astype(np.int16)
    inside = np.full(image.shape, -1, np.float32)
    found = tumor_probability(image, inside, [Sum()], PLAN.tumor, CPU)[0, :, 0, 0]
    np.testing.assert_allclose(found * 1e5, [211, 321, 432, 443], rtol=1e-3)


@pytest.mark.parametrize(
    ("tumor", "cyst", "expected"),
    [
        (0.4, 0.3, 0),
        (0.5, 0.3, 1),
        (0.6, 0.9, 2),
        (0.9, 0.9, 1),  # a tie is a tumor: missing one costs more
        (0.4, 0.5, 2),
    ],
)
def test_the_likelier_class_wins_from_the_threshold_on(tumor, cyst, expected):
    probability = np.array([tumor, cyst], np.float32)[:, None, None, None]
    assert classes_of(probability, 0.5).item() == expected


def test_an_empty_kidney_has_no_tumors():
    image, _ = flat()
    classes, rois = tumors_in(image, np.zeros(image.grid.shape, bool), cascade())
    assert not classes.any()
    assert rois == ()
