"""Scalars of each epoch for TensorBoard, by option."""

from __future__ import annotations

from pathlib import Path

from kitspipe.errors import UserError
from kitspipe.training.log import Record

_SCALARS = (
    "loss",
    "dice",
    "dice_ema",
    "learning_rate",
    "share_done",
    "seconds",
    "waiting",
    "peak_gib",
)


class Board:
    """Writes event files into a folder; epochs from `epoch` on are written anew.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, epoch: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                "--tensorboard",
                found=f"TensorBoard can't be imported: {error}",
                expected="TensorBoard beside kitspipe",
                remedy="pip install 'kitspipe[tensorboard]', or leave --tensorboard out: log.jsonl "
                "has the same numbers",
            ) from None
        # What lies beyond was written before a training that is gone on with was stopped.
        self._writer = SummaryWriter(str(folder), purge_step=epoch)

    def add(self, record: Record) -> None:
        """The scalars of an epoch, as the log has them."""
        for name in _SCALARS:
            if record.get(name) is not None:
                self._writer.add_scalar(name, record[name], record["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """No more epochs."""
        self._writer.close()
