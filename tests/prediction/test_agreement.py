import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from msgspec.structs import replace
from small_data import SPACING, painted
from small_model import chosen, write_model
from small_plans import small_kidney_plan, small_plan, small_tumor_plan
from torch import nn
from torch.nn import functional as F

from kitspipe import cli
from kitspipe.imaging.formats import write_image
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Volume
from kitspipe.planning.calibration import Calibration
from kitspipe.planning.document import write_document
from kitspipe.prediction.agreement import Votes, case_quality
from kitspipe.prediction.cascade import Cascade, segment
from kitspipe.prediction.effort import DEFAULT, effort_of

CPU = torch.device("cpu")
LINE = Calibration(agreement=(0.2, 1.0), dice=(0.4, 0.8), cases=20)


def votes_of(masks):
    votes = Votes(len(masks))
    votes.add(masks.sum(axis=0).astype(np.uint8))
    return votes


@given(hnp.arrays(bool, st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(1, 6))))
def test_agreement_is_the_pooled_dice_of_all_pairs(masks):
    pairs = list(itertools.combinations(masks, 2))
    shared = sum(2 * np.count_nonzero(a & b) for a, b in pairs)
    total = sum(np.count_nonzero(a) + np.count_nonzero(b) for a, b in pairs)
    expected = shared / total if total else math.nan
    assert votes_of(masks).agreement == pytest.approx(expected, nan_ok=True)


def test_patches_are_counted_together_and_weighed():
    masks = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0]], bool)
    whole, parts = votes_of(masks), Votes(2)
    votes = masks.sum(axis=0).astype(np.uint8)
    parts.add(votes[:2])
    parts.add(votes[1:], np.array([0, 1, 1, 1], np.float32))
    assert parts.agreement == pytest.approx(whole.agreement)
    assert math.isnan(Votes(2).agreement)


def test_a_single_member_has_nothing_to_agree_on():
    assert math.isnan(votes_of(np.ones((1, 4), bool)).agreement)


def test_expected_dice_needs_a_calibration_and_something_to_agree_on():
    lines = {"tumor": LINE}
    assert case_quality({"kidney": math.nan, "tumor": math.nan}, lines.get) is None
    found = case_quality({"kidney": 0.9, "tumor": 0.6}, lines.get)
    assert (found.kidney_agreement, found.expected_kidney_dice) == (0.9, None)
    assert (found.tumor_agreement, found.expected_tumor_dice) == (0.6, pytest.approx(0.6))


class Brighter(nn.Module):
    """Kidney, or tumor, where the image (a slab's middle slice) is above a number of HU."""

    def __init__(self, hu, window):
        super().__init__()
        self.hu, self.window = hu, window

    def logits(self, image):
        return (image * self.window.scale_hu + self.window.center_hu - self.hu) * 100

    def forward_finest(self, image):
        return self.logits(image)

    def forward_coarse(self, image, below):
        assert below == 2
        return F.max_pool3d(self.logits(image), (2, 4, 4))

    def forward(self, slab):
        tumor = self.logits(slab[:, slab.shape[1] // 2])
        return torch.stack((tumor, torch.full_like(tumor, -9.0)), dim=1)


def brightness_plan(**kidney):
    return small_plan(
        kidney=small_kidney_plan(target_spacing_mm=SPACING, patch_size=(8, 32, 32), **kidney),
        tumor=small_tumor_plan(target_spacing_mm=SPACING),
    )


@pytest.mark.parametrize("blend", ["center", "gaussian"])
def test_votes_of_a_whole_scan_are_those_of_its_members_masks(blend):
    plan = brightness_plan(window_blend=blend)
    _, labels = painted(0)
    kidney = labels.array > 0
    rng = np.random.default_rng(0)
    hu = np.where(kidney, rng.integers(100, 200, kidney.shape), -80).astype(np.int16)
    image = Volume(array=hu, grid=labels.grid)
    limits = (50.5, 120.5, 150.5)
    networks = [Brighter(limit, plan.kidney.hu_window) for limit in limits]
    cascade = Cascade(plan=plan, kidney=networks, tumor=networks, device=CPU, effort=DEFAULT)
    found = segment(image, cascade)
    expected = votes_of(np.array([kidney & (hu > limit) for limit in limits])).agreement
    # Windows of a gaussian blend count what they share twice; a region has a little beyond kidneys.
    near = 1e-6 if blend == "center" else 0.01
    assert found.agreement["kidney"] == pytest.approx(expected, abs=near)
    assert found.agreement["tumor"] == pytest.approx(expected, abs=0.01)


def test_one_network_agrees_with_its_mirrored_passes_where_it_sees_no_side():
    plan = brightness_plan()
    _, labels = painted(0)
    image = Volume(array=np.where(labels.array > 0, 150, -80).astype(np.int16), grid=labels.grid)
    network = Brighter(50, plan.kidney.hu_window)
    cascade = Cascade(plan=plan, kidney=[network], tumor=[network], device=CPU, effort=DEFAULT)
    assert cascade.members("kidney") == 1
    assert all(math.isnan(value) for value in segment(image, cascade).agreement.values())
    mirrored = Cascade(
        plan=plan,
        kidney=[network],
        tumor=[network],
        device=CPU,
        effort=effort_of(mirror=True),
    )
    assert mirrored.members("kidney") == 2
    assert segment(image, mirrored).agreement == {"kidney": 1.0, "tumor": 1.0}


def test_run_json_has_the_agreement_of_folds_and_the_dice_to_expect(tmp_path):
    place = write_model(tmp_path / "model", folds=(0, 1))
    plan = small_plan()
    write_document(
        place.choice_file, replace(chosen(plan, 0.5), quality={"folds": {"kidney": LINE}})
    )
    image, _ = painted(0)
    write_image(tmp_path / "scans" / "a.nii.gz", image, header_for(image.grid))

    def quality(*options):
        given = ["-i", tmp_path / "scans", "-o", tmp_path / "-".join(["out", *options])]
        given += ["-w", place.root, "--device", "cpu", "-q", *options]
        assert cli.main(["predict", *map(str, given)]) == 0
        record = json.loads((given[3] / "run.json").read_bytes())["cases"]["a"]
        return record["quality"]

    assert quality("-f", "0") is None
    both = quality()
    assert 0 <= both["kidney_agreement"] <= 1
    expected = LINE.predict(both["kidney_agreement"])
    assert both["expected_kidney_dice"] == pytest.approx(expected, abs=1e-3)
    assert both["expected_tumor_dice"] is None
    mirrored = quality("-f", "0", "--mirror")
    assert mirrored["kidney_agreement"] is not None
    # Mirrored passes of one network differ less than folds: their line is another one.
    assert mirrored["expected_kidney_dice"] is None
