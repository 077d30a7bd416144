"""Fingerprints of data sets that nobody has to read from disk."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace
from scipy.stats import norm

from kitspipe.imaging.volume import MINIMAL_HU
from kitspipe.planning.fingerprint import (
    HU_BIN,
    MAXIMAL_HU,
    CaseFingerprint,
    Fingerprint,
)

# Slices of KiTS19's 210 training cases: mm between them -> cases (its masks, measured).
KITS19_SLICES_MM = {0.5: 31, 1: 18, 1.25: 5, 1.5: 2, 2: 4, 2.5: 23, 3: 38, 3.75: 1, 4: 2, 5: 86}


def normal_histogram(mean_hu, sd_hu, voxels=100_000):
    """Voxels by the lowest HU of their bin, HU normally distributed."""
    lows = np.arange(MINIMAL_HU, MAXIMAL_HU, HU_BIN)
    shares = np.diff(norm.cdf([*(lows - 0.5), MAXIMAL_HU + 0.5], mean_hu, sd_hu))
    counts = np.round(shares * voxels).astype(int)
    return {int(low): int(n) for low, n in zip(lows, counts, strict=True) if n}


def case_record(spacing_mm, shape, **edits):
    """A scan with two kidneys; extents are the 5th and the 95th percentile of 40 KiTS23 masks."""
    record = CaseFingerprint(
        id="case_00000",
        shape=shape,
        spacing_mm=spacing_mm,
        orientation="IPL",
        foreground_histogram=normal_histogram(101, 76.9),
        body_extent_mm=(410, 250, 380),
        kidney_extent_mm=(156, 111, 270),
        kidney_extents_mm=((156, 111, 118), (94, 57, 61)),
        tumor_extents_mm=((40, 35, 45),),
        slices_with_kidney=52,
        slices_with_tumor=13,
        kidney_ml=350,
        tumor_ml=30,
        cyst_ml=0,
        label_values=(1, 2),
        image_sha256="",
        labels_sha256="",
    )
    return replace(record, **edits)


def data_set(spacing_mm, shape, **edits):
    """A data set of one such scan."""
    return Fingerprint(cases=(case_record(spacing_mm, shape, **edits),))


def kits19_like():
    """210 scans with KiTS19's slices, its median pixels, length and HU."""
    slices_mm = [mm for mm, cases in KITS19_SLICES_MM.items() for _ in range(cases)]
    return Fingerprint(
        cases=tuple(
            case_record(
                (mm, 0.78125, 0.78125), (round(410 / mm), 512, 512), id=f"case_{number:05d}"
            )
            for number, mm in enumerate(slices_mm)
        )
    )
