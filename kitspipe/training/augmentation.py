"""Random changes of patches: parameters are drawn, then applied (paper 2.2, 3.1).

Images are (C, Y, X) slabs or (1, Z, Y, X) patches; targets (Y, X) or (Z, Y, X), finer by a whole
factor where the plan says so; masks as the image. Rotation, scale and translation are in the axial
plane; mirroring along any axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter

from kitspipe.planning.plan import AugmentationConfig

V = TypeVar("V", bound=np.generic)

_BINS = 256
_AXIS_FROM_END = {"z": 3, "y": 2, "x": 1}


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


def move(
    array: NDArray[V],
    parameters: AugmentationParameters,
    *,
    order: int,
    fill: float,
    voxel: tuple[float, float] = (1.0, 1.0),
) -> NDArray[V]:
    """The array mirrored, rotated, scaled and translated.

    Args:
        array: (..., Y, X); every plane of the last two axes is warped alike.
        parameters: what was drawn.
        order: 1 for images, 0 for targets and masks.
        fill: what comes in from outside.
        voxel: (Y, X) size of this array's voxels, in voxels of the image or in mm.
    """
    flipped = np.flip(array, tuple(-axis for axis in parameters.mirrored))
    if not parameters.warps:
        return flipped
    size = np.array(array.shape[-2:], float)
    angle = np.deg2rad(parameters.rotation_degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # Turned in the image's voxels, so that a finer target is moved as its image is.
    matrix = turn / parameters.scale * np.array(voxel) / np.array(voxel)[:, None]
    middle = (size - 1) / 2
    offset = middle - matrix @ (middle + np.array(parameters.translation) * size)
    planes = flipped.reshape(-1, *array.shape[-2:])
    warped = np.empty_like(planes)
    for source, result in zip(planes, warped, strict=True):
        affine_transform(
            source, matrix, offset, output=result, order=order, mode="constant", cval=fill
        )
    moved: NDArray[V] = warped.reshape(array.shape)
    return moved


def equalized(image: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The image with a flat histogram inside the mask, in the range it had there.

    Args:
        image: any shape.
        inside: same shape; what is outside stays as it is. An empty mask changes nothing,
            nor does one with a single value in it, which has no range to fill.

    Source: paper 3.1, "histogram averaging", read as histogram equalization.
    """
    values = image[inside]
    if values.size == 0 or values.min() == values.max():
        return image
    counts, edges = np.histogram(values, _BINS)
    cumulative = np.concatenate([[0.0], np.cumsum(counts) / values.size])
    low, high = edges[0], edges[-1]
    result: NDArray[np.float32] = image.copy()
    result[inside] = low + (high - low) * np.interp(values, edges, cumulative)
    return result


def blurred(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Gaussian blur in the axial plane, `sigma` voxels."""
    smooth: NDArray[np.float32] = gaussian_filter(image, (0,) * (image.ndim - 2) + (sigma, sigma))
    return smooth


class Augment(AbstractTransform):  # type: ignore[misc]
    """A batchgenerators transform that draws and applies, keyed by each patch's own seed.

    Takes `data` (N, C, ...), `seg` (N, ...), optional `mask` as `data`, and `seeds`, one tuple per
    patch; so a patch is changed alike whatever worker has it and whatever stands beside it.
    """

    def __init__(self, config: AugmentationConfig, fill: float) -> None:
        self._config = config
        self._fill = fill

    def __call__(self, **arrays: Any) -> dict[str, Any]:
        """The same dictionary with `data`, `seg` and `mask` changed."""
        masks = arrays.get("mask")
        changed = [
            self._augmented(
                arrays["data"][index],
                arrays["seg"][index],
                None if masks is None else masks[index],
                seed,
            )
            for index, seed in enumerate(arrays["seeds"])
        ]
        moved_masks = [mask for _, _, mask in changed if mask is not None]
        return {
            **arrays,
            **({"mask": np.stack(moved_masks)} if moved_masks else {}),
            "data": np.stack([image for image, _, _ in changed]),
            "seg": np.stack([target for _, target, _ in changed]),
        }

    def _augmented(
        self,
        image: NDArray[np.float32],
        target: NDArray[np.uint8],
        mask: NDArray[Any] | None,
        seed: Sequence[int],
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[Any] | None]:
        parameters = draw(self._config, np.random.default_rng(seed))
        if parameters.equalize:
            # Before moving, so that what comes in from outside is no part of the histogram.
            inside = np.ones(image.shape, bool) if mask is None else mask.astype(bool)
            image = equalized(image, inside)
        if parameters.blur_sigma:
            image = blurred(image, parameters.blur_sigma)
        return (
            move(image, parameters, order=1, fill=self._fill),
            move(target, parameters, order=0, fill=0, voxel=_voxel(target, image)),
            None if mask is None else move(mask, parameters, order=0, fill=0),
        )


def _voxel(array: NDArray[Any], image: NDArray[Any]) -> tuple[float, float]:
    """(Y, X) size of an array's voxels, in voxels of the image that covers the same patch."""
    return image.shape[-2] / array.shape[-2], image.shape[-1] / array.shape[-1]
