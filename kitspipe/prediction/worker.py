"""The process that holds the networks and works on cases, one at a time, as it is told to.

It and the command (`isolated.py`) talk over a socket in lines of JSON. Case after case: the
command sends a `Task`, the process answers with an `Outcome`. It ends with the command.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from kitspipe.dataset.cases import Case
from kitspipe.errors import UserError
from kitspipe.planning.document import Document
from kitspipe.prediction.job import Job
from kitspipe.prediction.records import Failure, failure_of, write_run

IDLE_S = 120.0
"""A process that nobody gave work for so long ends: on a cluster, nobody tells it to."""


class Task(Document, frozen=True, kw_only=True):
    """A case to do.

    Args:
        id: of the case.
        image: the scan's path.
        seen: as of `attempt.attempt`.
    """

    id: str
    image: str
    seen: str

    @property
    def case(self) -> Case:
        """The case."""
        return Case(id=self.id, image=Path(self.image), labels=None)


class Start(Document, frozen=True, kw_only=True):
    """Whether the networks are loaded.

    Args:
        run: key of what the job's cases share; None where it can't be done.
        failure: why not.
    """

    run: str | None = None
    failure: Failure | None = None


def main(descriptor: int) -> None:
    """Work until the command is gone.

    Args:
        descriptor: of the socket.
    """
    # Ctrl-C goes to all processes of a terminal; the command decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as connection:
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(connection, lines), daemon=True).start()

        def answer(message: Document) -> None:
            connection.sendall(msgspec.json.encode(message) + b"\n")

        serve(_until_idle(lines), answer)


def serve(lines: Iterator[bytes], answer: Callable[[Document], None]) -> None:
    """Load the networks of a job, then work on its tasks.

    Args:
        lines: the `Job`, then a `Task` each.
        answer: gets a `Start`, then an `Outcome` for each task.
    """
    job = msgspec.json.decode(next(lines), type=Job)
    try:
        from kitspipe.prediction.attempt import attempt, describe_run
        from kitspipe.prediction.effort import effort_of
        from kitspipe.prediction.run import load_cascade

        effort = effort_of(**job.recipe.options)
        cascade = load_cascade(job.place, job.folds, job.device, effort=effort)
        run = describe_run(job, cascade)
        write_run(Path(job.output), run)
    except UserError as error:
        answer(Start(failure=failure_of(error)))
        return
    answer(Start(run=run.key))
    for line in lines:
        task = msgspec.json.decode(line, type=Task)
        outcome = attempt(task.case, job, cascade, run=run.key, seen=task.seen)
        answer(outcome)
        if outcome.is_defect:
            # A GPU that failed once fails for good in a process.
            return


def _until_idle(lines: queue.SimpleQueue[bytes]) -> Iterator[bytes]:
    with suppress(queue.Empty):
        while True:
            yield lines.get(timeout=IDLE_S)


def _listen(connection: socket.socket, lines: queue.SimpleQueue[bytes]) -> None:
    # Reset, where the command died before it read the last answer.
    with suppress(ConnectionResetError), connection.makefile("rb") as stream:
        for line in stream:
            lines.put(line)
    # Whatever the main thread does, nobody waits for it any more.
    os._exit(0)
