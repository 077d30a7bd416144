"""From a label map to its kidneys and tumors, in boxes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kitspipe.evaluation.contact import gap_mm
from kitspipe.evaluation.contour import solid_tissue
from kitspipe.evaluation.kidneys import (
    MINIMAL_KIDNEY_ML,
    MINIMAL_PARENCHYMA_ML,
    Directions,
    Kidney,
    Side,
    Vector,
    are_beside,
    axis_of,
    points_of,
    side_alone,
    sides_of_several,
)
from kitspipe.evaluation.metrics import union
from kitspipe.evaluation.outline import Mask
from kitspipe.evaluation.sinus import hollow_direction
from kitspipe.imaging.components import components
from kitspipe.imaging.volume import Box, Grid, Shape, Volume
from kitspipe.planning.plan import Labels

MINIMAL_TUMOR_ML = 0.1
"""Smaller pieces are specks, unless there is nothing else. A sphere of 0.1 ml measures 5.8 mm;
the smallest tumor of KiTS23 has 0.2 ml."""
APART_MM = 4.0
"""What lies farther from a kidney, and by more than a voxel, is not counted to it. Source: KiTS
tumors touch the kidney dilated by 4 mm unless huge."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tumor:
    """One connected piece of tumor.

    Args:
        box: around it, on the scan's grid.
        mask: (Z, Y, X) in `box`.
        kidney: which kidney it is counted to; None where none is near.
        gap_mm: distance to the nearest kidney, its masses included; 0 where both are one piece,
            infinite without kidneys.
    """

    box: Box
    mask: Mask
    kidney: int | None
    gap_mm: float

    def within(self, box: Box) -> Mask:
        """Its mask in another box, which must hold its own."""
        mask = np.zeros(box.shape, np.bool_)
        mask[_within(self.box, box)] = self.mask
        return mask


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pieces:
    """What a label map holds.

    Args:
        kidneys: from right to left.
        tumors: by falling volume.
        specks: pieces of tumor that are too small to be listed, and their ml.
        fragments: pieces of kidney that are too small, and their ml.
    """

    kidneys: tuple[Kidney, ...]
    tumors: tuple[Tumor, ...]
    specks: tuple[int, float]
    fragments: tuple[int, float]


def find_pieces(labels: Volume, values: Labels) -> Pieces:
    """The kidneys and tumors of a label map.

    A kidney is a connected piece (26 neighbors) of kidney, tumor and cyst of at least 10 ml with
    1 ml of tissue; a tumor a connected piece of tumor of at least 0.1 ml, or the largest one.

    Args:
        labels: (Z, Y, X) uint8.
        values: which value is what.
    """
    around = Box.around(labels.array != 0)
    if around is None:
        return Pieces(kidneys=(), tumors=(), specks=(0, 0.0), fragments=(0, 0.0))
    crop = _Crop(labels, values, around)
    numbers = crop.kidney_numbers()
    found, specks = crop.tumors(numbers)
    organs = [crop.organ(number, index, found) for index, number in enumerate(numbers)]
    return Pieces(
        kidneys=_with_sides(organs, labels.grid),
        tumors=found,
        specks=specks,
        fragments=crop.fragments(numbers),
    )


