"""Cases in a process of their own: one that crashes it, or takes too much, costs no other case.

The command's own process loads no networks; it sends cases to `worker.py` and watches.
"""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from kitspipe.dataset.cases import Case
from kitspipe.errors import UserError
from kitspipe.planning.document import Document
from kitspipe.prediction.claims import claimed
from kitspipe.prediction.job import Job
from kitspipe.prediction.memory_use import resident_mib
from kitspipe.prediction.records import CaseRecord, Outcome, begun, error_of, failure_of
from kitspipe.prediction.worker import Start, Task

_LOOK_EVERY_S = 0.1
_MOST_SAID_LINES = 5
# Modules are found as here: neither the current folder nor the environment adds others.
_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; "
    "from kitspipe.prediction.worker import main; main({descriptor})"
)


class Limits(Document, frozen=True, kw_only=True):
    """What a case may take; None: anything.

    Args:
        seconds: from when its process takes it.
        memory_gib: resident memory of that process, networks included.
    """

    seconds: float | None = None
    memory_gib: float | None = None


class _Over(Exception):
    """A case took too much, or its process is gone."""

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        super().__init__(found)
        self.found, self.expected, self.remedy = found, expected, remedy


class Isolated:
    """A process that holds a job's networks; it is started anew after a case that ended it.

    Args:
        job: what is asked for.
        limits: what a case may take.
    """

    def __init__(self, job: Job, limits: Limits) -> None:
        self._job, self._limits = job, limits
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._said: IO[bytes] | None = None
        self._buffer = b""
        self.run: str | None = None

    def __enter__(self) -> Isolated:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def predict(self, case: Case, seen: str) -> Outcome:
        """Do a case; see `attempt.attempt`.

        Raises:
            UserError: the job can't be done at all: no such device, damaged weights.
        """
        self.start()
        try:
            self._send(Task(id=case.id, image=str(case.image), seen=seen))
            outcome = msgspec.json.decode(self._answer(self._limits), type=Outcome)
        except _Over as over:
            self.close()
            error = UserError(
                case.image, found=over.found, expected=over.expected, remedy=over.remedy
            )
            return Outcome(status="failed", record=record_failure(case, self._job, error, self.run))
        if outcome.is_defect:
            self.close()
        return outcome

    def start(self) -> None:
        """Load the networks, where that is not done.

        Raises:
            UserError: they can't be loaded.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        ours, theirs = socket.socketpair()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # `close` closes it
        program = _PROGRAM.format(path=sys.path, descriptor=theirs.fileno())
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
            )
        self._socket, self._buffer = ours, b""
        try:
            self._send(self._job)
            started = msgspec.json.decode(self._answer(Limits()), type=Start)
        except _Over as over:
            self.close()
            raise UserError(
                self._job.place.plan_file,
                found=f"networks that can't be loaded: {over.found}",
                expected=over.expected,
                remedy=over.remedy,
            ) from None
        if started.failure is not None:
            self.close()
            raise error_of(started.failure)
        self.run = started.run

    def close(self) -> None:
        """End the process; another is started when needed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for opened in (self._socket, self._said):
            if opened is not None:
                opened.close()
        self._socket = self._said = None

    def _send(self, message: Document) -> None:
        assert self._socket is not None
        # What is gone is seen when its answer is waited for.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(msgspec.json.encode(message) + b"\n")

    def _answer(self, limits: Limits) -> bytes:
        """The next line of the process.

        Raises:
            _Over: a limit is exceeded, or the process is gone.
        """
        assert self._socket is not None
        assert self._process is not None
        started = time.monotonic()
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._socket], [], [], _LOOK_EVERY_S)
            content = b"?"
            if ready:
                with suppress(ConnectionResetError):
                    content = self._socket.recv(1 << 16)
                if content in (b"", b"?"):
                    raise self._gone()
                self._buffer += content
                continue
            self._watch(limits, time.monotonic() - started)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _watch(self, limits: Limits, taken_s: float) -> None:
        assert self._process is not None
        if limits.seconds is not None and taken_s > limits.seconds:
            raise _Over(
                f"more than {limits.seconds:g} s of work",
                f"at most {limits.seconds:g} s, as --case-seconds says",
                "allow more, or look at this scan: is it a whole body, or the disk slow?",
            )
        memory_mib = resident_mib(self._process.pid)
        if limits.memory_gib is None or memory_mib is None:
            return
        if memory_mib > limits.memory_gib * 1024:
            raise _Over(
                f"{memory_mib / 1024:.1f} GiB of memory in use",
                f"at most {limits.memory_gib:g} GiB, as --case-memory says",
                "allow more, or segment this scan on a machine with more memory",
            )

    def _gone(self) -> _Over:
        assert self._process is not None
        assert self._said is not None
        status = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        said = "".join(f"\n    {line}" for line in lines[-_MOST_SAID_LINES:])
        if status >= 0:
            how, remedy = f"ended with status {status}", "please report it with the lines above"
        else:
            how = f"was killed by {signal.Signals(-status).name}"
            remedy = "look whether the machine ran out of memory on it, or take the case out"
        return _Over(f"the process that worked on it {how}{said}", "memory for this case", remedy)


def record_failure(case: Case, job: Job, error: UserError, run: str | None) -> CaseRecord:
    """The record of a case whose process could not write it; written unless another has it."""
    record = msgspec.structs.replace(
        begun(case, job, run), status="failed", failure=failure_of(error)
    )
    with suppress(UserError), claimed(Path(job.output), case.id) as claim:
        if claim is not None:
            claim.write(record)
    return record
