"""What to say where memory ran out: which value of the plan to lower, and to what."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from kitspipe.errors import UserError
from kitspipe.planning.memory import fitting_batch, stage_bytes
from kitspipe.planning.plan import KidneyPlan, TumorPlan
from kitspipe.workspace import Stage

_GIB = 1024**3
_CPU_WORDS = ("can't allocate memory", "not enough memory", "defaultcpuallocator")
_ENOUGH = 0.8
"""Share of what failed that is tried next, and of a device that a training may take."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or here."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        word in str(error).lower() for word in _CPU_WORDS
    )


def out_of_memory(
    stage: Stage, plan: KidneyPlan | TumorPlan, device: torch.device, available: int | None
) -> UserError:
    """One message: what was needed, what there is, what to lower.

    Args:
        stage: kidney or tumor.
        plan: of the stage.
        device: where it ran out.
        available: bytes of the device, None where unknown.
    """
    needed = stage_bytes(plan)
    there = "" if available is None else f", {device} has {available / _GIB:.1f} GiB"
    return UserError(
        f"{stage} stage on {device}",
        found=f"out of memory; a step of this plan takes about {needed / _GIB:.1f} GiB{there}",
        expected="memory for a step; the last checkpoint is kept",
        remedy=f"end other programs that use it, or lower {lower(stage, plan, available)} in the "
        "plan and --restart; or plan anew with a smaller --memory",
    )


def lower(stage: Stage, plan: KidneyPlan | TumorPlan, available: int | None) -> str:
    """Which value of a stage's plan to lower to what, in words.

    The batch first, then the patch's longest axis. What failed is too much even where it was
    estimated to fit.
    """
    batch = plan.schedule.batch_size
    limit = int(_ENOUGH * stage_bytes(plan))
    if available is not None:
        limit = min(limit, int(_ENOUGH * available))
    if batch > 1:
        fits = fitting_batch(lambda n: stage_bytes(plan, batch_size=n), limit, batch - 1)
        return f"{stage}.schedule.batch_size from {batch} to {fits}"
    patch = _smaller_patch(plan, lambda size: stage_bytes(plan, patch_size=size) <= limit)
    return f"{stage}.patch_size from {list(plan.patch_size)} to {patch}"


def _smaller_patch(
    plan: KidneyPlan | TumorPlan, fits: Callable[[tuple[int, ...]], bool]
) -> list[int]:
    divisor = plan.network.divisor
    step = [divisor] * len(plan.patch_size) if isinstance(divisor, int) else list(divisor)
    patch = list(plan.patch_size)
    while not fits(tuple(patch)) and math.prod(patch) > math.prod(step):
        axis = max(range(len(patch)), key=lambda a: patch[a] if patch[a] > step[a] else 0)
        patch[axis] -= step[axis]
    return patch
