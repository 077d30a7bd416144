"""The same work for every case, in processes; a case that fails is a result, not a crash."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from kitspipe import console
from kitspipe.dataset.cases import Case
from kitspipe.dataset.worker_death import Tracked, one_at_a_time, tracked
from kitspipe.dataset.worker_hang import Patience, watched
from kitspipe.errors import UserError

R = TypeVar("R")

PATIENCE = Patience()


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseFailure:
    """A case whose work raised.

    Args:
        case_id: the case.
        error: the user's mistake, or for a defect of ours an error that holds the traceback.
    """

    case_id: str
    error: UserError


def for_each_case(
    work: Callable[[Case], R],
    cases: Sequence[Case],
    *,
    jobs: int | None,
    label: str,
    patience: Patience = PATIENCE,
) -> Iterator[R | CaseFailure]:
    """What `work` returns for each case, in the cases' order, as soon as it is there.

    Cases under way when a worker process dies are tried again one at a time, so that only
    one that kills its process alone is a failure. One that takes far too long is a failure too,
    with the place where it is stuck; its process is ended.

    Args:
        work: called in a worker process; must be picklable.
        cases: what it is called with.
        jobs: processes; None one per core, 1 works in this one.
        label: stands before the progress.
        patience: how long a case may take.
    """
    processes = min(joblib.cpu_count() if jobs is None else jobs, max(1, len(cases)))
    with (
        tracked(_Guarded(work), stacks_every_s=patience.warn_after_s * 0.9) as tracked_work,
        watched(tracked_work, cases, patience) as given_up,
    ):
        results = _despite_deaths(tracked_work, cases, processes, given_up)
        yield from console.progress(results, len(cases), label)


def _despite_deaths(
    work: Tracked[R | CaseFailure],
    cases: Sequence[Case],
    processes: int,
    given_up: dict[str, UserError],
) -> Iterator[R | CaseFailure]:
    settled: dict[int, R | CaseFailure] = {}
    position = 0
    while position < len(cases):
        todo = {n: cases[n] for n in range(position, len(cases)) if n not in settled}
        # "prefer" and not a fixed backend, so that a caller can choose a cluster's.
        parallel = joblib.Parallel(n_jobs=processes, prefer="processes", return_as="generator")
        results = parallel(joblib.delayed(work)(case) for case in todo.values())
        try:
            while position < len(cases):
                yield settled.pop(position) if position in settled else next(results)
                position += 1
            # joblib takes a generator that is not used up for one that was given up.
            next(results, None)
        except TerminatedWorkerError:
            todo = {number: case for number, case in todo.items() if number >= position}
            for number, result in one_at_a_time(work, todo, given_up).items():
                settled[number] = (
                    CaseFailure(case_id=cases[number].id, error=result)
                    if isinstance(result, UserError)
                    else result
                )


class _Guarded(Generic[R]):
    """A function of a case that returns what it raises."""

    def __init__(self, work: Callable[[Case], R]) -> None:
        self._work = work

    def __call__(self, case: Case) -> R | CaseFailure:
        try:
            return self._work(case)
        except UserError as error:
            return CaseFailure(case_id=case.id, error=error)
        except OSError as error:
            unreadable = UserError(
                error.filename or case.image,
                found=f"it can't be read: {error.strerror or error}",
                expected="files that stay where they are while a command runs",
                remedy="look at the file and its disk, then run the same command again",
            )
            return CaseFailure(case_id=case.id, error=unreadable)
        except MemoryError as error:
            return CaseFailure(case_id=case.id, error=_too_large(case, error))
        except Exception:
            defect = UserError(
                case.image,
                found=traceback.format_exc(),
                expected="no exception",
                remedy="this is a defect of kitspipe: please report it with the lines above",
            )
            return CaseFailure(case_id=case.id, error=defect)


def _too_large(case: Case, error: MemoryError) -> UserError:
    """What to tell where the system gave no more memory."""
    of = ""
    with suppress(OSError):
        of = f" on a file of {case.image.stat().st_size / 2**20:.1f} MiB"
    return UserError(
        case.image,
        found=f"out of memory{of}: {error or 'the system gave no more'}",
        expected="memory for as many cases at once as there are processes",
        remedy="run the same command again with fewer processes: --jobs 1 works on one at a time",
    )
