"""Means and medians over cases, with the interval of a bootstrap.

Cases are drawn with replacement, as often as there are cases, `RESAMPLES` times; the interval is
from the 2.5th to the 97.5th percentile of what these give (Efron and Tibshirani 1993, chapter 13).
It says how much hangs on which cases happened to be in the set. It does not know that a training
would have ended elsewhere with another seed, and with under about 20 cases it is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0
"""Of every interval, so that the same scores give the same interval."""
_AT_ONCE = 500

Center = Literal["mean", "median"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number over cases.

    Args:
        value: the mean, median or ratio; NaN without cases.
        low: lower end of the interval; NaN with fewer than two cases.
        high: upper end.
        cases: how many it is over: those where it is defined.
    """

    value: float
    low: float
    high: float
    cases: int


def estimate(values: Sequence[float] | Floats, center: Center = "mean") -> Estimate:
    """Mean or median of the values with its interval; NaN are left out.

    Infinite values are fit for a median only.
    """
    defined = np.asarray(values, float)
    defined = defined[~np.isnan(defined)]

    def of(drawn: NDArray[np.intp]) -> Floats:
        return center_of(defined[drawn], center)

    return _bootstrap(of, len(defined))


def center_of(values: Floats, center: Center) -> Floats:
    """Mean or median along the last axis; NaN without values.

    The median halfway between minus and plus infinity is 0.
    """
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], math.nan)
    if center == "mean":
        return np.asarray(values.mean(axis=-1))
    with np.errstate(invalid="ignore"):
        median = np.asarray(np.median(values, axis=-1))
    return np.where(np.isnan(median), 0.0, median)


def ratio(parts: Sequence[float], wholes: Sequence[float]) -> Estimate:
    """Sum of the parts by sum of the wholes, as tumors found by tumors, each pair of one case.

    Cases whose whole is 0 have nothing to say and take no part. NaN where all are 0.
    """
    part, whole = np.asarray(parts, float), np.asarray(wholes, float)
    counted = whole > 0
    part, whole = part[counted], whole[counted]
    return _bootstrap(lambda drawn: part[drawn].sum(-1) / whole[drawn].sum(-1), len(whole))


def _bootstrap(of: Callable[[NDArray[np.intp]], Floats], cases: int) -> Estimate:
    if cases == 0:
        return Estimate(value=math.nan, low=math.nan, high=math.nan, cases=0)
    value = float(of(np.arange(cases)))
    if cases == 1:
        return Estimate(value=value, low=math.nan, high=math.nan, cases=1)
    found = np.concatenate([of(drawn) for drawn in _draws(cases)])
    tail = 50 * (1 - LEVEL)
    # Not interpolated: between a number and infinity there is nothing.
    low, high = np.percentile(found, (tail, 100 - tail), method="inverted_cdf")
    return Estimate(value=value, low=float(low), high=float(high), cases=cases)


def _draws(cases: int) -> Iterator[NDArray[np.intp]]:
    """Case numbers (resamples, cases), a part at a time."""
    rng = np.random.default_rng(SEED)
    for start in range(0, RESAMPLES, _AT_ONCE):
        yield rng.integers(cases, size=(min(_AT_ONCE, RESAMPLES - start), cases))
