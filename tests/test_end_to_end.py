"""Raw scans to scores through the real console scripts, on small painted scans."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import SimpleITK as sitk
from small_data import write_cases
from small_plans import SCHEDULE, small_kidney_plan, small_plan, small_tumor_plan

from kitspipe.planning.document import write_document

SCRIPTS = Path(sys.executable).parent


def run(command, *arguments, cwd):
    return subprocess.run(
        [SCRIPTS / f"kitspipe_{command}", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Planned, preprocessed and trained on six scans; two more to segment."""
    folder = tmp_path_factory.mktemp("end to end")
    write_cases(folder / "all", 8)
    for number in range(8):
        case = f"case_{number:05d}"
        target = folder / ("raw" if number < 6 else "imgs") / case
        target.parent.mkdir(exist_ok=True)
        (folder / "all" / case).rename(target)
    schedule = msgspec.structs.replace(SCHEDULE, epochs=8, steps_per_epoch=10, learning_rate=1e-2)
    plan = small_plan(
        kidney=small_kidney_plan(
            patch_size=(8, 32, 32), window_stride=(4, 16, 16), schedule=schedule
        ),
        tumor=small_tumor_plan(
            patch_size=(32, 32),
            schedule=msgspec.structs.replace(schedule, batch_size=8, epochs=8),
        ),
    )
    write_document(folder / "plans" / "default.json", plan)
    steps = [
        ("plan_and_preprocess", "-d", "raw"),
        ("train", "all"),
        ("choose",),
        ("predict", "-i", "imgs", "-o", "preds", "-f", 0),
        ("evaluate", "-r", "imgs", "-i", "preds"),
    ]
    for command, *arguments in steps:
        done = run(command, *arguments, cwd=folder)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return folder


def test_held_out_kidneys_and_tumors_are_found(workspace):
    summary = json.loads((workspace / "preds" / "summary.json").read_text())
    assert summary["kits19"]["kidney"] > 0.8
    assert summary["kits19"]["tumor"] > 0.4


def test_masks_lie_on_the_inputs_voxels_bit_for_bit(workspace):
    for mask in sorted((workspace / "preds").glob("*.nii.gz")):
        scan = workspace / "imgs" / mask.name.removesuffix(".nii.gz") / "imaging.nii.gz"
        a, b = sitk.ReadImage(mask), sitk.ReadImage(scan)
        assert a.GetSize() == b.GetSize()
        assert a.GetSpacing() == b.GetSpacing()
        assert a.GetOrigin() == b.GetOrigin()
        assert a.GetDirection() == b.GetDirection()


def test_the_official_table_has_a_line_per_case_and_an_average(workspace):
    lines = (workspace / "preds" / "evaluation.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "caseID",
        "case_00006",
        "case_00007",
        "average",
    ]


def test_validation_is_on_whole_cases_of_the_fold(workspace):
    splits = json.loads((workspace / "plans" / "default.splits.json").read_text())
    validated = set(splits["folds"][0]["validation"])
    folder = workspace / "results" / "default"
    assert (
        set(json.loads((folder / "kidney/fold_0/validation/kidney.json").read_text())["cases"])
        == validated
    )
    for name in ("validation", "validation_end_to_end"):
        masks = (folder / "tumor" / "fold_0" / name).glob("*.nii.gz")
        assert {mask.name.removesuffix(".nii.gz") for mask in masks} == validated


def test_tumors_are_learned_around_kidneys_that_the_other_fold_predicted(workspace):
    splits = json.loads((workspace / "plans" / "default.splits.json").read_text())
    for case_id in (case_id for fold in splits["folds"] for case_id in fold["train"]):
        folder = workspace / "preprocessed" / "default" / "tumor_out_of_fold" / case_id
        regions = json.loads((folder / "case.json").read_text())["regions"]
        assert {region["name"] for region in regions} >= {"predicted_right", "predicted_left"}


def test_choices_are_made_on_every_case_by_networks_that_did_not_see_it(workspace):
    splits = json.loads((workspace / "plans" / "default.splits.json").read_text())
    choice = json.loads((workspace / "results" / "default" / "choice.json").read_text())
    assert choice["cases"] == sum(len(fold["validation"]) for fold in splits["folds"]) == 6
    assert {trial["rule"] for trial in choice["trials"]} <= set(choice["why"])


def test_what_is_there_is_kept(workspace):
    before = {p: p.stat().st_mtime_ns for p in (workspace / "preds").glob("*.nii.gz")}
    done = run("predict", "-i", "imgs", "-o", "preds", "-f", 0, cwd=workspace)
    assert done.returncode == 0
    assert {p: p.stat().st_mtime_ns for p in (workspace / "preds").glob("*.nii.gz")} == before


def test_pages_to_review_end_a_prediction(workspace):
    done = run("predict", "-i", "imgs", "-o", "preds", "-f", 0, "--report", cwd=workspace)
    assert done.returncode == 0, done.stderr
    masks = sorted((workspace / "preds").glob("*.nii.gz"))
    cases = [workspace / "preds" / "report" / "cases" / mask.name[:-7] for mask in masks]
    assert all((case / "index.html").is_file() for case in cases)


def test_one_bad_case_does_not_keep_the_others(workspace, tmp_path):
    (tmp_path / "imgs").mkdir()
    good = workspace / "imgs" / "case_00006" / "imaging.nii.gz"
    (tmp_path / "imgs" / "good.nii.gz").write_bytes(good.read_bytes())
    (tmp_path / "imgs" / "torn.nii.gz").write_bytes(good.read_bytes()[:4000])
    done = run("predict", "-i", tmp_path / "imgs", "-o", tmp_path / "preds", cwd=workspace)
    assert done.returncode == 1
    assert "torn" in done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in (tmp_path / "preds").glob("*.nii.gz")] == ["good.nii.gz"]


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("train", ("kidney", 7), "2 folds, none has the number 7"),
        ("train", ("liver", 0), "invalid choice: 'liver'"),
        ("train", ("kidney", 1, "--device", "cuda:99"), "no such device"),
        ("predict", ("-i", "nowhere", "-o", "out"), "nowhere"),
        ("predict", ("-i", "imgs", "-o", "out", "-f", 2), "folds trained to the end: [0, 1]"),
        ("predict", ("-i", "imgs", "-o", "out", "-p", "none"), "run kitspipe_plan"),
        ("plan_and_preprocess", ("-d", "plans"), "plans"),
        ("evaluate", ("-r", "imgs", "-i", "plans"), "plans"),
    ],
)
def test_a_wrong_request_is_one_message_and_status_2(workspace, command, arguments, said):
    done = run(command, *arguments, cwd=workspace)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plan_with_an_unknown_key_is_refused_with_its_path(workspace, tmp_path):
    plan = json.loads((workspace / "plans" / "default.json").read_text())
    plan["kidney"]["batch_sise"] = 2
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "default.json").write_text(json.dumps(plan))
    done = run("preprocess", "-d", workspace / "raw", cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown field `batch_sise` - at `$.kidney`" in done.stderr
