"""What a prediction is asked for, and what decides the masks that it makes. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from kitspipe import __version__
from kitspipe.dataset.cases import Case
from kitspipe.dataset.volume_files import is_volume, suffix_of
from kitspipe.errors import UserError
from kitspipe.imaging.dicom import find_series
from kitspipe.planning.choice import read_choice
from kitspipe.planning.document import Document, sha256
from kitspipe.planning.fingerprint import file_sha256
from kitspipe.planning.planner import read_plan
from kitspipe.workspace import STAGES, Stage, Workspace

FINAL = "final.safetensors"
PROBABILITIES = "probabilities"
SEG_SUFFIX = ".seg.dcm"
Fold = int | Literal["all"]
Format = Literal["nii.gz", "nii", "nrrd", "mha", "input"]


class Recipe(Document, frozen=True, kw_only=True):
    """All that decides a mask, beside its scan and the machine.

    Args:
        kitspipe: version.
        plan: hash of the plan's content.
        choice: hash of `choice.json`; None without.
        weights: hash of each network's file, by `STAGE/fold_N`.
        options: of the command, those that change masks.
    """

    kitspipe: str
    plan: str
    choice: str | None
    weights: dict[str, str]
    options: dict[str, bool]

    @property
    def key(self) -> str:
        """Short name of the recipe; equal recipes have equal ones."""
        return sha256(self)[:16]


class Job(Document, frozen=True, kw_only=True):
    """A prediction's request, as it goes to the process that does the work.

    Args:
        root: the model's workspace, or a folder that an exported model was unpacked to.
        plan_name: of the model's plan.
        folds: which networks are averaged; None: all that are trained.
        device: a name as `networks.device.pick_device` takes it.
        output: folder for the masks.
        format: of the masks; "input": that of each scan.
        probabilities: write them too.
        dicom_seg: write DICOM-SEG too, for scans that are DICOM.
        recipe: what decides the masks.
        classes: that have probabilities.
    """

    root: str
    plan_name: str
    folds: tuple[Fold, ...] | None
    device: str
    output: str
    recipe: Recipe
    classes: tuple[str, ...]
    format: Format = "nii.gz"
    probabilities: bool = False
    dicom_seg: bool = False

    @property
    def place(self) -> Workspace:
        """Where the model is."""
        return Workspace(root=Path(self.root), plan_name=self.plan_name)

    def mask_file(self, case: Case) -> Path:
        """Where a case's mask is written."""
        suffix = f".{self.format}"
        if self.format == "input":
            suffix = suffix_of(case.image).lower() if is_volume(case.image) else ".nii.gz"
        return Path(self.output) / f"{case.id}{suffix}"

    def probability_files(self, case: Case) -> dict[str, Path]:
        """Where a case's probabilities are written, by class."""
        folder = Path(self.output) / PROBABILITIES
        return {name: folder / f"{case.id}_{name}.nii.gz" for name in self.classes}

    def seg_file(self, case: Case) -> Path:
        """Where a case's DICOM-SEG is written."""
        return Path(self.output) / f"{case.id}{SEG_SUFFIX}"

    def files_of(self, case: Case) -> tuple[Path, ...]:
        """All files that are written for a case; the mask, which comes last, first."""
        files = [self.mask_file(case)]
        if self.probabilities:
            files += self.probability_files(case).values()
        if self.dicom_seg and find_series(case.image) is not None:
            files.append(self.seg_file(case))
        return tuple(files)

    def names_of(self, case: Case) -> list[str]:
        """The names of `files_of`, in the output folder."""
        return [file.relative_to(self.output).as_posix() for file in self.files_of(case)]


def trained_folds(place: Workspace, stage: Stage) -> list[Fold]:
    """Folds of a stage whose training is complete, in order, "all" last."""
    found: list[Fold] = []
    for file in place.results_folder.glob(f"{stage}/fold_*/{FINAL}"):
        name = file.parent.name.removeprefix("fold_")
        if name.isdecimal():
            found.append(int(name))
        elif name == "all":
            found.append("all")
    return sorted(found, key=lambda fold: (fold == "all", fold))


def weight_files(
    place: Workspace, stage: Stage, folds: Sequence[Fold] | None = None
) -> dict[Fold, Path]:
    """The networks of a stage by fold.

    Args:
        place: the workspace.
        stage: which.
        folds: which; None: all that are trained, but those that `kitspipe_choose` left out.

    Raises:
        UserError: none of the stage is trained to the end, or one that was asked for is not.
    """
    chosen = _folds_in_use(place, stage) if folds is None else folds
    files = {fold: place.fold_folder(stage, fold) / FINAL for fold in chosen}
    missing = [file for file in files.values() if not file.exists()]
    if files and not missing:
        return files
    trained = trained_folds(place, stage)
    raise UserError(
        missing[0] if missing else place.results_folder / stage,
        found=f"{stage} stage: folds trained to the end: {trained or 'none'}",
        expected="a trained network of each stage",
        remedy=f"run kitspipe_train {stage} 0, or name trained folds with -f",
    )


def _folds_in_use(place: Workspace, stage: Stage) -> list[Fold]:
    trained = trained_folds(place, stage)
    choice = read_choice(place, read_plan(place)) if trained else None
    left_out = () if choice is None else choice.left_out[stage]
    return [fold for fold in trained if fold not in left_out]


def make_job(
    place: Workspace,
    output: Path,
    folds: Sequence[Fold] | None,
    device: str,
    *,
    format: Format = "nii.gz",
    probabilities: bool = False,
    dicom_seg: bool = False,
    options: dict[str, bool] | None = None,
) -> Job:
    """A job with the workspace's trained networks.

    Args:
        place: the workspace.
        output: folder for what is written.
        folds: which to average; None: all that are trained.
        device: a name as `pick_device` takes it.
        format: of the masks.
        probabilities: whether they are written too.
        dicom_seg: whether DICOM-SEG is written too.
        options: those that change masks.

    Raises:
        UserError: a stage or fold is not trained, no plan, or one that can't work.
    """
    plan = read_plan(place)
    files = {stage: weight_files(place, stage, folds) for stage in STAGES}
    weights = {
        f"{stage}/fold_{fold}": file_sha256(file)
        for stage, by_fold in files.items()
        for fold, file in by_fold.items()
    }
    choice = place.choice_file
    return Job(
        root=str(place.root),
        plan_name=place.plan_name,
        folds=None if folds is None else tuple(folds),
        device=device,
        output=str(output),
        recipe=Recipe(
            kitspipe=__version__,
            plan=sha256(plan),
            choice=file_sha256(choice) if choice.exists() else None,
            weights=weights,
            options=options or {},
        ),
        classes=("kidney", "tumor") if plan.labels.cyst is None else ("kidney", "tumor", "cyst"),
        format=format,
        probabilities=probabilities,
        dicom_seg=dicom_seg,
    )
