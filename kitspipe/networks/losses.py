"""Losses of both stages (paper 2.1, 3.3), in float32 whatever the network computes in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kitspipe.planning.plan import KidneyLossConfig, TumorLossConfig

_SMOOTH = 1.0


class KidneyLoss(nn.Module):
    """mu (L1 + L2 + L3) + L4, Li the Dice loss of map i, the last one the finest (paper 2.1)."""

    def __init__(self, config: KidneyLossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, logits: Sequence[Tensor], target: Tensor, progress: float) -> Tensor:
        """The loss.

        Args:
            logits: (N, 1, Z, Y, X) each, coarse to fine.
            target: (N, Z, Y, X), 0 or 1.
            progress: share of the training that is done, in [0, 1).
        """
        losses = [self._dice_loss(single, target) for single in logits]
        return self.mu(progress) * sum(losses[:-1], torch.zeros(())) + losses[-1]

    def mu(self, progress: float) -> float:
        """Weight of the coarse maps: `mu` times `mu_decay` for each `mu_every` that is done."""
        # 15/500 / 0.03 must count as one whole step, whatever the rounding.
        steps = math.floor(progress / self.config.mu_every + 1e-6)
        return self.config.mu * self.config.mu_decay**steps

    def _dice_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """1 - 2 sum(pg) / (sum(p^2) + sum(g^2) + 1) per sample, or with plain sums."""
        p = torch.sigmoid(logits.float()).flatten(1)
        g = (target > 0).float().flatten(1)
        overlap = (p * g).sum(1)
        if self.config.squared_denominator:
            return (1 - 2 * overlap / ((p * p).sum(1) + g.sum(1) + _SMOOTH)).mean()
        return (1 - (2 * overlap + _SMOOTH) / (p.sum(1) + g.sum(1) + _SMOOTH)).mean()


class TumorLoss(nn.Module):
    """Focal loss plus weighted Dice, class by class (paper 3.3)."""

    def __init__(self, config: TumorLossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, logits: Tensor, target: Tensor, progress: float = 0.0) -> Tensor:
        """The loss.

        Args:
            logits: (N, K, Y, X): tumor, then cyst.
            target: (N, Y, X) uint8: 0 background, 1 tumor, 2 cyst.
            progress: not used; both stages' losses are called alike.
        """
        config, logits = self.config, logits.float()
        classes = torch.arange(1, logits.shape[1] + 1, device=target.device)
        truth = (target[:, None] == classes[:, None, None]).float()  # (N, K, Y, X)
        loss = logits.new_zeros(())
        if config.focal_weight:
            loss = loss + config.focal_weight * self._focal(logits, truth)
        if config.dice_weight:
            loss = loss + config.dice_weight * self._weighted_dice(logits, truth)
        return loss

    def _focal(self, logits: Tensor, truth: Tensor) -> Tensor:
        """-alpha_t (1 - p_t)^gamma log(p_t), mean over pixels (Lin et al. 2017, eq. 5)."""
        cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        # 1 - p_t, from the logits so that it is exact where p_t is nearly 1.
        missing = torch.sigmoid(torch.where(truth > 0, -logits, logits))
        alpha = torch.where(truth > 0, self.config.alpha, 1 - self.config.alpha)
        return (alpha * missing**self.config.gamma * cross_entropy).mean()

    def _weighted_dice(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Dice loss of foreground and background over the whole batch, in the plan's weights.

        Over the batch, as most slices have no tumor and then no Dice of their own.
        """
        p = torch.sigmoid(logits)
        foreground = _batch_dice_loss(p, truth)
        background = _batch_dice_loss(1 - p, 1 - truth)
        weights = (self.config.foreground_weight, self.config.background_weight)
        return (weights[0] * foreground + weights[1] * background).mean() / sum(weights)


def _batch_dice_loss(p: Tensor, g: Tensor) -> Tensor:
    """1 - Dice of each class over the batch, (K,)."""
    over = (0, 2, 3)
    return 1 - (2 * (p * g).sum(over) + _SMOOTH) / (p.sum(over) + g.sum(over) + _SMOOTH)
