"""Folders for files that nobody keeps: gone with the process, or with the next one after a kill."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kitspipe.workspace import sweep, temporary_beside


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """An empty folder that lasts as long as the context.

    What processes left that were killed before they could remove theirs is removed first.
    """
    place = Path(tempfile.gettempdir())
    sweep(place)
    # Under a name that tells whose it is, which is what `sweep` goes by.
    prefix = temporary_beside(place / "kitspipe.").name
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True) as name:
        yield Path(name)
