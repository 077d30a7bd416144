"""One training per fold: a lock that ends with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kitspipe import console
from kitspipe.errors import UserError
from kitspipe.workspace import not_written

_HELD = {errno.EACCES, errno.EAGAIN}


@contextmanager
def only_training_in(folder: Path) -> Iterator[None]:
    """While it lasts, no other process trains in this folder, on this machine or another.

    The lock's file lies beside the folder, so that the folder can be removed under the lock. It
    stays there; whether it is locked is what counts. A file system without locks is warned of.

    Raises:
        UserError: another process trains there.
    """
    file = folder.with_name(f".{folder.name}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("a+b", buffering=0)
    except OSError as error:
        raise not_written(file, error) from None
    with stream:
        _lock(stream, folder)
        yield


def _lock(stream: BinaryIO, folder: Path) -> None:
    try:
        # Not flock: forked loading processes would inherit that, and outlive a killed training.
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD:
            console.warning(
                f"{folder}: this file system has no locks ({error.strerror}); take care that no "
                "two trainings of this fold run at once"
            )
            return
        stream.seek(0)
        raise UserError(
            folder,
            found=f"another training of this fold is running ({stream.read().decode() or '?'})",
            expected="one training per fold at a time",
            remedy="let it end or stop it; then the same command goes on from there",
        ) from None
    stream.truncate(0)
    stream.write(f"process {os.getpid()} on {platform.node()}".encode())
