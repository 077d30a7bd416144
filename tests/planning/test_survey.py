from dataclasses import replace as replaced

import numpy as np
import pytest
from msgspec.structs import replace

from kitspipe.dataset import case_files
from kitspipe.dataset.cases import Dataset, find_dataset
from kitspipe.errors import UserError
from kitspipe.imaging.formats import write_image, write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Grid, Volume
from kitspipe.planning.fingerprint import Fingerprint
from kitspipe.planning.survey import survey_dataset

GRID = Grid(shape=(4, 24, 30), spacing=(2.5, 0.7, 0.8), origin=(-41.3, 107.9, -613.7))


def write_case(raw, name, *, hu=150, tumor=False):
    """A bright kidney in fat and air, in KiTS layout."""
    labels = np.zeros(GRID.shape, np.uint8)
    labels[1:3, 8:14, 10:20] = 1
    if tumor:
        labels[2, 9:12, 12:15] = 2
    values = np.random.default_rng(0).normal(-90, 20, GRID.shape)
    values[labels > 0] = hu
    values[:, :3] = -1000
    header = header_for(GRID, "IPL")
    folder = raw / name
    folder.mkdir(parents=True, exist_ok=True)
    write_image(folder / "imaging.nii.gz", Volume(array=values.astype(np.int16), grid=GRID), header)
    write_labels(folder / "segmentation.nii.gz", Volume(array=labels, grid=GRID), header)


@pytest.fixture
def raw(tmp_path):
    for name in ("b", "a", "c"):
        write_case(tmp_path / "raw", f"case_{name}", tumor=True)
    return tmp_path / "raw"


def surveyed(raw, known=None, jobs=1):
    return survey_dataset(find_dataset(raw), known, jobs)


def test_cases_that_did_not_change_are_kept_and_others_measured(raw):
    first = surveyed(raw).fingerprint
    assert [case.id for case in first.cases] == ["case_a", "case_b", "case_c"]
    # A mark shows which records are taken over; what is measured anew does not have it.
    marked = Fingerprint(cases=tuple(replace(case, cyst_ml=7.5) for case in first.cases))
    write_case(raw, "case_b", hu=200, tumor=True)
    write_case(raw, "case_d", tumor=True)
    dataset = find_dataset(raw)
    kept = tuple(case for case in dataset.cases if case.id != "case_c")
    again = survey_dataset(replaced(dataset, cases=kept), marked, 1).fingerprint
    assert {case.id: case.cyst_ml for case in again.cases} == {
        "case_a": 7.5,
        "case_b": 0,
        "case_d": 0,
    }
    assert again.cases[1].foreground_histogram == {200: 2 * 6 * 10}


def test_other_label_values_measure_all_cases_anew(raw):
    dataset = find_dataset(raw)
    known = survey_dataset(dataset, None, 1).fingerprint
    other = replaced(dataset, label_values={"kidney": 2, "tumor": 1})
    again = survey_dataset(other, known, 1).fingerprint
    assert again.cases[0].tumor_ml > known.cases[0].tumor_ml > 0


def test_processes_find_what_one_finds(raw):
    write_case(raw, "case_d")
    (raw / "case_a" / "imaging.nii.gz").write_bytes(b"")
    assert surveyed(raw, jobs=2) == surveyed(raw)


def test_each_file_is_read_once(raw, monkeypatch):
    read = []
    for name in ("read_image", "read_labels"):
        original = getattr(case_files, name)
        monkeypatch.setattr(
            case_files, name, lambda path, original=original: (read.append(path), original(path))[1]
        )
    surveyed(raw)
    assert len(read) == len(set(read)) == 6


def test_warnings_of_a_known_case_are_said_again_without_reading_it(raw, monkeypatch):
    write_case(raw, "case_b", tumor=False)
    first = surveyed(raw)
    (warning,) = first.problems
    assert (warning.case_id, warning.severity) == ("case_b", "warning")
    monkeypatch.setattr(case_files, "read_image", lambda path: pytest.fail(f"{path} was read"))
    assert surveyed(raw, first.fingerprint) == first


def test_cases_with_errors_are_named_and_the_others_measured(raw):
    (raw / "case_b" / "imaging.nii.gz").write_bytes(b"")
    survey = surveyed(raw)
    assert [case.id for case in survey.fingerprint.cases] == ["case_a", "case_c"]
    assert [(p.case_id, p.severity) for p in survey.problems] == [("case_b", "error")]
    assert str(raw / "case_b" / "imaging.nii.gz") in survey.problems[0].file


def test_scans_without_a_mask_are_not_read(raw):
    scan = raw / "case_00210"
    scan.mkdir()
    (scan / "imaging.nii.gz").write_bytes(b"no CT")
    (problem,) = surveyed(raw).problems
    assert (problem.case_id, problem.severity) == ("case_00210", "warning")


def test_a_data_set_without_any_mask_is_refused(raw):
    dataset = find_dataset(raw)
    alone = replaced(
        dataset, cases=tuple(replaced(c, id="case_00210", labels=None) for c in dataset.cases[:1])
    )
    assert isinstance(alone, Dataset)
    with pytest.raises(UserError, match="no mask for any of 1 scans"):
        survey_dataset(alone, None, 1)


def test_two_cases_of_one_id_are_an_error(raw):
    dataset = find_dataset(raw)
    twice = replaced(dataset, cases=(*dataset.cases, dataset.cases[0]))
    problems = survey_dataset(twice, None, 1).problems
    assert any("2 cases with this id" in problem.found for problem in problems)
