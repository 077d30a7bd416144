"""What to do where a device has too little memory for a case."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from kitspipe.networks.inference import for_prediction
from kitspipe.prediction.cascade import Cascade

N = TypeVar("N", bound=nn.Module)

_CPU_ALLOCATOR = "can't allocate memory"


def on_cpu(cascade: Cascade) -> Cascade:
    """The same networks made ready for the CPU, as copies; the GPU's cache is given back."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return replace(
        cascade,
        kidney=[_copied(network, cascade.device) for network in cascade.kidney],
        tumor=[_copied(network, cascade.device) for network in cascade.tumor],
        device=torch.device("cpu"),
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there was not enough memory, on the CPU or a GPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        # Torch has no type of its own for the CPU.
        isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)
    )


def _copied(network: N, device: torch.device) -> N:
    # A copy must not need memory on the device, which has none.
    network.to("cpu")
    try:
        copied = copy.deepcopy(network)
    finally:
        network.to(device)
    return for_prediction(copied, torch.device("cpu"))
