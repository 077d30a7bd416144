"""Losses of both stages (paper 2.1, 3.3), in float32 whatever the network computes in.

Sums and means go over the batches of all processes of a training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kitspipe.networks import across
from kitspipe.planning.plan import KidneyLossConfig, TumorLossConfig
from kitspipe.preprocessing.targets import TUMOR_OF_WHOLE

_SMOOTH = 1.0
"""One voxel: keeps Dice defined on empty targets (the lineage's code has the same)."""

_ROUNDING = 1e-6


class KidneyLoss(nn.Module):
    """mu (L1 + L2 + L3) + L4, Li the Dice loss of map i, the last one the finest (paper 2.1)."""

    def __init__(self, config: KidneyLossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, logits: Sequence[Tensor], target: Tensor, progress: float) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: (N, 1, Z, Y, X) each, coarse to fine, any number of them.
            target: (N, Z, Y, X) uint8 or bool, above 0 is kidney, 2 tumor; may be empty.
            progress: share of the training that is done, in [0, 1).
        """
        g = (target > 0).float()
        weight = self._voxel_weights(target)
        *coarse, finest = (self._map_loss(level[:, 0].float(), g, weight) for level in logits)
        mu = self.mu(progress)
        return torch.stack([*(mu * loss for loss in coarse), finest]).sum()

    def mu(self, progress: float) -> float:
        """Weight of the coarse maps: `mu` times `mu_decay` for each whole `mu_every` done."""
        # 0.3 / 0.1 is 3, but 2.9999999999999996 in floats.
        times = math.floor(progress / self.config.mu_every + _ROUNDING)
        return self.config.mu * self.config.mu_decay**times

    def _voxel_weights(self, target: Tensor) -> Tensor | None:
        """Of each voxel in the cross-entropy: `tumor_weight` in tumors, else 1; None: all 1."""
        if self.config.tumor_weight == 1:
            return None
        return torch.where(target == TUMOR_OF_WHOLE, self.config.tumor_weight, 1.0)

    def _map_loss(self, logits: Tensor, g: Tensor, weight: Tensor | None) -> Tensor:
        """One map's Dice loss, plus cross-entropy where the plan weighs it."""
        loss = self._dice_loss(logits, g)
        if self.config.cross_entropy_weight:
            each = F.binary_cross_entropy_with_logits(logits, g, weight, reduction="none")
            cross_entropy = across.mean(each)
            loss = loss + self.config.cross_entropy_weight * cross_entropy
        return loss

    def _dice_loss(self, logits: Tensor, g: Tensor) -> Tensor:
        """1 - Dice per sample, then the mean.

        Source: Dice is 2 sum(p g) / (sum(p^2) + sum(g^2) + 1) with squared denominator (VNet, the
        lineage's code), else (2 sum(p g) + 1) / (sum(p) + sum(g) + 1).
        """
        p, g = torch.sigmoid(logits).flatten(1), g.flatten(1)
        overlap = 2 * (p * g).sum(1)
        if self.config.squared_denominator:
            return across.mean(1 - overlap / ((p * p).sum(1) + (g * g).sum(1) + _SMOOTH))
        return across.mean(1 - (overlap + _SMOOTH) / (p.sum(1) + g.sum(1) + _SMOOTH))


class TumorLoss(nn.Module):
    """Focal loss plus weighted Dice, mean over the classes (paper 3.3)."""

    def __init__(self, config: TumorLossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, logits: Tensor, target: Tensor, progress: float = 0.0) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: (N, K, Y, X): tumor, then cyst where K is 2.
            target: (N, Y, X) uint8: 0 background, 1 tumor, 2 cyst; may be empty.
            progress: not used; the losses of both stages are called alike.
        """
        config, logits = self.config, logits.float()
        classes = torch.arange(1, logits.shape[1] + 1, device=target.device)
        is_class = target[:, None] == classes[:, None, None]  # (N, K, Y, X)
        return config.focal_weight * self._focal(
            logits, is_class
        ) + config.dice_weight * self._weighted_dice(logits, is_class.float())

    def _focal(self, logits: Tensor, is_class: Tensor) -> Tensor:
        """Mean of -alpha_t (1 - p_t)^gamma log(p_t), from logits.

        Source: Lin et al. 2017, equation 5.
        """
        toward_target = torch.where(is_class, logits, -logits)
        log_p = F.logsigmoid(toward_target)
        # (1 - p)^gamma as an exponential: the power's slope is infinite at 0 for gamma below 1.
        modulation = torch.exp(self.config.gamma * F.logsigmoid(-toward_target))
        alpha = torch.where(is_class, self.config.alpha, 1 - self.config.alpha)
        return -across.mean(alpha * modulation * log_p)

    def _weighted_dice(self, logits: Tensor, g: Tensor) -> Tensor:
        """Dice losses of a class's foreground and background, summed in the plan's weights.

        Over the whole batch: most slices have no tumor and so no Dice of their own.
        """
        foreground = _batch_dice_loss(torch.sigmoid(logits), g)
        background = _batch_dice_loss(torch.sigmoid(-logits), 1 - g)
        config = self.config
        weighted = config.foreground_weight * foreground + config.background_weight * background
        return weighted.mean()


def _batch_dice_loss(p: Tensor, g: Tensor) -> Tensor:
    """1 - (2 sum(p g) + 1) / (sum(p) + sum(g) + 1) of each class over the batch, (K,)."""
    over = (0, 2, 3)
    overlap, both = across.all_sum(torch.stack([(p * g).sum(over), p.sum(over) + g.sum(over)]))
    loss: Tensor = 1 - (2 * overlap + _SMOOTH) / (both + _SMOOTH)
    return loss
