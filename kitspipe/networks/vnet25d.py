"""The tumor network (paper 3.2): a slab of slices in, logits of its middle slice out.

With 4 levels; each level adds what came in to what it makes (VNet):

    slab (S, Y, X) ── encoder 1  C_0, 1/1 ──── gate ──── decoder 3  2 C_0, 1/1 ── logits (K, Y, X)
        │               down                    │           up
        ├ 1/2 ─── fuse, SE, encoder 2  C_1 ─── gate ─── decoder 2  2 C_1
        │               down                    │           up
        ├ 1/4 ─── fuse, SE, encoder 3  C_2 ─── gate ─── decoder 1  2 C_2
        │               down                              up
        └ 1/8 ─── fuse, SE, encoder 4  C_3 ─── dilated 2, 3, 5

Multi-scale: the slab, averaged down, is fused into every level. SE: channels weighed after each
down-sampling. Gate: attention on each skip. HDC: dilated bottom. Each is a switch of the plan.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kitspipe.networks.blocks import (
    AttentionGate,
    Convolutions,
    HybridDilation,
    ResidualBlock,
    SqueezeExcitation,
)
from kitspipe.planning.plan import VNet25DConfig


class VNet25D(nn.Module):
    """A 2D V-Net over slabs, slices as channels.

    Args:
        config: slab depth, levels, channels and the four switches, from the plan. A decoder level
            has twice the channels of the encoder level beside it: upsampled and skip together.
    """

    def __init__(self, config: VNet25DConfig) -> None:
        super().__init__()
        self.config = config
        make = Convolutions(2, config.norm, config.activation)
        widths, counts = config.channels, config.convolutions_per_level
        kernel = config.kernel_size
        inputs = (config.inputs, *widths[1:])
        bottom = len(widths) - 1

        self.encoder = nn.ModuleList(
            ResidualBlock(inputs[k], widths[k], kernel=kernel, count=counts[k], make=make)
            for k in range(config.levels)
        )
        self.down = nn.ModuleList(make.down(widths[k], widths[k + 1], 2) for k in range(bottom))
        self.arrive = nn.ModuleList(_Arrival(config, width, make) for width in widths[1:])
        self.bottom = HybridDilation(widths[-1], make) if config.dilated_bottom else nn.Identity()
        self.up = nn.ModuleList()
        self.gates = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for k in reversed(range(bottom)):
            below = widths[-1] if k == bottom - 1 else 2 * widths[k + 1]
            self.up.append(make.up(below, widths[k], 2))
            if config.attention_gates:
                self.gates.append(AttentionGate(widths[k]))
            self.decoder.append(
                ResidualBlock(
                    2 * widths[k], 2 * widths[k], kernel=kernel, count=counts[k], make=make
                )
            )
        self.head = nn.Conv2d(2 * widths[0], config.classes, 1)

    def forward(self, slab: Tensor) -> Tensor:
        """Logits of the middle slice.

        Args:
            slab: (N, S, Y, X) float, the mask channel last where the plan has it; Y and X divisible
                by 2 ** (levels - 1).

        Returns:
            (N, K, Y, X): tumor, then cyst where the plan has it.

        Raises:
            ValueError: another number of slices, or a shape that is not divisible.
        """
        self._check(slab)
        x = self.encoder[0](slab)  # (N, C_0, Y, X)
        skips = [x]
        for k, down in enumerate(self.down):
            slab = F.avg_pool2d(slab, 2)  # (N, S, Y/2^k, X/2^k)
            x = self.arrive[k](down(x), slab)  # (N, C_k, Y/2^k, X/2^k)
            x = self.encoder[k + 1](x)
            skips.append(x)
        x = self.bottom(skips.pop())  # (N, C_L, Y/2^L, X/2^L)
        for k, up in enumerate(self.up):
            x, skip = up(x), skips.pop()  # (N, C_k, Y/2^k, X/2^k) each
            skip = self.gates[k](skip, x) if self.config.attention_gates else skip
            x = self.decoder[k](torch.cat((x, skip), dim=1))  # (N, 2 C_k, Y/2^k, X/2^k)
        logits: Tensor = self.head(x)  # (N, K, Y, X)
        return logits

    def set_prior(self, prior: float) -> None:
        """Let the untrained network say about `prior` everywhere.

        Source: Lin et al. 2017 (focal loss), 4.1: last bias -log((1 - prior) / prior).
        """
        nn.init.constant_(self.head.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]

    def _check(self, slab: Tensor) -> None:
        depth, divisor = self.config.inputs, self.config.divisor
        if slab.shape[1] != depth or any(size % divisor for size in slab.shape[2:]):
            raise ValueError(
                f"slab of shape {tuple(slab.shape)} is not (N, {depth}, Y, X) with Y and X "
                f"divisible by {divisor}"
            )


class _Arrival(nn.Module):
    """What a level sees: features from above, the slab at its scale, channels weighed."""

    def __init__(self, config: VNet25DConfig, channels: int, make: Convolutions) -> None:
        super().__init__()
        self.of_slab = make.same(config.inputs, channels, 3) if config.multi_scale else None
        self.fuse = make.same(2 * channels, channels, 1) if config.multi_scale else None
        self.excitation = SqueezeExcitation(channels) if config.squeeze_excitation else None

    def forward(self, features: Tensor, slab: Tensor) -> Tensor:
        """(N, C, Y, X) and (N, S, Y, X) to (N, C, Y, X)."""
        if self.of_slab is not None and self.fuse is not None:
            features = self.fuse(torch.cat((features, self.of_slab(slab)), dim=1))
        return features if self.excitation is None else self.excitation(features)
