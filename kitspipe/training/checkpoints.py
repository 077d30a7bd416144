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