class _Crop:
    """The labelled part of a scan, its organs numbered."""

    def __init__(self, labels: Volume, values: Labels, box: Box) -> None:
        self.grid, self.box = labels.grid, box
        part = labels.array[box.slices].astype(np.uint8, copy=False)
        self.tissue, self.tumor = part == values.kidney, part == values.tumor
        self.numbered, self.count = components(union(part, values.values))

    def kidney_numbers(self) -> list[int]:
        """Numbers of the organs that are kidneys, from right to left."""
        volumes_ml = self._volumes_ml(self.numbered)
        is_kidney = (volumes_ml >= MINIMAL_KIDNEY_ML) & (self._tissue_ml() >= MINIMAL_PARENCHYMA_ML)
        numbers = np.flatnonzero(is_kidney[1:]) + 1
        if numbers.size == 0:
            return []
        middles = ndimage.center_of_mass(self.tissue, self.numbered, numbers)
        left = Directions.of(self.grid).left * self.grid.spacing
        order = np.argsort([np.asarray(middle) @ left for middle in middles], kind="stable")
        return [int(number) for number in numbers[order]]

    def tumors(self, kidneys: Sequence[int]) -> tuple[tuple[Tumor, ...], tuple[int, float]]:
        """Tumors by falling volume, each with its kidney; number and ml of specks."""
        numbered, count = components(self.tumor)
        volumes_ml = np.bincount(numbered.ravel())[1:] * self.grid.voxel_ml
        kept = max(int((volumes_ml >= MINIMAL_TUMOR_ML).sum()), min(count, 1))
        found = []
        for number, slices in enumerate(ndimage.find_objects(numbered)[:kept], start=1):
            mask = numbered[slices] == number
            organ = int(self.numbered[slices][mask][0])
            box = _box(slices, self.box.start)
            if organ in kidneys:
                found.append(Tumor(box=box, mask=mask, kidney=kidneys.index(organ), gap_mm=0.0))
            else:
                kidney, gap = self._nearest_kidney(numbered == number, kidneys)
                found.append(Tumor(box=box, mask=mask, kidney=kidney, gap_mm=gap))
        return tuple(found), (count - kept, float(volumes_ml[kept:].sum()))

    def organ(self, number: int, index: int, tumors: Sequence[Tumor]) -> _Organ:
        """A kidney with its tumors, also those apart from it."""
        apart = [tumor for tumor in tumors if tumor.kidney == index and tumor.gap_mm > 0]
        own = _box(ndimage.find_objects(self.numbered)[number - 1], self.box.start)
        box = _joint([own, *(tumor.box for tumor in apart)])
        slices = _within(box, self.box)
        piece = self.numbered[slices] == number
        parenchyma = piece & self.tissue[slices]
        masses = piece & ~parenchyma
        for tumor in apart:
            masses[_within(tumor.box, box)] |= tumor.mask
        tissue = solid_tissue(parenchyma, self.grid.spacing)
        return _Organ(box=box, own_box=own, parenchyma=parenchyma, tissue=tissue, masses=masses)

    def fragments(self, kidneys: Sequence[int]) -> tuple[int, float]:
        """Number and ml of the pieces of tissue that are no kidneys."""
        tissue_ml = self._tissue_ml()
        tissue_ml[[0, *kidneys]] = 0
        return int(np.count_nonzero(tissue_ml)), float(tissue_ml.sum())

    def _nearest_kidney(self, tumor: Mask, kidneys: Sequence[int]) -> tuple[int | None, float]:
        gaps = [gap_mm(tumor, self.numbered == k, self.grid.spacing) for k in kidneys]
        if not gaps:
            return None, float("inf")
        nearest = int(np.argmin(gaps))
        is_near = gaps[nearest] <= max(APART_MM, *self.grid.spacing)
        return nearest if is_near else None, gaps[nearest]

    def _tissue_ml(self) -> NDArray[np.floating]:
        return self._volumes_ml(self.numbered[self.tissue])

    def _volumes_ml(self, numbers: NDArray[np.int32]) -> NDArray[np.floating]:
        """Volumes in ml by number, 0 for the background."""
        volumes = np.bincount(numbers.ravel(), minlength=self.count + 1) * self.grid.voxel_ml
        volumes[0] = 0
        return volumes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Organ:
    box: Box
    own_box: Box
    parenchyma: Mask
    tissue: Mask
    masses: Mask


def _with_sides(organs: Sequence[_Organ], grid: Grid) -> tuple[Kidney, ...]:
    """The kidneys, each with its side and frame."""
    centers = [points_of(organ.tissue, organ.box, grid).mean(axis=0) for organ in organs]
    if are_beside([organ.box for organ in organs]):
        sides = [(side, True) for side in sides_of_several(centers, grid)]
    else:
        sides = [
            side_alone(center, _hollow(organ, grid), grid)
            for organ, center in zip(organs, centers, strict=True)
        ]
    return tuple(
        _kidney(organ, center, side, grid)
        for organ, center, side in zip(organs, centers, sides, strict=True)
    )


def _hollow(organ: _Organ, grid: Grid) -> Vector:
    return hollow_direction(organ.tissue, organ.parenchyma | organ.masses, grid.spacing)


def _kidney(organ: _Organ, center: Vector, side: tuple[Side, bool], grid: Grid) -> Kidney:
    points = points_of(organ.tissue, organ.box, grid)
    axis = axis_of(points, grid.spacing, Directions.of(grid).superior)
    along = (points - center) @ axis
    # Voxels reach beyond their centres: half their extent along the axis on each side.
    half = float(np.abs(axis) @ grid.spacing) / 2
    return Kidney(
        side=side[0],
        side_is_certain=side[1],
        box=organ.box,
        own_box=organ.own_box,
        parenchyma=organ.parenchyma,
        tissue=organ.tissue,
        masses=organ.masses,
        center_mm=center,
        axis=axis,
        reach_mm=(float(along.min()) - half, float(along.max()) + half),
    )


def _box(slices: tuple[slice, ...], origin: Shape) -> Box:
    """The box of slices that count from `origin`."""
    start = tuple(s.start + o for s, o in zip(slices, origin, strict=True))
    stop = tuple(s.stop + o for s, o in zip(slices, origin, strict=True))
    return Box(start=start, stop=stop)


def _within(inner: Box, outer: Box) -> tuple[slice, ...]:
    """Where a box lies in an array that fills another."""
    return tuple(
        slice(a - o, b - o) for a, b, o in zip(inner.start, inner.stop, outer.start, strict=True)
    )


def _joint(boxes: Iterable[Box]) -> Box:
    """The smallest box around several."""
    several = list(boxes)
    start = np.min([box.start for box in several], axis=0).tolist()
    stop = np.max([box.stop for box in several], axis=0).tolist()
    return Box(start=tuple(start), stop=tuple(stop))
