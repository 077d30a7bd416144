"""Where a training stands, and what its log says of an epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from kitspipe.training.log import Record

_EMA = 0.9


@dataclass(slots=True)
class Progress:
    """Where a training stands; all of it is in the checkpoint.

    Args:
        epoch: under way, from 0.
        step: of the epoch, the next one.
        loss_sum: over the epoch's steps.
        dice_ema: moving average of the validation Dice over epochs.
        best_ema: its best.
        best_epoch: epochs done when that was reached.
        weighed: the last epoch of the plan's schedule that was looked at for hard cases.
        seconds: that the training took, over all its starts.
        epoch_seconds: of the epoch under way.
        waited: seconds of them without a batch.
        shares: [step, share of the training done] of the epoch's steps at which the share moved;
            only where it is read from a clock.
        ended: what ended the training: "epochs", "time" or "patience"; None before.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    dice_ema: float | None = None
    best_ema: float | None = None
    best_epoch: int = 0
    weighed: int = -1
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    waited: float = 0.0
    shares: list[list[float]] = field(default_factory=list)
    ended: str | None = None

    @property
    def waiting(self) -> float:
        """Share of the epoch's time without a batch."""
        return min(1.0, self.waited / self.epoch_seconds) if self.epoch_seconds else 0.0

    def close_epoch(self, dice: float, share_done: float) -> Record:
        """Go to the next epoch; what the log says of this one.

        Args:
            dice: of the validation patches, NaN where none has foreground.
            share_done: of the training.
        """
        is_known = not math.isnan(dice)
        if is_known:
            ema = self.dice_ema
            self.dice_ema = dice if ema is None else _EMA * ema + (1 - _EMA) * dice
        left = self.seconds * (1 - share_done) / share_done if share_done else None
        record: Record = {
            "epoch": self.epoch,
            "loss": self.loss_sum / self.step,
            "dice": dice if is_known else None,
            "dice_ema": self.dice_ema,
            "steps": self.step,
            "share_done": share_done,
            "seconds": round(self.epoch_seconds, 2),
            "waiting": round(self.waiting, 4),
            "eta_seconds": None if left is None else round(left),
        }
        if self.shares:
            record["shares"] = self.shares
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        self.epoch_seconds, self.waited, self.shares = 0.0, 0.0, []
        return record

    def is_best(self) -> bool:
        """Whether the moving average is better than ever before; it is the best one then."""
        ema, best = self.dice_ema, self.best_ema
        if ema is None or (best is not None and ema <= best):
            return False
        self.best_ema, self.best_epoch = ema, self.epoch
        return True
