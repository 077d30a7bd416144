"""Where a model is: in a workspace, in an exported file, or in a folder of its content."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kitspipe.errors import UserError
from kitspipe.imaging.scratch import temporary_folder
from kitspipe.prediction.archive import MANIFEST, unpack, verify
from kitspipe.workspace import Workspace, not_written, sweep, temporary_beside


@contextmanager
def opened_model(model: Path | None, place: Workspace, scratch: Path | None) -> Iterator[Workspace]:
    """A workspace that holds the model, as long as the context lasts.

    Args:
        model: a file or folder as `-m` takes it; None: the workspace itself.
        place: the workspace, and the plan's name for a folder that is one.
        scratch: folder to unpack beside, which other machines may see; None: a temporary one.

    Raises:
        UserError: there is no model, or one that is not as kitspipe_export wrote it.
    """
    if model is None:
        yield place
    elif model.is_dir():
        yield _in_folder(model, place)
    elif not model.exists():
        raise _no_model(model, "no such file or folder")
    elif scratch is None:
        with temporary_folder() as folder:
            yield Workspace(root=folder, plan_name=unpack(model, folder).name)
    else:
        with _folder_beside(scratch / "model") as folder:
            yield Workspace(root=folder, plan_name=unpack(model, folder).name)


def _in_folder(folder: Path, place: Workspace) -> Workspace:
    if (folder / MANIFEST).exists():
        return Workspace(root=folder, plan_name=verify(folder).name)
    found = Workspace(root=folder, plan_name=place.plan_name)
    if not found.results_folder.is_dir():
        raise _no_model(folder, f"a folder with neither {MANIFEST} nor results/{place.plan_name}")
    return found


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    folder = temporary_beside(path)
    try:
        sweep(folder.parent)
        folder.mkdir(parents=True)
    except OSError as error:
        raise not_written(folder, error) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _no_model(model: Path, found: str) -> UserError:
    return UserError(
        model,
        found=found,
        expected="a file that kitspipe_export wrote, the folder of its content, or a workspace",
        remedy="mend the path after -m, or leave -m out to use the workspace's own model",
    )
