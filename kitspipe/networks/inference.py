"""Trained networks made ready for prediction: the same results, in less time and memory.

On a CPU, torch sends some 3D convolutions to slow kernels, copies channels-last maps around each
instance norm, and keeps batch norms that could be part of a convolution. Here each such layer is
replaced by one that calls the right kernel; weights stay as they are.

Shapes: N batch, C channels, then (Z, Y, X) or (Y, X).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kitspipe.networks.device import N, put_on

Statistics = dict[nn.Module, tuple[Tensor, Tensor]]
"""Norm -> mean and 1 / sd of each channel, (C,) each."""


def for_prediction(network: N, device: torch.device) -> N:
    """The network on a device, in evaluation mode, its layers replaced where that is faster.

    The network itself is changed and given back; it can't be trained any more.
    """
    put_on(network, device).eval()
    _fold_batch_norms(network)
    if device.type == "cpu":
        _replace(network)
    return network


@contextmanager
def recorded(network: nn.Module) -> Iterator[Statistics]:
    """What the instance norms of a network made by `for_prediction` see, while this is open."""
    statistics: Statistics = {}
    norms = _norms(network)
    for norm in norms:
        norm.recorded = statistics
    try:
        yield statistics
    finally:
        for norm in norms:
            norm.recorded = None


@contextmanager
def fixed(network: nn.Module, statistics: Statistics) -> Iterator[None]:
    """Let instance norms use recorded statistics, not those of what they see.

    A network is then the same function everywhere: of a part it makes what it makes of the whole,
    but for the part's border. Norms without record keep their own.
    """
    norms = _norms(network)
    for norm in norms:
        norm.fixed = statistics.get(norm)
    try:
        yield
    finally:
        for norm in norms:
            norm.fixed = None


class _InstanceNorm(nn.Module):
    """Instance norm of single samples: a batch norm over one sample, which needs no copies."""

    def __init__(self, norm: nn.InstanceNorm3d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.recorded: Statistics | None = None
        self.fixed: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Z, Y, X), each sample and channel by itself."""
        if self.fixed is not None and not torch.is_grad_enabled():
            mean, inverse_sd = self.fixed
            scale = self.weight * inverse_sd
            shift = self.bias - mean * scale
            shape = (1, -1, 1, 1, 1)
            return x.mul_(scale.view(shape).to(x.dtype)).add_(shift.view(shape).to(x.dtype))
        return (
            torch.cat([self._of_one(sample[None]) for sample in x])
            if len(x) > 1
            else (self._of_one(x))
        )

    def _of_one(self, x: Tensor) -> Tensor:
        normed, mean, inverse_sd = torch.native_batch_norm(
            x, self.weight, self.bias, None, None, True, 0.0, self.eps
        )
        if self.recorded is not None:
            self.recorded[self] = (mean, inverse_sd)
        return normed


class _Convolution(nn.Module):
    """A 3D convolution by oneDNN, which torch does not ask for small maps.

    Source: torch's Convolution.cpp leaves maps of N C Z Y <= 20480 to its own `slow_conv3d`.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Z, Y, X) to (N, D, ...)."""
        conv = self.convolution
        if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            plain: Tensor = conv(x)
            return plain
        if conv.kernel_size == (1, 1, 1):
            # (N, Z, Y, X, C) is how channels-last maps lie in memory.
            mixed = F.linear(x.permute(0, 2, 3, 4, 1), conv.weight[:, :, 0, 0, 0], conv.bias)
            return mixed.permute(0, 4, 1, 2, 3)
        if isinstance(conv.padding, str):
            raise TypeError(f"padding {conv.padding!r} is not a number of voxels")
        made: Tensor = torch.mkldnn_convolution(
            x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups
        )
        return made


def _norms(network: nn.Module) -> list[_InstanceNorm]:
    return [module for module in network.modules() if isinstance(module, _InstanceNorm)]


def _replace(module: nn.Module) -> None:
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    for name, child in module.named_children():
        if type(child) is nn.Conv3d and has_onednn:
            setattr(module, name, _Convolution(child))
        elif type(child) is nn.InstanceNorm3d:
            setattr(module, name, _InstanceNorm(child))
        else:
            _replace(child)


def _fold_batch_norms(network: nn.Module) -> None:
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for k in range(len(module) - 1):
            first, second = module[k], module[k + 1]
            if not isinstance(second, nn.BatchNorm2d | nn.BatchNorm3d):
                continue
            is_up = isinstance(first, nn.ConvTranspose2d | nn.ConvTranspose3d)
            module[k] = fuse_conv_bn_eval(first, second, transpose=is_up)  # type: ignore[type-var]
            module[k + 1] = nn.Identity()
