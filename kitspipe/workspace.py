"""Names of all files that a command reads and writes; files are written beside, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Stage = Literal["kidney", "tumor"]
STAGES: tuple[Stage, ...] = ("kidney", "tumor")


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    """The folder a user works in.

    Args:
        root: the workspace's folder.
        plan_name: NAME in `plans/NAME.json`, `preprocessed/NAME`, `results/NAME`.
    """

    root: Path
    plan_name: str = "default"

    @property
    def plan_file(self) -> Path:
        """Every choice of a training."""
        return self.root / "plans" / f"{self.plan_name}.json"

    @property
    def fingerprint_file(self) -> Path:
        """What was measured in the data."""
        return self.root / "plans" / f"{self.plan_name}.fingerprint.json"

    @property
    def splits_file(self) -> Path:
        """The folds, one file for both stages."""
        return self.root / "plans" / f"{self.plan_name}.splits.json"

    @property
    def results_folder(self) -> Path:
        """Everything trained with this plan."""
        return self.root / "results" / self.plan_name

    @property
    def choice_file(self) -> Path:
        """Post-processing and margins chosen by cross-validation."""
        return self.results_folder / "choice.json"

    def preprocessed_folder(self, stage: Stage) -> Path:
        """The training arrays of a stage, a folder per case."""
        return self.root / "preprocessed" / self.plan_name / stage

    def fold_folder(self, stage: Stage, fold: int | Literal["all"]) -> Path:
        """Checkpoints, log, picture and validation of one fold."""
        return self.results_folder / stage / f"fold_{fold}"


def temporary_beside(path: Path) -> Path:
    """A hidden name in the same folder that no other process uses; ends as `path` does."""
    return path.with_name(f".{os.getpid()}.partial.{path.name}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write a file or folder to, which takes the name `path` when all went well.

    A crash leaves what stood under `path` before. An existing folder is removed
    just before the rename, which is the only moment when neither is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    _remove(temporary)
    try:
        yield temporary
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        _remove(temporary)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file, or leave what was there."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
