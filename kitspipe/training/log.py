"""The log of a fold: a JSON line per epoch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from kitspipe import workspace

Record = dict[str, Any]


class FoldLog:
    """Epochs of a training, one line each, in `log.jsonl`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, record: Record) -> None:
        """Add an epoch; it is on disk when this returns.

        Raises:
            UserError: the disk is full, the folder is read-only or was removed.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                # What a crash tore off would swallow this record.
                file.truncate(len(self._whole_lines()))
                file.write(msgspec.json.encode(record) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise workspace.not_written(self._path, error) from None

    def read(self) -> list[Record]:
        """All whole records; a last line torn by a crash is left out."""
        return [msgspec.json.decode(line) for line in self._whole_lines().splitlines()]

    def keep_until(self, epoch: int) -> None:
        """Forget `epoch` and all after it: a resumed training writes them again."""
        kept = [record for record in self.read() if record["epoch"] < epoch]
        lines = b"".join(msgspec.json.encode(record) + b"\n" for record in kept)
        workspace.write_bytes(self._path, lines)

    def _whole_lines(self) -> bytes:
        """The file up to its last line end."""
        if not self._path.exists():
            return b""
        content = self._path.read_bytes()
        return content[: content.rfind(b"\n") + 1]
