"""Cases measured so far: merged, and kept while a fingerprint is under way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from kitspipe.planning.document import read_document
from kitspipe.planning.fingerprint import CaseFingerprint, Fingerprint
from kitspipe.workspace import not_written

Keep = Callable[[CaseFingerprint], None]


def merge(a: Fingerprint, b: Fingerprint) -> Fingerprint:
    """The cases of both, in whichever order they are given.

    Raises:
        ValueError: a case is in both with other values.
    """
    merged = {case.id: case for case in a.cases}
    for case in b.cases:
        if merged.setdefault(case.id, case) != case:
            raise ValueError(f"{case.id} was measured twice with other results")
    return Fingerprint(cases=tuple(merged[name] for name in sorted(merged)))


def read_measured(file: Path) -> Fingerprint:
    """The fingerprint in a file, with what a stopped command measured since; empty at first.

    Raises:
        UserError: the fingerprint is damaged.
    """
    measured = {}
    if file.exists():
        fingerprint = read_document(file, Fingerprint, made_by="kitspipe_fingerprint")
        measured = {case.id: case for case in fingerprint.cases}
    unfinished = _unfinished(file)
    if unfinished.exists():
        lines = unfinished.read_bytes().splitlines()
        measured |= {case.id: case for case in map(_case, lines) if case}
    return Fingerprint(cases=tuple(measured[name] for name in sorted(measured)))


@contextmanager
def kept(file: Path) -> Iterator[Keep]:
    """A function that puts a case on disk at once; all is forgotten when the context ends well.

    Args:
        file: the fingerprint, which must be written before the context ends.

    Raises:
        UserError: the disk is full, the folder is read-only or was removed.
    """
    unfinished = _unfinished(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("ab", buffering=0) as stream:
            # Ends what a crash tore off. One write a line, so that two commands don't mix.
            yield lambda case: _append(stream.write, unfinished, case)
        unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise not_written(unfinished, error) from None


def _append(write: Callable[[bytes], object], unfinished: Path, case: CaseFingerprint) -> None:
    try:
        write(b"\n" + msgspec.json.encode(case) + b"\n")
    except OSError as error:
        raise not_written(unfinished, error) from None


def _case(line: bytes) -> CaseFingerprint | None:
    """None for an empty line, or one that a crash tore off."""
    try:
        return msgspec.json.decode(line, type=CaseFingerprint)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _unfinished(file: Path) -> Path:
    return file.with_name(f".{file.stem}.unfinished.jsonl")
