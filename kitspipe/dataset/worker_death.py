"""Cases whose worker process was killed: tried again alone, so that they stop no other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from kitspipe.dataset.cases import Case
from kitspipe.errors import UserError

R = TypeVar("R")


class Tracked(Generic[R]):
    """A function of a case that leaves a note for as long as it works.

    Args:
        work: the function.
        notes: folder for a note per case.
    """

    def __init__(self, work: Callable[[Case], R], notes: Path) -> None:
        self._work = work
        self._notes = notes

    def __call__(self, case: Case) -> R:
        """What the function returns."""
        note = self.note(case)
        # A machine of a cluster has no such folder; what dies there is told in another way.
        with suppress(OSError):
            note.touch()
        try:
            return self._work(case)
        finally:
            with suppress(OSError):
                note.unlink()

    def note(self, case: Case) -> Path:
        """Where the note of a case is."""
        return self._notes / f"{os.fsencode(case.id).hex()[-200:]}"


@contextmanager
def tracked(work: Callable[[Case], R]) -> Iterator[Tracked[R]]:
    """The function, tracked while the context lasts."""
    with tempfile.TemporaryDirectory(prefix="kitspipe.") as notes:
        yield Tracked(work, Path(notes))


def one_at_a_time(work: Tracked[R], cases: dict[int, Case]) -> dict[int, R | UserError]:
    """Results of the cases that were under way when a worker died; of the first if none was.

    A case whose process dies again, now that it has all memory for itself, is the
    cause and gets an error instead of a result.

    Args:
        work: what was done.
        cases: all that have no result yet, by a number.
    """
    under_way = {number: case for number, case in cases.items() if work.note(case).exists()}
    chosen = under_way or dict(sorted(cases.items())[:1])
    results: dict[int, R | UserError] = {}
    for number, case in chosen.items():
        result = _alone(work, case)
        results[number] = result
    return results


def _alone(work: Tracked[R], case: Case) -> R | UserError:
    executor = ProcessPoolExecutor(max_workers=1)
    try:
        result: R = executor.submit(work, case).result()
        return result
    except TerminatedWorkerError as error:
        with suppress(OSError):
            work.note(case).unlink()
        signals = str(error).rpartition("{")[2].partition("}")[0]
        return UserError(
            case.image,
            found=f"the process that worked on {case.id} alone was killed ({signals})",
            expected="memory for this case",
            remedy="look whether the machine ran out of memory on it, or take the case out",
        )
    finally:
        executor.shutdown(kill_workers=True)
