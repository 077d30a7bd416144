"""HU to what a network sees: the one place for training and prediction.

Arrays are (..., Z, Y, X).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kitspipe.planning.plan import HUWindow, TumorPlan

_BORDER_REACH_MM = 10.0
"""How far from the kidney's border its distance is told apart: about the widest dilation."""

FAR_OUTSIDE = np.float32(1.0)
"""The border channel's value far from the kidney."""


def normalize(hu: NDArray[np.int16], window: HUWindow) -> NDArray[np.float32]:
    """HU clipped to the window, centred and scaled, float32.

    Args:
        hu: HU, any shape.
        window: the plan's window.
    """
    # In place: numpy would clip integers by way of float64, in four times the time.
    clipped = hu.astype(np.float32)
    np.clip(clipped, np.float32(window.low_hu), np.float32(window.high_hu), out=clipped)
    clipped -= np.float32(window.center_hu)
    clipped /= np.float32(window.scale_hu)
    return clipped


def normalize_masked(
    hu: NDArray[np.int16], mask: NDArray[np.bool_], window: HUWindow
) -> NDArray[np.float32]:
    """HU inside the mask as `normalize` gives them, the window's low end outside.

    With `window.per_slice`, each slice is first shifted so that its median inside the mask is
    `center_hu`; a slice without mask is all low end.

    Args:
        hu: (Z, Y, X) HU.
        mask: (Z, Y, X), the kidney.
        window: the plan's window.

    Source: paper 3.1 (mask times image; HU normalized in the kidney in each slice). Outside is the
    low end and not 0 HU, which is water and would look like a cyst.
    """
    if window.per_slice:
        hu = _shift_slices(hu, mask, window.center_hu)
    return np.where(mask, normalize(hu, window), np.float32(background_value(window)))


def tumor_view(
    hu: NDArray[np.int16], distance_mm: NDArray[np.float32], plan: TumorPlan
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What the tumor stage sees of the CT, and the mask inside which it looks for tumors.

    Args:
        hu: (Z, Y, X) HU.
        distance_mm: (Z, Y, X) to the kidney mask's border, negative inside.
        plan: the tumor stage's plan.

    Returns:
        (Z, Y, X) float32, blank outside the mask where the plan multiplies it in, and the dilated
        mask (Z, Y, X).
    """
    mask = distance_mm <= plan.mask_dilation_mm
    if plan.network.mask_channel:
        return normalize(hu, plan.hu_window), mask
    return normalize_masked(hu, mask, plan.hu_window), mask


def border_channel(distance_mm: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance to the kidney's border as a network input: -1 deep inside, 1 far outside.

    Args:
        distance_mm: any shape, negative inside.
    """
    channel: NDArray[np.float32] = np.clip(distance_mm / np.float32(_BORDER_REACH_MM), -1, 1)
    return channel


def background_value(window: HUWindow) -> float:
    """What a network sees where there is air or no kidney: the window's low end."""
    return (window.low_hu - window.center_hu) / window.scale_hu


def _shift_slices(
    hu: NDArray[np.int16], mask: NDArray[np.bool_], center_hu: float
) -> NDArray[np.int16]:
    shifted = hu.astype(np.int16)
    for z in range(hu.shape[0]):
        inside = hu[z][mask[z]]
        if inside.size:
            shift = round(center_hu - float(np.median(inside)))
            shifted[z] = np.clip(hu[z].astype(np.int32) + shift, -32768, 32767)
    return shifted
