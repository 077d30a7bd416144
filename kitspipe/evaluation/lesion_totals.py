"""Tumors and kidneys of all cases together: found by size, made up, made up on cysts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kitspipe.evaluation.case_scores import CaseScore, false_tumors
from kitspipe.evaluation.intervals import Estimate, estimate, ratio
from kitspipe.evaluation.lesions import SIZE_BINS, Place, TrueTumor


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """So many of so many, and the interval over cases.

    Args:
        part: how many.
        whole: of how many.
        share: one by the other; NaN of none.
    """

    part: int
    whole: int
    share: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class LesionTotals:
    """Over all cases.

    Args:
        found: tumors found, of all tumors; cases without a prediction count as missed.
        found_by_size: the same by size bin.
        false_per_scan: false tumors, over the scans that have a prediction.
        false: how many in all.
        false_by_place: the same by what the reference has there.
        cystic_with_false: of kidneys with cysts and no tumor, those with a false tumor; of scans
            that have a prediction.
        false_in_cystic: false tumors in such kidneys.
        kidneys_found: kidneys found, of all.
        false_kidneys: kidneys made up.
    """

    found: Share
    found_by_size: dict[str, Share]
    false_per_scan: Estimate
    false: int
    false_by_place: dict[Place, int]
    cystic_with_false: Share
    false_in_cystic: int
    kidneys_found: Share
    false_kidneys: int


def lesion_totals(scores: Sequence[CaseScore]) -> LesionTotals:
    """All cases' findings together."""
    judged = [score for score in scores if score.findings.false_tumors is not None]
    false = [tumor for score in judged for tumor in score.findings.false_tumors or ()]
    places: tuple[Place, ...] = ("cyst", "kidney", "background")
    return LesionTotals(
        found=_tumors(scores, lambda _: True),
        found_by_size={
            size: _tumors(scores, lambda tumor, size=size: tumor.size_bin == size)  # type: ignore[misc]
            for size in SIZE_BINS
        },
        false_per_scan=estimate([false_tumors(score) for score in scores]),
        false=len(false),
        false_by_place={place: sum(t.place == place for t in false) for place in places},
        cystic_with_false=_share(
            [score.findings.cystic_kidneys_with_false for score in judged],
            [score.findings.cystic_kidneys for score in judged],
        ),
        false_in_cystic=sum(score.findings.false_in_cystic for score in judged),
        kidneys_found=_share(
            [sum(kidney.is_found for kidney in score.findings.kidneys) for score in scores],
            [len(score.findings.kidneys) for score in scores],
        ),
        false_kidneys=sum(len(score.findings.false_kidneys_ml) for score in scores),
    )


def _tumors(scores: Sequence[CaseScore], wanted: Callable[[TrueTumor], bool]) -> Share:
    chosen = [[t for t in score.findings.tumors if wanted(t)] for score in scores]
    return _share(
        [sum(tumor.is_found for tumor in tumors) for tumors in chosen],
        [len(tumors) for tumors in chosen],
    )


def _share(parts: Sequence[int], wholes: Sequence[int]) -> Share:
    return Share(part=sum(parts), whole=sum(wholes), share=ratio(parts, wholes))
