"""A network that learns: one batch in, its weights a step further."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kitspipe.networks.across import share_batch_norm
from kitspipe.networks.device import autocast, memory_format, put_on
from kitspipe.training.distributed import ALONE, Process
from kitspipe.training.loader import Batch
from kitspipe.training.schedule import learning_rate, make_optimizer
from kitspipe.training.settings import Settings
from kitspipe.training.stages import TrainingTask


class NotFiniteError(ArithmeticError):
    """The loss or the gradients are NaN or infinite; the weights are as they were."""


class Learner:
    """A task's network with its optimizer on a device, one of as many as there are processes.

    Args:
        task: whose network learns.
        device: where.
        settings: precision, and whether torch compiles.
        process: this one of those that train together.
    """

    def __init__(
        self, task: TrainingTask, device: torch.device, settings: Settings, process: Process = ALONE
    ) -> None:
        self.network = put_on(task.network, device)
        if process.count > 1:
            self.network = share_batch_norm(self.network, device)
        self.optimizer = make_optimizer(self.network, task.schedule)
        self._task, self._device, self._rank = task, device, process.rank
        self._precision = settings.precision or "auto"
        self._model: nn.Module = self.network
        if settings.compiled:
            self._model = torch.compile(self.network)  # type: ignore[assignment]
        if process.count > 1:
            # Said of kernels of one voxel, whose strides mean nothing.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
            self._model = DistributedDataParallel(self._model, gradient_as_bucket_view=True)

    @property
    def learning_rate(self) -> float:
        """Of the last update."""
        return float(self.optimizer.param_groups[0]["lr"])

    def update(self, batch: Batch, share_done: float, epoch: int, step: int) -> float:
        """One update of the weights; the loss.

        Args:
            batch: this process's share of a batch.
            share_done: of the whole training, which decides the learning rate.
            epoch: with `step` the key of what dropout draws.
            step: of the epoch.

        Raises:
            NotFiniteError: the loss or a gradient is not finite.
        """
        schedule = self._task.schedule
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(schedule, share_done)
        # Keyed, as everything random: what dropout draws depends on no state that could get lost.
        key = np.random.SeedSequence([self._task.seed, epoch, step, self._rank])
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0]))
        image, target = self._to_device(batch)
        with autocast(self._device, self._precision):
            output = self._model(image)
        loss = self._task.loss(output, target, share_done)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        limit = schedule.gradient_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NotFiniteError(f"the loss became {value}")
        if not math.isfinite(float(norm)):
            raise NotFiniteError(f"the gradients' norm became {float(norm)}")
        self.optimizer.step()
        return value

    @torch.inference_mode()
    def foreground(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predicted and true foreground of a batch, bool; the network is in evaluation mode."""
        image, target = self._to_device(batch)
        with autocast(self._device, self._precision):
            output = self.network(image)
        return self._task.foreground(output, target)

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        layout = memory_format(self.network)
        return (
            # To the device in halves and widened there.
            torch.from_numpy(batch.image)
            .to(self._device, non_blocking=True)
            .to(torch.float32, memory_format=layout),
            torch.from_numpy(batch.target).to(self._device, non_blocking=True),
        )
