"""The fingerprint: what was measured in a data set, a record per case.

Axes: (Z, Y, X). Foreground, and the whole kidney, is every voxel with a label: kidney, tumor, cyst.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from scipy import ndimage

from kitspipe.dataset.case_files import CaseFiles
from kitspipe.dataset.problems import Problem
from kitspipe.errors import UserError
from kitspipe.imaging.components import components, largest_component
from kitspipe.imaging.values import count_labels
from kitspipe.imaging.volume import MINIMAL_HU, Box, Grid, Triple, Volume
from kitspipe.planning.document import Document
from kitspipe.planning.plan import Counts3, Labels, NonNegative, Positive

HU_BIN = 8
"""Resolution of the kept intensities in HU: a third of the noise of a CT, 512 bins for 12 bits."""
MAXIMAL_HU = 3071
MINIMAL_KIDNEY_ML = 5.0
"""A component below this is no kidney; half an atrophic kidney of an adult has more."""
MINIMAL_TUMOR_ML = 0.1
"""A component below this (a ball of 6 mm) is a slip of the annotation."""
_BODY_HU, _BODY_STEP = -300, 4

Mm3 = tuple[NonNegative, NonNegative, NonNegative]
KITS_VALUES = Labels(cyst=3)


class CaseFingerprint(Document, frozen=True, kw_only=True):
    """What was measured in one case.

    Args:
        id: the case.
        shape: voxels in (Z, Y, X).
        spacing_mm: of the voxels in (Z, Y, X).
        orientation: where the file's axes run, a letter each (`Header.axes`).
        foreground_histogram: foreground voxels by HU: lowest HU of each bin of 8 that has any.
        body_extent_mm: of the largest thing denser than fat, to 4 pixels; 0 where there is none.
        kidney_extent_mm: of all foreground together; 0 where there is none.
        kidney_extents_mm: of each kidney, largest first: components of at least 5 ml, or the
            largest where all are smaller.
        tumor_extents_mm: of each tumor of at least 0.1 ml, largest first.
        slices_with_kidney: with foreground.
        slices_with_tumor: with the tumor's label.
        kidney_ml: of all foreground.
        tumor_ml: of the tumor's label.
        cyst_ml: of the cyst's label.
        label_values: that stand in the mask, rising, without 0.
        image_sha256: hash of the image's file or files.
        labels_sha256: hash of the mask's file.
        values: which label value was taken for what.
        warnings: what the check found, none of them an error.
    """

    id: str
    shape: Counts3
    spacing_mm: tuple[Positive, Positive, Positive]
    orientation: Annotated[str, Meta(pattern="^[SIPALR]{3}$")]
    foreground_histogram: dict[int, Annotated[int, Meta(ge=1)]]
    body_extent_mm: Mm3
    kidney_extent_mm: Mm3
    kidney_extents_mm: tuple[Mm3, ...]
    tumor_extents_mm: tuple[Mm3, ...]
    slices_with_kidney: Annotated[int, Meta(ge=0)]
    slices_with_tumor: Annotated[int, Meta(ge=0)]
    kidney_ml: NonNegative
    tumor_ml: NonNegative
    cyst_ml: NonNegative
    label_values: tuple[Annotated[int, Meta(ge=1, le=255)], ...]
    image_sha256: str
    labels_sha256: str
    values: Labels = KITS_VALUES
    warnings: tuple[Problem, ...] = ()

    def __post_init__(self) -> None:
        for low_hu in self.foreground_histogram:
            if not MINIMAL_HU <= low_hu <= MAXIMAL_HU or (low_hu - MINIMAL_HU) % HU_BIN:
                raise ValueError(f"no bin of the foreground histogram starts at {low_hu} HU")


class Fingerprint(Document, frozen=True, kw_only=True):
    """What was measured in a data set; cases sorted by id.

    Intensities are known to 8 HU: all values of a bin count as its middle.
    """

    schema: Literal[1] = 1
    cases: tuple[CaseFingerprint, ...]

    def __post_init__(self) -> None:
        ids = [case.id for case in self.cases]
        if ids != sorted(set(ids)):
            raise ValueError("cases are not sorted by id, each once")

    @property
    def median_spacing_mm(self) -> Triple:
        """Median over the cases, axis by axis. No cases: ValueError."""
        return _percentile([case.spacing_mm for case in self.cases], 50)

    @property
    def median_shape(self) -> Triple:
        """Median number of voxels, axis by axis. No cases: ValueError."""
        return _percentile([case.shape for case in self.cases], 50)

    @property
    def median_in_plane_pixels(self) -> float:
        """Median of the longer side of the slices. No cases: ValueError."""
        return _percentile([(0, 0, max(case.shape[1:])) for case in self.cases], 50)[2]

    @property
    def foreground_mean_hu(self) -> float:
        """Mean HU of all foreground voxels. No foreground: ValueError."""
        middles, counts = self._foreground()
        return float(np.average(middles, weights=counts))

    @property
    def foreground_sd_hu(self) -> float:
        """Standard deviation of the HU of all foreground voxels. No foreground: ValueError."""
        middles, counts = self._foreground()
        squares = (middles - self.foreground_mean_hu) ** 2
        return float(np.sqrt(np.average(squares, weights=counts)))

    @property
    def label_values(self) -> tuple[int, ...]:
        """Label values that stand in any mask, rising, without 0."""
        return tuple(sorted({value for case in self.cases for value in case.label_values}))

    @property
    def has_cysts(self) -> bool:
        """Whether any case has a labelled cyst."""
        return any(case.values.cyst in case.label_values for case in self.cases)

    def foreground_percentile_hu(self, percent: float) -> float:
        """HU that `percent` of all foreground voxels do not exceed, to half a bin.

        Raises:
            ValueError: no foreground.
        """
        middles, counts = self._foreground()
        reached = np.cumsum(counts) >= percent / 100 * counts.sum()
        return float(middles[reached.argmax()])

    def kidney_percentile_mm(self, percent: float) -> Triple:
        """Percentile of the extents of single kidneys, axis by axis. None: ValueError."""
        return _percentile([mm for case in self.cases for mm in case.kidney_extents_mm], percent)

    def kidneys_percentile_mm(self, percent: float) -> Triple:
        """Percentile of the extents of a case's kidneys together. None: ValueError."""
        extents = [case.kidney_extent_mm for case in self.cases if case.slices_with_kidney]
        return _percentile(extents, percent)

    def _foreground(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Middle HU and voxels of all bins, rising."""
        pooled: dict[int, int] = {}
        for case in self.cases:
            for low_hu, count in case.foreground_histogram.items():
                pooled[low_hu] = pooled.get(low_hu, 0) + count
        if not pooled:
            raise ValueError("no case has foreground")
        low = sorted(pooled)
        # Whole numbers low ... low + 7 have their mean half a HU below the bin's middle.
        return np.array(low) + (HU_BIN - 1) / 2, np.array([pooled[low_hu] for low_hu in low])


def fingerprint_case(
    files: CaseFiles, values: Labels = KITS_VALUES, warnings: Sequence[Problem] = ()
) -> CaseFingerprint:
    """What is to be known of one case for planning.

    A mask without any label is no error here: extents and volumes are 0 and lists empty.

    Args:
        files: of the case.
        values: which label value is what.
        warnings: what the check found, kept with what was measured.

    Raises:
        UserError: a file can't be read, the mask is missing or has another shape.
    """
    case, mask_file = files.case, files.mask_file
    image, header = files.image
    labels, _ = files.labels
    if labels.grid.shape != image.grid.shape:
        raise UserError(
            mask_file,
            found=f"a mask of {labels.grid.shape} voxels in (Z, Y, X)",
            expected=f"{image.grid.shape}, as the scan {case.image} has",
            remedy="run kitspipe_check to see all such cases",
        )
    grid = image.grid
    foreground: NDArray[np.bool_] = labels.array != 0
    around = Box.around(foreground)
    tumor: NDArray[np.bool_] = labels.array == values.tumor
    voxels = count_labels(labels.array)
    kidneys = _component_extents_mm(foreground, grid, MINIMAL_KIDNEY_ML)
    return CaseFingerprint(
        id=case.id,
        shape=grid.shape,
        spacing_mm=grid.spacing,
        orientation=header.axes,
        foreground_histogram=_histogram(image.array[foreground]),
        body_extent_mm=_body_extent_mm(image),
        kidney_extent_mm=(0.0, 0.0, 0.0) if around is None else grid.crop(around).extent_mm,
        kidney_extents_mm=kidneys or _component_extents_mm(foreground, grid, 0)[:1],
        tumor_extents_mm=_component_extents_mm(tumor, grid, MINIMAL_TUMOR_ML),
        slices_with_kidney=int(foreground.any(axis=(1, 2)).sum()),
        slices_with_tumor=int(tumor.any(axis=(1, 2)).sum()),
        kidney_ml=float(voxels[1:].sum() * grid.voxel_ml),
        tumor_ml=float(voxels[values.tumor] * grid.voxel_ml),
        cyst_ml=0.0 if values.cyst is None else float(voxels[values.cyst] * grid.voxel_ml),
        label_values=tuple(map(int, 1 + np.flatnonzero(voxels[1:]))),
        image_sha256=file_sha256(case.image),
        labels_sha256=file_sha256(mask_file),
        values=values,
        warnings=tuple(warnings),
    )


def file_sha256(path: Path) -> str:
    """Hash of a file's content; of all files' in a folder, by name."""
    digest = hashlib.sha256()
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _histogram(hu: NDArray[np.generic]) -> dict[int, int]:
    """Lowest HU of each bin that has voxels, and how many."""
    bins = (np.clip(hu, MINIMAL_HU, MAXIMAL_HU) - MINIMAL_HU) // HU_BIN
    counts = np.bincount(bins)
    return {int(b) * HU_BIN + MINIMAL_HU: int(counts[b]) for b in np.flatnonzero(counts)}


def _body_extent_mm(image: Volume) -> Triple:
    body = largest_component(image.array[:, ::_BODY_STEP, ::_BODY_STEP] > _BODY_HU)  # type: ignore[operator]
    box, (_, height, width) = Box.around(body), image.grid.shape
    if box is None:
        return (0.0, 0.0, 0.0)
    z, y, x = box.shape
    shape = (z, min(height, y * _BODY_STEP), min(width, x * _BODY_STEP))
    return replace(image.grid, shape=shape).extent_mm


def _component_extents_mm(
    mask: NDArray[np.bool_], grid: Grid, minimal_ml: float
) -> tuple[Triple, ...]:
    """Extents of the components of at least `minimal_ml`, largest first."""
    around = Box.around(mask)
    if around is None:
        return ()
    numbered, _ = components(mask[around.slices])
    volumes_ml = np.bincount(numbered.ravel())[1:] * grid.voxel_ml
    n_kept = int((volumes_ml >= minimal_ml * (1 - 1e-9)).sum())
    kept = ndimage.find_objects(numbered)[:n_kept]
    shapes = ((z.stop - z.start, y.stop - y.start, x.stop - x.start) for z, y, x in kept)
    return tuple(replace(grid, shape=shape).extent_mm for shape in shapes)


def _percentile(triples: Sequence[Triple], percent: float) -> Triple:
    if not triples:
        raise ValueError("nothing was measured")
    z, y, x = map(float, np.percentile(np.asarray(triples, float), percent, axis=0))
    return (z, y, x)
