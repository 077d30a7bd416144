"""The checkpoints of a fold: the last two, so that a damaged one loses minutes and not a week."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from kitspipe import console
from kitspipe.errors import UserError
from kitspipe.networks.weights import Checkpoint, load_checkpoint, save_checkpoint

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"
BEST, FINAL = "best.safetensors", "final.safetensors"


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the last checkpoint; the one that was the last becomes the previous one.

    Killed between the two, a training goes on from the previous one.

    Raises:
        UserError: the disk is full, the folder is read-only or was removed; what was there stays.
    """
    last = folder / LAST
    # A hidden name first: while the new one is written, the last one keeps its place.
    fresh = folder / f".new.{LAST}"
    try:
        save_checkpoint(fresh, checkpoint)
        with suppress(FileNotFoundError):
            last.replace(folder / PREVIOUS)
        fresh.replace(last)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def load(folder: Path) -> Checkpoint | None:
    """The last checkpoint, or where it is damaged or missing the previous one; None without any.

    Raises:
        UserError: neither can be used, or a fold has results but no checkpoint.
    """
    broken: UserError | None = None
    for name in (LAST, PREVIOUS):
        if not (folder / name).exists():
            continue
        try:
            checkpoint = load_checkpoint(folder / name)
        except UserError as error:
            broken = broken or error
            continue
        if broken is not None:
            console.warning(
                f"{broken.file}: {broken.found}; the training goes on from {name}, which was "
                "written before it"
            )
        return checkpoint
    if broken is not None:
        raise broken
    if (folder / BEST).exists() or (folder / FINAL).exists():
        raise UserError(
            folder,
            found=f"weights of a training, but neither {LAST} nor {PREVIOUS}",
            expected="a checkpoint to go on from, or an empty folder",
            remedy="bring a checkpoint back, or start anew with --restart",
        )
    return None


def check(folder: Path, checkpoint: Checkpoint, plan_sha256: str, init_from: str | None) -> None:
    """Refuse to go on from a checkpoint with another plan or other first weights.

    Args:
        folder: of the fold.
        checkpoint: found there.
        plan_sha256: of the plan as it is now.
        init_from: weights that were asked for now; None where none were.

    Raises:
        UserError: it is another training.
    """
    if checkpoint.plan_sha256 != plan_sha256:
        raise UserError(
            folder / LAST,
            found="a training with another plan",
            expected="the plan as it is now",
            remedy="bring the old plan back, use another name with -p, or start anew "
            "with --restart",
        )
    started_from = checkpoint.state["init_from"]
    if init_from not in (None, started_from):
        raise UserError(
            folder / LAST,
            found=f"a training that started from {started_from or 'random weights'}",
            expected=f"one that started from {init_from}",
            remedy="leave --init-from out to go on with it, or start anew with --restart",
        )
