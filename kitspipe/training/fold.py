"""One fold trained as its options say: under its lock, with what went wrong in one message."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from kitspipe import console
from kitspipe.networks.device import memory_bytes
from kitspipe.planning.plan import KidneyPlan, TumorPlan
from kitspipe.training.checkpoints import FINAL
from kitspipe.training.lock import only_training_in
from kitspipe.training.options import FoldOptions
from kitspipe.training.rehearsal import rehearse
from kitspipe.training.stages import TrainingTask
from kitspipe.training.stopping import StopSignal
from kitspipe.training.tensorboard import Board
from kitspipe.training.too_large import is_out_of_memory, out_of_memory
from kitspipe.training.trainer import Trainer


def train_fold(
    task: TrainingTask,
    plan: KidneyPlan | TumorPlan,
    folder: Path,
    plan_sha256: str,
    options: FoldOptions,
) -> bool:
    """Train to the end, or until a stop is asked for; whether it is complete.

    Raises:
        UserError: another training of the fold runs, the folder holds another training, or
            something went wrong that a user can mend; the last checkpoint is kept.
    """
    process = options.process
    with only_training_in(folder) if process.is_first else nullcontext():
        if options.restart and process.is_first and folder.exists():
            shutil.rmtree(folder)
        # The others look into the folder only now.
        process.from_first(None)
        trainer = Trainer(task, folder, plan_sha256, options)
        if trainer.progress.ended:
            console.info(
                f"{folder}: this training is complete (ended by {trainer.progress.ended}); "
                "--restart would start anew"
            )
            if (folder / FINAL).exists():
                return True
        board = None
        if options.tensorboard and process.is_first:
            board = Board(folder / "tensorboard", trainer.progress.epoch)
            trainer.on_epoch = board.add
        try:
            with _memory_told(task, plan, options.device), StopSignal().watched() as stop:
                return trainer.run(stop)
        finally:
            if board is not None:
                board.close()


def rehearse_fold(
    task: TrainingTask,
    plan: KidneyPlan | TumorPlan,
    folder: Path,
    plan_sha256: str,
    options: FoldOptions,
) -> list[tuple[str, str]]:
    """What `train_fold` would do, as rows for a summary; nothing is written.

    Raises:
        UserError: as `train_fold`.
    """
    # With --restart what is there does not count.
    place = folder / "none" if options.restart else folder
    trainer = Trainer(task, place, plan_sha256, options)
    with _memory_told(task, plan, options.device):
        return rehearse(trainer, plan)


@contextmanager
def _memory_told(
    task: TrainingTask, plan: KidneyPlan | TumorPlan, device: torch.device
) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(task.stage, plan, device, memory_bytes(device)) from None
