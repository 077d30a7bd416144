"""Cases whose worker process was killed: tried again alone, so that they stop no other."""

from __future__ import annotations

import faulthandler
import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from kitspipe.dataset.cases import Case
from kitspipe.errors import UserError
from kitspipe.imaging.scratch import temporary_folder

R = TypeVar("R")


class Tracked(Generic[R]):
    """A function of a case that leaves a note for as long as it works.

    Args:
        work: the function.
        notes: folder for a note per case.
        stacks_every_s: after so many seconds, and every time they are over again, it is written
            beside the note which line of which function the process is at.
    """

    def __init__(self, work: Callable[[Case], R], notes: Path, stacks_every_s: float) -> None:
        self._work = work
        self._notes = notes
        self._stacks_every_s = stacks_every_s

    def __call__(self, case: Case) -> R:
        """What the function returns."""
        with self._noted(case):
            return self._work(case)

    def note(self, case: Case) -> Path:
        """Where the note of a case is: machine, process and its parent, as JSON."""
        return self._notes / f"{os.fsencode(case.id).hex()[-200:]}"

    def stacks(self, case: Case) -> Path:
        """Where the stacks of a case's process are, if it is slow."""
        return self.note(case).with_suffix(".stacks")

    def forget(self, case: Case) -> None:
        """Take note and stacks away."""
        for file in (self.note(case), self.stacks(case)):
            with suppress(OSError):
                file.unlink()

    @contextmanager
    def _noted(self, case: Case) -> Iterator[None]:
        try:
            stacks = self.stacks(case).open("w", encoding="utf-8")
        except OSError:
            # A machine of a cluster has no such folder; what dies there is told in another way.
            yield
            return
        with stacks:
            note = json.dumps([platform.node(), os.getpid(), os.getppid()])
            with suppress(OSError):
                self.note(case).write_text(note, encoding="utf-8")
            # Its thread needs no Python, so it writes even where that is stuck in a library.
            faulthandler.dump_traceback_later(self._stacks_every_s, repeat=True, file=stacks)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
                self.forget(case)


@contextmanager
def tracked(work: Callable[[Case], R], *, stacks_every_s: float) -> Iterator[Tracked[R]]:
    """The function, tracked while the context lasts."""
    with temporary_folder() as notes:
        yield Tracked(work, notes, stacks_every_s)


def one_at_a_time(
    work: Tracked[R], cases: dict[int, Case], given_up: dict[str, UserError]
) -> dict[int, R | UserError]:
    """Results of the cases that were under way when a worker died; of the first if none was.

    A case whose process dies again, now that it has all memory for itself, is the
    cause and gets an error instead of a result.

    Args:
        work: what was done.
        cases: all that have no result yet, by a number.
        given_up: by id, cases whose process was ended because they took too long, and the
            error that they get; more may come in while the others are tried.
    """
    under_way = {number: case for number, case in cases.items() if work.note(case).exists()}
    for case in under_way.values():
        work.forget(case)
    chosen = under_way or dict(sorted(cases.items())[:1])
    results: dict[int, R | UserError] = {}
    for number, case in chosen.items():
        result = _alone(work, case, given_up)
        results[number] = result
    return results


def _alone(work: Tracked[R], case: Case, given_up: dict[str, UserError]) -> R | UserError:
    if case.id in given_up:
        return given_up[case.id]
    executor = ProcessPoolExecutor(max_workers=1)
    try:
        result: R = executor.submit(work, case).result()
        return result
    except TerminatedWorkerError as error:
        work.forget(case)
        if case.id in given_up:
            return given_up[case.id]
        signals = str(error).rpartition("{")[2].partition("}")[0]
        return UserError(
            case.image,
            found=f"the process that worked on {case.id} alone was killed ({signals})",
            expected="memory for this case",
            remedy="look whether the machine ran out of memory on it, or take the case out",
        )
    finally:
        executor.shutdown(kill_workers=True)
