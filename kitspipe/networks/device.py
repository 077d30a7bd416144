"""Where networks run."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from kitspipe.errors import UserError

N = TypeVar("N", bound=nn.Module)


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device {name}",
            found=f"no such device: {str(error).splitlines()[0]}",
            expected="auto, cpu, cuda, cuda:N or mps, as far as this machine has them",
            remedy="leave --device out, and what is there is taken",
        ) from None
    return device


def put_on(network: N, device: torch.device) -> N:
    """The network on a device, channels last: 1.3 to 4 times faster convolutions."""
    network.to(device).to(memory_format=memory_format(network))  # type: ignore[call-overload]
    return network


def memory_format(network: nn.Module) -> torch.memory_format:
    """Channels last, for the dimensions that the network works in."""
    is_3d = any(isinstance(module, nn.Conv3d) for module in network.modules())
    return torch.channels_last_3d if is_3d else torch.channels_last
