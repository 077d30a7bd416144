"""All that differs between training kidney and tumor, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kitspipe.networks.losses import KidneyLoss, TumorLoss
from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.networks.vnet25d import VNet25D
from kitspipe.planning.plan import Plan, Schedule
from kitspipe.preprocessing.store import TrainingCase
from kitspipe.preprocessing.targets import TUMOR_CLASS
from kitspipe.training.augmentation import Augment
from kitspipe.training.hard_cases import difficulties
from kitspipe.training.loader import Sampler
from kitspipe.training.patches import Arrays, kidney_patch, tumor_slab
from kitspipe.training.sampling import (
    KidneySampler,
    PatchRequest,
    TumorSampler,
    samples_per_epoch,
)
from kitspipe.workspace import Stage

PredictRegion = Callable[[VNet25D, TrainingCase], NDArray[np.bool_]]
"""Tumor that a network sees in a region, (Z, Y, X) on the region's grid."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PredictedRegions:
    """Regions around kidneys that networks predicted which were not trained on the case.

    Args:
        training: of training cases, by networks of other folds.
        validation: of validation cases, by the same fold's network.
    """

    training: Sequence[TrainingCase] = ()
    validation: Sequence[TrainingCase] = ()


NONE_PREDICTED = PredictedRegions()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HardCases:
    """When and how training cases are weighed anew.

    Args:
        epochs: at whose start it is done.
        weigh: give the sampler the difficulties of its cases for the network as it is.
    """

    epochs: frozenset[int]
    weigh: Callable[[], None]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingTask:
    """What a trainer trains, and on what.

    Args:
        stage: kidney or tumor.
        schedule: how long and how fast.
        seed: the plan's.
        network: with its first weights.
        sampler: of the training cases.
        validation: sampler of the validation cases.
        read: arrays of a request.
        augment: draws for training batches only, but makes all of them.
        loss: (network's output, target, share of the training done) -> scalar.
        foreground: (network's output, target) -> predicted and true foreground, bool tensors.
        hard_cases: None where cases are drawn alike.
    """

    stage: Stage
    schedule: Schedule
    seed: int
    network: nn.Module
    sampler: Sampler
    validation: Sampler
    read: Callable[[TrainingCase, PatchRequest], Arrays]
    augment: Augment
    loss: nn.Module
    foreground: Callable[..., tuple[Tensor, Tensor]]
    hard_cases: HardCases | None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer updates in an epoch."""
        cases = len(self.sampler.cases)
        return samples_per_epoch(self.schedule, cases) // self.schedule.batch_size


def kidney_task(
    plan: Plan, training: Sequence[TrainingCase], validation: Sequence[TrainingCase]
) -> TrainingTask:
    """Stage 1: the whole kidney, from patches of the whole scan."""
    stage = plan.kidney
    torch.manual_seed(plan.seed)
    return TrainingTask(
        stage="kidney",
        schedule=stage.schedule,
        seed=plan.seed,
        network=ResUNet3D(stage.network),
        sampler=KidneySampler(training, stage, plan.seed),
        validation=KidneySampler(validation, stage, plan.seed),
        read=partial(kidney_patch, plan=stage),
        augment=Augment(stage.augmentation),
        loss=KidneyLoss(stage.loss),
        foreground=_kidney_foreground,
        hard_cases=None,
    )


def tumor_task(
    plan: Plan,
    training: Sequence[TrainingCase],
    validation: Sequence[TrainingCase],
    predict_region: PredictRegion,
    predicted: PredictedRegions = NONE_PREDICTED,
) -> TrainingTask:
    """Stage 2: tumors, from slabs of the kidney regions, hard cases more often.

    Args:
        plan: the plan.
        training: regions around reference kidneys.
        validation: the same of the validation cases.
        predict_region: what a network makes of a region.
        predicted: regions of these cases around predicted kidneys, as far as there are any. A
            case's difficulty is then judged on them, as prediction sees them.
    """
    stage = plan.tumor
    torch.manual_seed(plan.seed + 1)
    network = VNet25D(stage.network)
    network.set_prior(stage.loss.prior)
    sampler = TumorSampler(training, stage, plan.seed, predicted.training)
    have_predicted = {region.case_id for region in predicted.training}
    judged = [r for r in training if r.case_id not in have_predicted] + [*predicted.training]

    def weigh() -> None:
        sampler.update(difficulties(judged, partial(predict_region, network)))

    return TrainingTask(
        stage="tumor",
        schedule=stage.schedule,
        seed=plan.seed,
        network=network,
        sampler=sampler,
        validation=TumorSampler(validation, stage, plan.seed, predicted.validation),
        read=partial(tumor_slab, plan=stage),
        augment=Augment(stage.augmentation),
        loss=TumorLoss(stage.loss),
        foreground=_tumor_foreground,
        hard_cases=_hard_cases(plan, weigh),
    )


def _hard_cases(plan: Plan, weigh: Callable[[], None]) -> HardCases | None:
    sampling, epochs = plan.tumor.sampling, plan.tumor.schedule.epochs
    if sampling.hard_case_strength == 0 and sampling.hard_share == 0:
        return None
    first = max(1, round(sampling.hard_case_warmup * epochs))
    every = max(1, round(sampling.hard_case_every * epochs))
    return HardCases(epochs=frozenset(range(first, epochs, every)), weigh=weigh)


def _kidney_foreground(logits: Sequence[Tensor], target: Tensor) -> tuple[Tensor, Tensor]:
    return logits[-1][:, 0] > 0, target > 0


def _tumor_foreground(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return logits[:, 0] > 0, target == TUMOR_CLASS
