"""Scans that cut a kidney, or have none, one, three, or one in the pelvis: both halves of the flow.

Axes (Z, Y, X); X runs from the patient's right to left.
"""

import numpy as np
import pytest
import torch
from small_plans import small_kidney_plan, small_plan, small_tumor_plan
from torch import nn

from kitspipe.dataset.case_files import CaseFiles
from kitspipe.dataset.cases import Case
from kitspipe.dataset.check import check_case
from kitspipe.imaging.formats import write_image, write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Grid, Volume
from kitspipe.planning.fingerprint import fingerprint_case
from kitspipe.prediction.cascade import Cascade, segment
from kitspipe.preprocessing.rois import clean_kidneys, kidney_rois

SPACING = (5.0, 2.0, 2.0)
GRID = Grid(shape=(24, 48, 64), spacing=SPACING)
MARGIN_MM = 10.0
PLAN = small_plan(
    kidney=small_kidney_plan(target_spacing_mm=SPACING, patch_size=(8, 32, 32)),
    tumor=small_tumor_plan(target_spacing_mm=SPACING),
)
# Blocks of 29 ml by place: (first slice, first column); slices below 0 are outside the scan.
RIGHT, LEFT, CUT_LEFT, SECOND_LEFT, PELVIC = (12, 8), (12, 44), (-4, 44), (2, 46), (0, 28)
ANATOMIES = {
    "two": (RIGHT, LEFT),
    "none": (),
    "one": (LEFT,),
    "three": (RIGHT, LEFT, SECOND_LEFT),
    "cut": (RIGHT, CUT_LEFT),
    "pelvic": (RIGHT, PELVIC),
}
NAMES = {
    "two": ["right", "left"],
    "none": [],
    "one": ["left"],
    "three": ["right", "left", "left_2"],
    "cut": ["right", "left"],
    "pelvic": ["right", "left"],
}
WARNINGS = {
    "two": (),
    "none": ("no kidney found",),
    "one": ("only one kidney found",),
    "three": ("3 kidneys found",),
    "cut": ("a kidney is cut by the scan's first or last slice",),
    "pelvic": ("a kidney is cut by the scan's first or last slice",),
}


def kidneys(name):
    mask = np.zeros(GRID.shape, bool)
    for first, column in ANATOMIES[name]:
        mask[max(0, first) : first + 9, 20:34, column : column + 12] = True
    return mask


class BrightIsKidney(nn.Module):
    """Logits that are positive above 0 HU."""

    def forward_finest(self, image):
        window = PLAN.kidney.hu_window
        return (image * window.scale_hu + window.center_hu) * 100


class NoTumor(nn.Module):
    def forward(self, slab):
        return torch.full((len(slab), 2, *slab.shape[2:]), -10.0)


def hu(mask):
    """Kidneys in fat, noisy, with air around."""
    values = np.random.default_rng(0).normal(0, 8, GRID.shape) + np.where(mask, 150, -90)
    values[:, :6] = -1000
    return values.astype(np.int16)


@pytest.mark.parametrize("name", ANATOMIES)
def test_every_kidney_has_a_region_that_holds_it(name):
    mask = kidneys(name)
    _, boxes = clean_kidneys(mask, GRID, 10.0)
    rois = kidney_rois(boxes, GRID, MARGIN_MM)
    assert [roi.name for roi in rois if roi.side == "right"] == [
        name for name in NAMES[name] if name.startswith("right")
    ]
    assert sorted(roi.name for roi in rois) == sorted(NAMES[name])
    covered = np.zeros(GRID.shape, bool)
    for roi in rois:
        covered[roi.box.slices] = True
    assert (covered | ~mask).all()


def test_the_region_of_a_cut_kidney_ends_with_the_scan():
    _, boxes = clean_kidneys(kidneys("cut"), GRID, 10.0)
    left = kidney_rois(boxes, GRID, MARGIN_MM)[1].box
    assert (left.start[0], left.stop[0]) == (0, 5 + 2)


@pytest.mark.parametrize("name", ANATOMIES)
def test_prediction_keeps_every_kidney_and_warns_of_what_is_odd(name):
    mask = kidneys(name)
    image = Volume(array=hu(mask), grid=GRID)
    cascade = Cascade(
        plan=PLAN, kidney=[BrightIsKidney()], tumor=[NoTumor()], device=torch.device("cpu")
    )
    found = segment(image, cascade)
    assert found.warnings == WARNINGS[name]
    assert ((found.labels.array > 0) == mask).mean() > 0.99
    assert len(found.rois) == len(NAMES[name])


@pytest.mark.parametrize("name", ANATOMIES)
def test_check_and_fingerprint_take_every_anatomy(tmp_path, name):
    mask = kidneys(name)
    labels = mask.astype(np.uint8)
    header = header_for(GRID, "IPL")
    write_image(tmp_path / "ct.nii.gz", Volume(array=hu(mask), grid=GRID), header)
    write_labels(tmp_path / "mask.nii.gz", Volume(array=labels, grid=GRID), header)
    case = Case(id="a", image=tmp_path / "ct.nii.gz", labels=tmp_path / "mask.nii.gz")
    errors = [p.found for p in check_case(case, None) if p.severity == "error"]
    # A mask without kidney may be another organ's, so check asks for a look at it.
    assert errors == (["no kidney; labels: background only"] if name == "none" else [])
    record = fingerprint_case(CaseFiles(case))
    assert len(record.kidney_extents_mm) == len(ANATOMIES[name])
    assert record.slices_with_kidney == int(mask.any(axis=(1, 2)).sum())
    assert record.kidney_ml == pytest.approx(mask.sum() * 0.02)
