"""The loop; stop and resume."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kitspipe import console
from kitspipe.errors import UserError
from kitspipe.networks.device import memory_format, put_on
from kitspipe.networks.weights import Checkpoint, load_checkpoint, save_checkpoint, save_weights
from kitspipe.planning.plan import Schedule
from kitspipe.training.loader import Batch, PatchReader, batches
from kitspipe.training.log import FoldLog
from kitspipe.training.picture import Example, draw_progress
from kitspipe.training.stages import TrainingTask

LAST, BEST, FINAL = "last.safetensors", "best.safetensors", "final.safetensors"

_EMA = 0.9
_VALIDATION_STEPS = 8
_WARMUP_SHARE = 0.02
_CHECKPOINT_EVERY_S = 600.0
_PICTURE_EVERY_S = 30.0


class StopSignal:
    """Whether SIGTERM or Ctrl-C came."""

    def __init__(self) -> None:
        self.came = False

    @contextmanager
    def watched(self) -> Iterator[StopSignal]:
        """Within, both signals ask for a stop; outside, they do what they did before."""

        def ask(number: int, frame: FrameType | None) -> None:
            self.came = True

        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass(slots=True)
class Progress:
    """Where a training stands; all of it is in the checkpoint."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    dice_ema: float | None = None
    best_ema: float | None = None


