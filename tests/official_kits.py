"""The official scores of KiTS19 and KiTS21/23, restated from their formulas.

Their scoring code is not on PyPI; what it stands on, the package surface-distance, is.
"""

from __future__ import annotations

import warnings

import numpy as np
import surface_distance

CLASSES = {"kidney_and_mass": (1, 2, 3), "mass": (2, 3), "tumor": (2,)}
TOLERANCE_MM = {
    "kidney_and_mass": 1.0330772532390826,
    "mass": 1.1328796488598762,
    "tumor": 1.1498198361434828,
}
COLUMNS = ("kidney_and_mass", "mass", "tumor")
HEADER = "caseID,Dice_kidney,Dice_masses,Dice_tumor,SD_kidney,SD_masses,SD_tumor"


def kits19_dice(reference, prediction):
    """The starter code's formula; its except branch for 0/0 never runs with NumPy."""
    found, expected = np.greater(prediction, 0), np.greater(reference, 0)
    kidney = 2 * np.logical_and(found, expected).sum() / (found.sum() + expected.sum())
    found, expected = np.greater(prediction, 1), np.greater(reference, 1)
    tumor = 2 * np.logical_and(found, expected).sum() / (found.sum() + expected.sum())
    return kidney, tumor


def kits23_scores(reference, prediction, values, tolerance_mm, spacing):
    found, expected = np.isin(prediction, values), np.isin(reference, values)
    if not found.any() and not expected.any():
        return 1, 1
    dice = 2 * np.sum(found & expected) / (np.sum(found) + np.sum(expected))
    if not found.any() or not expected.any():
        return dice, 0
    return dice, package_surface_dice(expected, found, spacing, tolerance_mm)


def package_surface_dice(a, b, spacing, tolerance_mm):
    distances = package_distances(a, b, spacing)
    return surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)


def package_hausdorff(a, b, spacing, percent=95):
    return surface_distance.compute_robust_hausdorff(package_distances(a, b, spacing), percent)


def package_distances(a, b, spacing):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # scipy.ndimage.filters, inside it
        return surface_distance.compute_surface_distances(a, b, spacing)


def kits23_row(reference, prediction, spacing):
    """Six numbers in the order of the official table."""
    scores = [
        kits23_scores(reference, prediction, CLASSES[name], TOLERANCE_MM[name], spacing)
        for name in COLUMNS
    ]
    return [dice for dice, _ in scores] + [surface for _, surface in scores]


def kits23_csv(rows):
    """The official evaluation.csv of rows by case id."""
    average = np.mean(list(rows.values()), axis=0)
    lines = [HEADER]
    for name, row in [*rows.items(), ("average", average)]:
        lines.append(",".join([name, *(f"{value:0.8f}" for value in row)]))
    return "\n".join(lines) + "\n"
