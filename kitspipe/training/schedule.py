"""Optimizer and learning rate, from the plan and the share of the training that is done."""

from __future__ import annotations

import math

import torch
from torch import nn

from kitspipe.planning.plan import Schedule

_WARMUP_SHARE = 0.02


def make_optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """The plan's optimizer over all parameters."""
    parameters, rate = network.parameters(), schedule.learning_rate
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, rate, momentum=0.99, nesterov=True, weight_decay=schedule.weight_decay
        )
    kind = torch.optim.AdamW if schedule.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, rate, weight_decay=schedule.weight_decay)


def learning_rate(schedule: Schedule, fraction: float) -> float:
    """Learning rate when `fraction` of the training is done, in [0, 1).

    Source: "steps" is x0.1 at 1/2 and 3/4, as in the lineage of the paper's code; "poly" is
    (1 - fraction)^0.9 as in nnU-Net; "cosine" falls to 0 after a linear start of 2 %.
    """
    if schedule.decay == "steps":
        factor = 0.1 ** ((fraction >= 0.5) + (fraction >= 0.75))
    elif schedule.decay == "poly":
        factor = (1 - fraction) ** 0.9
    else:
        start = min(1.0, (fraction + 1e-3) / _WARMUP_SHARE)
        factor = start * 0.5 * (1 + math.cos(math.pi * fraction))
    return schedule.learning_rate * factor
