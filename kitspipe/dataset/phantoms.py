"""CTs painted from anatomy, and data sets of them in KiTS layout.

Axes (Z, Y, X). HU are those of a corticomedullary phase as textbooks have them, with spread from
case to case; they are plausible, not measured. A threshold does not find tumors: their HU overlap
with medulla and with dense cysts, what tells them apart is texture, rim, necrosis and place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kitspipe.dataset.anatomy import (
    CYST,
    TUMOR,
    Anatomy,
    pieces,
)
from kitspipe.dataset.cases import KITS_IMAGE
from kitspipe.dataset.lesions import cyst_hu, tumor_hu
from kitspipe.dataset.smooth_noise import Field, SmoothNoise
from kitspipe.dataset.tissues import Tissue
from kitspipe.imaging.formats import write_image, write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import MINIMAL_HU, Box, Grid, Triple, Volume

MASK_NAME = "segmentation.nii.gz"
_SLAB = 8
_TEXTURE_MM = 4.0

# HU without contrast, what the contrast adds, sd of the tissue's own unevenness.
_LOOK: dict[Tissue, tuple[float, float, float]] = {
    Tissue.AIR: (-1000, 0, 0),
    Tissue.TABLE: (60, 0, 0),
    Tissue.FOAM: (-930, 0, 0),
    Tissue.SKIN: (10, 10, 5),
    Tissue.FAT: (-105, 0, 5),
    Tissue.VISCERAL_FAT: (-100, 0, 9),
    Tissue.PERIRENAL_FAT: (-98, 0, 7),
    Tissue.MUSCLE: (52, 10, 9),
    Tissue.BONE: (430, 0, 90),
    Tissue.MARROW: (190, 0, 35),
    Tissue.DISC: (85, 0, 6),
    Tissue.CORD: (35, 0, 3),
    Tissue.AORTA: (42, 235, 3),
    Tissue.VEIN: (42, 105, 8),
    Tissue.LUNG: (-840, 0, 40),
    Tissue.LIVER: (58, 50, 5),
    Tissue.SPLEEN: (48, 87, 8),
    Tissue.PANCREAS: (40, 60, 12),
    Tissue.BILE: (8, 0, 0),
    Tissue.BOWEL_WALL: (40, 50, 8),
    Tissue.BOWEL_CONTENT: (30, 5, 14),
    Tissue.STOOL: (25, 0, 60),
    Tissue.BOWEL_GAS: (-920, 0, 0),
    Tissue.CORTEX: (35, 160, 6),
    Tissue.MEDULLA: (33, 77, 8),
    Tissue.SINUS: (-20, 10, 28),
    Tissue.TUMOR: (35, 70, 15),
    Tissue.CYST: (8, 0, 0),
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Look:
    """How a case looks: tables by tissue code, and what the scanner does."""

    mean_hu: Field
    uneven_hu: Field
    contrast: float
    noise_hu: float
    blur_mm: Triple


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Lesion:
    box: Box
    mask: NDArray[np.bool_]
    hu: NDArray[np.float16]


def paint(anatomy: Anatomy, seed: int) -> Volume:
    """A CT of an anatomy: int16 HU in a corticomedullary phase.

    Tissue by tissue, with unevenness of its own, then blurred and with noise that is correlated
    as the blur is. Worked by slab: beside the CT it needs little memory.
    """
    grid = anatomy.labels.grid
    # Keys from 10 on: the anatomy draws from lower ones with the same seed.
    rng = np.random.default_rng([seed, 10])
    look = _draw_look(rng, grid)
    texture = SmoothNoise(rng, (0.0, 0.0, 0.0), grid.extent_mm, _TEXTURE_MM)
    lesions = [*_paint_lesions(anatomy, look, seed)]
    sigmas = tuple(mm / step for mm, step in zip(look.blur_mm, grid.spacing, strict=True))
    halo = math.ceil(2.5 * sigmas[0])
    slab_depth = max(_SLAB, 4 * halo)
    hu = np.empty(grid.shape, np.int16)
    for start in range(0, grid.shape[0], slab_depth):
        stop = min(start + slab_depth, grid.shape[0])
        first, last = max(0, start - halo), min(grid.shape[0], stop + halo)
        slab = _sharp_slab(anatomy, look, texture, lesions, slice(first, last))
        slab += look.noise_hu / _noise_left(sigmas) * _white(slab.shape, seed, first)
        blurred = ndimage.gaussian_filter(slab, sigmas, mode="nearest", truncate=2.5)
        hu[start:stop] = np.clip(
            np.rint(blurred[start - first :][: stop - start]), MINIMAL_HU, 3071
        )
    return Volume(array=hu, grid=grid)


def _draw_look(rng: np.random.Generator, grid: Grid) -> _Look:
    contrast = float(rng.uniform(0.85, 1.1))
    mean, uneven = np.full(256, -1000, np.float32), np.zeros(256, np.float32)
    for tissue, (plain, added, sd) in _LOOK.items():
        spread = rng.normal(1, 0.05)
        mean[tissue] = plain + added * contrast * spread
        uneven[tissue] = sd
    # A voxel sees the mean over its own length, whose sd is length / sqrt(12), on top of the
    # scanner's blur.
    psf = (1.2, *[float(rng.uniform(0.7, 1.0))] * 2)
    z, y, x = (math.hypot(p, s / math.sqrt(12)) for p, s in zip(psf, grid.spacing, strict=True))
    return _Look(
        mean_hu=mean,
        uneven_hu=uneven,
        contrast=contrast,
        noise_hu=float(rng.uniform(10, 17)),
        blur_mm=(z, y, x),
    )


def _sharp_slab(
    anatomy: Anatomy, look: _Look, texture: SmoothNoise, lesions: list[_Lesion], z: slice
) -> Field:
    tissue = anatomy.tissue[z]
    grid = anatomy.labels.grid
    positions = [
        (np.arange(n) * step).astype(np.float32)
        for n, step in zip(grid.shape, grid.spacing, strict=True)
    ]
    hu: Field = look.uneven_hu[tissue] * texture.at(positions[0][z], positions[1], positions[2])
    hu += look.mean_hu[tissue]
    for lesion in lesions:
        first, last = max(z.start, lesion.box.start[0]), min(z.stop, lesion.box.stop[0])
        if first < last:
            inner = slice(first - lesion.box.start[0], last - lesion.box.start[0])
            _, y, x = lesion.box.slices
            part = hu[first - z.start : last - z.start, y, x]
            part[lesion.mask[inner]] = lesion.hu[inner][lesion.mask[inner]]
    return hu


def _white(shape: tuple[int, ...], seed: int, first: int) -> Field:
    """White noise of sd 1; a slice's does not depend on the slab that it is seen in."""
    noise = np.empty(shape, np.float32)
    for index, plane in enumerate(noise, start=first):
        np.random.default_rng([seed, 11, index]).standard_normal(out=plane, dtype=np.float32)
    return noise


