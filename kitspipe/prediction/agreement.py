"""How far the members of a prediction agree on a case.

Votes are counted patch by patch, so that no member's mask is ever kept (`passes.py` says who is a
member). Records and pages read this, too: no torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitspipe.planning.calibration import Calibration, Share
from kitspipe.planning.document import Document
from kitspipe.workspace import Stage


class CaseQuality(Document, frozen=True, kw_only=True):
    """What a case's members agree on, and the Dice that the cross-validation lets expect.

    Args:
        kidney_agreement: Dice of all pairs of the members' kidneys; None with a single member, or
            where none of them sees any.
        tumor_agreement: the same of tumors.
        expected_kidney_dice: None without a calibration, too.
        expected_tumor_dice: as above.
    """

    kidney_agreement: Share | None = None
    tumor_agreement: Share | None = None
    expected_kidney_dice: Share | None = None
    expected_tumor_dice: Share | None = None


class Votes:
    """Voxels by how many of a stage's members have them in their masks.

    Args:
        members: how many there are.
    """

    def __init__(self, members: int) -> None:
        self.members = members
        self.counts: NDArray[np.float64] = np.zeros(members + 1)

    def add(self, votes: NDArray[np.uint8], weights: NDArray[np.float32] | None = None) -> None:
        """Count voxels.

        Args:
            votes: of any shape, how many members have the voxel.
            weights: of the same shape, how much it counts; None: 1.
        """
        flat = None if weights is None else weights.ravel()
        self.counts += np.bincount(votes.ravel(), flat, minlength=self.members + 1)

    @property
    def agreement(self) -> float:
        """Dice of all pairs of members' masks, pooled, [0, 1].

        Twice the voxels that pairs share over the voxels that they have: with v of K members in a
        voxel, sum v (v - 1) / ((K - 1) sum v). NaN for one member, or where none has any voxel.
        """
        v = np.arange(self.members + 1)
        total = float((self.counts * v).sum())
        if self.members < 2 or total == 0:
            return math.nan
        shared = float((self.counts * v * (v - 1)).sum() / ((self.members - 1) * total))
        return min(1.0, shared)


def case_quality(
    agreement: Mapping[Stage, float], calibration: Callable[[Stage], Calibration | None]
) -> CaseQuality | None:
    """What is recorded of a case; None where nothing is known.

    Args:
        agreement: by stage, NaN where there is nothing to agree on.
        calibration: that of a stage; None where there is none.
    """
    found: dict[str, Any] = {}
    for stage, value in agreement.items():
        if math.isnan(value):
            continue
        found[f"{stage}_agreement"] = round(value, 4)
        line = calibration(stage)
        if line is not None:
            found[f"expected_{stage}_dice"] = round(line.predict(value), 4)
    return CaseQuality(**found) if found else None
