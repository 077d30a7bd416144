"""What a patch's change is, drawn before anything is read, and which voxels it needs.

Boxes are (Z, Y, X) voxels of a region's image. Rotation, scale and translation are in the axial
plane; mirroring along any axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kitspipe.imaging.volume import Box
from kitspipe.planning.plan import AugmentationConfig

_AXIS_FROM_END = {"z": 3, "y": 2, "x": 1}
_BLUR_REACH = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentationParameters:
    """One draw.

    Args:
        mirrored: axes to flip, counted from the end (1 is X).
        rotation_degrees: in the axial plane, clockwise seen from the feet.
        scale: above 1 enlarges what is shown (crops), below shrinks it.
        translation: (Y, X), as a share of the patch.
        equalize: whether the histogram is flattened.
        blur_sigma: voxels in the axial plane; 0 does not blur.
    """

    mirrored: tuple[int, ...] = ()
    rotation_degrees: float = 0.0
    scale: float = 1.0
    translation: tuple[float, float] = (0.0, 0.0)
    equalize: bool = False
    blur_sigma: float = 0.0

    @property
    def warps(self) -> bool:
        """Whether voxels are resampled; mirroring alone only moves them."""
        return (
            self.rotation_degrees != 0
            or self.scale != 1
            or any(shift != 0 for shift in self.translation)
        )

    @property
    def blur_radius(self) -> int:
        """Voxels to each side that a blurred one depends on."""
        return int(_BLUR_REACH * self.blur_sigma + 0.5)


NOTHING = AugmentationParameters()


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A draw for one patch, and where its voxels come from.

    Args:
        parameters: what was drawn.
        patch: the box that is asked for.
        read: the box that has to be read, exactly the patch where nothing is warped or blurred.
    """

    parameters: AugmentationParameters
    patch: Box
    read: Box

    def mapping(
        self, refinement: tuple[int, int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Matrix (2, 2) and offset (2,): place in the patch (Y, X) -> place in what was read.

        Args:
            refinement: (Y, X) voxels of the array per voxel of the image. What is finer is turned
                in the image's voxels, as its image is.
        """
        matrix, offset = _mapping(self.parameters, self.patch.shape[1:], refinement)
        moved = np.subtract(self.patch.start[1:], self.read.start[1:]) * refinement
        return matrix, offset + moved


def draw(config: AugmentationConfig, rng: np.random.Generator) -> AugmentationParameters:
    """Parameters for one patch. A probability of 0 never draws its change."""
    share = config.translation_share
    rotates = rng.random() < config.rotation_probability
    scales = rng.random() < config.scale_probability
    blurs = rng.random() < config.blur_probability
    low, high = np.log(config.scale)
    return AugmentationParameters(
        mirrored=tuple(_AXIS_FROM_END[axis] for axis in config.mirror_axes if rng.random() < 0.5),
        rotation_degrees=float(rng.uniform(-1, 1)) * config.rotation_degrees if rotates else 0.0,
        scale=float(np.exp(rng.uniform(low, high))) if scales else 1.0,
        # A patch that is warped anyway is moved too; one that is not stays as it was read.
        translation=(
            (float(rng.uniform(-share, share)), float(rng.uniform(-share, share)))
            if rotates or scales
            else (0.0, 0.0)
        ),
        equalize=bool(rng.random() < config.equalization_probability),
        blur_sigma=float(rng.uniform(*config.blur_sigma)) if blurs else 0.0,
    )


def change_of(
    parameters: AugmentationParameters, patch: Box, shape: tuple[int, int, int]
) -> Change:
    """The change with the box to read: where the patch's corners come from, and a blur's reach.

    Of what lies outside the scan, which is all alike, no more is read than a border: places
    further out take their value from there. So a box is never larger than the scan and a border.

    Args:
        parameters: what was drawn.
        patch: may reach outside.
        shape: of the region's image.
    """
    margin = parameters.blur_radius
    size = patch.shape[1:]
    if not parameters.warps:
        sides = [(-margin, n + margin) for n in size]
        limits = [(-math.inf, math.inf)] * 2
    else:
        matrix, offset = _mapping(parameters, size, (1, 1))
        # Half a voxel more than the corners' middles: as far as a finer target reaches.
        edges = [(-0.5, n - 0.5) for n in size]
        corners = np.array([(y, x) for y in edges[0] for x in edges[1]]).T
        places = matrix @ corners + offset[:, None]
        sides = [
            (math.floor(axis.min()) - margin, math.ceil(axis.max()) + 1 + margin) for axis in places
        ]
        limits = [(-1 - margin, length + 1 + margin) for length in shape[1:]]
    starts, stops = [patch.start[0]], [patch.stop[0]]
    for origin, (low, high), (least, most) in zip(patch.start[1:], sides, limits, strict=True):
        start = int(max(least, min(origin + low, most - 1)))
        starts.append(start)
        stops.append(int(max(start + 1, min(origin + high, most))))
    return Change(
        parameters=parameters,
        patch=patch,
        read=Box(start=(starts[0], starts[1], starts[2]), stop=(stops[0], stops[1], stops[2])),
    )


def _mapping(
    parameters: AugmentationParameters, size: tuple[int, ...], refinement: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Place in the patch -> place relative to the patch's first voxel before the change."""
    angle = np.deg2rad(parameters.rotation_degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flip = np.array([-1.0 if axis in parameters.mirrored else 1.0 for axis in (2, 1)])
    fine = np.array(refinement, float)
    matrix = flip[:, None] * turn / parameters.scale / fine * fine[:, None]
    count = np.array(size) * fine
    middle = (count - 1) / 2
    return matrix, middle - matrix @ (middle + np.array(parameters.translation) * count)
