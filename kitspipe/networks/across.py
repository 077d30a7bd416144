"""Sums over all processes of a training, so that each sees the whole batch. Alone, they are free.

Every process computes the loss of the whole batch from sums that all have. The gradient of a sum is
again summed over the processes, and `DistributedDataParallel` takes the mean over them: together
that is the gradient of one process with the whole batch.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


def is_alone() -> bool:
    """Whether this process trains by itself."""
    return not (distributed.is_available() and distributed.is_initialized())


def all_sum(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, with its gradient."""
    return values if is_alone() else cast("Tensor", _AllSum.apply(values))  # type: ignore[no-untyped-call]


def mean(values: Tensor) -> Tensor:
    """The mean of all values of all processes, however many each has; a scalar."""
    if is_alone():
        return values.mean()
    total = all_sum(torch.stack([values.sum(), values.new_tensor(values.numel())]))
    return total[0] / total[1]


class SharedBatchNorm(_BatchNorm):
    """Batch normalization by the statistics of all processes' batches together.

    Torch's own `SyncBatchNorm` runs on CUDA only.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) to the same shape."""
        if not self.training:
            return super().forward(x)
        values = x.float()
        over = [0, *range(2, x.ndim)]
        alike = (1, -1, *[1] * (x.ndim - 2))
        count = values.new_tensor([values.numel() / x.shape[1]])
        total = all_sum(torch.cat([values.sum(over), count]))
        n = total[-1].detach()
        average = total[:-1] / n
        centered = values - average.view(alike)
        variance = all_sum(centered.square().sum(over)) / n
        self._remember(average.detach(), variance.detach() * n / (n - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centered * scale.view(alike) + self.bias.view(alike)).to(x.dtype)

    @torch.no_grad()
    def _remember(self, average: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(average, cast("float", self.momentum))
        self.running_var.lerp_(variance, cast("float", self.momentum))

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions."""


def share_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with each batch norm replaced by one over all processes, parameters kept."""
    if device.type == "cuda":
        return cast("nn.Module", nn.SyncBatchNorm.convert_sync_batchnorm(network))  # type: ignore[no-untyped-call]
    for name, module in network.named_children():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            shared = SharedBatchNorm(module.num_features, module.eps, module.momentum)
            shared.weight, shared.bias = module.weight, module.bias
            shared.running_mean, shared.running_var = module.running_mean, module.running_var
            shared.num_batches_tracked = module.num_batches_tracked
            setattr(network, name, shared)
        else:
            share_batch_norm(module, device)
    return network


class _AllSum(torch.autograd.Function):
    """All-reduce forth and back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ANN401
        total = values.detach().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total
