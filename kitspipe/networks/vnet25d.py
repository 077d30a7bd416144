"""The tumor network (paper 3.2): a slab of slices in, logits of its middle slice out.

    slab (N, S, Y, X)
     |-- level 0 ------------------- gate ---- level 0 -- logits (N, K, Y, X)
     |     down, SE                   |          up
     |-1/2-- fuse -- level 1 ------- gate ---- level 1
     |         down, SE               |        up
     |-1/4------ fuse -- level 2 -- dilated 2, 3, 5

Multi-scale: the slab, averaged down, enters every level. SE: squeeze-and-excitation after each
down-sampling. Gate: attention on each skip. The four are switches of the plan.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kitspipe.networks.blocks import (
    AttentionGate,
    HybridDilation,
    ResidualLevel,
    SqueezeExcitation,
    activation_layer,
    norm_layer,
)
from kitspipe.planning.plan import VNet25DConfig

_KERNEL_SIZE = 5


class VNet25D(nn.Module):
    """A 2D V-Net over slabs, slices as channels.

    Args:
        config: slab depth, levels, channels and the four switches, from the plan.
    """

    def __init__(self, config: VNet25DConfig) -> None:
        super().__init__()
        self.config = config
        channels, levels = config.channels, config.levels
        self.encoder = nn.ModuleList(
            _level(config, config.slab_depth if level == 0 else channels[level], level)
            for level in range(levels)
        )
        self.down = nn.ModuleList(_down(config, level) for level in range(1, levels))
        self.scale_inputs = nn.ModuleList(
            _ScaleInput(config.slab_depth, width) for width in channels[1:] if config.multi_scale
        )
        self.excitations = nn.ModuleList(
            SqueezeExcitation(width) for width in channels[1:] if config.squeeze_excitation
        )
        self.bottom = (
            HybridDilation(channels[-1], config.norm) if config.dilated_bottom else nn.Identity()
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(channels[level + 1], channels[level], 2, 2)
            for level in range(levels - 1)
        )
        self.gates = nn.ModuleList(
            AttentionGate(width) for width in channels[:-1] if config.attention_gates
        )
        self.decoder = nn.ModuleList(
            _level(config, 2 * channels[level], level) for level in range(levels - 1)
        )
        self.head = nn.Conv2d(channels[0], config.classes, 1)

    def forward(self, slab: Tensor) -> Tensor:
        """Logits of the middle slice.

        Args:
            slab: (N, S, Y, X) float; Y and X divisible by 2 ** (levels - 1).

        Returns:
            (N, K, Y, X): tumor, then cyst where the plan has it.

        Raises:
            ValueError: another number of slices, or a shape that is not divisible.
        """
        self._check(slab)
        x, skips = self.encoder[0](slab), []  # (N, C0, Y, X)
        for level, down in enumerate(self.down, start=1):
            skips.append(x)
            x = self._enter(down(x), slab, level)  # (N, Ck, Y/2^k, X/2^k)
            x = self.encoder[level](x)
        x = self.bottom(x)
        for level in reversed(range(len(skips))):
            x = self.up[level](x)  # (N, Ck, Y/2^k, X/2^k)
            skip = self.gates[level](skips[level], x) if self.gates else skips[level]
            x = self.decoder[level](torch.cat((skip, x), dim=1))
        logits: Tensor = self.head(x)  # (N, K, Y, X)
        return logits

    def set_prior(self, prior: float) -> None:
        """Let the untrained network say `prior` everywhere.

        Source: focal loss, Lin et al. 2017, 4.1: bias -log((1 - prior) / prior).
        """
        nn.init.constant_(self.head.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]

    def _enter(self, x: Tensor, slab: Tensor, level: int) -> Tensor:
        """What a level sees: the level above, the slab at this scale, channels weighed."""
        if self.scale_inputs:
            x = self.scale_inputs[level - 1](x, F.avg_pool2d(slab, 2**level))
        if self.excitations:
            x = self.excitations[level - 1](x)
        return x

    def _check(self, slab: Tensor) -> None:
        depth, divisor = self.config.slab_depth, self.config.divisor
        if slab.shape[1] != depth or any(size % divisor for size in slab.shape[2:]):
            raise ValueError(
                f"slab {tuple(slab.shape)} is not (N, {depth}, Y, X) with Y and X "
                f"divisible by {divisor}"
            )


class _ScaleInput(nn.Module):
    """The slab at a lower scale beside a level's features, fused to the level's channels."""

    def __init__(self, slab_depth: int, channels: int) -> None:
        super().__init__()
        self.of_slab = nn.Conv2d(slab_depth, channels, 3, padding=1)
        self.fuse = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, features: Tensor, slab: Tensor) -> Tensor:
        fused: Tensor = self.fuse(torch.cat((features, self.of_slab(slab)), dim=1))
        return fused


def _level(config: VNet25DConfig, incoming: int, level: int) -> ResidualLevel:
    return ResidualLevel(
        incoming,
        config.channels[level],
        dimensions=2,
        kernel_size=_KERNEL_SIZE,
        convolutions=config.convolutions_per_level[level],
        norm=config.norm,
        activation="prelu",
    )


def _down(config: VNet25DConfig, level: int) -> nn.Sequential:
    channels = config.channels[level]
    return nn.Sequential(
        nn.Conv2d(config.channels[level - 1], channels, 2, 2),
        norm_layer(config.norm, 2, channels),
        activation_layer("prelu", channels),
    )
