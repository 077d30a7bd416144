"""Where networks run."""

from __future__ import annotations

import torch

from kitspipe.errors import UserError


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
