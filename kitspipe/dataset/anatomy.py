"""Anatomy that CTs are painted from: invented, or invented around a real mask.

Axes (Z, Y, X); positions are mm along the grid's axes as in `tissues.py`. Labels are those
of KiTS23: 1 kidney, 2 tumor, 3 cyst.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kitspipe.dataset.organs import Organs
from kitspipe.dataset.smooth_noise import SmoothNoise
from kitspipe.dataset.tissues import BODY_CENTRE_Y, Frame, Tissue, Tissues
from kitspipe.dataset.torso import Torso
from kitspipe.imaging.components import components, signed_distance
from kitspipe.imaging.volume import Box, Grid, Volume

KIDNEY, TUMOR, CYST = 1, 2, 3

_FAT_AROUND_MM = 5.0
_FLANK_MM = 20.0
_CYST_SHARE = 0.45
# Diameters in mm: most tumors of KiTS are between 2 and 7 cm.
_MEDIAN_TUMOR_MM, _TUMOR_SPREAD = 40.0, 0.28


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Anatomy:
    """What lies where.

    Args:
        labels: uint8, 0 background, 1 kidney, 2 tumor, 3 cyst.
        tissue: (Z, Y, X) uint8, codes of `Tissue`; on the labels' grid. Made read-only.

    Raises:
        ValueError: shapes differ.
    """

    labels: Volume
    tissue: Tissues

    def __post_init__(self) -> None:
        if self.tissue.shape != self.labels.array.shape:
            raise ValueError(f"tissue {self.tissue.shape}, labels {self.labels.array.shape}")
        self.tissue.flags.writeable = False


def invent_anatomy(grid: Grid, seed: int) -> Anatomy:
    """An abdomen with two kidneys, one to three tumors and, in 45 % of the seeds, cysts.

    The kidneys lie about the grid's middle; what the grid does not cover is missing.

    Raises:
        ValueError: the grid covers no part of a kidney.
    """
    rng = np.random.default_rng([seed, 0])
    z, y, x = ((n - 1) * step / 2 for n, step in zip(grid.shape, grid.spacing, strict=True))
    # A field of view that is just too narrow for the body gets a slim one.
    half_width = min(rng.uniform(145, 170), max(135.0, 0.475 * grid.extent_mm[2]))
    front = half_width * rng.uniform(0.62, 0.72)
    frame = Frame(
        grid=grid,
        middle_mm=(z + rng.uniform(-12, 12), y + front - 68, x + rng.uniform(-5, 5)),
        half_width_mm=half_width,
        front_mm=front,
    )
    labels = np.zeros(grid.shape, np.uint8)
    for side in (-1, 1):
        _add_kidney(labels, frame, rng, side)
    if not labels.any():
        raise ValueError(f"{grid} covers no part of a kidney")
    _add_lesions(labels, frame, rng)
    return _with_body(Volume(array=labels, grid=grid), frame, seed)


def anatomy_around(labels: Volume, seed: int) -> Anatomy:
    """An abdomen invented around the kidneys, tumors and cysts of a mask, which stay as they are.

    Args:
        labels: uint8; labels other than 1, 2 and 3 count as background. An empty mask gets a body
            without kidneys.
        seed: decides all that is invented.
    """
    array = np.asarray(labels.array, np.uint8)
    known = np.where(array <= CYST, array, 0).astype(np.uint8)
    kept = Volume(array=known, grid=labels.grid)
    return _with_body(kept, _frame_around(kept), seed)


def pieces(mask: NDArray[np.bool_]) -> Iterator[tuple[Box, NDArray[np.bool_]]]:
    """Connected pieces of a mask (Z, Y, X), largest first: the box of each, its mask in there."""
    box = Box.around(mask)
    if box is None:
        return
    numbered, _ = components(mask[box.slices])
    for number, found in enumerate(ndimage.find_objects(numbered), start=1):
        start, stop = (
            tuple(getattr(part, end) + first for part, first in zip(found, box.start, strict=True))
            for end in ("start", "stop")
        )
        yield Box(start=start, stop=stop), numbered[found] == number


def _add_kidney(labels: Tissues, frame: Frame, rng: np.random.Generator, side: int) -> None:
    """A bean whose hilum faces the midline and somewhat forward; side is +1 on the left."""
    length, width, thickness = rng.uniform((50, 26, 20), (62, 32, 26))
    higher = 6 * side + rng.normal(0, 6)
    centre = (higher, rng.uniform(-4, 4), side * rng.uniform(60, 68))
    upward = _unit(np.array((1.0, 0.15, -0.22 * side)) + rng.normal(0, 0.05, 3))
    hilum = np.array((0.0, -0.6, -0.8 * side)) + rng.normal(0, 0.08, 3)
    hilum = _unit(hilum - upward * (hilum @ upward))
    across = np.cross(upward, hilum)
    reach = 1.25 * length
    slices, offsets = frame.window(centre, (reach, reach, reach))
    if labels[slices].size == 0:
        return
    along, toward, aside = (
        sum(d * float(c) for d, c in zip(offsets, axis, strict=True)) / size
        for axis, size in ((upward, length), (hilum, width), (across, thickness))
    )
    lumps = SmoothNoise(rng, frame.start_mm, frame.grid.extent_mm, 20.0)
    absolute = (d + c for d, c in zip(offsets, centre, strict=True))
    bent = toward - 0.3 * (along**2 - 0.35)
    bean = along**2 + bent**2 + aside**2 + 0.1 * lumps.at(*absolute)
    notch = (along / 0.42) ** 2 + ((toward - 0.95) / 0.62) ** 2 + (aside / 0.42) ** 2
    labels[slices][(bean < 1) & (notch > 1)] = KIDNEY


def _add_lesions(labels: Tissues, frame: Frame, rng: np.random.Generator) -> None:
    n_tumors = int(rng.choice((1, 2, 3), p=(0.75, 0.2, 0.05)))
    first = np.exp(rng.normal(np.log(_MEDIAN_TUMOR_MM), _TUMOR_SPREAD))
    diameters = [first, *rng.uniform(20, 40, n_tumors - 1)]
    balls: list[tuple[NDArray[np.float64], float]] = []
    for diameter in diameters:
        radius = float(np.clip(diameter, 22, 66)) / 2
        _add_ball(labels, frame, rng, radius=radius, label=TUMOR, others=balls)
    has_cysts = rng.random() < _CYST_SHARE
    for _ in range(int(rng.integers(1, 4)) if has_cysts else 0):
        radius = float(rng.uniform(7, 20))
        _add_ball(labels, frame, rng, radius=radius, label=CYST, others=balls)


def _add_ball(
    labels: Tissues,
    frame: Frame,
    rng: np.random.Generator,
    *,
    radius: float,
    label: int,
    others: list[tuple[NDArray[np.float64], float]],
) -> None:
    """A lesion at a kidney's surface, apart from the others where there is room; cysts are round.

    The first one is always placed.
    """
    candidates = np.argwhere(labels == KIDNEY)
    positions = frame.axes
    for _ in range(60):
        voxel = candidates[rng.integers(len(candidates))]
        seed_point = np.array([p[i] for p, i in zip(positions, voxel, strict=True)], float)
        side = 1 if seed_point[2] > 0 else -1
        outward = _unit(seed_point - (0, -8, 56 * side) + rng.normal(0, 6, 3))
        centre = seed_point + outward * rng.uniform(0.15, 0.65) * radius
        is_clear = all(np.linalg.norm(centre - c) > radius + r + 4 for c, r in others)
        leaves_spine = side * centre[2] - radius > 22 and centre[1] + radius < 45
        if is_clear and leaves_spine:
            break
    else:
        if others:
            return
    others.append((centre, radius))
    z, y, x = map(float, centre)
    lumpy = 0.16 * radius if label == TUMOR else 0.0
    reach = radius + 3 * lumpy
    slices, offsets = frame.window((z, y, x), (reach, reach, reach))
    noise = SmoothNoise(rng, frame.start_mm, frame.grid.extent_mm, max(8.0, 0.6 * radius))
    distance = np.sqrt(sum(d**2 for d in offsets))
    if lumpy:
        absolute = (d + c for d, c in zip(offsets, (z, y, x), strict=True))
        distance = distance + lumpy * np.clip(noise.at(*absolute), -2, 2)
    part = labels[slices]
    part[(distance < radius) & (part <= KIDNEY)] = label
    labels[tuple(voxel)] = label


def _frame_around(labels: Volume) -> Frame:
    """A body that holds all of a mask, its midline between the kidneys."""
    grid = labels.grid
    array = labels.array
    middle = [(n - 1) * step / 2 for n, step in zip(grid.shape, grid.spacing, strict=True)]
    centres = _kidney_centres(labels)
    if centres:
        middle[:2] = np.mean(centres, axis=0)[:2]
        xs = sorted(centre[2] for centre in centres)
        # A single kidney tells its side by the half of the scan that it lies in.
        middle[2] = sum(xs) / 2 if len(xs) == 2 else xs[0] - np.copysign(64, xs[0] - middle[2])
    # Scans are reconstructed to fit the patient, who then lies in the middle of them.
    half_width = float(np.clip(0.43 * grid.extent_mm[2], 145, 200))
    back = 112 + 0.2 * max(0.0, half_width - 155)
    front = 2 * middle[1] - grid.extent_mm[1] + back + 2 * BODY_CENTRE_Y
    front = float(np.clip(front, 0.62 * half_width, 0.78 * half_width))
    frame = Frame(
        grid=grid,
        middle_mm=(middle[0], middle[1], middle[2]),
        half_width_mm=half_width,
        front_mm=front,
        back_mm=back,
    )
    y, x = np.nonzero(array.any(axis=0))
    if y.size == 0:
        return frame
    _, ys, xs_mm = frame.axes
    needed = np.hypot(ys[y] - BODY_CENTRE_Y, xs_mm[x]) + _FLANK_MM
    larger = max(1.0, float((needed / frame.body_radius(ys[y], xs_mm[x])).max()))
    return Frame(
        grid=grid,
        middle_mm=frame.middle_mm,
        half_width_mm=frame.half_width_mm * larger,
        front_mm=frame.front_mm * larger,
        back_mm=frame.back_mm * larger,
    )


def _kidney_centres(labels: Volume) -> list[NDArray[np.float64]]:
    """Centres (Z, Y, X) in mm from the first voxel of the two kidneys, of one, or none."""
    array = np.asarray(labels.array, np.uint8)
    kidney = array == KIDNEY
    found: list[tuple[int, NDArray[np.float64]]] = []
    for box, mask in pieces(kidney if kidney.any() else array > 0):
        size = int(mask.sum())
        if found and size < 0.2 * found[0][0]:
            break
        place = np.array(box.start) + np.argwhere(mask).mean(axis=0)
        found.append((size, place * labels.grid.spacing))
    for _, other in found[1:]:
        if abs(other[2] - found[0][1][2]) > 60:
            return [found[0][1], other]
    return [centre for _, centre in found[:1]]


def _with_body(labels: Volume, frame: Frame, seed: int) -> Anatomy:
    tissue = np.zeros(labels.grid.shape, np.uint8)
    _fill_kidneys(tissue, labels, frame, np.random.default_rng([seed, 2]))
    kidneys = []
    for centre in _kidney_centres(labels):
        z, y, x = map(float, centre - frame.middle_mm)
        kidneys.append((z, y, x))
    rng = np.random.default_rng([seed, 1])
    Torso(frame, rng).fill(tissue)
    organs = Organs(tissue, frame, rng)
    organs.vessels(kidneys)
    organs.upper_abdomen()
    organs.colon()
    organs.small_bowel()
    return Anatomy(labels=labels, tissue=tissue)


def _fill_kidneys(tissue: Tissues, labels: Volume, frame: Frame, rng: np.random.Generator) -> None:
    """Cortex outside, between the pyramids columns of it, sinus far inside; fat around."""
    cortex_mm = float(rng.uniform(5.5, 8))
    columns = SmoothNoise(rng, frame.start_mm, frame.grid.extent_mm, 9.0)
    grid, axes, array = labels.grid, frame.axes, np.asarray(labels.array, np.uint8)
    for box, _ in pieces(array > 0):
        slices = box.dilate(_FAT_AROUND_MM, grid).clip(grid.shape).slices
        here, part = array[slices], tissue[slices]
        depth = -signed_distance(here > 0, grid.spacing)
        lumps = columns.at(*(axis[s] for axis, s in zip(axes, slices, strict=True)))
        part[(here == 0) & (depth > -_FAT_AROUND_MM)] = Tissue.PERIRENAL_FAT
        part[here > 0] = Tissue.CORTEX
        pyramid = (depth > cortex_mm) & (lumps < 0.25)
        part[(here > 0) & pyramid] = Tissue.MEDULLA
        part[(here > 0) & (depth + 2 * lumps > cortex_mm + 8)] = Tissue.SINUS
        part[here == TUMOR] = Tissue.TUMOR
        part[here == CYST] = Tissue.CYST


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vector / np.linalg.norm(vector)
    return unit
