"""What a body is made of, and where it lies on a grid.

Axes (Z, Y, X); positions are mm along the grid's axes, from a point between the kidneys, on the
midline: superior, posterior and left are positive.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from kitspipe.dataset.smooth_noise import Field
from kitspipe.imaging.volume import Grid, Triple

Tissues = NDArray[np.uint8]
Window = tuple[slice, slice, slice]

BODY_CENTRE_Y = -35.0
"""mm; the kidneys lie in the back of the body."""


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

    axes: tuple[Field, Field, Field] = field(init=False, repr=False, compare=False)
    """Positions of the voxels' centres along Z, Y and X."""

    def __post_init__(self) -> None:
        z, y, x = (
            (np.arange(n) * step - middle).astype(np.float32)
            for n, step, middle in zip(
                self.grid.shape, self.grid.spacing, self.middle_mm, strict=True
            )
        )
        object.__setattr__(self, "axes", (z, y, x))

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
        y = y - BODY_CENTRE_Y
        depth = np.where(y < 0, self.front_mm, self.back_mm)
        rho = (np.abs(x / self.half_width_mm) ** 2.4 + np.abs(y / depth) ** 2.4) ** (1 / 2.4)
        radius: Field = np.hypot(y, x) / np.maximum(rho, 1e-6)
        return np.where(rho > 1e-6, radius, self.front_mm).astype(np.float32)


def any_of(*tissues: Tissue) -> NDArray[np.bool_]:
    """A table of 256 codes that tells these tissues."""
    table = np.zeros(256, bool)
    table[list(tissues)] = True
    return table
