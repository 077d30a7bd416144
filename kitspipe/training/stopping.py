"""Ways to ask a training to stop: SIGTERM, Ctrl-C, a file. It writes a checkpoint and leaves."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from kitspipe.errors import UserError

STOP_FILE = "stop"
_LOOK_EVERY_S = 1.0


class StopSignal:
    """Whether SIGTERM or Ctrl-C came."""

    def __init__(self) -> None:
        self.came = False

    @contextmanager
    def watched(self) -> Iterator[StopSignal]:
        """Within, both signals ask for a stop; outside, they do what they did before.

        A second Ctrl-C does not wait for a checkpoint.
        """

        def ask(number: int, frame: FrameType | None) -> None:
            if self.came and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.came = True

        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class StopFile:
    """A file named `stop` in a fold's folder; it is removed when it is obeyed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / STOP_FILE
        self._looked_at = -_LOOK_EVERY_S

    @property
    def is_there(self) -> bool:
        """Whether it is there; looked for once a second."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_EVERY_S:
            return False
        self._looked_at = now
        return self._path.exists()

    def remove(self) -> None:
        """So that the same command goes on.

        Raises:
            UserError: it can't be removed.
        """
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                self._path,
                found=f"a file that can't be removed: {error.strerror}",
                expected="a file or no file",
                remedy="remove it; the same command then goes on with the training",
            ) from None
