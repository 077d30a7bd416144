"""Changes drawn patches: histogram, blur, then places (paper 2.2, 3.1).

Images are (C, Y, X) slabs or (1, Z, Y, X) patches over the box that was read; targets (Y, X) or
(Z, Y, X), finer by a whole factor where the plan says so; masks as the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from kitspipe.planning.plan import AugmentationConfig
from kitspipe.training.changes import Change
from kitspipe.training.warp import moved_image, moved_target

_BINS = 256


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


def blurred(image: NDArray[np.float32], sigma: float, radius: int) -> NDArray[np.float32]:
    """Gaussian blur in the axial plane, `sigma` voxels, from `radius` voxels to each side."""
    smooth: NDArray[np.float32] = gaussian_filter(
        image, sigma, radius=radius, axes=(image.ndim - 2, image.ndim - 1)
    )
    return smooth


class Augment(AbstractTransform):  # type: ignore[misc]
    """A batchgenerators transform that applies what was drawn before a patch was read.

    Takes lists, as boxes differ: `data` (C, ...), `seg`, `change`, and `mask` as `data` or None.
    """

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config

    def __call__(self, **arrays: Any) -> dict[str, Any]:
        """The dictionary with lists of the patches' `data` (C, ...) and `seg`, and their cases."""
        images = [
            _image(image, mask, change)
            for image, mask, change in zip(
                arrays["data"], arrays["mask"], arrays["change"], strict=True
            )
        ]
        targets = [
            moved_target(target, change, _refinement(target, change))
            for target, change in zip(arrays["seg"], arrays["change"], strict=True)
        ]
        return {"data": images, "seg": targets, "cases": arrays["cases"]}


def _image(
    image: NDArray[np.float32], mask: NDArray[np.bool_] | None, change: Change
) -> NDArray[np.float32]:
    parameters = change.parameters
    if parameters.equalize:
        # Before moving: no voxel of the histogram is interpolated, and what a blur needs from
        # around is equalized alike.
        image = equalized(image, np.ones(image.shape, bool) if mask is None else mask)
    if parameters.blur_sigma:
        image = blurred(image, parameters.blur_sigma, parameters.blur_radius)
    return moved_image(image, change)


def _refinement(target: NDArray[np.uint8], change: Change) -> tuple[int, int]:
    return (
        target.shape[-2] // change.read.shape[1],
        target.shape[-1] // change.read.shape[2],
    )
