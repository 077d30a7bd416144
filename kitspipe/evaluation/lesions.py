"""Which tumors and kidneys a prediction found, and which it made up.

A tumor is a 26-connected component of the tumor's label. Dice says little of small tumors and
nothing of false ones; these counts do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kitspipe.evaluation.metrics import KITS_LABELS
from kitspipe.imaging.components import components
from kitspipe.imaging.volume import Grid, Triple
from kitspipe.planning.plan import Labels

Labelled = NDArray[np.uint8]
Numbered = NDArray[np.int32]
Slices = tuple[slice, slice, slice]
SizeBin = Literal["< 2 cm", "2-4 cm", "4-7 cm", "> 7 cm"]
Place = Literal["cyst", "kidney", "background"]

SEEN_ML = 0.1
"""Components below (a ball of 5.8 mm) are specks of drawing, neither tumors nor false tumors."""
FOUND_SHARE = 0.1
"""Share of a tumor to be predicted as tumor for it to count as found. Low, because a reader has to
be led there and its outline is Dice's: nnDetection (Baumgartner et al. 2021) asks for an overlap
of 0.1 for the same reason."""
KIDNEY_ML = 10.0
"""Components of kidney, tumor and cyst below are debris, not kidneys; the plan drops them too."""
KIDNEY_FOUND_SHARE = 0.5
"""Share of a kidney that has to be labelled, with whatever, for it not to count as missed."""
SIZE_BINS: tuple[SizeBin, ...] = ("< 2 cm", "2-4 cm", "4-7 cm", "> 7 cm")
"""4 and 7 cm are T1a's and T1b's upper limits (TNM, 8th edition), which belong to the lower bin;
below 2 cm many guidelines offer watching instead of surgery (AUA 2021)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrueTumor:
    """A tumor of the reference.

    Args:
        volume_ml: its volume.
        center_mm: (x, y, z) LPS of its centroid.
        covered_share: of its voxels, those predicted as tumor.
        cyst_share: those predicted as cyst.
    """

    volume_ml: float
    center_mm: Triple
    covered_share: float
    cyst_share: float

    @property
    def diameter_mm(self) -> float:
        """Of the ball of its volume: nearer to radiologists' sizes than its longest axis."""
        return ball_diameter_mm(self.volume_ml)

    @property
    def size_bin(self) -> SizeBin:
        """By `diameter_mm`; 4 and 7 cm belong to the lower bin, 2 cm to the upper."""
        return size_bin(self.diameter_mm)

    @property
    def is_found(self) -> bool:
        """Whether at least `FOUND_SHARE` of it is predicted as tumor."""
        return self.covered_share >= FOUND_SHARE


