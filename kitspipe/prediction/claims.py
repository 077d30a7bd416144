"""One command per case: a lock that ends with its process, in the file that holds the record.

Commands that share an output folder, on one machine or many, each take the cases that no other
works on. The lock is POSIX's (`lockf`), which works on NFS, where locking a file also makes its
newest content seen; so what happened to a case stands in the locked file itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from kitspipe import console
from kitspipe.prediction.records import CaseRecord, decoded, record_file
from kitspipe.workspace import not_written

_HELD = {errno.EACCES, errno.EAGAIN}
_FOLDER_LOCK = "lock"
# A process that opens and closes a file loses its own lock on it, and never waits for itself.
_own: set[Path] = set()
_guard = threading.Lock()
_folder_guard = threading.Lock()


class Claim:
    """A case that this process alone works on, while the context lasts."""

    def __init__(self, stream: BinaryIO, case_id: str) -> None:
        self._stream, self._case_id = stream, case_id

    def read(self) -> CaseRecord | None:
        """The case's record; None where it has none yet."""
        self._stream.seek(0)
        content = self._stream.read()
        return decoded(content, self._case_id) if content else None

    def write(self, record: CaseRecord) -> None:
        """Put a record in place of the one before.

        Raises:
            UserError: the disk is full or the folder read-only.
        """
        content = msgspec.json.encode(record)
        try:
            self._stream.seek(0)
            self._stream.write(content)
            self._stream.truncate(len(content))
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise not_written(Path(self._stream.name), error) from None


@contextmanager
def claimed(output: Path, case_id: str) -> Iterator[Claim | None]:
    """A claim on a case; None where somebody else has it.

    A file system without locks is warned of.

    Raises:
        UserError: the folder can't be written to.
    """
    with _locked(record_file(output, case_id), wait=False) as stream:
        yield None if stream is None else Claim(stream, case_id)


def is_claimed(output: Path, case_id: str) -> bool:
    """Whether somebody works on a case."""
    with claimed(output, case_id) as claim:
        return claim is None


@contextmanager
def folder_lock(output: Path) -> Iterator[None]:
    """Only one at a time has it; the others wait."""
    with _folder_guard, _locked(record_file(output, "x").with_name(_FOLDER_LOCK), wait=True):
        yield


@contextmanager
def _locked(file: Path, *, wait: bool) -> Iterator[BinaryIO | None]:
    key = file.absolute()
    with _guard:
        is_ours = key in _own
        _own.add(key)
    if is_ours:
        yield None
        return
    try:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # Not "a": that would add to what is there. The file is made where it is missing.
            stream = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        except OSError as error:
            raise not_written(file, error) from None
        with stream:
            yield stream if _lock(stream, file, wait=wait) else None
    finally:
        with _guard:
            _own.discard(key)


def _lock(stream: BinaryIO, file: Path, *, wait: bool) -> bool:
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in _HELD:
            return False
        console.warning(
            f"{file.parent.parent}: this file system has no locks ({error.strerror}); let only "
            "one command at a time write there"
        )
    return True
