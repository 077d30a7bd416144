"""All that is measured in one case, and the list of metrics that tables and tests go through."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kitspipe.evaluation import distances, lesions, metrics
from kitspipe.evaluation.lesions import Findings
from kitspipe.evaluation.metrics import HECScore, KiTS19Scores, KiTS23Scores
from kitspipe.imaging.volume import Box, Grid
from kitspipe.planning.plan import Labels

PERCENT = 95
HECS = tuple(metrics.TOLERANCE_MM)
_NOTHING = HECScore(dice=0.0, surface_dice=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """Size and farthest error of one hierarchical evaluation class.

    Args:
        reference_ml: volume in the reference.
        predicted_ml: volume in the prediction, 0 where there is none.
        hausdorff_mm: the 95 % Hausdorff distance. Both empty: NaN; one empty, or no prediction:
            infinite.
    """

    reference_ml: float
    predicted_ml: float
    hausdorff_mm: float

    @property
    def error_ml(self) -> float:
        """Predicted less true volume; 0 where both are empty."""
        return self.predicted_ml - self.reference_ml

    @property
    def error_percent(self) -> float:
        """The same in % of the true volume; NaN where the reference is empty."""
        if self.reference_ml == 0:
            return math.nan
        return 100 * self.error_ml / self.reference_ml


@dataclass(frozen=True, kw_only=True, slots=True)
class Regions:
    """The three hierarchical evaluation classes."""

    kidney_and_mass: Region
    mass: Region
    tumor: Region


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseScore:
    """One case's scores.

    Args:
        case_id: the case.
        kits19: Dice as in KiTS19.
        kits23: Dice and Surface Dice as in KiTS21/23.
        regions: volumes and distances.
        findings: tumors and kidneys, found, missed and false.
        failure: why the prediction could not be compared, in which case the official scores are 0,
            all tumors are missed and false ones are unknown.
    """

    case_id: str
    kits19: KiTS19Scores
    kits23: KiTS23Scores
    regions: Regions
    findings: Findings
    failure: str | None = None


def score(
    case_id: str,
    reference: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    grid: Grid,
    labels: Labels = metrics.KITS_LABELS,
) -> CaseScore:
    """A case's scores.

    Args:
        case_id: the case.
        reference: (Z, Y, X) labels, of `labels` and 0 only.
        prediction: labels of the same shape and values.
        grid: theirs.
        labels: which value is what.

    Raises:
        ValueError: shapes differ.
    """
    distances.check_shapes(reference, prediction)
    # A corner of air where all is empty; nothing depends on how much of it there is.
    box = Box.around((reference > 0) | (prediction > 0)) or Box(start=(0, 0, 0), stop=(1, 1, 1))
    reference, prediction, grid = reference[box.slices], prediction[box.slices], grid.crop(box)
    official: dict[str, HECScore] = {}
    regions: dict[str, Region] = {}
    for name, values in metrics.hec_values(labels).items():
        a, b = metrics.union(reference, values), metrics.union(prediction, values)
        pair = distances.SurfacePair.between(
            a, b, spacing=grid.spacing, reach_mm=distances.STEPWISE_MM
        )
        official[name] = metrics.hec_score(a, b, pair, metrics.TOLERANCE_MM[name])
        regions[name] = Region(
            reference_ml=float(np.count_nonzero(a) * grid.voxel_ml),
            predicted_ml=float(np.count_nonzero(b) * grid.voxel_ml),
            hausdorff_mm=_hausdorff_mm(a, b, pair),
        )
    return CaseScore(
        case_id=case_id,
        kits19=metrics.kits19_scores(reference, prediction, labels),
        kits23=KiTS23Scores(**official),
        regions=Regions(**regions),
        findings=lesions.find(reference, prediction, grid, labels),
    )


def failed(
    case_id: str, reference: NDArray[np.uint8], grid: Grid, labels: Labels, reason: str
) -> CaseScore:
    """Scores of a case whose prediction is missing or can't be compared."""
    box = Box.around(reference > 0) or Box(start=(0, 0, 0), stop=(1, 1, 1))
    reference, grid = reference[box.slices], grid.crop(box)
    regions = {
        name: Region(
            reference_ml=float(np.count_nonzero(metrics.union(reference, values)) * grid.voxel_ml),
            predicted_ml=0.0,
            hausdorff_mm=math.inf,
        )
        for name, values in metrics.hec_values(labels).items()
    }
    return CaseScore(
        case_id=case_id,
        kits19=KiTS19Scores(kidney=0.0, tumor=0.0),
        kits23=KiTS23Scores(kidney_and_mass=_NOTHING, mass=_NOTHING, tumor=_NOTHING),
        regions=Regions(**regions),
        findings=lesions.find(reference, None, grid, labels),
        failure=reason,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A number of every case.

    Args:
        name: column of cases.csv, key of summary.json.
        of: its value in a case; NaN where it is undefined there.
        better: which of two values is the better one; None for signed errors, which are a bias.
        center: how cases are summed up; the median where infinite values happen.
    """

    name: str
    of: Callable[[CaseScore], float]
    better: Literal["higher", "lower"] | None
    center: Literal["mean", "median"] = "mean"


def tumors_found_share(case: CaseScore) -> float:
    """Share of the tumors that were found; NaN without tumors."""
    tumors = case.findings.tumors
    return sum(tumor.is_found for tumor in tumors) / len(tumors) if tumors else math.nan


def false_tumors(case: CaseScore) -> float:
    """How many tumors were made up; NaN without a prediction."""
    false = case.findings.false_tumors
    return math.nan if false is None else len(false)


def false_tumors_ml(case: CaseScore) -> float:
    """Volume of the tumors that were made up; NaN without a prediction."""
    false = case.findings.false_tumors
    return math.nan if false is None else math.fsum(tumor.volume_ml for tumor in false)


def _official(name: str, score_name: str) -> Callable[[CaseScore], float]:
    return lambda case: float(getattr(getattr(case.kits23, name), score_name))


def _region(name: str, value: str, *, absolute: bool = False) -> Callable[[CaseScore], float]:
    def of(case: CaseScore) -> float:
        number = float(getattr(getattr(case.regions, name), value))
        return abs(number) if absolute else number

    return of


def _hec_metrics(name: str) -> tuple[Metric, ...]:
    return (
        Metric(
            name=f"{name}_hausdorff95_mm",
            of=_region(name, "hausdorff_mm"),
            better="lower",
            center="median",
        ),
        Metric(name=f"{name}_volume_error_ml", of=_region(name, "error_ml"), better=None),
        Metric(name=f"{name}_volume_error_percent", of=_region(name, "error_percent"), better=None),
        Metric(
            name=f"{name}_absolute_volume_error_ml",
            of=_region(name, "error_ml", absolute=True),
            better="lower",
        ),
        Metric(
            name=f"{name}_absolute_volume_error_percent",
            of=_region(name, "error_percent", absolute=True),
            better="lower",
        ),
    )


METRICS: tuple[Metric, ...] = (
    Metric(name="kits19_kidney_dice", of=lambda case: case.kits19.kidney, better="higher"),
    Metric(name="kits19_tumor_dice", of=lambda case: case.kits19.tumor, better="higher"),
    Metric(name="kits19_composite_dice", of=lambda case: case.kits19.composite, better="higher"),
    *(
        Metric(name=f"kits23_{name}_{score}", of=_official(name, score), better="higher")
        for score in ("dice", "surface_dice")
        for name in HECS
    ),
    *(metric for name in HECS for metric in _hec_metrics(name)),
    Metric(name="tumors_found_share", of=tumors_found_share, better="higher"),
    Metric(name="false_tumors", of=false_tumors, better="lower"),
    Metric(name="false_tumors_ml", of=false_tumors_ml, better="lower"),
)
"""Every metric with its rules for empty masks: docs/evaluation.md."""


def _hausdorff_mm(
    a: NDArray[np.bool_], b: NDArray[np.bool_], pair: distances.SurfacePair | None
) -> float:
    if pair is None:
        return math.inf if a.any() or b.any() else math.nan
    return pair.hausdorff_mm(PERCENT)
