"""What lies in the fat of an abdomen: vessels, liver, spleen, pancreas, stomach, bowel.

Axes (Z, Y, X), positions in mm as in `tissues.py`. Sizes and places are those of an average adult,
drawn with some spread; they are plausible, not measured.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kitspipe.dataset.smooth_noise import Field, SmoothNoise
from kitspipe.dataset.tissues import BODY_CENTRE_Y, Frame, Tissue, Tissues, any_of
from kitspipe.imaging.volume import Triple

_EMPTY = any_of(Tissue.VISCERAL_FAT)
_ANY_FAT = any_of(Tissue.VISCERAL_FAT, Tissue.PERIRENAL_FAT, Tissue.FAT)


class Organs:
    """Writes organs into a tissue map, each in its own window, where it finds visceral fat.

    Args:
        tissue: (Z, Y, X), changed in place.
        frame: where the body lies.
        rng: decides sizes and paths.
    """

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
        front = 0.5 * (BODY_CENTRE_Y - self._frame.front_mm) - 22
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
        wall, inside = any_of(Tissue.BOWEL_WALL), any_of(content)
        for into, shrink, over, front in (
            (Tissue.BOWEL_WALL, 0.0, _EMPTY, np.inf),
            (content, 2.5, wall, np.inf),
            (Tissue.BOWEL_GAS, 2.5, inside, gas_level),
        ):
            for point, radius in zip(points, thickness, strict=True):
                self._ball(point, radius - shrink, into, over, front * radius)

    def _tube(self, points: Field, radius: float, code: Tissue, over: NDArray[np.bool_]) -> None:
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
    for a, b in pairwise(corners):
        n = int(np.ceil(np.linalg.norm(np.subtract(b, a)) / step_mm)) + 1
        pieces.append(np.linspace(a, b, n))
    return np.concatenate(pieces).astype(np.float32)
