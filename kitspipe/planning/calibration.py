"""From how far predictions of a case agree to the Dice to expect, as the cross-validation showed.

Part of `choice.json`; made by `evaluation/quality.py`.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from kitspipe.planning.document import Document

FEWEST_CASES = 8
"""Below this many cases a calibration would be chance."""

Members = Literal["folds", "mirrored"]
"""Several networks, or the mirrored passes of one: folds differ more."""

Share = Annotated[float, Meta(ge=0, le=1)]


class Calibration(Document, frozen=True, kw_only=True):
    """Expected Dice as a rising line through points.

    Args:
        agreement: of the points, rising.
        dice: expected there, not falling.
        cases: how many it was made from.
    """

    agreement: tuple[Share, ...]
    dice: tuple[Share, ...]
    cases: Annotated[int, Meta(ge=FEWEST_CASES)]

    def __post_init__(self) -> None:
        if len(self.agreement) != len(self.dice) or not self.agreement:
            raise ValueError("agreement and dice differ in length, or are empty")
        if any(b <= a for a, b in zip(self.agreement, self.agreement[1:], strict=False)):
            raise ValueError("agreement does not rise")
        if any(b < a for a, b in zip(self.dice, self.dice[1:], strict=False)):
            raise ValueError("dice falls")

    def predict(self, agreement: float) -> float:
        """The Dice to expect, [0, 1]; NaN stays NaN.

        Above the highest point it is that point's; below the lowest it falls to 0 at agreement 0,
        as masks that share nothing can't all be right.
        """
        if math.isnan(agreement):
            return math.nan
        if agreement < self.agreement[0]:
            return self.dice[0] * agreement / self.agreement[0]
        return float(np.interp(agreement, self.agreement, self.dice))
