"""The kidney network (paper 2.1).

With 4 levels, strides of 2 and channels C = 16, 32, 64, 128; maps have the target's shape:

    image (1, Z, Y, X)
      encoder 1  C, 1/1 ─────────── skip ─────────── decoder 4  2C, 1/1 ── map 4
        down                                            up
          encoder 2  2C, 1/2 ────── skip ────── decoder 3  4C, 1/2 ── map 3
            down                                   up
              encoder 3  4C, 1/4 ── skip ── decoder 2  8C, 1/4 ── map 2
                down                          up
                  encoder 4  8C, 1/8 ── decoder 1  16C, 1/8 ── map 1

"Inputting the output of the previous layer to the next ... after the necessary sampling": what a
level gets from the level before it, sampled down, up or widened, is added to what it makes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kitspipe.networks.blocks import Convolutions
from kitspipe.planning.plan import ResUNet3DConfig

_KERNEL = 3


class ResUNet3D(nn.Module):
    """A residual U-Net whose every decoder level has a map: deep supervision.

    Args:
        config: levels, channels, strides and the rest, from the plan. A decoder level has twice
            the channels of the encoder level beside it.
    """

    def __init__(self, config: ResUNet3DConfig) -> None:
        super().__init__()
        self.config = config
        make = Convolutions(3, config.norm, config.activation)
        counts, strides = config.convolutions_per_level, config.strides
        fine = config.channels
        wide = [2 * channels for channels in fine]
        inputs, upward = (1, *fine[1:]), range(config.levels - 2, -1, -1)

        self.encoder = nn.ModuleList(
            make.series(inputs[k], fine[k], _KERNEL, counts[k]) for k in range(config.levels)
        )
        self.down = nn.ModuleList(
            make.down(fine[k], fine[k + 1], stride) for k, stride in enumerate(strides)
        )
        self.widen = make.same(fine[-1], wide[-1], _KERNEL)
        self.up = nn.ModuleList(make.up(wide[k + 1], wide[k], strides[k]) for k in upward)
        self.decoder = nn.ModuleList(
            [make.series(fine[-1], wide[-1], _KERNEL, counts[-1])]
            + [Decoder(make.series(wide[k] + fine[k], wide[k], _KERNEL, counts[k])) for k in upward]
        )
        self.maps = nn.ModuleList(nn.Conv3d(channels, 1, 1) for channels in reversed(wide))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Logits of whole kidney of all decoder levels, coarse to fine.

        Args:
            image: (N, 1, Z, Y, X) float, divisible by the product of the strides.

        Returns:
            `levels` tensors (N, 1, Z*rz, Y*ry, X*rx), (rz, ry, rx) the target's refinement.

        Raises:
            ValueError: the strides don't divide the image.
        """
        shape = self._target_shape(image)
        levels = self._decoded(image, self.config.levels)
        return [_at_shape(head(x), shape) for head, x in zip(self.maps, levels, strict=True)]

    def forward_finest(self, image: Tensor) -> Tensor:
        """The last of `forward`'s logits alone, (N, 1, Z*rz, Y*ry, X*rx), for prediction."""
        shape = self._target_shape(image)
        finest = self._decoded(image, self.config.levels)[-1]
        return _at_shape(self.maps[-1](finest), shape)

    def forward_coarse(self, image: Tensor, below: int) -> Tensor:
        """Logits of a coarser decoder level on its own voxels; finer levels are not computed.

        Args:
            image: as for `forward`.
            below: how many levels below the finest, at most down to the first decoder level.

        Returns:
            (N, 1, Z/sz, Y/sy, X/sx), (sz, sy, sx) the product of the strides down to there.
        """
        self._target_shape(image)
        number = max(1, self.config.levels - below)
        coarse: Tensor = self.maps[number - 1](self._decoded(image, number)[-1])
        return coarse

    def _decoded(self, image: Tensor, number: int) -> list[Tensor]:
        """Maps of the first `number` decoder levels, coarse to fine, (N, 2 C_k, Z/s, Y/s, X/s)."""
        x = self.encoder[0](image)
        x = x + image.to(x.dtype)  # (N, C_0, Z, Y, X); under autocast not widened to float32
        skips = [x]
        for down, encoder in zip(self.down, self.encoder[1:], strict=True):
            x = down(x)  # (N, C_k, Z/s_k, Y/s_k, X/s_k)
            x = self.dropout(encoder(x) + x)
            skips.append(x)
        x = skips.pop()
        x = self.dropout(self.decoder[0](x) + self.widen(x))  # (N, 2 C_L, Z/s_L, Y/s_L, X/s_L)
        levels = [x]
        for up, decoder in zip(self.up[: number - 1], self.decoder[1:number], strict=True):
            x = up(x)  # (N, 2 C_k, Z/s_k, Y/s_k, X/s_k)
            x = decoder(x, skips.pop())
            # No dropout at full resolution, as in the lineage's code.
            x = self.dropout(x) if skips else x
            levels.append(x)
        return levels

    def _target_shape(self, image: Tensor) -> tuple[int, ...]:
        divisor = self.config.divisor
        if any(size % by for size, by in zip(image.shape[2:], divisor, strict=True)):
            raise ValueError(
                f"image of shape {tuple(image.shape[2:])} is not divisible by the product of the "
                f"strides {divisor}"
            )
        refinement = self.config.target_refinement
        return tuple(size * r for size, r in zip(image.shape[2:], refinement, strict=True))


class Decoder(nn.ModuleList):
    """A decoder level: what comes from below and the skip, convolved, what came added."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, 2 C, Z, Y, X) and the skip (N, C, Z, Y, X) to the shape of the first."""
        joined = torch.cat((x, skip), dim=1)
        for layers in self:
            joined = layers(joined)
        return joined + x


def _at_shape(logits: Tensor, shape: Sequence[int]) -> Tensor:
    """(N, 1, ...) upsampled to (N, 1, *shape), linear along each axis.

    As `F.interpolate` does it, whose backward pass takes five to ten times as long on a CPU.
    """
    for axis, length in enumerate(shape, start=2):
        if logits.shape[axis] != length:
            weights = _linear_weights(logits.shape[axis], length, logits)
            logits = torch.tensordot(logits, weights, dims=([axis], [0])).movedim(-1, axis)
    return logits


def _linear_weights(length: int, wanted: int, like: Tensor) -> Tensor:
    """(length, wanted): column j holds the weights of all voxels in the j-th upsampled one."""
    single = torch.eye(length, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(single, wanted, mode="linear", align_corners=False)[0]