def _noise_left(sigmas: tuple[float, ...]) -> float:
    """What the blur leaves of white noise's sd: the norm of its kernel."""
    left = 1.0
    for sigma in sigmas:
        impulse = np.zeros(2 * math.ceil(2.5 * sigma) + 3)
        impulse[impulse.size // 2] = 1
        left *= float(np.linalg.norm(ndimage.gaussian_filter1d(impulse, sigma, truncate=2.5)))
    return left


def _paint_lesions(anatomy: Anatomy, look: _Look, seed: int) -> Iterator[_Lesion]:
    grid = anatomy.labels.grid
    for label in (TUMOR, CYST):
        for index, (box, mask) in enumerate(pieces(anatomy.labels.array == label)):
            rng = np.random.default_rng([seed, 12, label, index])
            if label == CYST:
                hu = np.full(mask.shape, cyst_hu(rng), np.float32)
            else:
                hu = tumor_hu(mask, grid.crop(box), rng) * (0.7 + 0.3 * look.contrast)
            yield _Lesion(box=box, mask=mask, hu=hu.astype(np.float16))


def write_case(folder: Path, case_id: str, anatomy: Anatomy, seed: int) -> None:
    """Paint an anatomy and write `CASE/imaging.nii.gz` and `CASE/segmentation.nii.gz`.

    Slices are the files' first axis, as in KiTS. The mask comes last: a case with one is whole.
    """
    header = header_for(anatomy.labels.grid, axes="IPL")
    place = folder / case_id
    write_image(place / f"{KITS_IMAGE}.nii.gz", paint(anatomy, seed), header)
    write_labels(place / MASK_NAME, anatomy.labels, header)