class Trainer:
    """Trains one fold of a stage; made anew over the same folder, it goes on where that stopped."""

    def __init__(
        self,
        task: TrainingTask,
        folder: Path,
        *,
        plan_sha256: str,
        device: torch.device,
        workers: int,
    ) -> None:
        self.task = task
        self.folder = folder
        self.device = device
        self._plan_sha256 = plan_sha256
        self._workers = workers
        self.network = put_on(task.network, device)
        self._optimizer = make_optimizer(self.network, task.schedule)
        self._log = FoldLog(folder / "log.jsonl")
        self.progress = Progress()
        self._example: Example | None = None
        self._saved_at = time.monotonic()
        self._drawn_at = -math.inf
        self._restore()

    def run(self, stop: StopSignal) -> bool:
        """Train to the end of the schedule, or until a stop is asked for.

        Returns:
            Whether the training is complete; its weights then lie in `final.safetensors`.

        Raises:
            UserError: the loss is not finite, or a loading process died; the checkpoint is kept.
            WorkerError: a loading process raised.
        """
        epochs = self.task.schedule.epochs
        label = f"{self.task.stage} {self.folder.name}"
        total = epochs * self.task.steps_per_epoch
        done = self.progress.epoch * self.task.steps_per_epoch + self.progress.step
        with console.Progress(total, label, "step", done) as shown:
            while self.progress.epoch < epochs:
                started = time.monotonic()
                self._weigh_cases()
                self._train_epoch(shown, stop)
                if stop.came:
                    self._save(LAST)
                    return False
                self._finish_epoch(time.monotonic() - started)
        save_weights(
            self.folder / FINAL, self.network, plan_sha256=self._plan_sha256, stage=self.task.stage
        )
        return True

    def _train_epoch(self, shown: console.Progress, stop: StopSignal) -> None:
        self.network.train()
        progress = self.progress
        for batch in self._batches(progress.epoch, training=True):
            fraction = (
                progress.epoch + progress.step / self.task.steps_per_epoch
            ) / self.task.schedule.epochs
            loss = self._step(batch, fraction)
            progress.loss_sum += loss
            progress.step += 1
            shown.advance(f"epoch {progress.epoch + 1}, loss {loss:.3f}{self._dice_note()}")
            if time.monotonic() - self._saved_at > _CHECKPOINT_EVERY_S:
                self._save(LAST)
            if stop.came:
                return

    def _step(self, batch: Batch, fraction: float) -> float:
        schedule = self.task.schedule
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(schedule, fraction)
        image, target = self._to_device(batch)
        with self._autocast():
            output = self.network(image)
        loss = self.task.loss(output, target, self.progress.epoch / schedule.epochs)
        if not torch.isfinite(loss):
            raise self._not_finite(batch, float(loss.detach()))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if schedule.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), schedule.gradient_clip)
        self._optimizer.step()
        return float(loss.detach())

    @torch.inference_mode()
    def _validation_dice(self) -> float:
        """Dice of all foreground voxels of the same few validation patches, every epoch."""
        self.network.eval()
        overlap = total = 0
        for batch in self._batches(0, training=False):
            image, target = self._to_device(batch)
            with self._autocast():
                output = self.network(image)
            predicted, true = self.task.foreground(output, target)
            overlap += 2 * int((predicted & true).sum())
            total += int(predicted.sum()) + int(true.sum())
            self._example = _example_of(batch, predicted, true)
        return overlap / total if total else math.nan

    def _finish_epoch(self, seconds: float) -> None:
        progress, dice = self.progress, self._validation_dice()
        mean_loss = progress.loss_sum / self.task.steps_per_epoch
        if not math.isnan(dice):
            ema = progress.dice_ema
            progress.dice_ema = dice if ema is None else _EMA * ema + (1 - _EMA) * dice
        self._log.append(
            {
                "epoch": progress.epoch,
                "loss": mean_loss,
                "dice": None if math.isnan(dice) else dice,
                "learning_rate": self._optimizer.param_groups[0]["lr"],
                "seconds": round(seconds, 2),
                **self._hard_case_record(),
            }
        )
        progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
        self._save(LAST)
        best = progress.best_ema
        if progress.dice_ema is not None and (best is None or progress.dice_ema > best):
            progress.best_ema = progress.dice_ema
            self._save(BEST)
        is_last = progress.epoch == self.task.schedule.epochs
        if is_last or time.monotonic() - self._drawn_at > _PICTURE_EVERY_S:
            self._draw()

    def _draw(self) -> None:
        title = f"{self.task.stage} {self.folder.name}"
        draw_progress(
            self._log.read(), self.folder / "progress.png", title=title, example=self._example
        )
        self._drawn_at = time.monotonic()

    def _weigh_cases(self) -> None:
        hard = self.task.hard_cases
        if hard is None or self.progress.step > 0 or self.progress.epoch not in hard.epochs:
            return
        self.network.eval()
        hard.weigh()

    def _hard_case_record(self) -> dict[str, Any]:
        weights = self.task.sampler.weights
        if len(set(weights.values())) < 2:
            return {}
        return {"hard_cases": sorted(weights.items(), key=lambda item: -item[1])[:10]}

    def _batches(self, epoch: int, *, training: bool) -> Iterator[Batch]:
        task = self.task
        steps = (
            range(self.progress.step, task.steps_per_epoch)
            if training
            else range(_VALIDATION_STEPS)
        )
        reader = PatchReader(
            task.sampler if training else task.validation,
            task.read,
            batch_size=task.schedule.batch_size,
            epoch=epoch,
            steps=steps,
            workers=self._workers,
            augmentation=task.augment.config if training else None,
        )
        return batches(reader, task.augment, workers=self._workers)

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        layout = memory_format(self.network)
        return (
            # To the device in halves and widened there.
            torch.from_numpy(batch.image)
            .to(self.device, non_blocking=True)
            .to(torch.float32, memory_format=layout),
            torch.from_numpy(batch.target).to(self.device, non_blocking=True),
        )

    def _autocast(self) -> torch.autocast:
        on = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)

    def _dice_note(self) -> str:
        ema = self.progress.dice_ema
        return "" if ema is None else f", Dice {ema:.3f}"

    def _not_finite(self, batch: Batch, loss: float) -> UserError:
        return UserError(
            self.folder / LAST,
            found=f"the loss became {loss} in epoch {self.progress.epoch + 1} on "
            + ", ".join(sorted(set(batch.cases))),
            expected="a finite loss; the checkpoint before is kept",
            remedy="look at these cases, or lower learning_rate in the plan and --restart",
        )

    def _save(self, name: str) -> None:
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        save_checkpoint(
            self.folder / name,
            Checkpoint(
                stage=self.task.stage,
                plan_sha256=self._plan_sha256,
                weights=self.network.state_dict(),
                optimizer=self._optimizer.state_dict(),
                state={
                    "progress": {
                        field: getattr(self.progress, field) for field in Progress.__slots__
                    },
                    "sampler": self.task.sampler.state(),
                },
                rng=rng,
            ),
        )
        self._saved_at = time.monotonic()

    def _restore(self) -> None:
        path = self.folder / LAST
        if not path.exists():
            torch.manual_seed(self.task.seed)
            return
        checkpoint = load_checkpoint(path)
        if checkpoint.plan_sha256 != self._plan_sha256:
            raise UserError(
                path,
                found="a training with another plan",
                expected="the plan as it is now",
                remedy="bring the old plan back, use another name with -p, or start anew "
                "with --restart",
            )
        self.network.load_state_dict(checkpoint.weights)
        self._optimizer.load_state_dict(checkpoint.optimizer)
        self.progress = Progress(**checkpoint.state["progress"])
        self.task.sampler.restore(checkpoint.state["sampler"])
        torch.set_rng_state(checkpoint.rng["cpu"])
        if "cuda" in checkpoint.rng and self.device.type == "cuda":
            torch.cuda.set_rng_state(checkpoint.rng["cuda"], self.device)
        self._log.keep_until(self.progress.epoch)


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


def _example_of(batch: Batch, predicted: Tensor, true: Tensor) -> Example:
    """The slice with most foreground of a batch's first patch."""
    target = true[0].cpu().numpy()
    prediction = predicted[0].cpu().numpy()
    image = batch.image[0].astype(np.float32)
    if target.ndim == 2:
        return Example(image=image[len(image) // 2], reference=target, prediction=prediction)
    z = int(np.argmax(target.sum(axis=(1, 2))))
    return Example(
        image=image[0][z * image.shape[1] // target.shape[0]],
        reference=target[z],
        prediction=prediction[z],
    )
