"""The same work for every case, in processes; a case that fails is a result, not a crash."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from kitspipe import console
from kitspipe.dataset.cases import Case
from kitspipe.errors import UserError

R = TypeVar("R")


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
    work: Callable[[Case], R], cases: Sequence[Case], *, jobs: int | None, label: str
) -> Iterator[R | CaseFailure]:
    """What `work` returns for each case, in the cases' order, as soon as it is there.

    Args:
        work: called in a worker process; must be picklable.
        cases: what it is called with.
        jobs: processes; None one per core, 1 works in this one.
        label: stands before the progress.

    Raises:
        UserError: a worker process was killed from outside.
    """
    processes = min(joblib.cpu_count() if jobs is None else jobs, max(1, len(cases)))
    # "prefer" and not a fixed backend, so that a caller can choose a cluster's.
    parallel = joblib.Parallel(n_jobs=processes, prefer="processes", return_as="generator")
    try:
        results = parallel(joblib.delayed(_Guarded(work))(case) for case in cases)
        yield from console.progress(results, len(cases), label)
    except TerminatedWorkerError:
        raise UserError(
            label,
            found="a worker process was killed, most likely for lack of memory",
            expected=f"memory for {processes} cases at a time",
            remedy="use fewer processes: -j 1",
        ) from None


class _Guarded(Generic[R]):
    """A function of a case that returns what it raises."""

    def __init__(self, work: Callable[[Case], R]) -> None:
        self._work = work

    def __call__(self, case: Case) -> R | CaseFailure:
        try:
            return self._work(case)
        except UserError as error:
            return CaseFailure(case_id=case.id, error=error)
        except Exception:
            defect = UserError(
                case.image,
                found=traceback.format_exc(),
                expected="no exception",
                remedy="this is a defect of kitspipe: please report it with the lines above",
            )
            return CaseFailure(case_id=case.id, error=defect)
