"""How a fold is trained, this time; what stays so for its whole training is in `settings.py`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from kitspipe.training.distributed import ALONE, Process
from kitspipe.training.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldOptions:
    """What a command was given.

    Args:
        device: where.
        workers: loading processes, 0 for none.
        settings: how long, how exact.
        restart: throw away what is there.
        init_from: weights to start from, where there is no checkpoint yet: a file, or a fold's
            folder.
        tensorboard: whether to write scalars for it, too.
        process: this one of those that train together.
    """

    device: torch.device
    workers: int = 2
    settings: Settings = field(default_factory=Settings)
    restart: bool = False
    init_from: Path | None = None
    tensorboard: bool = False
    process: Process = ALONE


def fold_options(device: torch.device, process: Process, **given: Any) -> FoldOptions:
    """Options from arguments of a command, those of `Settings` among them."""
    names = {one.name for one in fields(Settings)}
    settings = Settings(**{name: value for name, value in given.items() if name in names})
    rest = {name: value for name, value in given.items() if name not in names}
    return FoldOptions(device=device, process=process, settings=settings, **rest)
