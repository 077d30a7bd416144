"""Batches through a network, smaller ones where a GPU's memory does not suffice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kitspipe import console


def forward_in_parts(forward: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """What a network makes of a batch, in halves and their halves where memory is out.

    Args:
        forward: of the network; samples don't depend on each other.
        batch: (N, ...).

    Returns:
        (N, ...).

    Raises:
        torch.OutOfMemoryError: a single sample is too large.
    """
    try:
        return forward(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Only here, behind the handler: its exception holds what has to go.
    torch.cuda.empty_cache()
    half = (len(batch) + 1) // 2
    console.warning(f"out of GPU memory: batches of {half} instead of {len(batch)}")
    return torch.cat([forward_in_parts(forward, part) for part in (batch[:half], batch[half:])])
