"""What somebody should look at in a case, where, and how urgently.

Limits of single measurements are those of `plausibility`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from kitspipe.evaluation.measurements import (
    CaseMeasurement,
    KidneyMeasurement,
    TumorMeasurement,
)
from kitspipe.evaluation.metrics import KiTS19Scores
from kitspipe.evaluation.plausibility import PARENCHYMA_HU, PARENCHYMA_ML, TUMOR_HU
from kitspipe.imaging.volume import Shape
from kitspipe.planning.document import Document
from kitspipe.prediction.agreement import CaseQuality

Severity = Literal["high", "medium", "low"]
SEVERITIES: tuple[Severity, ...] = ("high", "medium", "low")

_ENHANCED_HU = 60.0
"""Tissue without contrast medium has 20 to 45 HU."""
_TUMOR_TOO_LARGE_ML = 2000.0
_TINY_MM = 7.0
_MANY_TUMORS = 4
TUMOR_LIMITS = (0.5, 0.7)
KIDNEY_LIMITS = (0.9, 0.94)
"""Dice below which a case should be looked at first, or at all."""
# The measurement's warnings that are told here with their place.
_TOLD_BELOW = re.compile(r"(tumor \d+|(left|right) kidney): |no kidney$|one kidney only")


class Finding(Document, frozen=True, kw_only=True):
    """One thing to look at.

    Args:
        kind: the rule, a word or two with hyphens.
        severity: high: look first; medium: look; low: worth knowing.
        text: what was found, a sentence without a full stop.
        place: (Z, Y, X) where it is, in the array that it was found in; None where nowhere.
    """

    kind: str
    severity: Severity
    text: str
    place: Shape | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What is known of a case.

    Args:
        measurement: of the predicted mask.
        score: against a reference; None without.
        quality: what folds and mirrored passes agree on; None where unknown.
        warnings: what prediction warned of.
    """

    measurement: CaseMeasurement
    score: KiTS19Scores | None = None
    quality: CaseQuality | None = None
    warnings: Sequence[str] = ()


def find(evidence: Evidence) -> tuple[Finding, ...]:
    """All findings of a case, the most urgent first."""
    measurement = evidence.measurement
    found = [
        *_of_scores(evidence),
        *_of_kidneys(measurement.kidneys),
        *(finding for tumor in measurement.tumors for finding in _of_tumor(tumor)),
        *_of_tumors(measurement.tumors),
        *(
            Finding(kind="warning", severity="medium", text=text)
            for text in (*evidence.warnings, *measurement.warnings)
            if not _TOLD_BELOW.match(text)
        ),
    ]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def urgency(findings: Iterable[Finding], quality: float | None) -> tuple[int, int, float]:
    """A sorting key: more urgent cases have a lower one; of equals that of lower quality.

    Args:
        findings: the case's.
        quality: its tumor Dice, true or predicted; None or NaN comes last.
    """
    severities = [finding.severity for finding in findings]
    known = quality is not None and not math.isnan(quality)
    return (
        -severities.count("high"),
        -severities.count("medium"),
        quality if known and quality is not None else math.inf,
    )


def _of_scores(evidence: Evidence) -> Iterator[Finding]:
    score, quality = evidence.score, evidence.quality
    if score is not None:
        yield from _low("low-score", "Dice of the kidney is", score.kidney, KIDNEY_LIMITS)
        if score.tumor == 0 and not evidence.measurement.tumors:
            yield Finding(
                kind="low-score", severity="high", text="the reference has a tumor, the mask none"
            )
        else:
            yield from _low("low-score", "Dice of the tumor is", score.tumor, TUMOR_LIMITS)
    if quality is not None:
        yield from _agreed(
            "kidney", quality.kidney_agreement, quality.expected_kidney_dice, KIDNEY_LIMITS
        )
        yield from _agreed(
            "tumor", quality.tumor_agreement, quality.expected_tumor_dice, TUMOR_LIMITS
        )


def _agreed(
    name: str, agreement: float | None, expected: float | None, limits: tuple[float, float]
) -> Iterator[Finding]:
    """By the Dice to expect; where nothing says which, by agreement itself."""
    if expected is not None:
        text = f"folds and mirrored passes disagree: expected Dice of the {name}"
        yield from _low("low-agreement", text, expected, limits)
    elif agreement is not None:
        text = f"folds and mirrored passes disagree: Dice of one {name} mask with another"
        yield from _low("low-agreement", text, agreement, limits)


