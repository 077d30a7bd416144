import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from dicom_files import write_series
from small_data import painted
from small_model import write_model

from kitspipe.dataset.cases import Case, find_images
from kitspipe.errors import UserError
from kitspipe.imaging.formats import read_labels, write_image
from kitspipe.imaging.header import header_for
from kitspipe.prediction.attempt import attempt, describe_run
from kitspipe.prediction.claims import claimed
from kitspipe.prediction.job import make_job
from kitspipe.prediction.records import (
    CaseRecord,
    read_record,
    record_file,
    standing,
    why_other,
)
from kitspipe.prediction.run import load_cascade


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), seed=2)


@pytest.fixture(scope="module")
def cascade(place):
    return load_cascade(place, None, "cpu")


@pytest.fixture
def job(place, tmp_path):
    return make_job(place, tmp_path / "out", None, "cpu")


def scan(folder, seed=0, name="scan", axes="IPL", suffix=".nii.gz"):
    image, _ = painted(seed)
    write_image(folder / f"{name}{suffix}", image, header_for(image.grid, axes=axes))
    return Case(id=name, image=folder / f"{name}{suffix}", labels=None)


def do(case, job, cascade, seen=""):
    return attempt(case, job, cascade, run="run", seen=seen)


def mask(job, case):
    return read_labels(job.mask_file(case))[0].array


def test_a_record_tells_scan_files_times_and_memory(tmp_path, job, cascade):
    case = scan(tmp_path)
    outcome = do(case, job, cascade)
    record = outcome.record
    assert (outcome.status, record.status, record.run) == ("done", "done", "run")
    assert record.outputs == ("scan.nii.gz",)
    assert record.input.bytes == case.image.stat().st_size
    assert set(record.seconds) == {"read", "kidney", "tumor", "write", "total"}
    assert sum(record.seconds.values()) <= 2 * record.seconds["total"] + 0.01
    assert 50 < record.peak_memory_mib < 8192
    assert read_record(record_file(tmp_path / "out", "scan")) == record
    assert standing(case, job, record) == "kept"


def test_a_series_of_dicom_slices_and_its_nifti_get_the_same_mask(tmp_path, job, cascade):
    image, _ = painted(1)
    series = write_series(tmp_path / "series", image)
    cases = [scan(tmp_path, seed=1), *find_images(series)]
    assert [do(case, job, cascade).status for case in cases] == ["done", "done"]
    first, second = (mask(job, case) for case in cases)
    np.testing.assert_array_equal(first, second)
    assert set(np.unique(first)) == {0, 1, 2, 3}


def test_masks_do_not_depend_on_the_order_of_cases(tmp_path, place, cascade):
    cases = [scan(tmp_path, seed, f"scan{seed}") for seed in range(3)]
    jobs = [make_job(place, tmp_path / name, None, "cpu") for name in ("forth", "back")]
    for case in cases:
        do(case, jobs[0], cascade)
    for case in reversed(cases):
        do(case, jobs[1], cascade)
    for case in cases:
        assert jobs[0].mask_file(case).read_bytes() == jobs[1].mask_file(case).read_bytes()


def test_a_scan_that_can_not_be_read_is_a_recorded_failure(tmp_path, job, cascade):
    case = scan(tmp_path)
    case.image.write_bytes(case.image.read_bytes()[:500])
    outcome = do(case, job, cascade)
    assert outcome.status == "failed"
    assert outcome.record.failure.file == str(case.image)
    assert not job.mask_file(case).exists()
    assert standing(case, job, outcome.record) == "missing"


def test_a_case_that_somebody_has_or_did_meanwhile_is_not_done_again(tmp_path, job, cascade):
    case = scan(tmp_path)
    with claimed(tmp_path / "out", "scan") as claim:
        assert do(case, job, cascade).status == "busy"
        theirs = CaseRecord(case_id="scan", status="failed", attempt="theirs")
        claim.write(theirs)
    outcome = do(case, job, cascade)
    assert (outcome.status, outcome.record) == ("elsewhere", theirs)
    assert do(case, job, cascade, seen="theirs").status == "done"


def test_what_a_killed_process_left_under_way_is_done(tmp_path, job, cascade):
    case = scan(tmp_path)
    with claimed(tmp_path / "out", "scan") as claim:
        claim.write(CaseRecord(case_id="scan", status="under way", attempt="theirs"))
    assert do(case, job, cascade).status == "done"


