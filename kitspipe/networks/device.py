"""Where networks run."""

from __future__ import annotations

import functools
import os
import platform
import resource
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from kitspipe.errors import UserError

N = TypeVar("N", bound=nn.Module)

Precision = Literal["auto", "float32", "bfloat16"]

_KINDS = ("cpu", "cuda", "mps")


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    # Torch knows more kinds: "meta" has no values, others fail only once they are used.
    if name.partition(":")[0] not in _KINDS:
        raise _no_device(name, f"none of {', '.join(_KINDS)}")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise _no_device(name, str(error).splitlines()[0]) from None
    return device


def put_on(network: N, device: torch.device) -> N:
    """The network on a device, channels last: 1.3 to 4 times faster convolutions."""
    network.to(device).to(memory_format=memory_format(network))  # type: ignore[call-overload]
    return network


def memory_format(network: nn.Module) -> torch.memory_format:
    """Channels last, for the dimensions that the network works in."""
    is_3d = any(isinstance(module, nn.Conv3d) for module in network.modules())
    return torch.channels_last_3d if is_3d else torch.channels_last


def autocast(device: torch.device, precision: Precision = "auto") -> torch.autocast:
    """What networks compute in on a device: bfloat16 where that is faster, else float32.

    Faster it is on CUDA from Ampere on, on CPUs with tiles for it (AMX), and with AVX512's bfloat16
    on AMD's (Zen 4: a window takes half the time). On a Xeon AVX512's alone is slower than float32
    (a convolution of 48 to 32 channels took 1.6 times as long, a training step 1.1 to 1.7 times).

    Args:
        device: where.
        precision: "float32" and "bfloat16" are taken as they are.
    """
    is_on = in_bfloat16(device, precision)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_on)


def in_bfloat16(device: torch.device, precision: Precision = "auto") -> bool:
    """Whether that is what `autocast` makes networks compute in."""
    return precision == "bfloat16" or (precision == "auto" and _bfloat16_is_faster(device))


def _bfloat16_is_faster(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    return _cpu_has("amx_tile") or (_cpu_has("avx512_bf16") and _cpu_vendor() == "AuthenticAMD")


def _cpu_has(feature: str) -> bool:
    """Older torch can't tell of every feature; then it is not used."""
    check = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return check is not None and bool(check())


@functools.cache
def _cpu_vendor() -> str:
    """As the processor says it, where Linux or Windows pass it on; else empty."""
    try:
        said = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        said = platform.processor()
    return next((name for name in ("AuthenticAMD", "GenuineIntel") if name in said), "")


def memory_bytes(device: torch.device) -> int | None:
    """Memory of a device, all of it; None where unknown."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu":
        return None
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return physical if limit == resource.RLIM_INFINITY else min(physical, limit)


def peak_bytes(device: torch.device) -> int:
    """The most memory that was taken: of tensors on a GPU, of this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _no_device(name: str, why: str) -> UserError:
    return UserError(
        f"--device {name}",
        found=f"no such device: {why}",
        expected="auto, cpu, cuda, cuda:N or mps, as far as this machine has them",
        remedy="leave --device out, and what is there is taken",
    )
