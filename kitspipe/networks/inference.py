"""Trained networks made ready for prediction: the same results, in less time and memory.

On a CPU, torch sends some 3D convolutions to slow kernels, copies channels-last maps around each
instance norm, and keeps batch norms that could be part of a convolution. Here each such layer is
replaced by one that calls the right kernel; weights stay as they are.

Shapes: N batch, C channels, then (Z, Y, X) or (Y, X).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kitspipe.networks.device import N, put_on
from kitspipe.networks.resunet3d import Decoder

_SLAB = 8


def for_prediction(network: N, device: torch.device) -> N:
    """The network on a device, in evaluation mode, its layers replaced where that is faster.

    The network itself is changed and given back; it can't be trained any more. One that was made
    ready for a GPU can be made ready for the CPU afterwards.
    """
    put_on(network, device).eval()
    _fold_batch_norms(network)
    if device.type == "cpu":
        _replace(network)
    return network


class _InstanceNorm(nn.Module):
    """Instance norm that writes over what comes in: the batch norm of each sample by itself.

    Torch's own reads channels-last maps in another order, and so copies them.
    """

    def __init__(self, norm: nn.InstanceNorm3d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Z, Y, X), each sample and channel by itself."""
        nothing, unused = torch.zeros_like(self.weight), torch.empty(0)
        for sample in torch.split(x, 1):
            # Torch sums up in float32 one after the other: over a whole window, that is 0.1 % off.
            slabs = torch.split(sample, _SLAB, dim=2)
            found = [torch.batch_norm_update_stats(slab, nothing, nothing, 0.0) for slab in slabs]
            means, variances = (torch.stack(each).double() for each in zip(*found, strict=True))
            share = torch.tensor([slab.shape[2] / x.shape[2] for slab in slabs]).double()
            mean = share @ means
            variance = share @ (variances + (means - mean).square())
            torch.ops.aten.native_batch_norm.out(
                sample,
                self.weight,
                self.bias,
                mean.float(),
                variance.float(),
                training=False,
                momentum=0.0,
                eps=self.eps,
                out=sample,
                save_mean=unused,
                save_invstd=unused,
            )
        return x


class _Convolution(nn.Module):
    """A 3D convolution by oneDNN, which torch does not ask for small maps.

    Source: torch's Convolution.cpp leaves maps of N C Z Y <= 20480 to its own `slow_conv3d`.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor, z_padding: int | None = None) -> Tensor:
        """(N, C, Z, Y, X) to (N, D, ...); `z_padding` stands in for the convolution's own."""
        conv = self.convolution
        padding = list(map(int, conv.padding))
        padding[0] = padding[0] if z_padding is None else z_padding
        if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            plain: Tensor = F.conv3d(
                x, conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups
            )
            return plain
        if conv.kernel_size == (1, 1, 1):
            # (N, Z, Y, X, C) is how channels-last maps lie in memory.
            mixed = F.linear(x.permute(0, 2, 3, 4, 1), conv.weight[:, :, 0, 0, 0], conv.bias)
            return mixed.permute(0, 4, 1, 2, 3)
        made: Tensor = torch.mkldnn_convolution(
            x, conv.weight, conv.bias, padding, conv.stride, conv.dilation, conv.groups
        )
        return made


class _SlabDecoder(nn.Module):
    """A decoder level that never joins whole maps, and writes convolutions over their input.

    Of a window of 64 x 256 x 256 the finest level takes 1.3 GiB instead of 2.7.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(layers[0] for layers in decoder)  # type: ignore[index]
        self.finishes = nn.ModuleList(layers[1:] for layers in decoder)  # type: ignore[index]

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, 2 C, Z, Y, X) and (N, C, Z, Y, X) to the shape of the first."""
        made = torch.empty_like(x, memory_format=torch.channels_last_3d)
        inputs: tuple[Tensor, ...] = (x, skip)
        for convolution, finish in zip(self.convolutions, self.finishes, strict=True):
            _in_slabs(convolution, inputs, made)
            made = finish(made)
            inputs = (made,)
        return made.add_(x)


def _in_slabs(convolution: nn.Module, inputs: tuple[Tensor, ...], into: Tensor) -> None:
    """A convolution of kernel 3 over joined maps, some slices at a time; may be in place."""
    depth = into.shape[2]
    samples, _, _, height, width = into.shape
    widths = [part.shape[1] for part in inputs]
    # A slice of the slab before, a slab, a slice of the next one; zeros beyond both ends.
    joined = into.new_zeros((samples, sum(widths), _SLAB + 2, height, width))
    joined = joined.contiguous(memory_format=torch.channels_last_3d)
    for first in range(0, depth, _SLAB):
        last = min(first + _SLAB, depth)
        end = min(last + 1, depth)
        if first:
            joined[:, :, 0] = joined[:, :, _SLAB]
        for part, place in zip(inputs, torch.split(joined, widths, dim=1), strict=True):
            place[:, :, 1 : 1 + end - first] = part[:, :, first:end]
        joined[:, :, 1 + end - first :] = 0
        into[:, :, first:last] = convolution(joined[:, :, : last - first + 2], z_padding=0)


def _replace(module: nn.Module) -> None:
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    for name, child in module.named_children():
        if isinstance(child, nn.Conv3d) and has_onednn:
            setattr(module, name, _Convolution(child))
        elif type(child) is nn.InstanceNorm3d:
            setattr(module, name, _InstanceNorm(child))
        elif not isinstance(child, _Convolution):
            _replace(child)
            if isinstance(child, Decoder) and _is_plain(child):
                setattr(module, name, _SlabDecoder(child))


def _is_plain(decoder: Decoder) -> bool:
    """Whether its convolutions are oneDNN's and of float32, which is what slabs are made for."""
    return all(isinstance(layers[0], _Convolution) for layers in decoder)  # type: ignore[index]


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
