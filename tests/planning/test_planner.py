import json

import msgspec
import pytest
from small_data import write_cases
from small_plans import small_plan

from kitspipe.dataset.cases import find_dataset
from kitspipe.errors import UserError
from kitspipe.planning.document import read_document, write_document
from kitspipe.planning.fingerprint import Fingerprint
from kitspipe.planning.plan import Plan
from kitspipe.planning.planner import (
    make_plan,
    plan_dataset,
    read_fold,
    read_plan,
    training_key,
)
from kitspipe.planning.survey import survey_dataset
from kitspipe.workspace import Workspace


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = write_cases(tmp_path_factory.mktemp("raw"), 6)
    return survey_dataset(find_dataset(folder), None, 1).fingerprint


@pytest.fixture
def place(tmp_path, measured):
    workspace = Workspace(root=tmp_path)
    write_document(workspace.fingerprint_file, measured)
    return workspace


def made(place, **options):
    return make_plan(place, **{"memory_gib": 11.0, "size": "small", "replan": False} | options)


def test_every_planned_field_has_its_reason(measured):
    plan = plan_dataset(measured, name="a")
    for stage in (plan.kidney, plan.tumor):
        assert set(stage.why) == set(stage.__struct_fields__) - {"why"}
        assert all(len(reason) > 10 and "\n" not in reason for reason in stage.why.values())


def test_cysts_are_a_class_where_the_masks_have_them(measured):
    plan = plan_dataset(measured, name="a")
    assert plan.labels.cyst == 3
    assert plan.tumor.network.classes == 2
    bare = tuple(msgspec.structs.replace(c, label_values=(1, 2)) for c in measured.cases)
    plan = plan_dataset(msgspec.structs.replace(measured, cases=bare), name="a")
    assert plan.labels.cyst is None
    assert plan.tumor.network.classes == 1


def test_less_memory_never_plans_more(measured):
    plans = [plan_dataset(measured, name="a", memory_gib=gib) for gib in (0.2, 1, 4, 11, 24)]
    voxels = [
        p.kidney.schedule.batch_size
        * p.kidney.patch_size[0]
        * p.kidney.patch_size[1]
        * p.kidney.patch_size[2]
        for p in plans
    ]
    assert voxels == sorted(voxels)
    assert voxels[0] < voxels[-1]
    slabs = [p.tumor.schedule.batch_size for p in plans]
    assert slabs == sorted(slabs)
    assert slabs[0] < slabs[-1]


def test_a_plan_edited_by_hand_is_kept(place):
    assert made(place).is_new
    plan = json.loads(place.plan_file.read_text())
    plan["kidney"]["schedule"]["epochs"] = 3
    place.plan_file.write_text(json.dumps(plan))
    again = made(place)
    assert not again.is_new
    assert again.plan.kidney.schedule.epochs == 3
    assert made(place, replan=True).plan.kidney.schedule.epochs != 3


def test_a_plan_of_another_state_of_the_data_is_not_used_silently(place, measured):
    made(place)
    write_document(
        place.fingerprint_file, msgspec.structs.replace(measured, cases=measured.cases[:-1])
    )
    with pytest.raises(UserError, match="another state of the data set") as error:
        made(place)
    assert "--replan" in error.value.remedy


def test_the_shipped_plan_is_found_from_any_workspace_and_copied(tmp_path, measured):
    place = Workspace(root=tmp_path, plan_name="kits19_paper")
    assert read_plan(place).name == "kits19_paper"
    write_document(place.fingerprint_file, measured)
    assert made(place).plan == read_document(place.plan_file, Plan, made_by="")


def test_a_plan_that_is_nowhere_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="kitspipe_plan"):
        read_plan(Workspace(root=tmp_path, plan_name="mine"))


def test_folds_cover_the_cases_and_all_takes_every_one(place, measured):
    made(place)
    ids = tuple(case.id for case in measured.cases)
    validated = [case for fold in range(5) for case in read_fold(place, fold)[1]]
    assert sorted(validated) == list(ids)
    assert read_fold(place, "all") == (ids, ids)


def test_a_fold_that_is_not_there_is_refused(place):
    made(place)
    with pytest.raises(UserError, match="5 folds, none has the number 7"):
        read_fold(place, 7)


def test_the_same_image_under_two_names_stays_in_one_fold(place, measured):
    twin = msgspec.structs.replace(measured.cases[0], id="case_twin")
    write_document(place.fingerprint_file, Fingerprint(cases=(*measured.cases, twin)))
    made(place)
    for fold in range(5):
        train, validation = read_fold(place, fold)
        assert ("case_twin" in train) == (measured.cases[0].id in train)
        assert ("case_twin" in validation) == (measured.cases[0].id in validation)


def test_only_what_is_trained_is_in_the_training_key():
    plan = small_plan()
    tumor = msgspec.structs.replace(plan.tumor, threshold=0.4, components="largest")
    assert training_key(msgspec.structs.replace(plan, tumor=tumor), "tumor") == training_key(
        plan, "tumor"
    )
    tumor = msgspec.structs.replace(plan.tumor, mask_dilation_mm=9.0)
    changed = msgspec.structs.replace(plan, tumor=tumor)
    assert training_key(changed, "tumor") != training_key(plan, "tumor")
    assert training_key(changed, "kidney") == training_key(plan, "kidney")