def _low(kind: str, what: str, dice: float, limits: tuple[float, float]) -> Iterator[Finding]:
    # NaN, where there is nothing to score, is below no limit.
    if dice < limits[1]:
        severity: Severity = "high" if dice < limits[0] else "medium"
        yield Finding(kind=kind, severity=severity, text=f"{what} {dice:.2f}")


def _of_kidneys(kidneys: Sequence[KidneyMeasurement]) -> Iterator[Finding]:
    if not kidneys:
        yield Finding(kind="kidney-missing", severity="high", text="no kidney was found")
    if len(kidneys) == 1:
        yield Finding(
            kind="kidney-missing",
            severity="medium",
            text=f"only a {kidneys[0].side} kidney was found: is there no other?",
            place=kidneys[0].center_voxel,
        )
    for kidney in kidneys:
        yield from _of_kidney(kidney)


def _of_kidney(kidney: KidneyMeasurement) -> Iterator[Finding]:
    name, place = f"the {kidney.side} kidney", kidney.center_voxel
    if not kidney.side_is_certain:
        text = f"{name} may be the other one: its side is uncertain"
        yield Finding(kind="side", severity="low", text=text, place=place)
    if kidney.is_cut:
        text = f"the scan cuts {name}: its volume is more than measured"
        yield Finding(kind="cut-organ", severity="medium", text=text, place=place)
    tissue_ml = kidney.parenchyma_ml
    if not PARENCHYMA_ML[0] <= tissue_ml <= PARENCHYMA_ML[1] and not kidney.is_cut:
        much = "little" if tissue_ml < PARENCHYMA_ML[0] else "much"
        text = f"{name} has {much} tissue: {tissue_ml:.0f} ml"
        yield Finding(kind="implausible-volume", severity="high", text=text, place=place)
    if kidney.parenchyma is None:
        return
    hu = kidney.parenchyma.mean_hu
    if not PARENCHYMA_HU[0] <= hu <= PARENCHYMA_HU[1]:
        text = f"{name} has {hu:.0f} HU, which no kidney has"
        yield Finding(kind="implausible-HU", severity="high", text=text, place=place)
    elif hu < _ENHANCED_HU:
        text = f"{name} has {hu:.0f} HU: little or no contrast medium, masks are less certain"
        yield Finding(kind="no-contrast", severity="low", text=text, place=place)


def _of_tumor(tumor: TumorMeasurement) -> Iterator[Finding]:
    name, place = f"tumor {tumor.number}", tumor.center_voxel
    if tumor.side is None:
        gap = "" if tumor.kidney_gap_mm is None else f", {tumor.kidney_gap_mm:.0f} mm off"
        text = f"{name} lies outside any kidney{gap}"
        yield Finding(kind="tumor-outside", severity="high", text=text, place=place)
    if tumor.is_cut:
        text = f"the scan cuts {name}: it is larger than measured"
        yield Finding(kind="cut-organ", severity="high", text=text, place=place)
    if tumor.axial_diameter_mm < _TINY_MM:
        text = f"{name} is tiny ({tumor.axial_diameter_mm:.0f} mm): noise?"
        yield Finding(kind="implausible-volume", severity="low", text=text, place=place)
    if tumor.volume_ml > _TUMOR_TOO_LARGE_ML:
        text = f"{name} has {tumor.volume_ml:.0f} ml: other organs in it?"
        yield Finding(kind="implausible-volume", severity="high", text=text, place=place)
    if tumor.tissue is None:
        return
    hu = tumor.tissue.mean_hu
    if hu < TUMOR_HU[0]:
        text = f"{name} has {hu:.0f} HU on average: fat, or beside the tumor"
        yield Finding(kind="implausible-HU", severity="high", text=text, place=place)
    elif hu > TUMOR_HU[1]:
        text = f"{name} has {hu:.0f} HU on average: bone, or contrast medium"
        yield Finding(kind="implausible-HU", severity="high", text=text, place=place)


def _of_tumors(tumors: Sequence[TumorMeasurement]) -> Iterator[Finding]:
    if not tumors:
        yield Finding(kind="no-tumor", severity="low", text="no tumor was found")
    if len(tumors) >= _MANY_TUMORS:
        text = f"{len(tumors)} tumors: so many are rare"
        yield Finding(kind="many-tumors", severity="medium", text=text)
