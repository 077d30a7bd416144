"""What a training is asked for beside its plan: how long, how exact. Remembered in its checkpoints.

A schedule is a function of the share of the training that is done, so a shortened training is a
whole one: it warms up and cools down. Of two limits, the one that is nearer its end counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from kitspipe.networks.device import Precision

_STEPS_OF_TIME = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Options that a training keeps; None where none was given.

    Args:
        epochs: in place of the plan's.
        max_seconds: training ends when it has taken so long, over all its starts.
        patience: training ends after so many epochs without a better Dice average.
        precision: of the networks' passes; losses are float32 always.
        compiled: whether torch compiles the network.
    """

    epochs: int | None = None
    max_seconds: float | None = None
    patience: int | None = None
    precision: Precision | None = None
    compiled: bool | None = None

    def over(self, kept: Settings) -> Settings:
        """These, and where none is given the ones that were kept."""
        given = {name: value for name, value in self.record().items() if value is not None}
        return Settings(**{**kept.record(), **given})

    def record(self) -> dict[str, Any]:
        """Name -> value, as JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def share_done(self, epochs_done: float, planned_epochs: int, seconds: float) -> float:
        """Share of the training that is done, 1 at its end.

        Time counts in thousandths of `max_seconds`: so few numbers say which share each step was
        made with that a log can hold them.

        Args:
            epochs_done: with a fraction for the one under way.
            planned_epochs: the plan's, where none are given here.
            seconds: that training took.
        """
        by_epochs = epochs_done / (self.epochs or planned_epochs)
        if self.max_seconds is None:
            return min(1.0, by_epochs)
        by_time = math.floor(_STEPS_OF_TIME * seconds / self.max_seconds) / _STEPS_OF_TIME
        return min(1.0, max(by_epochs, by_time))

    def changes(self, kept: Settings) -> list[str]:
        """What differs from other settings, in words."""
        before = kept.record()
        return [
            f"{name} {before[name] if before[name] is not None else 'as planned'} -> {value}"
            for name, value in self.record().items()
            if value != before[name]
        ]
