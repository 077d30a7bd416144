"""Reads a patch and what its change needs around it, in network units.

Boxes may reach outside; what lies there is background. Arrays are (Z, Y, X) over the box that was
read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitspipe.imaging.volume import Box
from kitspipe.planning.plan import KidneyPlan, TumorPlan
from kitspipe.preprocessing.intensity import border_channel, normalize, tumor_view
from kitspipe.preprocessing.store import TrainingCase
from kitspipe.training.changes import change_of
from kitspipe.training.random_keys import Purpose
from kitspipe.training.sampling import PatchRequest

Arrays = dict[str, Any]

_JITTER_KNOTS = 5


def kidney_patch(case: TrainingCase, request: PatchRequest, plan: KidneyPlan) -> Arrays:
    """Image and target of a patch of the whole scan, over the box that its change needs.

    Returns:
        `data` (1, Z, Y, X) float32, `seg` (Z*rz, Y*ry, X*rx) uint8, `change`, and `mask` as
        `data`, True inside the scan; None where the change does not ask for it.
    """
    change = change_of(request.parameters, request.box, case.grid.shape)
    hu = case.read_image(change.read)
    return {
        "data": normalize(hu, plan.hu_window)[None],
        "seg": case.read_target(change.read),
        "mask": _in_scan(change.read, case)[None] if request.parameters.equalize else None,
        "change": change,
    }


def tumor_slab(case: TrainingCase, request: PatchRequest, plan: TumorPlan) -> Arrays:
    """A slab as the tumor stage sees it, the target of its middle slice, and the mask.

    Slices beyond the region's ends repeat the last one, as in prediction.

    Returns:
        `data` (S, Y, X) float32, with the border channel (S + 1, Y, X), `seg` (Y, X) uint8, `mask`
        as `data`, False in the border channel, all over the box that the change needs, and
        `change`.
    """
    change = change_of(request.parameters, request.box, case.grid.shape)
    wanted, slices = change.read, case.grid.shape[0]
    inside = np.clip(np.arange(wanted.start[0], wanted.stop[0]), 0, slices - 1)
    read = _slices(wanted, inside[0], inside[-1])
    take = inside - inside[0]
    distance_mm = case.read_distance_mm(read)[take] - _wandering(request, wanted.shape)
    image, mask = tumor_view(case.read_image(read)[take], distance_mm, plan)
    if plan.network.mask_channel:
        border = border_channel(distance_mm[len(inside) // 2])[None]
        image = np.concatenate([image, border])
        mask = np.concatenate([mask, np.zeros(border.shape, bool)])
    middle = inside[len(inside) // 2]
    target = case.read_target(_slices(wanted, middle, middle))[0]
    return {"data": image, "seg": target, "mask": mask, "change": change}


def _slices(box: Box, first: int, last: int) -> Box:
    """The box in Y and X, from the first to the last slice."""
    return Box(start=(int(first), *box.start[1:]), stop=(int(last) + 1, *box.stop[1:]))


def _in_scan(box: Box, case: TrainingCase) -> NDArray[np.bool_]:
    inside = np.ones(box.shape, bool)
    for axis, (start, length) in enumerate(zip(box.start, case.grid.shape, strict=True)):
        place = np.arange(start, start + box.shape[axis])
        along = np.expand_dims((place >= 0) & (place < length), [a for a in range(3) if a != axis])
        inside &= along
    return inside


def _wandering(request: PatchRequest, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """A smooth random field (1, Y, X) in mm, up to `mask_jitter_mm` either way."""
    if request.mask_jitter_mm == 0:
        return np.zeros((1, 1, 1), np.float32)
    rng = request.key.stream(Purpose.MASK)
    knots = rng.uniform(-1, 1, (_JITTER_KNOTS, _JITTER_KNOTS)).astype(np.float32)
    field: NDArray[np.float32] = _spread(shape[1]) @ knots @ _spread(shape[2]).T
    wandering: NDArray[np.float32] = field[None] * np.float32(request.mask_jitter_mm)
    return wandering


def _spread(length: int) -> NDArray[np.float32]:
    """(length, knots) weights that interpolate linearly between evenly spread knots."""
    places = np.linspace(0, _JITTER_KNOTS - 1, length, dtype=np.float32)
    weights: NDArray[np.float32] = np.maximum(
        0, 1 - np.abs(places[:, None] - np.arange(_JITTER_KNOTS, dtype=np.float32))
    )
    return weights