class Broken(torch.nn.Module):
    def forward_coarse(self, image, below):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_defect_is_recorded_with_its_traceback_and_said_to_be_one(tmp_path, job, cascade):
    broken = dataclasses.replace(cascade, kidney=[Broken()])
    outcome = do(scan(tmp_path), job, broken)
    assert (outcome.status, outcome.is_defect) == ("failed", True)
    assert "illegal memory access" in outcome.record.failure.found
    assert "Traceback" in outcome.record.failure.found


def test_warnings_of_reading_stand_in_the_record_and_are_not_printed(
    tmp_path, job, cascade, capsys
):
    image, _ = painted(0)
    write_series(tmp_path / "series", image)
    other = {"SeriesInstanceUID": "1.2.4", "SeriesDescription": "late"}
    write_series(tmp_path / "series", image, prefix="b", skipped=(14,), **other)
    [case] = find_images(tmp_path / "series")
    record = do(case, job, cascade).record
    assert "--series UID takes another" in " ".join(record.warnings)
    assert capsys.readouterr().err == ""


def test_a_record_that_can_not_be_written_is_a_failure(tmp_path, place, cascade):
    (tmp_path / "out").touch()
    outcome = do(scan(tmp_path), make_job(place, tmp_path / "out", None, "cpu"), cascade)
    assert outcome.status == "failed"
    assert "it can't be written" in outcome.record.failure.found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda case, job: None, "kept"),
        (lambda case, job: job.mask_file(case).unlink(), "missing"),
        (lambda case, job: case.image.touch(), "kept"),
        (lambda case, job: scan(case.image.parent, seed=1), "other"),
        (lambda case, job: case.image.unlink(), "kept"),
    ],
    ids=["nothing", "mask gone", "time changed", "another scan", "scan gone"],
)
def test_what_is_there_stands_for_its_scan_only(tmp_path, job, cascade, change, expected):
    case = scan(tmp_path)
    record = do(case, job, cascade).record
    change(case, job)
    assert standing(case, job, record) == expected


def test_masks_of_other_weights_options_or_nobody_are_told(tmp_path, job, cascade):
    case = scan(tmp_path)
    record = do(case, job, cascade).record
    other = make_job(write_model(tmp_path / "other", seed=3), tmp_path / "out", None, "cpu")
    flipped = make_job(job.place, tmp_path / "out", None, "cpu", options={"mirror": True})
    for asked, known, said in (
        (other, record, "another model"),
        (flipped, record, "other options"),
        (job, None, "without a record"),
    ):
        assert standing(case, asked, known) == "other"
        assert said in why_other(case, asked, known).found
    with_more = make_job(job.place, tmp_path / "out", None, "cpu", probabilities=True)
    assert standing(case, with_more, record) == "missing"


@pytest.mark.parametrize(
    ("format", "stored", "expected"),
    [("nrrd", ".nii.gz", ".nrrd"), ("input", ".mha", ".mha"), ("input", ".nii", ".nii")],
)
def test_masks_come_in_the_format_asked_for(tmp_path, place, cascade, format, stored, expected):
    case = scan(tmp_path, suffix=stored)
    job = make_job(place, tmp_path / "out", None, "cpu", format=format)
    assert do(case, job, cascade).record.outputs == (f"scan{expected}",)
    image = sitk.ReadImage(str(case.image))
    found = sitk.ReadImage(str(tmp_path / "out" / f"scan{expected}"))
    assert found.GetSize() == image.GetSize()
    np.testing.assert_allclose(found.GetOrigin(), image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(found.GetDirection(), image.GetDirection(), atol=1e-6)


def test_what_cases_share_names_versions_and_every_network(job, cascade):
    run = describe_run(job, cascade)
    assert run.versions["torch"] == torch.__version__
    assert set(run.recipe.weights) == {"kidney/fold_0", "tumor/fold_0"}
    assert run.device == "cpu"


def test_an_untrained_stage_is_told_before_any_network_is_loaded(tmp_path, place):
    with pytest.raises(UserError, match="run kitspipe_train kidney 0"):
        make_job(place, tmp_path, [3], "cpu")
