"""Predicted quality: from how far a case's predictions agree to the Dice to expect.

The members are the folds' networks, and mirrored passes of each. Agreement alone orders cases;
the calibration, from cases with a reference, turns it into a Dice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from scipy.stats import rankdata

from kitspipe.planning.document import Document, read_document, write_document

QUALITY_FILE = "quality.json"
FEWEST_CASES = 8
"""Below this many cases a calibration would be chance."""

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
        """The Dice to expect; beyond the outermost points, theirs. NaN stays NaN."""
        return float(np.interp(agreement, self.agreement, self.dice))


class CaseQuality(Document, frozen=True, kw_only=True):
    """What a case's predictions agree on; None where all of them are empty."""

    kidney_agreement: Share | None
    tumor_agreement: Share | None
    predicted_kidney_dice: Share | None
    predicted_tumor_dice: Share | None


class Qualities(Document, frozen=True, kw_only=True):
    """`quality.json` beside predicted masks."""

    cases: dict[str, CaseQuality]


def agreement(votes: NDArray[np.integer[Any]], members: int) -> float:
    """Dice of all pairs of members' masks, pooled, [0, 1].

    Twice the voxels that pairs share over the voxels that they have: with v of K members in a
    voxel, sum v (v - 1) / ((K - 1) sum v). So only votes are kept, not K masks.

    Args:
        votes: of any shape, how many members have the voxel in their mask. All 0: NaN.
        members: how many there are, at least 2.

    Raises:
        ValueError: fewer than two members, or votes beyond them.
    """
    if members < 2:
        raise ValueError(f"{members} members have nothing to agree on")
    # Counted per number of votes: exact, and no large array of larger numbers.
    counts = np.bincount(votes.ravel())
    if counts.size > members + 1:
        raise ValueError(f"{counts.size - 1} votes of {members} members")
    v = np.arange(counts.size, dtype=float)
    total = float((counts * v).sum())
    if total == 0:
        return math.nan
    return float((counts * v * (v - 1)).sum() / ((members - 1) * total))


def calibrate(agreements: Sequence[float], dices: Sequence[float]) -> Calibration | None:
    """The rising line nearest to what cases with a reference show; None for too few cases.

    Isotonic regression (pools of neighbors that would fall), points at the pools' means.

    Args:
        agreements: of the cases; those with NaN here or in `dices` are left out.
        dices: their Dice.
    """
    pairs = np.column_stack([agreements, dices]).astype(float).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if len(pairs) < FEWEST_CASES:
        return None
    pools: list[tuple[float, float, int]] = []
    # Cases of equal agreement have to be one pool, whatever their Dice.
    for value in np.unique(pairs[:, 0]):
        same = pairs[pairs[:, 0] == value, 1]
        pools.append((float(value), float(same.mean()), len(same)))
        while len(pools) > 1 and pools[-2][1] >= pools[-1][1]:
            (a, b, n), (c, d, m) = pools[-2:]
            pools[-2:] = [((a * n + c * m) / (n + m), (b * n + d * m) / (n + m), n + m)]
    return Calibration(
        agreement=tuple(pool[0] for pool in pools),
        dice=tuple(pool[1] for pool in pools),
        cases=len(pairs),
    )


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation, [-1, 1]; NaN where one does not vary or there are fewer than two."""
    ranks = [rankdata(values) for values in (a, b)]
    if any(np.ptp(rank) == 0 for rank in ranks if len(rank)) or len(a) < 2:
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


def auc(scores: Sequence[float], is_bad: Sequence[bool]) -> float:
    """Chance that a bad case has a lower score than a good one, ties count half, [0, 1].

    NaN without bad or without good cases.

    Source: Mann and Whitney's U over the number of pairs.
    """
    bad = np.asarray(is_bad, bool)
    n_bad, n_good = int(bad.sum()), int((~bad).sum())
    if n_bad == 0 or n_good == 0:
        return math.nan
    ranks = rankdata(-np.asarray(scores, float))
    return float((ranks[bad].sum() - n_bad * (n_bad + 1) / 2) / (n_bad * n_good))


def write_qualities(folder: Path, cases: Mapping[str, CaseQuality]) -> Path:
    """Path of the file written beside masks."""
    file = folder / QUALITY_FILE
    write_document(file, Qualities(cases=dict(cases)))
    return file


def read_predicted(folder: Path) -> dict[str, tuple[float, float]]:
    """(kidney, tumor) Dice to expect by case id; empty where the masks have no such file.

    NaN where there was nothing to agree on.

    Raises:
        UserError: the file is damaged.
    """
    file = folder / QUALITY_FILE
    if not file.exists():
        return {}
    read = read_document(file, Qualities, made_by="kitspipe_predict")
    return {
        case_id: (_or_nan(case.predicted_kidney_dice), _or_nan(case.predicted_tumor_dice))
        for case_id, case in read.cases.items()
        if case.predicted_kidney_dice is not None or case.predicted_tumor_dice is not None
    }


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
