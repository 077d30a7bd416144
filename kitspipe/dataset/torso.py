"""What runs through all slices of a body: skin, fat, muscle, ribs, spine, lungs, table.

Axes (Z, Y, X), positions in mm as in `tissues.py`. Sizes and places are those of an average adult,
drawn with some spread; they are plausible, not measured.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kitspipe.dataset.smooth_noise import Field
from kitspipe.dataset.tissues import BODY_CENTRE_Y, LABELLED, Frame, Tissue, Tissues, any_of

_SLAB = 8
_SKIN_MM = 2.0
_VERTEBRA_MM, _DISC_MM = 36.0, 8.0
_RIB_SPACING_MM, _RIB_SLOPE = 34.0, 0.45
_RIB_HEADS_MM = 32.0
_ANY_FAT = any_of(Tissue.VISCERAL_FAT, Tissue.PERIRENAL_FAT, Tissue.FAT)
_UNLABELLED = ~any_of(*LABELLED)


class Torso:
    """A body's outline and all that runs through it; where things lie differs by the seed.

    Args:
        frame: where the body lies.
        rng: decides the thickness of fat and where ribs and vertebrae begin.
    """

    def __init__(self, frame: Frame, rng: np.random.Generator) -> None:
        self._frame = frame
        self._z, y, x = frame.axes
        self._y, self._x = y[:, None], x[None, :]
        self._radius = frame.body_radius(self._y, self._x)
        self._from_centre = np.hypot(self._y - BODY_CENTRE_Y, self._x)
        angle = np.arctan2(self._y - BODY_CENTRE_Y, self._x)
        # Thickest behind the flanks.
        belt = 1 + 0.22 * np.sin(2 * np.abs(angle) - 1) + 0.2 * np.sin(angle)
        self._fat = (
            _SKIN_MM + (rng.uniform(6, 17) + max(0.0, 0.3 * (frame.half_width_mm - 155))) * belt
        )
        self._wall = self._fat + 10 + 4 * np.abs(np.cos(angle))
        self._phase = rng.uniform(0, 1, 4)

    def fill(self, tissue: Tissues) -> None:
        """Fill the air of a tissue map (Z, Y, X) in place; labelled tissues stay.

        Fat around kidneys stays too, but where it would lie in the body's wall.
        """
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
        beside_spine = np.abs(self._x)[None] > _RIB_HEADS_MM
        seen = (height < 7) & (z > 25 - 0.9 * (y + 20)) & (y > -105) & (y < 55) & beside_spine
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

    def _column(
        self,
        slab: Tissues,
        place: tuple[float, float, float, float],
        code: Tissue,
        growth: Field | float = 1.0,
    ) -> None:
        """An upright cylinder with elliptic slices: y, x, radius along y, radius along x."""
        y, x, ry, rx = place
        rows = slice(*np.searchsorted(self._y[:, 0], (y - 1.1 * ry, y + 1.1 * ry)))
        columns = slice(*np.searchsorted(self._x[0], (x - 1.1 * rx, x + 1.1 * rx)))
        part = slab[:, rows, columns]
        radius = np.hypot((self._y[rows] - y) / ry, (self._x[:, columns] - x) / rx)
        self._write(part, (radius < growth) & _ANY_FAT[part], code)

    def _muscles(self, slab: Tissues, z: Field) -> None:
        psoas = (0.62 + 0.45 / (1 + np.exp(z / 30))).astype(np.float32)
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
        top = self._frame.back_mm + BODY_CENTRE_Y + 3 - 0.0011 * self._x**2
        below = self._y - top
        on_table = (below > 0) & (below < 26) & (np.abs(self._x) < 205)
        shell = (below < 3) | (below > 23) | (np.abs(self._x) > 202)
        for where, code in ((on_table, Tissue.FOAM), (on_table & shell, Tissue.TABLE)):
            self._write(slab, where & (slab <= Tissue.FOAM), code)
