"""A body around kidneys: which tissue lies where.

Axes (Z, Y, X); positions are mm along the grid's axes, from a point between the kidneys, on the
midline: superior, posterior and left are positive. Sizes and places are those of an average
adult, drawn with some spread; they are plausible, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from kitspipe.dataset.smooth_noise import Field, SmoothNoise
from kitspipe.imaging.volume import Grid, Triple

Tissues = NDArray[np.uint8]
Window = tuple[slice, slice, slice]


class Tissue(IntEnum):
    """What a voxel of an anatomy is made of."""

    AIR = 0
    TABLE = 1
    FOAM = 2
    SKIN = 3
    FAT = 4
    VISCERAL_FAT = 5
    PERIRENAL_FAT = 6
    MUSCLE = 7
    BONE = 8
    MARROW = 9
    DISC = 10
    CORD = 11
    AORTA = 12
    VEIN = 13
    LUNG = 14
    LIVER = 15
    SPLEEN = 16
    PANCREAS = 17
    BILE = 18
    BOWEL_WALL = 19
    BOWEL_CONTENT = 20
    STOOL = 21
    BOWEL_GAS = 22
    CORTEX = 23
    MEDULLA = 24
    SINUS = 25
    TUMOR = 26
    CYST = 27


LABELLED = (Tissue.CORTEX, Tissue.MEDULLA, Tissue.SINUS, Tissue.TUMOR, Tissue.CYST)

_SLAB = 8
_BODY_CENTRE_Y = -35.0
_SKIN_MM = 2.0
_VERTEBRA_MM, _DISC_MM = 36.0, 8.0
_RIB_SPACING_MM, _RIB_SLOPE = 34.0, 0.45


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """Where and how large the body is on a grid.

    Args:
        grid: the grid.
        middle_mm: (Z, Y, X) from the first voxel's centre to the point between the kidneys.
        half_width_mm: of the body.
        front_mm: from the body's centre to its front.
        back_mm: from the body's centre to its back.
    """

    grid: Grid
    middle_mm: Triple
    half_width_mm: float = 155.0
    front_mm: float = 105.0
    back_mm: float = 112.0

    @property
    def axes(self) -> tuple[Field, Field, Field]:
        """Positions of the voxels' centres along Z, Y and X."""
        z, y, x = (
            (np.arange(n) * step - middle).astype(np.float32)
            for n, step, middle in zip(
                self.grid.shape, self.grid.spacing, self.middle_mm, strict=True
            )
        )
        return z, y, x

    @property
    def start_mm(self) -> Triple:
        """The first voxel's position."""
        z, y, x = (-middle for middle in self.middle_mm)
        return (z, y, x)

    def window(self, centre: Triple, reach: Triple) -> tuple[Window, tuple[Field, Field, Field]]:
        """Voxels at most `reach` from a point along each axis, and their offsets, broadcastable."""
        slices, offsets = [], []
        for axis, (positions, c, r) in enumerate(zip(self.axes, centre, reach, strict=True)):
            first, last = np.searchsorted(positions, (c - r, c + r))
            slices.append(slice(int(first), int(last)))
            shape = [1, 1, 1]
            shape[axis] = -1
            offsets.append((positions[first:last] - c).reshape(shape))
        return (slices[0], slices[1], slices[2]), (offsets[0], offsets[1], offsets[2])

    def body_radius(self, y: Field, x: Field) -> Field:
        """Distance from the body's centre to its surface in the direction of each (y, x), in mm."""
        y = y - _BODY_CENTRE_Y
        depth = np.where(y < 0, self.front_mm, self.back_mm)
        rho = (np.abs(x / self.half_width_mm) ** 2.4 + np.abs(y / depth) ** 2.4) ** (1 / 2.4)
        radius: Field = np.hypot(y, x) / np.maximum(rho, 1e-6)
        return np.where(rho > 1e-6, radius, self.front_mm).astype(np.float32)


def surround(tissue: Tissues, frame: Frame, kidneys: list[Triple], seed: int) -> None:
    """Fill a tissue map with a body around what is there already, which stays.

    Args:
        tissue: (Z, Y, X), AIR but for labelled tissues and the fat around them; changed in place.
        frame: where the body lies.
        kidneys: where vessels should lead to, in mm.
        seed: decides all that is random.
    """
    rng = np.random.default_rng([seed, 1])
    _Torso(frame, rng).fill(tissue)
    organs = _Organs(tissue, frame, rng)
    organs.vessels(kidneys)
    organs.upper_abdomen()
    organs.colon()
    organs.small_bowel()


def _over(*tissues: Tissue) -> NDArray[np.bool_]:
    """Which codes may be replaced, as a table."""
    table = np.zeros(256, bool)
    table[list(tissues)] = True
    return table