@dataclass(frozen=True, kw_only=True, slots=True)
class FalseTumor:
    """A predicted tumor that touches no tumor of the reference, not even a speck of one.

    Args:
        volume_ml: its volume.
        center_mm: (x, y, z) LPS of its centroid.
        place: what the reference has in most of its voxels.
        cystic_kidney: number of the kidney with cysts and without tumors that it lies in, if any.
    """

    volume_ml: float
    center_mm: Triple
    place: Place
    cystic_kidney: int | None

    @property
    def diameter_mm(self) -> float:
        """Of the ball of its volume."""
        return ball_diameter_mm(self.volume_ml)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kidney:
    """A kidney of the reference, with its tumors and cysts; two that touch are one.

    Args:
        volume_ml: its volume.
        has_tumor: whether it holds voxels of tumor.
        has_cyst: whether it holds voxels of cyst.
        covered_share: of its voxels, those predicted as anything but background.
    """

    volume_ml: float
    has_tumor: bool
    has_cyst: bool
    covered_share: float

    @property
    def is_found(self) -> bool:
        """Whether at least `KIDNEY_FOUND_SHARE` of it is labelled."""
        return self.covered_share >= KIDNEY_FOUND_SHARE

    @property
    def is_cystic(self) -> bool:
        """Cysts and no tumor: where a false tumor is most likely, and costs most."""
        return self.has_cyst and not self.has_tumor


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a prediction found in one case; all by falling volume.

    Args:
        tumors: the reference's of at least `SEEN_ML`.
        false_tumors: predicted ones of at least `SEEN_ML` that touch none of the reference's;
            None where there is no prediction to judge.
        kidneys: the reference's of at least `KIDNEY_ML`.
        false_kidneys_ml: volumes of predicted ones of at least `KIDNEY_ML` that touch none.
    """

    tumors: tuple[TrueTumor, ...]
    false_tumors: tuple[FalseTumor, ...] | None
    kidneys: tuple[Kidney, ...]
    false_kidneys_ml: tuple[float, ...]

    @property
    def cystic_kidneys(self) -> int:
        """Kidneys with cysts and no tumor."""
        return sum(kidney.is_cystic for kidney in self.kidneys)

    @property
    def false_in_cystic(self) -> int:
        """False tumors that lie in kidneys with cysts and no tumor."""
        return sum(tumor.cystic_kidney is not None for tumor in self.false_tumors or ())

    @property
    def cystic_kidneys_with_false(self) -> int:
        """Kidneys with cysts and no tumor that got at least one false tumor."""
        places = {tumor.cystic_kidney for tumor in self.false_tumors or ()}
        return len(places - {None})


def find(
    reference: Labelled, prediction: Labelled | None, grid: Grid, labels: Labels = KITS_LABELS
) -> Findings:
    """Tumors and kidneys of the reference with what the prediction made of them, and false ones.

    Args:
        reference: (Z, Y, X) labels; no tumors, or nothing at all, give empty tuples.
        prediction: labels of the same shape, in the reference's values; None where there is none,
            then nothing is found.
        grid: theirs.
        labels: which value is what.
    """
    given = np.zeros_like(reference) if prediction is None else prediction
    kidneys, cystic = _kidneys(reference, given, grid, labels)
    false = _false_tumors(given, reference, cystic, grid, labels)
    return Findings(
        tumors=tuple(_true_tumors(reference, given, grid, labels)),
        false_tumors=None if prediction is None else tuple(false),
        kidneys=kidneys,
        false_kidneys_ml=tuple(_false_kidneys_ml(given, reference, grid)),
    )


def ball_diameter_mm(volume_ml: float) -> float:
    """Diameter of the ball with this volume."""
    return float(2 * (volume_ml * 1000 * 3 / (4 * math.pi)) ** (1 / 3))


def size_bin(diameter_mm: float) -> SizeBin:
    """The bin of a diameter; 4 and 7 cm belong to the lower one, 2 cm to the upper."""
    if diameter_mm < 20:
        return "< 2 cm"
    if diameter_mm <= 40:
        return "2-4 cm"
    return "4-7 cm" if diameter_mm <= 70 else "> 7 cm"


def _true_tumors(
    reference: Labelled, prediction: Labelled, grid: Grid, labels: Labels
) -> Iterator[TrueTumor]:
    numbered, sizes = _numbered(reference == labels.tumor)
    for _, box, inside in _each(numbered, _large(sizes, SEEN_ML, grid)):
        found = prediction[box][inside]
        cyst = 0 if labels.cyst is None else np.count_nonzero(found == labels.cyst)
        yield TrueTumor(
            volume_ml=found.size * grid.voxel_ml,
            center_mm=_center_mm(box, inside, grid),
            covered_share=float(np.count_nonzero(found == labels.tumor) / found.size),
            cyst_share=float(cyst / found.size),
        )


def _false_tumors(
    prediction: Labelled,
    reference: Labelled,
    cystic: Labelled,
    grid: Grid,
    labels: Labels,
) -> Iterator[FalseTumor]:
    numbered, sizes = _numbered(prediction == labels.tumor)
    touching = set(np.unique(numbered[reference == labels.tumor]).tolist())
    for n, box, inside in _each(numbered, _large(sizes, SEEN_ML, grid)):
        if n in touching:
            continue
        met = cystic[box][inside]
        yield FalseTumor(
            volume_ml=float(np.count_nonzero(inside) * grid.voxel_ml),
            center_mm=_center_mm(box, inside, grid),
            place=_place(reference[box][inside], labels),
            cystic_kidney=int(met[met > 0].min()) if met.any() else None,
        )


def _place(values: Labelled, labels: Labels) -> Place:
    counts: dict[Place, int] = {
        "kidney": int(np.count_nonzero(values == labels.kidney)),
        "background": int(np.count_nonzero(values == 0)),
    }
    if labels.cyst is not None:
        counts["cyst"] = int(np.count_nonzero(values == labels.cyst))
    return max(counts, key=counts.__getitem__)


def _kidneys(
    reference: Labelled, prediction: Labelled, grid: Grid, labels: Labels
) -> tuple[tuple[Kidney, ...], Labelled]:
    """The kidneys, and an array of the numbers of the cyst-only ones, 0 elsewhere."""
    numbered, sizes = _numbered(reference > 0)
    kidneys = []
    cystic = np.zeros(reference.shape, np.uint8)
    for n, box, inside in _each(numbered, _large(sizes, KIDNEY_ML, grid)):
        values = reference[box][inside]
        kidney = Kidney(
            volume_ml=float(values.size * grid.voxel_ml),
            has_tumor=bool((values == labels.tumor).any()),
            has_cyst=labels.cyst is not None and bool((values == labels.cyst).any()),
            covered_share=float((prediction[box][inside] > 0).mean()),
        )
        if kidney.is_cystic:
            cystic[box][inside] = min(n, 255)
        kidneys.append(kidney)
    return tuple(kidneys), cystic


def _false_kidneys_ml(prediction: Labelled, reference: Labelled, grid: Grid) -> list[float]:
    numbered, sizes = _numbered(prediction > 0)
    touching = set(np.unique(numbered[reference > 0]).tolist())
    large = range(1, _large(sizes, KIDNEY_ML, grid) + 1)
    return [float(sizes[n] * grid.voxel_ml) for n in large if n not in touching]


def _numbered(mask: NDArray[np.bool_]) -> tuple[Numbered, NDArray[np.int64]]:
    """Components by falling size, and voxels by number."""
    numbered, _ = components(mask)
    return numbered, np.bincount(numbered[mask])


def _large(sizes: NDArray[np.int64], minimal_ml: float, grid: Grid) -> int:
    """How many components have at least so many ml; they are the first ones."""
    return int(np.count_nonzero(sizes[1:] * grid.voxel_ml >= minimal_ml * (1 - 1e-9)))


def _each(numbered: Numbered, count: int) -> Iterator[tuple[int, Slices, NDArray[np.bool_]]]:
    """Number, box and mask inside the box of each of the first components."""
    if count:
        for n, box in enumerate(ndimage.find_objects(numbered, count), 1):
            yield n, box, numbered[box] == n


def _center_mm(box: Slices, inside: NDArray[np.bool_], grid: Grid) -> Triple:
    middle = np.argwhere(inside).mean(axis=0) + [side.start for side in box]
    x, y, z = map(float, grid.to_world(middle))
    return (x, y, z)
