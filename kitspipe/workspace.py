"""Names of all files that a command reads and writes; files are written beside, then renamed."""

from __future__ import annotations

import errno
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kitspipe.errors import UserError

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

    @property
    def out_of_fold_folder(self) -> Path:
        """The tumor stage's arrays around kidneys as other folds predicted them."""
        return self.root / "preprocessed" / self.plan_name / "tumor_out_of_fold"

    def fold_folder(self, stage: Stage, fold: int | Literal["all"]) -> Path:
        """Checkpoints, log, picture and validation of one fold."""
        return self.results_folder / stage / f"fold_{fold}"

    def kidney_validation_file(self, fold: int) -> Path:
        """Scores of a fold's validation cases, their kidney masks beside."""
        return self.fold_folder("kidney", fold) / "validation" / "kidney.json"


_MARK = ".partial."
_TURNS = 20
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}
_GONE = {errno.ENOENT, errno.ENOTDIR}


def temporary_beside(path: Path) -> Path:
    """A hidden name in the same folder that no other process uses; ends as `path` does."""
    return path.with_name(f"{_own_prefix()}{os.getpid()}{_MARK}{path.name}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write a file or folder to, which takes the name `path` when all went well.

    A crash leaves what stood under `path` before. An existing folder is renamed
    away just before, which is the only moment when neither is there; so nobody
    ever sees half a folder. What dead processes left beside is removed.

    Raises:
        UserError: the disk is full, the folder is read-only or was removed.
    """
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        _remove(temporary)
        yield temporary
        # A rename may reach the disk before the content: after a power cut, a whole name
        # would stand over an empty file.
        _to_disk(temporary)
        _take_name(temporary, path)
    except OSError as error:
        raise not_written(path, error) from None
    finally:
        with suppress(OSError):
            _remove(temporary)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file, or leave what was there.

    Raises:
        UserError: the disk is full, the folder is read-only or was removed.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def sweep(folder: Path) -> None:
    """Remove what processes of this machine that are gone left half-written in a folder.

    Names hold machine and process, so what another machine writes is let be. A number that
    some new process has got keeps its leftovers until that one ends too.
    """
    prefix = _own_prefix()
    with suppress(OSError):
        for path in [*folder.iterdir()]:
            number, mark, _ = path.name.removeprefix(prefix).partition(_MARK)
            is_ours = path.name.startswith(prefix) and mark and number.isdecimal()
            if is_ours and not _is_alive(int(number)):
                _remove(path)


def not_written(path: Path, error: OSError) -> UserError:
    """What to tell where the system refused to write."""
    remedy = "look at the disk and the folder, then run the same command again"
    if error.errno in _NO_ROOM:
        remedy = "make room on this disk, then run the same command again"
    elif error.errno in _NO_RIGHT:
        remedy = "get the right to write there, or choose another folder"
    elif error.errno in _GONE:
        remedy = "leave the folder where it is while commands run; run the same command again"
    return UserError(
        path,
        found=f"it can't be written: {error.strerror or error}",
        expected="a folder that is there, with room, and the right to write",
        remedy=remedy,
    )


def _own_prefix() -> str:
    return f".{platform.node()}."


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    # Where nobody waits for orphans, as in containers, they keep their number when dead.
    with suppress(OSError):
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        return not status.rpartition(")")[2].lstrip().startswith("Z")
    return True


def _to_disk(path: Path) -> None:
    """Wait until a file, or all of a folder, is on disk."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())


def _take_name(temporary: Path, path: Path) -> None:
    if not temporary.is_dir():
        temporary.replace(path)
        return
    replaced = temporary_beside(path.with_name(f"replaced.{path.name}"))
    try:
        # Another process may put its own there between the two renames.
        for turn in range(_TURNS):
            _remove(replaced)
            with suppress(FileNotFoundError):
                path.rename(replaced)
            try:
                temporary.rename(path)
                return
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST} or turn == _TURNS - 1:
                    with suppress(OSError):
                        replaced.rename(path)
                    raise
    finally:
        _remove(replaced)


def _remove(path: Path) -> None:
    # Two processes may sweep the same.
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
