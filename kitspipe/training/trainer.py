"""The loop; stop, resume, several processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from kitspipe import console
from kitspipe.errors import UserError
from kitspipe.networks.device import peak_bytes
from kitspipe.networks.weights import Checkpoint, load_weights, save_weights, warm_start
from kitspipe.training import checkpoints
from kitspipe.training.checkpoints import BEST, FINAL, LAST
from kitspipe.training.learner import Learner, NotFiniteError
from kitspipe.training.loader import Batch, PatchReader, batches
from kitspipe.training.log import FoldLog, Record
from kitspipe.training.options import FoldOptions
from kitspipe.training.picture import Example, draw_progress, example_of
from kitspipe.training.progress import Progress
from kitspipe.training.settings import Settings
from kitspipe.training.stages import TrainingTask
from kitspipe.training.stopping import StopFile, StopSignal

_VALIDATION_STEPS = 8
_CHECKPOINT_EVERY_S = 600.0
_PICTURE_EVERY_S = 30.0
_GIB = 1024**3
_HARD_CASES_LOGGED = 10


class Trainer:
    """Trains one fold of a stage; made anew over the same folder, it goes on where that stopped.

    Nothing is written before `run`. What `on_epoch` is set to gets each epoch's record, as the log.

    Args:
        task: what is trained, on what.
        folder: of the fold.
        plan_sha256: hash of the plan values that the training depends on.
        options: what the command was given; settings given before are kept.
        clock: seconds, ever rising.

    Raises:
        UserError: the folder holds another training, or no checkpoint that can be used.
    """

    def __init__(
        self,
        task: TrainingTask,
        folder: Path,
        plan_sha256: str,
        options: FoldOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.task, self.folder = task, folder
        self.device, self.process, self.settings = options.device, options.process, options.settings
        self.progress = Progress()
        self.on_epoch: Callable[[Record], None] | None = None
        self._plan_sha256, self._workers, self._clock = plan_sha256, options.workers, clock
        start = options.init_from
        self._init_from = None if start is None else str(start.resolve())
        self._share = self.process.share(task.schedule.batch_size)
        self._log = FoldLog(folder / "log.jsonl")
        self._examples: list[Example] = []
        self._saved_at, self._drawn_at = time.monotonic(), -math.inf
        self._ticked = clock()
        checkpoint = checkpoints.load(folder)
        if checkpoint is not None:
            checkpoints.check(folder, checkpoint, plan_sha256, self._init_from)
            self.settings = self._settings_kept(checkpoint)
        self.learner = Learner(task, self.device, self.settings, self.process)
        self.is_resumed = checkpoint is not None
        if checkpoint is not None:
            self._restore(checkpoint)
        elif start is not None:
            self._warm_start(start)

    @property
    def epochs(self) -> int:
        """Epochs of the training, as planned or as asked for."""
        return self.settings.epochs or self.task.schedule.epochs

    @property
    def steps_done(self) -> int:
        """Steps of whole epochs and of the one under way."""
        return self.progress.epoch * self.task.steps_per_epoch + self.progress.step

    @property
    def share_done(self) -> float:
        """Share of the training that is done, 1 at its end."""
        epochs_done = self.progress.epoch + self.progress.step / self.task.steps_per_epoch
        return self.settings.share_done(
            epochs_done, self.task.schedule.epochs, self.progress.seconds
        )

    def records(self) -> list[Record]:
        """What the log says of the epochs that are done."""
        return [record for record in self._log.read() if record["epoch"] < self.progress.epoch]

    def run(self, stop: StopSignal) -> bool:
        """Train to the end, or until a stop is asked for by signal or by the file `stop`.

        Returns:
            Whether the training is complete; its weights then lie in `final.safetensors`.

        Raises:
            UserError: something went wrong that a user can mend; the checkpoint is kept.
            WorkerError: a loading process raised.
        """
        if self.process.is_first:
            if not self.is_resumed:
                # First of all, so that whatever else is found later has a checkpoint beside it.
                self._save()
            self._log.keep_until(self.progress.epoch)
        self._ticked = self._clock()
        total = max(self.steps_done, self.epochs * self.task.steps_per_epoch)
        label = f"{self.task.stage} {self.folder.name}"
        with console.Progress(total, label, "step", self.steps_done) as shown:
            while self.progress.ended is None:
                self._weigh_cases()
                if not self._train_epoch(shown, stop):
                    self._save()
                    return False
                self._finish_epoch()
        if self.process.is_first:
            self._export()
        return True

    def training_batches(self) -> Generator[Batch]:
        """This process's share of the batches that are left of the epoch."""
        steps = range(self.progress.step, self.task.steps_per_epoch)
        return self._batches(self.progress.epoch, steps, training=True)

    def update(self, batch: Batch) -> None:
        """One step on a batch; a UserError where it is not finite leaves the weights alone."""
        progress = self.progress
        try:
            loss = self.learner.update(batch, self.share_done, progress.epoch, progress.step)
        except NotFiniteError as error:
            cases = ", ".join(sorted(set(batch.cases)))
            raise UserError(
                self.folder / LAST,
                found=f"{error} in epoch {progress.epoch + 1} on {cases}",
                expected="a finite loss; the checkpoint before is kept",
                remedy="look at these cases, or lower learning_rate in the plan and --restart",
            ) from None
        progress.loss_sum += loss
        progress.step += 1

    def _train_epoch(self, shown: console.Progress, stop: StopSignal) -> bool:
        """The rest of the epoch, as far as time allows; False where a stop was asked for."""
        self.learner.network.train()
        progress, stop_file = self.progress, StopFile(self.folder)
        with closing(self.training_batches()) as stream:
            while progress.step < self.task.steps_per_epoch:
                if progress.step > 0 and self.share_done >= 1:
                    break
                asked = time.perf_counter()
                batch = next(stream)
                progress.waited += time.perf_counter() - asked
                self._note_share()
                self.update(batch)
                must_stop = self._tick(stop.came or self._stop_file_came(stop_file))
                self._show(shown)
                if must_stop:
                    return False
                if time.monotonic() - self._saved_at > _CHECKPOINT_EVERY_S:
                    self._save()
        return True

    def _stop_file_came(self, file: StopFile) -> bool:
        if not (self.process.is_first and file.is_there):
            return False
        file.remove()
        return True

    def _tick(self, asked_to_stop: bool) -> bool:
        """Read the clock; whether to stop. All processes get the same answers."""
        now = self._clock()
        stop, passed = self.process.largest(asked_to_stop, now - self._ticked)
        self._ticked = now
        self.progress.seconds += passed
        self.progress.epoch_seconds += passed
        return bool(stop)

    def _note_share(self) -> None:
        shares, share = self.progress.shares, self.share_done
        if self.settings.max_seconds is not None and (not shares or shares[-1][1] != share):
            shares.append([self.progress.step, share])

    def _show(self, shown: console.Progress) -> None:
        progress, share = self.progress, self.share_done
        if self.settings.max_seconds is not None and share > 0:
            shown.expect(max(self.steps_done, round(self.steps_done / share)))
        dice = "" if progress.dice_ema is None else f", Dice {progress.dice_ema:.3f}"
        shown.advance(
            f"epoch {progress.epoch + 1}, loss {progress.loss_sum / progress.step:.3f}{dice}, "
            f"waiting for data {progress.waiting:.0%}"
        )

    def _validation_dice(self) -> float:
        """Dice of all foreground voxels of the same few validation patches, every epoch."""
        self.learner.network.eval()
        overlap = total = 0
        self._examples = []
        for batch in self._batches(0, range(_VALIDATION_STEPS), training=False):
            predicted, true = self.learner.foreground(batch)
            overlap += 2 * int((predicted & true).sum())
            total += int(predicted.sum()) + int(true.sum())
            self._examples.append(
                example_of(batch.image[0], predicted[0].cpu().numpy(), true[0].cpu().numpy())
            )
        overlap, total = self.process.sums(overlap, total)
        return overlap / total if total else math.nan

    def _finish_epoch(self) -> None:
        progress = self.progress
        dice = self._validation_dice()
        self._tick(asked_to_stop=False)
        record = {**progress.close_epoch(dice, self.share_done), **self._record()}
        is_best = progress.is_best()
        progress.ended = self._end()
        if not self.process.is_first:
            return
        self._log.append(record)
        if self.on_epoch is not None:
            self.on_epoch(record)
        if is_best:
            # Before the checkpoint: killed in between, the epoch is done again and so is this.
            self._save_weights(BEST)
        self._save()
        if progress.ended or time.monotonic() - self._drawn_at > _PICTURE_EVERY_S:
            self._draw()

    def _end(self) -> str | None:
        """What ends the training here: epochs, time or patience."""
        progress, patience = self.progress, self.settings.patience
        if progress.epoch >= self.epochs:
            return "epochs"
        if self.share_done >= 1:
            return "time"
        if patience and progress.dice_ema is not None:
            return "patience" if progress.epoch - progress.best_epoch >= patience else None
        return None

    def _record(self) -> Record:
        given = {name: v for name, v in self.settings.record().items() if v is not None}
        weights = self.task.sampler.weights
        hard = sorted(weights.items(), key=lambda item: -item[1])[:_HARD_CASES_LOGGED]
        return {
            "learning_rate": self.learner.learning_rate,
            "peak_gib": round(peak_bytes(self.device) / _GIB, 3),
            **({"settings": given} if given else {}),
            **({"hard_cases": hard} if len(set(weights.values())) > 1 else {}),
        }

    def _draw(self) -> None:
        draw_progress(
            self._log.read(),
            self.folder / "progress.png",
            title=f"{self.task.stage} {self.folder.name}",
            examples=self._examples,
            weights=self.task.sampler.weights,
        )
        self._drawn_at = time.monotonic()

    def _export(self) -> None:
        if self.progress.ended == "patience":
            # The schedule did not come to its end: the last weights are not the best ones.
            load_weights(self.learner.network, self.folder / BEST, self._plan_sha256)
        self._save_weights(FINAL)

    def _weigh_cases(self) -> None:
        """At the epochs of the plan's schedule, as far as the share done stands for them."""
        hard, progress, sampler = self.task.hard_cases, self.progress, self.task.sampler
        if hard is None or progress.step > 0:
            return
        now = math.floor(self.share_done * self.task.schedule.epochs + 1e-6)
        if any(progress.weighed < epoch <= now for epoch in hard.epochs):
            if self.process.is_first:
                self.learner.network.eval()
                hard.weigh()
            sampler.restore(self.process.from_first(sampler.state()))
        progress.weighed = now

    def _batches(self, epoch: int, steps: range, *, training: bool) -> Generator[Batch]:
        task = self.task
        reader = PatchReader(
            task.sampler if training else task.validation,
            task.read,
            batch_size=task.schedule.batch_size,
            epoch=epoch,
            steps=steps,
            workers=self._workers,
            augmentation=task.augment.config if training else None,
            share=self._share,
        )
        return batches(reader, task.augment, workers=self._workers)

    def _save_weights(self, name: str) -> None:
        network, stage = self.learner.network, self.task.stage
        save_weights(self.folder / name, network, plan_sha256=self._plan_sha256, stage=stage)

    def _save(self) -> None:
        if not self.process.is_first:
            return
        checkpoints.save(
            self.folder,
            Checkpoint(
                stage=self.task.stage,
                plan_sha256=self._plan_sha256,
                weights=self.learner.network.state_dict(),
                optimizer=self.learner.optimizer.state_dict(),
                state={
                    "progress": asdict(self.progress),
                    "settings": self.settings.record(),
                    "sampler": self.task.sampler.state(),
                    "init_from": self._init_from,
                },
            ),
        )
        self._saved_at = time.monotonic()

    def _settings_kept(self, checkpoint: Checkpoint) -> Settings:
        kept = Settings(**checkpoint.state["settings"])
        settings = self.settings.over(kept)
        for change in settings.changes(kept):
            console.info(f"{self.task.stage} {self.folder.name}, from here on: {change}")
        return settings

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.learner.network.load_state_dict(checkpoint.weights)
        self.learner.optimizer.load_state_dict(checkpoint.optimizer)
        self.progress = Progress(**checkpoint.state["progress"])
        self.task.sampler.restore(checkpoint.state["sampler"])
        self._init_from = checkpoint.state["init_from"]

    def _warm_start(self, path: Path) -> None:
        for misfit in warm_start(self.learner.network, path, self.task.stage):
            console.warning(f"{path}: {misfit}")