_EMPTY = _over(Tissue.VISCERAL_FAT)
_ANY_FAT = _over(Tissue.VISCERAL_FAT, Tissue.PERIRENAL_FAT, Tissue.FAT)
_UNLABELLED = ~_over(*LABELLED)


class _Torso:
    """What runs through all slices: skin, fat, muscle, ribs, spine, lungs, table. By slab."""

    def __init__(self, frame: Frame, rng: np.random.Generator) -> None:
        self._frame = frame
        self._z, y, x = frame.axes
        self._y, self._x = y[:, None], x[None, :]
        self._radius = frame.body_radius(self._y, self._x)
        self._from_centre = np.hypot(self._y - _BODY_CENTRE_Y, self._x)
        angle = np.arctan2(self._y - _BODY_CENTRE_Y, self._x)
        # Thickest behind the flanks.
        belt = 1 + 0.22 * np.sin(2 * np.abs(angle) - 1) + 0.2 * np.sin(angle)
        self._fat = _SKIN_MM + (rng.uniform(6, 17) + max(0.0, 0.3 * (frame.half_width_mm - 155))) * belt
        self._wall = self._fat + 10 + 4 * np.abs(np.cos(angle))
        self._phase = rng.uniform(0, 1, 4)

    def fill(self, tissue: Tissues) -> None:
        """Write all slabs."""
        for start in range(0, tissue.shape[0], _SLAB):
            slab = tissue[start : start + _SLAB]
            z = self._z[start : start + _SLAB, None, None]
            self._layers(slab, z)
            self._muscles(slab, z)
            self._spine(slab, z)
            self._table(slab)

    def _write(self, slab: Tissues, where: NDArray[np.bool_], code: Tissue) -> None:
        slab[where & _UNLABELLED[slab]] = code

    def _layers(self, slab: Tissues, z: Field) -> None:
        swell = 1 + 0.03 * np.sin(z / 90 + 6 * self._phase[0])
        depth = self._radius * swell.astype(np.float32) - self._from_centre
        near = slab == Tissue.PERIRENAL_FAT
        free = near | (slab == Tissue.AIR)
        for above, code in (
            (0.0, Tissue.SKIN),
            (_SKIN_MM, Tissue.FAT),
            (self._fat, Tissue.MUSCLE),
            (self._wall, Tissue.VISCERAL_FAT),
        ):
            slab[free & (depth > above)] = code
        slab[near & (depth > self._wall)] = Tissue.PERIRENAL_FAT
        if z.max() > -60:
            self._ribs(slab, z, depth)
        if z.max() > 30:
            self._lungs(slab, z, depth - self._wall)

    def _ribs(self, slab: Tissues, z: Field, depth: Field) -> None:
        y = self._y[None]
        along = np.mod(z - _RIB_SLOPE * y + _RIB_SPACING_MM * self._phase[1], _RIB_SPACING_MM)
        height = np.abs(along - _RIB_SPACING_MM / 2)
        seen = (height < 7) & (z > 25 - 0.9 * (y + 20)) & (y > -105) & (y < 55)
        inner = self._wall - depth
        off_centre = np.hypot(height, 1.3 * (inner - 6))
        self._write(slab, seen & (off_centre < 6.5) & (slab == Tissue.MUSCLE), Tissue.BONE)
        self._write(slab, seen & (off_centre < 3.5) & (slab == Tissue.BONE), Tissue.MARROW)

    def _lungs(self, slab: Tissues, z: Field, inside: Field) -> None:
        recess = 62 * np.exp(-np.maximum(inside, 0) / 16)
        recess = recess * np.clip((self._y + 70) / 60, 0, 1)
        aside = np.abs(self._x) * (155 / self._frame.half_width_mm) - 75
        dome = 112 - 0.004 * aside**2 - recess
        heart = ((self._x - 15) / 55) ** 2 + ((self._y + 75) / 55) ** 2 < 1
        above = (z > dome) & (inside > 1)
        self._write(slab, above & ~heart & (slab == Tissue.VISCERAL_FAT), Tissue.LUNG)
        self._write(slab, above & heart & (slab == Tissue.VISCERAL_FAT), Tissue.VEIN)

    def _column(self, slab: Tissues, place: tuple[float, float, float, float], code: Tissue,
                growth: Field | float = 1.0) -> None:
        """An upright cylinder with elliptic slices: y, x, radius along y, radius along x."""
        y, x, ry, rx = place
        rows = slice(*np.searchsorted(self._y[:, 0], (y - 1.1 * ry, y + 1.1 * ry)))
        columns = slice(*np.searchsorted(self._x[0], (x - 1.1 * rx, x + 1.1 * rx)))
        part = slab[:, rows, columns]
        radius = np.hypot((self._y[rows] - y) / ry, (self._x[:, columns] - x) / rx)
        self._write(part, (radius < growth) & _ANY_FAT[part], code)

    def _muscles(self, slab: Tissues, z: Field) -> None:
        psoas = 0.62 + 0.45 / (1 + np.exp(z / 30))
        for side in (-1, 1):
            self._column(slab, (34, 31 * side, 19, 27), Tissue.MUSCLE)
            self._column(slab, (33, 60 * side, 7, 18), Tissue.MUSCLE)
            self._column(slab, (0, 36 * side, 20, 17), Tissue.MUSCLE, psoas)
        self._column(slab, (-41, 9, 10, 10), Tissue.AORTA)
        self._column(slab, (-38, -17, 9.5, 13), Tissue.VEIN)

    def _spine(self, slab: Tissues, z: Field) -> None:
        rows = slice(*np.searchsorted(self._y[:, 0], (-40.0, 62.0)))
        columns = slice(*np.searchsorted(self._x[0], (-50.0, 50.0)))
        part, y, x = slab[:, rows, columns], self._y[rows], np.abs(self._x[:, columns])
        level = np.mod(z + _VERTEBRA_MM * self._phase[2], _VERTEBRA_MM)
        bone = level > _DISC_MM
        waist = 1 - 0.1 * np.sin(np.pi * (level - _DISC_MM) / (_VERTEBRA_MM - _DISC_MM)) * bone
        body = np.hypot((y + 13) / 17, x / 23) / waist
        plate = (level < _DISC_MM + 1.5) | (level > _VERTEBRA_MM - 1.5)
        self._write(part, (body < 1) & ~bone, Tissue.DISC)
        self._write(part, (body < 1) & bone, Tissue.BONE)
        self._write(part, (body < 0.9) & bone & ~plate, Tissue.MARROW)
        canal = np.hypot((y - 11) / 9, x / 11)
        arch = (level > 10) & (level < 30)
        self._write(part, (canal < 1.5) & arch & (y > 0), Tissue.BONE)
        self._write(part, np.hypot(y - 18, x - 17) < 7, Tissue.BONE)
        self._write(part, (x < 3.5) & (y > 15) & (y < 48) & arch, Tissue.BONE)
        across = (np.abs(y - 13) < 4) & (x > 12) & (x < 42)
        self._write(part, across & (np.abs(level - 18) < 6), Tissue.BONE)
        self._write(part, canal < 1, Tissue.CORD)

    def _table(self, slab: Tissues) -> None:
        top = self._frame.back_mm + _BODY_CENTRE_Y + 3 - 0.0011 * self._x**2
        below = self._y - top
        on_table = (below > 0) & (below < 26) & (np.abs(self._x) < 205)
        shell = (below < 3) | (below > 23) | (np.abs(self._x) > 202)
        for where, code in ((on_table, Tissue.FOAM), (on_table & shell, Tissue.TABLE)):
            self._write(slab, where & (slab <= Tissue.FOAM), code)


