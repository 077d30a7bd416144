"""What tumor networks see in the cases that they were not trained on, kept to be decided anew.

Probabilities are kept in 255 steps and compressed: a cross-validation of hundreds of cases fits in
memory. Arrays are (Z, Y, X).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import blosc2
import msgspec
import numpy as np
from numpy.typing import NDArray

from kitspipe.imaging.components import components
from kitspipe.imaging.volume import Box, Grid, Volume
from kitspipe.planning.plan import Plan, TumorPlan
from kitspipe.prediction.postprocess import clean_lesions
from kitspipe.prediction.tumors import TumorStage, classes_of, lesion_probability
from kitspipe.preprocessing.rois import clean_kidneys, kidney_rois
from kitspipe.preprocessing.targets import TUMOR_CLASS

SEEN_ML = 0.1
"""Smaller false tumors are specks, as in `lesions.py`."""
_STEPS = 255


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Packed:
    """A uint8 array, compressed."""

    content: bytes
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: NDArray[np.uint8]) -> Packed:
        """An array, packed."""
        content = blosc2.compress2(np.ascontiguousarray(array), typesize=1, nthreads=1)
        return cls(content=content, shape=array.shape)

    @property
    def array(self) -> NDArray[np.uint8]:
        """The array."""
        array = np.empty(self.shape, np.uint8)
        blosc2.decompress2(self.content, dst=array, nthreads=1)
        return array


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldOut:
    """A case as the networks of its fold see it.

    Args:
        case_id: which.
        fold: that it is held out of.
        grid: of the box around all predicted kidneys; None without kidney.
        kidney: predicted there; empty without.
        tumor: of the reference there.
        missed_voxels: of the reference's tumor, those outside the box.
        maps: mask margin in mm -> (K, Z, Y, X), probability in 255 steps.
    """

    case_id: str
    fold: int
    grid: Grid | None
    kidney: Packed
    tumor: Packed
    missed_voxels: int
    maps: dict[float, Packed]


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """A case's score with some rules.

    Args:
        dice: of the tumor; 1 where neither has any.
        false_tumors: predicted components of at least 0.1 ml that touch no true tumor.
    """

    dice: float
    false_tumors: int


def look(
    name: tuple[str, int],
    image: Volume,
    labels: Volume,
    kidney: NDArray[np.bool_],
    stage: TumorStage,
    plan: Plan,
    margins_mm: Sequence[float],
) -> HeldOut:
    """A case through the networks of its fold, once with each margin.

    Args:
        name: the case and its fold.
        image: int16 HU.
        labels: the reference, on the same grid.
        kidney: (Z, Y, X), predicted.
        stage: the fold's networks.
        plan: the plan.
        margins_mm: how far the mask is dilated, each in turn.
    """
    tumor = labels.array == plan.labels.tumor
    cleaned, boxes = clean_kidneys(kidney, image.grid, plan.kidney.minimal_kidney_ml)
    rois = kidney_rois(boxes, image.grid, plan.tumor.roi_margin_mm)
    if not rois:
        empty = Packed.of(np.zeros((0, 0, 0), np.uint8))
        return HeldOut(
            case_id=name[0],
            fold=name[1],
            grid=None,
            kidney=empty,
            tumor=empty,
            missed_voxels=int(tumor.sum()),
            maps={},
        )
    within = functools.reduce(Box.around_both, (roi.box for roi in rois))
    inside = tumor[within.slices]
    maps = {}
    for margin_mm in margins_mm:
        at_margin = replace(
            stage, plan=msgspec.structs.replace(stage.plan, mask_dilation_mm=margin_mm)
        )
        steps = np.zeros((plan.tumor.network.classes, *within.shape), np.uint8)
        for roi in rois:
            found = lesion_probability(image, cleaned, roi.box, at_margin)
            if found is not None:
                place, probability = found
                where = (slice(None), *place.shifted(_from(roi.box, within)).slices)
                target = steps[where]
                np.maximum(target, np.rint(probability * _STEPS).astype(np.uint8), out=target)
        maps[margin_mm] = Packed.of(steps)
    return HeldOut(
        case_id=name[0],
        fold=name[1],
        grid=image.grid.crop(within),
        kidney=Packed.of(cleaned[within.slices].view(np.uint8)),
        tumor=Packed.of(inside.view(np.uint8)),
        missed_voxels=int(tumor.sum()) - int(inside.sum()),
        maps=maps,
    )


def decide(case: HeldOut, plan: TumorPlan) -> Decided:
    """The case's score with a plan's margin, threshold and rules.

    Args:
        case: looked at with this margin.
        plan: whose values decide.
    """
    if case.grid is None:
        return Decided(dice=0.0 if case.missed_voxels else 1.0, false_tumors=0)
    probability = case.maps[plan.mask_dilation_mm].array / np.float32(_STEPS)
    classes = classes_of(probability, plan.threshold)
    kidney = case.kidney.array.astype(bool)
    found = clean_lesions(classes, kidney, case.grid, plan).classes == TUMOR_CLASS
    true = case.tumor.array.astype(bool)
    total = int(found.sum()) + int(true.sum()) + case.missed_voxels
    return Decided(
        dice=2 * int((found & true).sum()) / total if total else 1.0,
        false_tumors=_false_tumors(found, true, case.grid),
    )


def _false_tumors(found: NDArray[np.bool_], true: NDArray[np.bool_], grid: Grid) -> int:
    numbered, count = components(found)
    volumes_ml = np.bincount(numbered.ravel(), minlength=count + 1) * grid.voxel_ml
    is_false = volumes_ml >= SEEN_ML
    is_false[0] = False
    is_false[np.unique(numbered[true])] = False
    return int(is_false.sum())


def _from(box: Box, other: Box) -> tuple[int, int, int]:
    """Where a box begins, counted from where another does."""
    z, y, x = (int(a - b) for a, b in zip(box.start, other.start, strict=True))
    return (z, y, x)
