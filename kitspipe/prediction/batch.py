"""Many cases: what is missing is done, on this machine or a cluster, alone or beside others."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from kitspipe import console
from kitspipe.dataset.cases import Case
from kitspipe.dataset.cluster import on_cluster
from kitspipe.dataset.parallel import CaseFailure, for_each_case
from kitspipe.dataset.worker_hang import Patience
from kitspipe.errors import UserError
from kitspipe.prediction.claims import folder_lock, is_claimed
from kitspipe.prediction.isolated import Isolated, Limits, record_failure
from kitspipe.prediction.job import Job
from kitspipe.prediction.records import (
    CaseRecord,
    Outcome,
    error_of,
    merge,
    read_record,
    record_file,
    standing,
    why_other,
)

_MERGE_EVERY_S = 30.0
_LOOK_EVERY_S = 0.5
# Prediction on a CPU takes minutes; what is stuck is for --case-seconds.
_PATIENCE = Patience(warn_after_s=1800.0)
Run = Callable[[Sequence[Case]], Iterator[tuple[Case, Outcome]]]


@dataclass(kw_only=True, slots=True)
class Done:
    """What a command did, in numbers, and what it could not do.

    Args:
        written: cases.
        kept: that were whole before.
        elsewhere: that another command did meanwhile.
        failures: case and reason.
    """

    written: int = 0
    kept: int = 0
    elsewhere: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def rows(self) -> list[tuple[str, object]]:
        """For the summary."""
        rows: list[tuple[str, object]] = [("written", self.written), ("kept", self.kept)]
        return rows + ([("by others", self.elsewhere)] if self.elsewhere else [])


def part_of(cases: Sequence[Case], part: tuple[int, int] | None) -> list[Case]:
    """Every N-th case from the I-th on, for (I, N) counted from 1; None: all."""
    return [*cases] if part is None else [*cases[part[0] - 1 :: part[1]]]


def predict_batch(
    cases: Sequence[Case],
    job: Job,
    *,
    overwrite: bool,
    limits: Limits,
    cluster: str | None = None,
    reads: Path | None = None,
) -> Done:
    """Do the cases that are not whole yet, and write `run.json`.

    A case that another command works on is waited for at the end, and done if that one dies.

    Args:
        cases: all.
        job: what is asked for.
        overwrite: do cases anew that are there, too.
        limits: what a case may take.
        cluster: address of a Dask cluster; None: this machine.
        reads: the folder with the scans, for a cluster.

    Raises:
        UserError: the job can't be done at all.
    """
    output, done = Path(job.output), Done()
    _refuse_scans_as_output(cases, job)
    known = {case.id: read_record(record_file(output, case.id)) for case in cases}
    seen = {case_id: record.attempt for case_id, record in known.items() if record}
    todo = _missing(cases, job, known, done, overwrite=overwrite)
    run = partial(_on_workers, job=job, limits=limits, seen=seen)
    try:
        if todo and cluster is None:
            with Isolated(job, limits) as process:
                process.start()
                _do(todo, partial(_here, process=process, seen=seen), job, done)
        elif todo:
            with on_cluster(cluster, reads=reads or output, writes=output):
                _do(todo, run, job, done)
    finally:
        _merge(output)
    return done


def _missing(
    cases: Sequence[Case],
    job: Job,
    known: Mapping[str, CaseRecord | None],
    done: Done,
    *,
    overwrite: bool,
) -> list[Case]:
    """Cases to do; those that are not are counted."""
    if overwrite:
        return [*cases]
    found: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        found[standing(case, job, known[case.id])].append(case)
    done.kept = len(found["kept"])
    for case in found["other"]:
        done.failures.append((case.id, str(why_other(case, job, known[case.id]))))
    return found["missing"]


def _do(todo: Sequence[Case], run: Run, job: Job, done: Done) -> None:
    output, merged, waiting = Path(job.output), time.monotonic(), [*todo]
    with console.Progress(len(todo), "predict") as progress:
        while waiting:
            busy = []
            for case, outcome in run(waiting):
                if outcome.record is None:
                    busy.append(case)
                    continue
                _count(outcome, outcome.record, done)
                progress.advance()
                if time.monotonic() - merged > _MERGE_EVERY_S:
                    _merge(output)
                    merged = time.monotonic()
            waiting = busy
            if busy:
                names = ", ".join(case.id for case in busy)
                console.info(f"waiting for another command that works on {names}")
                while all(is_claimed(output, case.id) for case in busy):
                    time.sleep(_LOOK_EVERY_S)


def _count(outcome: Outcome, record: CaseRecord, done: Done) -> None:
    if record.failure is not None:
        done.failures.append((record.case_id, str(error_of(record.failure))))
        return
    if outcome.status == "elsewhere":
        done.elsewhere += 1
        return
    done.written += 1
    for text in record.warnings:
        console.warning(f"{record.case_id}: {text}")
    console.detail(f"{record.case_id}: seconds {record.seconds}")


def _here(
    cases: Sequence[Case], *, process: Isolated, seen: Mapping[str, str]
) -> Iterator[tuple[Case, Outcome]]:
    for case in cases:
        yield case, process.predict(case, seen.get(case.id, ""))


def _on_workers(
    cases: Sequence[Case], *, job: Job, limits: Limits, seen: Mapping[str, str]
) -> Iterator[tuple[Case, Outcome]]:
    work = partial(on_worker, job=job, limits=limits, seen=seen)
    results = for_each_case(work, cases, jobs=None, label="predict", patience=_PATIENCE)
    for case, result in zip(cases, results, strict=True):
        if isinstance(result, CaseFailure):
            record = record_failure(case, job, result.error, None)
            yield case, Outcome(status="failed", record=record)
        else:
            yield case, result


_idle: dict[bytes, list[Isolated]] = defaultdict(list)
_idle_guard = threading.Lock()


def on_worker(case: Case, *, job: Job, limits: Limits, seen: Mapping[str, str]) -> Outcome:
    """Do a case in a process that this one keeps, with its networks, for the next case."""
    key = msgspec.json.encode((job, limits))
    with _idle_guard:
        process = _idle[key].pop() if _idle[key] else Isolated(job, limits)
    outcome = process.predict(case, seen.get(case.id, ""))
    with _idle_guard:
        _idle[key].append(process)
    return outcome


def _merge(output: Path) -> None:
    with folder_lock(output):
        merge(output)


def _refuse_scans_as_output(cases: Sequence[Case], job: Job) -> None:
    for case in cases:
        if job.mask_file(case).resolve() == case.image.resolve():
            raise UserError(
                job.output,
                found=f"{case.image.name}, a scan whose mask would get its name",
                expected="a folder for masks that holds no scans",
                remedy="choose another folder with -o",
            )
