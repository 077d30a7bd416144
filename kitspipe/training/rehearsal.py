"""What a training would do, how long and with how much memory; nothing is written."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import closing

from kitspipe.console import duration
from kitspipe.networks.device import memory_bytes
from kitspipe.planning.memory import stage_bytes
from kitspipe.planning.plan import KidneyPlan, TumorPlan
from kitspipe.training.trainer import Trainer

_GIB = 1024**3
_STEPS = 4
_LOGGED = 10


def rehearse(trainer: Trainer, plan: KidneyPlan | TumorPlan) -> list[tuple[str, str]]:
    """Rows for a summary.

    Seconds are those of the log's last epochs, or of a few steps that are made here; the weights
    in memory change then.

    Args:
        trainer: of the fold, as it would run.
        plan: of the stage.
    """
    task, progress = trainer.task, trainer.progress
    shape = "x".join(map(str, plan.patch_size))
    available = memory_bytes(trainer.device)
    there = "" if available is None else f"; {trainer.device} has {available / _GIB:.1f} GiB"
    parameters = sum(p.numel() for p in trainer.learner.network.parameters())
    return [
        ("would", _what(trainer)),
        ("cases", f"{len(task.sampler.cases)} regions to train, {len(task.validation.cases)} held"),
        ("network", f"{parameters:,} parameters"),
        ("step", f"{task.schedule.batch_size} patches of {shape}"),
        ("epochs", f"{progress.epoch} of {trainer.epochs} done, {task.steps_per_epoch} steps each"),
        ("memory", f"about {stage_bytes(plan) / _GIB:.2f} GiB by the planner{there}"),
        *([] if progress.ended else _times(trainer)),
        ("folder", str(trainer.folder)),
    ]


def _what(trainer: Trainer) -> str:
    if trainer.progress.ended:
        return f"do nothing: the training is complete (ended by {trainer.progress.ended})"
    if trainer.is_resumed:
        return f"go on with {trainer.share_done:.1%} done"
    return "start a new training"


def _times(trainer: Trainer) -> Iterator[tuple[str, str]]:
    logged = trainer.records()[-_LOGGED:]
    if logged:
        seconds = statistics.fmean(record["seconds"] for record in logged)
        share = (logged[-1]["share_done"] - logged[0]["share_done"]) / max(1, len(logged) - 1)
        waiting = statistics.fmean(record["waiting"] for record in logged)
        source = f"the last {len(logged)} epochs"
        left = (1 - trainer.share_done) * seconds / (share or logged[-1]["share_done"])
    else:
        per_step, waiting = _time_steps(trainer)
        steps = trainer.epochs * trainer.task.steps_per_epoch
        left, source = per_step * steps, f"{_STEPS} steps made now, without validation"
        yield "seconds per step", f"{per_step:.3g}"
    if trainer.settings.max_seconds is not None:
        left = min(left, trainer.settings.max_seconds - trainer.progress.seconds)
    yield "time left", f"about {duration(max(0.0, left))}, by {source}"
    yield "waiting for data", f"{waiting:.0%} of it"


def _time_steps(trainer: Trainer) -> tuple[float, float]:
    """Median seconds of a step and the share of it without a batch; the first is a warm-up."""
    trainer.learner.network.train()
    waits, seconds = [], []
    with closing(trainer.training_batches()) as stream:
        for _ in range(_STEPS + 1):
            asked = time.perf_counter()
            batch = next(stream, None)
            if batch is None:
                break
            waits.append(time.perf_counter() - asked)
            trainer.update(batch)
            seconds.append(time.perf_counter() - asked)
    taken = slice(1, None) if len(seconds) > 1 else slice(None)
    return statistics.median(seconds[taken]), sum(waits[taken]) / sum(seconds[taken])
