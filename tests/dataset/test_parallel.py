import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from kitspipe.dataset.cases import Case
from kitspipe.dataset.parallel import CaseFailure, for_each_case

CASES = [Case(id=f"case_{n}", image=Path(f"case_{n}.nii"), labels=None) for n in range(6)]


def deadly(case, of, folder):
    (folder / f"{case.id}.{os.getpid()}").touch()
    if case.id in of:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    return case.id


def deadly_once(case, folder):
    if case.id == "case_3" and not (folder / "was_here").exists():
        (folder / "was_here").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return case.id


def vanished(case):
    return case.image.read_bytes()


def broken(case):
    raise ZeroDivisionError("ours")


def results(work, jobs):
    return list(for_each_case(work, CASES, jobs=jobs, label="test"))


@pytest.mark.parametrize("of", [{"case_2"}, {"case_0", "case_5"}])
def test_a_case_that_kills_its_process_is_named_and_stops_no_other(tmp_path, of):
    got = results(partial(deadly, of=of, folder=tmp_path), 2)
    failures = [one for one in got if isinstance(one, CaseFailure)]
    assert {one.case_id for one in failures} == of
    for one in failures:
        assert one.error.file == f"{one.case_id}.nii"
        assert f"{one.case_id} alone was killed (SIGKILL" in one.error.found
    ids = [one.case_id if isinstance(one, CaseFailure) else one for one in got]
    assert ids == [case.id for case in CASES]


def test_a_case_whose_process_was_killed_once_is_done_after_all(tmp_path):
    work = partial(deadly_once, folder=tmp_path)
    assert results(work, 2) == [case.id for case in CASES]


def test_only_cases_under_way_are_tried_alone(tmp_path):
    results(partial(deadly, of={"case_0"}, folder=tmp_path), 2)
    tried = [path.name.partition(".")[0] for path in tmp_path.iterdir()]
    # Twice: the deadly one, and what ran beside it or was not fetched yet.
    assert tried.count("case_0") == 2
    assert tried.count("case_5") == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_file_that_vanishes_is_a_message_without_traceback(jobs):
    got = results(vanished, jobs)
    assert [one.error.file for one in got] == [str(case.image) for case in CASES]
    assert all("No such file" in one.error.found for one in got)
    assert not any("Traceback" in str(one.error) for one in got)


def test_a_defect_of_ours_keeps_its_traceback():
    assert all("ZeroDivisionError: ours" in one.error.found for one in results(broken, 1))
