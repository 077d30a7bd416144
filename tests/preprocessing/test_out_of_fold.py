import numpy as np
import pytest
from small_data import painted, write_cases
from small_plans import small_kidney_plan, small_plan

from kitspipe.dataset.cases import find_dataset
from kitspipe.errors import UserError
from kitspipe.imaging.formats import read_labels, write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Volume
from kitspipe.planning.document import write_document
from kitspipe.planning.planner import training_key
from kitspipe.planning.splits import Fold, Splits
from kitspipe.preprocessing.out_of_fold import (
    KidneyValidation,
    predicted_kidneys,
    predicted_regions,
)
from kitspipe.preprocessing.preprocess import open_cases, preprocess_case
from kitspipe.preprocessing.targets import TUMOR_CLASS
from kitspipe.workspace import Workspace

IDS = ("case_00000", "case_00001", "case_00002")
SPLITS = Splits(
    folds=tuple(
        Fold(train=tuple(i for i in IDS if i != held_out), validation=(held_out,))
        for held_out in IDS
    )
)
PLAN = small_plan()


@pytest.fixture
def place(tmp_path):
    workspace = Workspace(root=tmp_path)
    write_cases(tmp_path / "raw", 3)
    for case in find_dataset(tmp_path / "raw").cases:
        preprocess_case(case, PLAN, workspace)
    write_document(workspace.splits_file, SPLITS)
    return workspace


def validated(place, fold, change=lambda mask: mask, plan=PLAN):
    """Pretend that a fold's kidney network was trained and validated; its masks."""
    file = place.kidney_validation_file(fold)
    [case_id] = SPLITS.folds[fold].validation
    _, labels = painted(int(case_id[-1]))
    mask = Volume(array=change((labels.array > 0).copy()).view(np.uint8), grid=labels.grid)
    write_labels(file.with_name(f"{case_id}.nii.gz"), mask, header_for(mask.grid, axes="IPL"))
    write_document(
        file,
        KidneyValidation(training_key=training_key(plan, "kidney"), mean=0.9, cases={case_id: 0.9}),
    )
    return mask


def test_each_case_has_the_mask_of_the_fold_that_held_it_out(place):
    validated(place, 0)
    validated(place, 2)
    found = predicted_kidneys(place, SPLITS, PLAN)
    assert {case: file.parents[1].name for case, file in found.items()} == {
        IDS[0]: "fold_0",
        IDS[2]: "fold_2",
    }


def test_masks_of_networks_of_another_plan_do_not_count(place):
    other = small_plan(kidney=small_kidney_plan(patch_size=(16, 32, 32), window_stride=(8, 16, 16)))
    validated(place, 1, plan=other)
    assert predicted_kidneys(place, SPLITS, PLAN) == {}


def test_without_a_trained_fold_there_are_no_regions(place):
    assert predicted_regions(place, PLAN, IDS) == []


def test_regions_lie_around_predicted_kidneys_and_keep_the_references_tumors(place):
    def right_one_is_missed_and_the_left_one_too_small(mask):
        mask[:, :, :33] = False
        mask[:, :24] = False
        return mask

    validated(place, 0, right_one_is_missed_and_the_left_one_too_small)
    [region] = predicted_regions(place, PLAN, IDS)
    assert region.name == "case_00000/predicted_left"
    reference = {r.region: r for r in open_cases(place, "tumor", PLAN, IDS[:1])}["left"]
    distance = region.read_distance_mm(region.whole)
    assert (distance < 0).sum() < (reference.read_distance_mm(reference.whole) < 0).sum()


def test_what_is_no_kidney_is_a_region_without_tumor(place):
    def another_organ(mask):
        mask[2:12, 2:12, 28:40] = True
        return mask

    validated(place, 1, another_organ)
    regions = predicted_regions(place, PLAN, IDS)
    assert len(regions) == 3
    tumors = [(r.read_target(r.whole) == TUMOR_CLASS).sum() for r in regions]
    assert sorted(tumors)[0] == 0
    assert max(tumors) > 0


def test_a_changed_prediction_changes_the_regions_and_an_unchanged_one_is_kept(place):
    validated(place, 0)
    first = predicted_regions(place, PLAN, IDS)
    before = {r.name: (r.folder / "image.b2nd").stat().st_mtime_ns for r in first}
    again = predicted_regions(place, PLAN, IDS)
    assert {r.name: (r.folder / "image.b2nd").stat().st_mtime_ns for r in again} == before

    def smaller(mask):
        mask[:, 25:] = False
        return mask

    validated(place, 0, smaller)
    assert {r.key for r in predicted_regions(place, PLAN, IDS)} != {r.key for r in first}


def test_a_mask_on_another_grid_is_refused(place):
    mask = validated(place, 0)
    file = place.kidney_validation_file(0).with_name("case_00000.nii.gz")
    part = Volume(array=mask.array[1:], grid=mask.grid.crop(whole_but_first(mask)))
    write_labels(file, part, header_for(part.grid))
    with pytest.raises(UserError, match="another size or place"):
        predicted_regions(place, PLAN, IDS)
    assert read_labels(file)[0].grid.shape[0] == mask.grid.shape[0] - 1


def whole_but_first(mask):
    from kitspipe.imaging.volume import Box

    return Box(start=(1, 0, 0), stop=mask.grid.shape)
