"""Building blocks: convolutions, residual block, squeeze-and-excitation, attention gate, HDC.

Shapes: N batch, C channels, then (Z, Y, X) or (Y, X).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from kitspipe.planning.plan import Activation, Norm

Dimensions = Literal[2, 3]

_LEAKY_SLOPE = 0.01
_SE_RATIO, _SE_FLOOR = 16, 4
_HDC_RATES = (2, 3, 5)


class Conv3d(nn.Conv3d):
    """Torch's, but in training on a CPU, maps of two slices are convolved in float32.

    There oneDNN reads beyond the maps for the weights' gradient of a kernel of three slices in
    bfloat16, which makes it wrong and now and then infinite (seen with torch 2.13, AVX512-bf16).
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, Z, Y, X) to (N, D, ...)."""
        in_bfloat16 = input.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not (in_bfloat16 and input.shape[2] == 2 and torch.is_grad_enabled()):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())


_CONVOLUTIONS: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: Conv3d}
_TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORMS: dict[tuple[Norm, int], type[nn.Module]] = {
    ("instance", 2): nn.InstanceNorm2d,
    ("instance", 3): nn.InstanceNorm3d,
    ("batch", 2): nn.BatchNorm2d,
    ("batch", 3): nn.BatchNorm3d,
}


class Convolutions:
    """Makes convolutions of one kind: each followed by norm and activation.

    Args:
        dimensions: 2 or 3.
        norm: with learned scale and shift, or "none".
        activation: PReLU with a slope per channel, or leaky ReLU.
    """

    def __init__(self, dimensions: Dimensions, norm: Norm, activation: Activation) -> None:
        self._dimensions = dimensions
        self._norm = norm
        self._activation = activation

    def same(self, inputs: int, outputs: int, kernel: int, *, dilation: int = 1) -> nn.Sequential:
        """(N, inputs, ...) to (N, outputs, ...) of the same size; `kernel` is odd."""
        padding = dilation * (kernel // 2)
        convolution = _CONVOLUTIONS[self._dimensions](
            inputs, outputs, kernel, padding=padding, dilation=dilation, bias=self._has_bias
        )
        return self._finished(convolution, outputs)

    def series(self, inputs: int, outputs: int, kernel: int, count: int) -> nn.Sequential:
        """`count` convolutions one after the other, size kept."""
        widths = [inputs] + [outputs] * count
        return nn.Sequential(*(self.same(widths[i], outputs, kernel) for i in range(count)))

    def down(self, inputs: int, outputs: int, stride: int | Sequence[int]) -> nn.Sequential:
        """(N, inputs, ...) to (N, outputs, ... / stride), a kernel of the stride's size."""
        convolution = _CONVOLUTIONS[self._dimensions](
            inputs, outputs, stride, stride=stride, bias=self._has_bias
        )
        return self._finished(convolution, outputs)

    def up(self, inputs: int, outputs: int, stride: int | Sequence[int]) -> nn.Sequential:
        """(N, inputs, ...) to (N, outputs, ... * stride), a kernel of the stride's size."""
        convolution = _TRANSPOSED[self._dimensions](
            inputs, outputs, stride, stride=stride, bias=self._has_bias
        )
        return self._finished(convolution, outputs)

    def activation(self, channels: int) -> nn.Module:
        """The activation alone."""
        if self._activation == "prelu":
            return nn.PReLU(channels)
        return nn.LeakyReLU(_LEAKY_SLOPE, inplace=True)

    @property
    def _has_bias(self) -> bool:
        # A norm takes a bias away again; its own shift stands in.
        return self._norm == "none"

    def _finished(self, convolution: nn.Module, channels: int) -> nn.Sequential:
        layers = [convolution]
        if self._norm != "none":
            layers.append(_NORMS[self._norm, self._dimensions](channels, affine=True))
        layers.append(self.activation(channels))
        return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """A level of VNet: convolutions, what came in added, activation (PReLU in VNet).

    What comes in is projected by a 1x1 convolution where channels differ: only at the input,
    which the paper of VNet replicates (16 channels are no multiple of 5 slices).

    Source: Milletari et al. 2016, figure 2.
    """

    def __init__(
        self, inputs: int, channels: int, *, kernel: int, count: int, make: Convolutions
    ) -> None:
        super().__init__()
        self.convolutions = make.series(inputs, channels, kernel, count)
        self.shortcut = (
            nn.Identity() if inputs == channels else nn.Conv2d(inputs, channels, 1, bias=False)
        )
        self.activation = make.activation(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, Y, X) to (N, channels, Y, X)."""
        summed: Tensor = self.activation(self.convolutions(x) + self.shortcut(x))
        return summed


class SqueezeExcitation(nn.Module):
    """Channels weighed by what the whole map shows (paper 3.2, SENet module).

    Source: Hu et al. 2018, x * sigmoid(W2 relu(W1 mean(x))), ratio 16; at least 4 hidden
    channels, as 16 / 16 = 1 could only turn all channels up or down together.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(_SE_FLOOR, channels // _SE_RATIO)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Y, X), each channel times its weight in (0, 1)."""
        hidden = torch.relu(self.squeeze(x.mean(dim=(2, 3))))  # (N, max(4, C/16))
        weight = torch.sigmoid(self.excite(hidden))  # (N, C)
        return x * weight[:, :, None, None]


class AttentionGate(nn.Module):
    """A skip weighed per pixel by encoder and decoder together (paper 3.2, attention mechanism).

    Source: Oktay et al. 2018, alpha = sigmoid(psi(relu(Wx x + Wg g + b)) + b_psi), hidden C / 2.
    A linear map of the paper's concatenation [x; g] is Wx x + Wg g.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 2)
        self.of_skip = nn.Conv2d(channels, hidden, 1, bias=False)
        self.of_gate = nn.Conv2d(channels, hidden, 1)
        self.psi = nn.Conv2d(hidden, 1, 1)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """The skip (N, C, Y, X) times alpha (N, 1, Y, X); `gate` is as large as the skip."""
        hidden = torch.relu(self.of_skip(skip) + self.of_gate(gate))  # (N, C/2, Y, X)
        return skip * torch.sigmoid(self.psi(hidden))


class HybridDilation(nn.Module):
    """Three 3x3 convolutions of rates 2, 3, 5, added to what came in (paper 3.2, HDC).

    The rates fill each other's holes: of the reach of 10 only the offsets +-9 are not seen.

    Source: Wang et al. 2018.
    """

    def __init__(self, channels: int, make: Convolutions) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *(make.same(channels, channels, 3, dilation=rate) for rate in _HDC_RATES)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Y, X) to the same shape."""
        summed: Tensor = x + self.convolutions(x)
        return summed
