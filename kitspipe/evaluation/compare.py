"""Two sets of predictions of the same cases: which is better, and whether that is chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kitspipe.evaluation.case_scores import METRICS, Metric
from kitspipe.evaluation.evaluate import Evaluation
from kitspipe.evaluation.intervals import Estimate, center_of, estimate

Floats = NDArray[np.float64]
SAME = 1e-9
"""Differences below are rounding, and count as none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One metric in two sets of predictions, over the cases where it is defined in both.

    Args:
        metric: which.
        first: mean or median of the one set.
        other: that of the other.
        difference: mean or median of first less other, case by case, with its interval.
        better: cases in which the first is the better.
        worse: cases in which the other is.
        equal: cases in which neither is.
        p: of the two-sided Wilcoxon signed-rank test; 1 where all are equal, NaN without cases.
        p_holm: the same, corrected for testing all metrics (Holm 1979).
    """

    metric: Metric
    first: float
    other: float
    difference: Estimate
    better: int
    worse: int
    equal: int
    p: float
    p_holm: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two evaluations against the same references.

    Args:
        differences: of every metric that has a better and a worse.
        cases: first less other, by case, then by metric; NaN where undefined in either.
    """

    differences: tuple[Difference, ...]
    cases: Mapping[str, Mapping[str, float]]


def compare(first: Evaluation, other: Evaluation) -> Comparison:
    """Every metric case by case, over the cases that are in both.

    Cases whose prediction failed take part with the scores that failure has, so that a set with
    a missing prediction is the worse there.
    """
    of_first = {score.case_id: score for score in first.scores}
    of_other = {score.case_id: score for score in other.scores}
    ids = sorted(of_first.keys() & of_other.keys())
    judged = [metric for metric in METRICS if metric.better is not None]
    pairs = {
        metric.name: (
            np.array([metric.of(of_first[case_id]) for case_id in ids], float),
            np.array([metric.of(of_other[case_id]) for case_id in ids], float),
        )
        for metric in judged
    }
    differences = {name: paired_differences(*pair) for name, pair in pairs.items()}
    p_values = [wilcoxon_p(differences[metric.name]) for metric in judged]
    return Comparison(
        differences=tuple(
            _difference(metric, pairs[metric.name], p, corrected)
            for metric, p, corrected in zip(judged, p_values, holm(p_values), strict=True)
        ),
        cases={
            case_id: {name: float(values[n]) for name, values in differences.items()}
            for n, case_id in enumerate(ids)
        },
    )


def paired_differences(first: Floats, other: Floats) -> Floats:
    """First less other; 0 where they are equal, infinite or not; NaN where one is."""
    with np.errstate(invalid="ignore"):
        found = first - other
    found[(first == other) | (np.abs(found) < SAME)] = 0
    return found


def wilcoxon_p(differences: Floats) -> float:
    """P of the two-sided Wilcoxon signed-rank test that differences lie evenly around 0.

    NaN are left out, and zeros as Wilcoxon did. 1 where all are zero, NaN where there are none.
    Exact for up to 50 differences without ties, else by the normal approximation.

    Source: Wilcoxon 1945, by scipy.stats.wilcoxon.
    """
    defined = differences[~np.isnan(differences)]
    if len(defined) == 0:
        return math.nan
    if not defined.any():
        return 1.0
    # The test needs ranks only: infinite ones get numbers beyond all others.
    beyond = 1 + 2 * np.abs(defined[np.isfinite(defined)]).max(initial=0)
    finite = np.clip(defined, -beyond, beyond)
    return float(stats.wilcoxon(finite[finite != 0]).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number by Holm's method; NaN stay, and are no tests.

    Source: Holm 1979.
    """
    tests = sorted((p, n) for n, p in enumerate(p_values) if not math.isnan(p))
    corrected = list(p_values)
    largest = 0.0
    for rank, (p, n) in enumerate(tests):
        largest = max(largest, min(1.0, p * (len(tests) - rank)))
        corrected[n] = largest
    return corrected


def _difference(metric: Metric, pair: tuple[Floats, Floats], p: float, p_holm: float) -> Difference:
    first, other = pair
    values = paired_differences(first, other)
    defined = ~np.isnan(values)
    ahead = int(np.count_nonzero(values > 0))
    behind = int(np.count_nonzero(values < 0))
    higher_is_better = metric.better == "higher"
    return Difference(
        metric=metric,
        first=float(center_of(first[defined], metric.center)),
        other=float(center_of(other[defined], metric.center)),
        difference=estimate(values, metric.center),
        better=ahead if higher_is_better else behind,
        worse=behind if higher_is_better else ahead,
        equal=int(defined.sum()) - ahead - behind,
        p=p,
        p_holm=p_holm,
    )
