"""Progress, log lines, tables and summaries: the only module that prints."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

QUIET, NORMAL, VERBOSE = 0, 1, 2
_PLAIN_LINE_EVERY_S = 10.0
_BAR_AFTER_S = 2.0
_verbosity = NORMAL
_collected: ContextVar[list[str] | None] = ContextVar("_collected", default=None)


def set_verbosity(level: int) -> None:
    """QUIET prints errors and warnings only, VERBOSE adds details."""
    global _verbosity
    _verbosity = level


def info(text: str) -> None:
    """One line of what happens."""
    if _verbosity >= NORMAL:
        print(text, flush=True)


def detail(text: str) -> None:
    """One line for those who asked for `-v`."""
    if _verbosity >= VERBOSE:
        print(text, flush=True)


def warning(text: str) -> None:
    """Something that a user should look at, on stderr, or kept where warnings are collected."""
    kept = _collected.get()
    if kept is None:
        print(f"warning: {text}", file=sys.stderr, flush=True)
    elif text not in kept:
        kept.append(text)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Warnings of this thread are not printed while the context lasts; each is listed once."""
    texts: list[str] = []
    token = _collected.set(texts)
    try:
        yield texts
    finally:
        _collected.reset(token)


def error(text: str) -> None:
    """What went wrong, on stderr."""
    print(f"error: {text}", file=sys.stderr, flush=True)


def summary(title: str, rows: Sequence[tuple[str, object]]) -> None:
    """A title and aligned `name value` rows."""
    width = max((len(name) for name, _ in rows), default=0)
    info("\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows)]))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns of text, as wide as their widest cell."""
    cells = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        info(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )


class Progress:
    """How far a loop of known length is: a bar on a terminal, a plain line now and then elsewhere.

    Shown from two seconds on, with rate and ETA.
    """

    def __init__(self, total: int, label: str, unit: str = "case", done: int = 0) -> None:
        self._total, self._label, self._unit = total, label, unit
        self._start_done = self._done = done
        self._started = time.monotonic()
        self._last_line = self._started
        self._bar = None
        if _verbosity >= NORMAL and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, desc=label, unit=unit, initial=done, delay=_BAR_AFTER_S, leave=False
            )

    def advance(self, note: str = "") -> None:
        """One more is done; `note` stands behind the bar."""
        self._done += 1
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update()
            return
        now = time.monotonic()
        if now - self._last_line >= _PLAIN_LINE_EVERY_S:
            self._last_line = now
            rate = (self._done - self._start_done) / (now - self._started)
            left_s = (self._total - self._done) / rate
            info(
                f"{self._label}: {self._done}/{self._total} {self._unit}s, "
                f"{rate:.2g}/s, {duration(left_s)} left{'  ' + note if note else ''}"
            )

    def expect(self, total: int) -> None:
        """There are more, or fewer, than was thought."""
        self._total = total
        if self._bar is not None:
            self._bar.total = total

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def progress(items: Iterable[T], total: int, label: str, unit: str = "case") -> Iterator[T]:
    """The items, with a progress display as they pass."""
    with Progress(total, label, unit) as shown:
        for item in items:
            yield item
            shown.advance()


def duration(seconds: float) -> str:
    """Seconds as `12 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
