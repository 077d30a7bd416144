"""Cases that take far longer than others: said while they run, ended when they are stuck."""

from __future__ import annotations

import json
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from kitspipe import console
from kitspipe.dataset.cases import Case
from kitspipe.dataset.worker_death import Tracked
from kitspipe.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a case may take.

    Args:
        warn_after_s: a warning says that it is slow, and again whenever the time has doubled.
        give_up_after_s: its process is ended, and the case has failed.
        times_longest: but not before it took so many times as long as the longest of those
            that are done.
        look_every_s: how often its time is looked at.
    """

    warn_after_s: float = 60.0
    give_up_after_s: float = 1800.0
    times_longest: float = 20.0
    look_every_s: float = 1.0


@dataclass(kw_only=True, slots=True)
class _UnderWay:
    """A case that was seen under way, and when it is next to be spoken of; seconds."""

    note: str
    since: float
    warn_at: float


@dataclass(kw_only=True, slots=True)
class _Watch:
    work: Tracked[Any]
    cases: Sequence[Case]
    patience: Patience
    given_up: dict[str, UserError] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)
    under_way: dict[str, _UnderWay] = field(default_factory=dict)
    longest_s: float = 0.0

    def run(self) -> None:
        while not self.over.wait(self.patience.look_every_s):
            for case in self.cases:
                self._look(case)

    def _look(self, case: Case) -> None:
        try:
            note = self.work.note(case).read_text(encoding="utf-8")
        except OSError:
            note = ""
        now, seen = time.monotonic(), self.under_way.get(case.id)
        if seen is not None and seen.note != note:
            if case.id not in self.given_up:
                self.longest_s = max(self.longest_s, now - seen.since)
            del self.under_way[case.id]
            seen = None
        if not note:
            return
        if seen is None:
            seen = _UnderWay(note=note, since=now, warn_at=self.patience.warn_after_s)
            self.under_way[case.id] = seen
        self._judge(case, seen, now - seen.since)

    def _judge(self, case: Case, seen: _UnderWay, taken_s: float) -> None:
        limit_s = max(self.patience.give_up_after_s, self.patience.times_longest * self.longest_s)
        process = _own_child(seen.note)
        if process is not None and taken_s >= limit_s:
            self._give_up(case, process, taken_s)
        elif taken_s >= seen.warn_at:
            seen.warn_at *= 2
            end = f"; it is given up after {console.duration(limit_s)}" if process else ""
            console.warning(
                f"{case.id} has been under way for {console.duration(taken_s)}{end}"
                f"{_now_at(self._stacks(case))}"
            )

    def _give_up(self, case: Case, process: int, taken_s: float) -> None:
        if case.id not in self.given_up:
            stacks = self._stacks(case) or "its process says nothing (is it stopped?)"
            self.given_up[case.id] = UserError(
                case.image,
                found=f"{case.id} was given up after {console.duration(taken_s)}; the longest "
                f"of those that are done took {console.duration(self.longest_s)}. It was at:\n"
                f"{stacks}",
                expected="files that are read, and work that is done, within minutes",
                remedy="look at the file and its disk (a network drive that does not answer?), "
                "then run the same command again",
            )
        # That ends a stopped process too; joblib sees the death and the others go on.
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)

    def _stacks(self, case: Case) -> str:
        """The stacks that the process wrote last; empty without."""
        try:
            text = self.work.stacks(case).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return text.rpartition("Timeout (")[2].partition("\n")[2].rstrip()


@contextmanager
def watched(
    work: Tracked[Any], cases: Sequence[Case], patience: Patience
) -> Iterator[dict[str, UserError]]:
    """Cases that were given up, by id, with their errors; they come in while the context lasts.

    A case that works in this process, or on a cluster, is spoken of but not ended.

    Args:
        work: what is done with each.
        cases: those that may be under way.
        patience: how long one may take.
    """
    watch = _Watch(work=work, cases=cases, patience=patience)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch.given_up
    finally:
        watch.over.set()
        thread.join()


def _own_child(note: str) -> int | None:
    """The process of a note, where it is a child of this one and may be ended by it."""
    try:
        node, process, parent = json.loads(note)
    except ValueError:
        # Not whole yet.
        return None
    is_ours = node == platform.node() and parent == os.getpid()
    return int(process) if is_ours else None


def _now_at(stacks: str) -> str:
    """The innermost line of the last thread, which is the one that works."""
    lines = stacks.rpartition("most recent call first")[2].splitlines()
    return f"; it is at {lines[1].strip()}" if len(lines) > 1 else ""
