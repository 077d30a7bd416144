"""Scans that cut a kidney, or have none, one, three, or one in the pelvis: both halves of the flow.

Axes (Z, Y, X); X runs from the patient's right to left.
"""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from small_model import write_model
from small_plans import small_kidney_plan, small_plan, small_tumor_plan
from torch import nn
from torch.nn import functional as F

from kitspipe.dataset.case_files import CaseFiles
from kitspipe.dataset.cases import Case, find_images
from kitspipe.dataset.check import check_case
from kitspipe.errors import UserError
from kitspipe.imaging.formats import write_image, write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Grid, Volume
from kitspipe.planning.fingerprint import fingerprint_case
from kitspipe.prediction.attempt import attempt
from kitspipe.prediction.cascade import Cascade, segment
from kitspipe.prediction.effort import DEFAULT, PLAIN
from kitspipe.prediction.job import make_job
from kitspipe.prediction.records import merge
from kitspipe.preprocessing.preprocess import open_cases, preprocess_case
from kitspipe.preprocessing.rois import clean_kidneys, kidney_rois
from kitspipe.workspace import Workspace

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

    def forward_coarse(self, image, below):
        return F.avg_pool3d(self.forward_finest(image), (2 ** (below - 1), 2**below, 2**below))


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


def cascade_of(effort):
    on = torch.device("cpu")
    networks = {"kidney": [BrightIsKidney()], "tumor": [NoTumor()]}
    return Cascade(plan=PLAN, **networks, device=on, effort=effort)


@pytest.mark.parametrize("effort", [PLAIN, DEFAULT], ids=["every window", "default"])
@pytest.mark.parametrize("name", ANATOMIES)
def test_prediction_keeps_every_kidney_and_warns_of_what_is_odd(name, effort):
    mask = kidneys(name)
    image = Volume(array=hu(mask), grid=GRID)
    found = segment(image, cascade_of(effort))
    assert found.warnings == WARNINGS[name]
    assert ((found.labels.array > 0) == mask).mean() > 0.99
    assert len(found.rois) == len(NAMES[name])


def legs():
    """Another body part: two bright bones through all slices, no kidney."""
    mask = np.zeros(GRID.shape, bool)
    mask[:, 22:30, 14:22] = mask[:, 22:30, 42:50] = True
    return mask


@pytest.mark.parametrize("name", [*ANATOMIES, "legs"])
def test_whatever_a_scan_shows_its_mask_is_valid_and_the_report_warns(tmp_path, name):
    shown = legs() if name == "legs" else kidneys(name)
    header = header_for(GRID, "IPL")
    write_image(tmp_path / "scans/a.nii.gz", Volume(array=hu(shown), grid=GRID), header)
    [case] = find_images(tmp_path / "scans")
    job = make_job(write_model(tmp_path / "model", plan=PLAN), tmp_path / "out", None, "cpu")
    outcome = attempt(case, job, cascade_of(DEFAULT), run="run", seen="")
    assert outcome.status == "done"
    expected = WARNINGS["cut"] if name == "legs" else WARNINGS[name]
    merge(tmp_path / "out")
    report = json.loads((tmp_path / "out" / "run.json").read_bytes())
    assert report["cases"]["a"]["warnings"] == list(expected)
    scan, mask = (sitk.ReadImage(str(file)) for file in (case.image, job.mask_file(case)))
    assert mask.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, what)() == getattr(scan, what)()
    values = set(np.unique(sitk.GetArrayFromImage(mask)))
    assert values == ({0, 1} if shown.any() else {0})


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


def training_case(folder, mask, labels=None):
    header = header_for(GRID, "IPL")
    labels = mask.astype(np.uint8) if labels is None else labels
    write_image(folder / "ct.nii.gz", Volume(array=hu(mask), grid=GRID), header)
    write_labels(folder / "mask.nii.gz", Volume(array=labels, grid=GRID), header)
    return Case(id="a", image=folder / "ct.nii.gz", labels=folder / "mask.nii.gz")


def on_the_scan(regions):
    """Where regions, which are on the scan's own voxels here, have a kidney."""
    found = np.zeros(GRID.shape, bool)
    for region in regions:
        offset = (np.array(region.grid.origin)[::-1] - GRID.origin[::-1]) / SPACING
        box = tuple(
            slice(first, first + size)
            for first, size in zip(np.rint(offset).astype(int), region.grid.shape, strict=True)
        )
        found[box] |= region.read_distance_mm(region.whole) < 0
    return found


def kidney_target(scan):
    return scan.read_target(scan.whole) > 0


@pytest.mark.parametrize("name", [name for name in ANATOMIES if name != "none"])
def test_every_anatomy_becomes_training_arrays_that_hold_all_of_its_kidneys(tmp_path, name):
    mask = kidneys(name)
    place = Workspace(root=tmp_path)
    preprocess_case(training_case(tmp_path, mask), PLAN, place)
    [scan] = open_cases(place, "kidney", PLAN, ["a"])
    np.testing.assert_array_equal(kidney_target(scan), mask)
    regions = open_cases(place, "tumor", PLAN, ["a"])
    assert sorted(region.region for region in regions) == sorted(NAMES[name])
    np.testing.assert_array_equal(on_the_scan(regions), mask)


def test_a_training_case_without_kidney_is_refused_by_name(tmp_path):
    mask = kidneys("none")
    with pytest.raises(UserError, match="at least one kidney") as error:
        preprocess_case(training_case(tmp_path, mask), PLAN, Workspace(root=tmp_path))
    assert error.value.file == str(tmp_path / "mask.nii.gz")
    assert not (tmp_path / "preprocessed").exists()


@pytest.mark.parametrize(("beside", "regions"), [("none", ["left"]), ("right", ["right"])])
def test_a_sliver_of_a_cut_kidney_is_learned_and_has_a_region_only_if_it_is_all_there_is(
    tmp_path, beside, regions
):
    mask = kidneys("none")
    mask[-1, 20:34, 44:56] = True
    if beside == "right":
        mask[5:14, 20:34, 8:20] = True
    # 3.4 ml, below the smallest kidney of the plan.
    assert mask[:, :, 40:].sum() * 0.02 < PLAN.kidney.minimal_kidney_ml
    place = Workspace(root=tmp_path)
    preprocess_case(training_case(tmp_path, mask), PLAN, place)
    [scan] = open_cases(place, "kidney", PLAN, ["a"])
    np.testing.assert_array_equal(kidney_target(scan), mask)
    assert [region.region for region in open_cases(place, "tumor", PLAN, ["a"])] == regions


def test_a_third_label_in_a_data_set_of_two_is_named_with_its_case(tmp_path):
    mask = kidneys("two")
    labels = mask.astype(np.uint8)
    labels[14:17, 22:26, 10:14] = 3
    case = training_case(tmp_path, mask, labels)
    names = {"kidney": 1, "tumor": 2}
    [problem] = [p for p in check_case(case, None, names=names) if p.severity == "error"]
    assert problem.case_id == "a"
    assert "3" in problem.found
