"""An exported cascade into a workspace."""

from __future__ import annotations

import shutil
from pathlib import Path

from kitspipe.errors import UserError
from kitspipe.imaging.scratch import temporary_folder
from kitspipe.planning.fingerprint import file_sha256
from kitspipe.prediction.archive import CARD, NAME, plan_member, unpack
from kitspipe.prediction.job import FINAL
from kitspipe.workspace import Workspace, replacing


def install_model(path: Path, root: Path, plan_name: str | None, *, overwrite: bool) -> Workspace:
    """Put a model's plan, networks, choices and card into a workspace.

    What is there already and is the same is kept, so that a stopped installation can be run again.

    Args:
        path: the file.
        root: the workspace's folder.
        plan_name: what the plan is called there; None: as in the file.
        overwrite: replace a model of this name that is another one.

    Raises:
        UserError: the file is no sound model, or there is another model of this name.
    """
    with temporary_folder() as folder:
        name = unpack(path, folder).name
        place = Workspace(root=root, plan_name=_checked(plan_name or name))
        placed = _places(folder, name, place)
        if overwrite:
            # Networks that the new model does not have would be averaged with its own.
            for file in place.results_folder.glob(f"*/fold_*/{FINAL}"):
                if file not in placed.values():
                    file.unlink()
        else:
            _refuse_another(placed, place)
        for source, target in placed.items():
            if not _is_same(source, target):
                with replacing(target) as temporary:
                    shutil.copyfile(source, temporary)
    return place


def _places(folder: Path, name: str, place: Workspace) -> dict[Path, Path]:
    """Where each file of a model goes; the plan, which makes it usable, last."""
    results = folder / "results" / name
    placed = {
        file: place.results_folder / file.relative_to(results)
        for file in sorted(results.rglob("*"))
        if file.is_file()
    }
    if (folder / CARD).exists():
        placed[folder / CARD] = place.results_folder / CARD
    return {**placed, folder / plan_member(name): place.plan_file}


def _refuse_another(placed: dict[Path, Path], place: Workspace) -> None:
    there = [place.plan_file, place.choice_file]
    there += sorted(place.results_folder.glob(f"*/fold_*/{FINAL}"))
    origin = {target: source for source, target in placed.items()}
    for file in there:
        source = origin.get(file)
        if file.exists() and (source is None or not _is_same(source, file)):
            raise UserError(
                file,
                found=f"another model is there under the name {place.plan_name}",
                expected="none yet, or the same one",
                remedy="install it under another name with -p NAME, or replace it with --overwrite",
            )


def _is_same(source: Path, target: Path) -> bool:
    return (
        target.is_file()
        and target.stat().st_size == source.stat().st_size
        and file_sha256(target) == file_sha256(source)
    )


def _checked(name: str) -> str:
    if NAME.fullmatch(name) is None:
        raise UserError(
            f"-p {name}",
            found="a name that is not safe as a file name",
            expected="letters, digits, `_`, `.` and `-`",
            remedy="choose another name",
        )
    return name
