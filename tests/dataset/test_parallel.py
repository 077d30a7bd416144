import os
import signal
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kitspipe.dataset.cases import Case
from kitspipe.dataset.parallel import PATIENCE, CaseFailure, for_each_case
from kitspipe.dataset.worker_hang import Patience

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


def results(work, jobs, patience=PATIENCE):
    return list(for_each_case(work, CASES, jobs=jobs, label="test", patience=patience))


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


def asleep(case, of):
    if case.id in of:
        time.sleep(600)
    return case.id


def stopped(case, of):
    if case.id in of:
        os.kill(os.getpid(), signal.SIGSTOP)
    return case.id


HURRY = Patience(warn_after_s=0.4, give_up_after_s=1.5, times_longest=2.0, look_every_s=0.05)


@pytest.mark.parametrize(
    ("stuck", "of"),
    [
        (asleep, {"case_1"}),
        pytest.param(stopped, {"case_0", "case_5"}, marks=pytest.mark.slow),
    ],
)
def test_a_stuck_case_is_given_up_with_its_place_and_stops_no_other(stuck, of, capsys):
    got = results(partial(stuck, of=of), 2, HURRY)
    assert [one.case_id if isinstance(one, CaseFailure) else one for one in got] == [
        case.id for case in CASES
    ]
    failures = [one for one in got if isinstance(one, CaseFailure)]
    assert {one.case_id for one in failures} == of
    for one in failures:
        assert f"{one.case_id} was given up after" in one.error.found
        place = "in asleep" if stuck is asleep else "is it stopped?"
        assert place in one.error.found
    said = capsys.readouterr().err
    for name in of:
        assert f"warning: {name} has been under way for 0 s; it is given up after" in said
    assert ("in asleep" in said) == (stuck is asleep)


def slow(case):
    time.sleep(1.3 if case.id == "case_0" else 0.01)
    return case.id


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_slow_case_is_spoken_of_at_growing_intervals_and_finishes(jobs, capsys):
    patient = Patience(warn_after_s=0.2, look_every_s=0.05)
    assert results(slow, jobs, patient) == [case.id for case in CASES]
    # After 0.2, 0.4 and 0.8 s.
    said = capsys.readouterr().err
    assert said.count("case_0 has been under way") == 3
    assert "in slow" in said
    assert said.count("has been under way") == 3


@pytest.mark.slow
def test_a_case_may_take_longer_where_others_did(capsys):
    def timed(case):
        time.sleep(0.9 if case.id in {"case_0", "case_1"} else 2.0 * (case.id == "case_2"))
        return case.id

    patient = Patience(warn_after_s=60, give_up_after_s=1.2, times_longest=20.0, look_every_s=0.05)
    assert results(timed, 2, patient) == [case.id for case in CASES]
    assert capsys.readouterr().err == ""


def hungry(case):
    if case.id == "case_2":
        np.empty(1 << 47)
    return case.id


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_case_too_large_for_memory_is_told_without_traceback(jobs):
    got = results(hungry, jobs)
    [failure] = [one for one in got if isinstance(one, CaseFailure)]
    assert [one for one in got if one is not failure] == [
        case.id for case in CASES if case.id != "case_2"
    ]
    assert failure.case_id == "case_2"
    assert "out of memory: Unable to allocate 1.00 PiB" in failure.error.found
    assert "--jobs 1" in failure.error.remedy
    assert "Traceback" not in str(failure.error)


@pytest.mark.parametrize("jobs", [1, 2])
def test_nothing_is_left_in_the_temporary_folder(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    results(broken, jobs)
    results(partial(asleep, of={"case_1"}) if jobs == 2 else vanished, jobs, HURRY)
    stopped_half_way = for_each_case(slow, CASES, jobs=jobs, label="test")
    next(stopped_half_way)
    assert any(tmp_path.iterdir())
    stopped_half_way.close()
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())
