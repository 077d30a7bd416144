"""A workspace's trained cascade as one file, for other machines."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kitspipe import __version__
from kitspipe.errors import UserError
from kitspipe.imaging.scratch import temporary_folder
from kitspipe.planning.document import encode
from kitspipe.planning.fingerprint import file_sha256
from kitspipe.planning.planner import read_plan
from kitspipe.prediction.archive import (
    CARD,
    NAME,
    Manifest,
    Member,
    choice_member,
    plan_member,
    unpack,
    write_archive,
)
from kitspipe.prediction.job import FINAL, Fold, weight_files
from kitspipe.prediction.model_card import model_card
from kitspipe.workspace import STAGES, Workspace, replacing


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was exported.

    Args:
        networks: how many.
        has_choice: whether the choices of a cross-validation go with them.
        bytes: of the file.
    """

    networks: int
    has_choice: bool
    bytes: int

    @property
    def rows(self) -> list[tuple[str, object]]:
        """For the summary."""
        return [
            ("networks", self.networks),
            ("choice.json", "with it" if self.has_choice else "none"),
            ("size", f"{self.bytes / 2**20:.1f} MiB"),
        ]


def export_model(place: Workspace, path: Path, folds: Sequence[Fold] | None) -> Exported:
    """Write plan, networks, choices and model card of a workspace into one file.

    The same model gives the same bytes. The file is read back and checked before it gets its name.

    Args:
        place: the workspace.
        path: the file.
        folds: which networks; None: all that are trained.

    Raises:
        UserError: a stage or fold is not trained, or was trained with another plan; the plan's
            name is no safe file name; the file can't be written.
    """
    name = place.plan_name
    if NAME.fullmatch(name) is None:
        raise UserError(
            f"-p {name}",
            found="a name that is not safe as a file name everywhere",
            expected="letters, digits, `_`, `.` and `-`",
            remedy="rename the plan and its results",
        )
    plan = read_plan(place)
    # A shipped plan has no file in the workspace.
    the_plan = place.plan_file if place.plan_file.exists() else encode(plan)
    files: dict[str, Path | bytes] = {plan_member(name): the_plan}
    for stage in STAGES:
        for fold, file in weight_files(place, stage, folds).items():
            files[f"results/{name}/{stage}/fold_{fold}/{FINAL}"] = file
    networks = len(files) - 1
    if place.choice_file.exists():
        files[choice_member(name)] = place.choice_file
    files[CARD] = model_card(place, plan, folds).encode()
    manifest = Manifest(
        kitspipe=__version__,
        name=name,
        files={member: _described(content) for member, content in files.items()},
    )
    with replacing(path) as temporary:
        write_archive(temporary, manifest, files)
        with temporary_folder() as folder:
            unpack(temporary, folder)
    return Exported(
        networks=networks, has_choice=choice_member(name) in files, bytes=path.stat().st_size
    )


def _described(content: Path | bytes) -> Member:
    if isinstance(content, bytes):
        return Member(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    return Member(sha256=file_sha256(content), bytes=content.stat().st_size)