class _Organs:
    """What lies in the abdomen, each in its own window."""

    def __init__(self, tissue: Tissues, frame: Frame, rng: np.random.Generator) -> None:
        self._tissue, self._frame, self._rng = tissue, frame, rng
        self._lumps = SmoothNoise(rng, frame.start_mm, frame.grid.extent_mm, 24.0)

    def vessels(self, kidneys: list[Triple]) -> None:
        """Renal arteries and veins, superior mesenteric vessels."""
        for z, y, x in kidneys:
            aorta, cava = (z + 5, -41.0, 9.0), (z, -38.0, -17.0)
            hilum = (z, y - 14, 0.72 * x)
            self._tube(_line(aorta, hilum), 3.0, Tissue.AORTA, _ANY_FAT)
            self._tube(_line(cava, (z - 3, -50, x / 4), hilum), 5.0, Tissue.VEIN, _ANY_FAT)
        self._tube(_line((50, -50, 7), (25, -64, 6), (-90, -66, 2)), 4.0, Tissue.AORTA, _ANY_FAT)
        self._tube(_line((40, -62, -10), (-90, -68, -10)), 6.0, Tissue.VEIN, _ANY_FAT)

    def upper_abdomen(self) -> None:
        """Gallbladder, liver, spleen, pancreas, stomach."""
        size = self._rng.uniform(0.88, 1.08)
        low = self._rng.uniform(-15, 15)
        self._blob((22 + low, -80, -58), (25, 17, 13), Tissue.BILE)
        self._blob((60 + low, -45, -95), (82 * size, 82, 72), Tissue.LIVER, 0.12)
        self._blob((82 + low, -88, -20), (45 * size, 40, 75), Tissue.LIVER, 0.12)
        self._blob((68, 0, 105), (52 * size, 44, 27), Tissue.SPLEEN, 0.12)
        self._tube(_line((2, -60, -32), (18, -72, 5), (42, -40, 70)), 11, Tissue.PANCREAS, _EMPTY)
        stomach = _line((105, -50, 70), (70, -75, 72), (40, -100, 45), (30, -95, 5))
        self._gut(stomach, (34, 28, 20), Tissue.BOWEL_CONTENT, 0.1)

    def colon(self) -> None:
        """Ascending, transverse and descending colon with stool and gas."""
        wide = 0.68 * self._frame.half_width_mm
        front = 0.5 * (_BODY_CENTRE_Y - self._frame.front_mm) - 22
        bottom = min(-120.0, float(self._frame.axes[0][0]))
        for points in (
            _line((bottom, -60, -wide), (0, -48, -wide), (10, front + 25, -0.8 * wide)),
            _line((10, front + 20, -0.7 * wide), (-25, front - 8, 0), (25, front, 0.8 * wide)),
            _line((25, -45, wide), (-30, -25, 1.05 * wide), (bottom, -45, wide)),
        ):
            self._gut(points, (19, 23, 16, 21), Tissue.STOOL, self._rng.uniform(-0.7, 0.6))

    def small_bowel(self) -> None:
        """Winding loops that fill much of the front of the abdomen."""
        lowest = max(float(self._frame.axes[0][0]), -330.0)
        low = np.array((min(lowest, 0.0), -0.72 * self._frame.front_mm - 35, -82))
        high = np.array((45.0, -55.0, 82.0))
        for _ in range(int(8 + (high - low)[0] / 9)):
            point = self._rng.uniform(low, high)
            heading = self._rng.normal(size=3)
            path = []
            for _ in range(int(self._rng.integers(14, 34))):
                heading = 0.75 * heading / np.linalg.norm(heading) + self._rng.normal(0, 0.35, 3)
                point = np.clip(point + 6 * heading / np.linalg.norm(heading), low, high)
                path.append(point)
            has_gas = self._rng.random() < 0.3
            radius = self._rng.uniform(9, 13)
            level = self._rng.uniform(-0.3, 0.4) if has_gas else -1.0
            self._gut(np.array(path), (radius,), Tissue.BOWEL_CONTENT, level)

    def _gut(
        self, points: Field, radii: tuple[float, ...], content: Tissue, gas_level: float
    ) -> None:
        """A tube with wall and content; gas lies in front, above a level in radii."""
        along = np.linspace(0, len(radii) - 1, len(points))
        thickness = np.interp(along, np.arange(len(radii)), radii)
        wall, inside = _over(Tissue.BOWEL_WALL), _over(content)
        for into, shrink, over, front in (
            (Tissue.BOWEL_WALL, 0.0, _EMPTY, np.inf),
            (content, 2.5, wall, np.inf),
            (Tissue.BOWEL_GAS, 2.5, inside, gas_level),
        ):
            for point, radius in zip(points, thickness, strict=True):
                self._ball(point, radius - shrink, into, over, front * radius)

    def _tube(
        self, points: Field, radius: float, code: Tissue, over: NDArray[np.bool_]
    ) -> None:
        for point in points:
            self._ball(point, radius, code, over)

    def _ball(
        self,
        centre: Field,
        radius: float,
        code: Tissue,
        over: NDArray[np.bool_],
        front_mm: float = np.inf,
    ) -> None:
        z, y, x = map(float, centre)
        slices, (dz, dy, dx) = self._frame.window((z, y, x), (radius, radius, radius))
        part = self._tissue[slices]
        part[(dz**2 + dy**2 + dx**2 < radius**2) & (dy < front_mm) & over[part]] = code

    def _blob(self, centre: Triple, radii: Triple, code: Tissue, lumps: float = 0.0) -> None:
        """A lumpy ellipsoid in the fat of the abdomen."""
        reach_z, reach_y, reach_x = (r * (1 + 1.2 * lumps) for r in radii)
        slices, (dz, dy, dx) = self._frame.window(centre, (reach_z, reach_y, reach_x))
        inside = (dz / radii[0]) ** 2 + (dy / radii[1]) ** 2 + (dx / radii[2]) ** 2
        if lumps:
            offsets = (d + c for d, c in zip((dz, dy, dx), centre, strict=True))
            inside = inside + lumps * self._lumps.at(*offsets)
        part = self._tissue[slices]
        part[(inside < 1) & _EMPTY[part]] = code


def _line(*corners: Triple, step_mm: float = 2.5) -> Field:
    """Points (n, 3) in mm along a line with corners."""
    pieces: list[NDArray[np.float64]] = []
    for a, b in zip(corners, corners[1:], strict=False):
        n = int(np.ceil(np.linalg.norm(np.subtract(b, a)) / step_mm)) + 1
        pieces.append(np.linspace(a, b, n))
    return np.concatenate(pieces).astype(np.float32)

