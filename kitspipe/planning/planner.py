"""Plan files of a workspace: made once, kept when edited, read with their folds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import msgspec

from kitspipe.errors import UserError
from kitspipe.planning.document import read_document, sha256, write_document
from kitspipe.planning.fingerprint import Fingerprint
from kitspipe.planning.plan import Plan
from kitspipe.planning.rules import plan_dataset
from kitspipe.planning.splits import Splits, make_splits
from kitspipe.workspace import Stage, Workspace

_NOT_TRAINED = {
    "kidney": {"why", "window_stride", "window_blend", "minimal_kidney_ml"},
    "tumor": {"why", "threshold", "components", "minimal_tumor_ml"},
}
"""Fields that change what is made of a trained network, not the network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MadePlan:
    """A plan with its folds.

    Args:
        plan: the plan.
        splits: its folds.
        is_new: whether it was written now.
    """

    plan: Plan
    splits: Splits
    is_new: bool


def make_plan(
    place: Workspace, *, memory_gib: float, size: Literal["standard", "small"], replan: bool
) -> MadePlan:
    """The workspace's plan and folds; written where they are not there yet.

    A plan that is there is kept, since it may have been edited by hand. A shipped plan is copied.

    Args:
        place: whose fingerprint is planned for.
        memory_gib: memory that training may take.
        size: how large a training.
        replan: write a new plan over one that is there.

    Raises:
        UserError: no fingerprint, or a plan that was made from another one.
    """
    fingerprint = read_document(place.fingerprint_file, Fingerprint, made_by="kitspipe_fingerprint")
    kept = place.plan_file.exists() and not replan
    if kept:
        plan = read_plan(place)
        _require_same_fingerprint(plan, fingerprint, place)
    else:
        plan = _shipped(place.plan_name) or plan_dataset(
            fingerprint, name=place.plan_name, memory_gib=memory_gib, size=size
        )
        write_document(place.plan_file, plan)
    splits = make_splits(
        [case.id for case in fingerprint.cases],
        plan.folds,
        plan.seed,
        # The same image under two names must not be trained and validated on.
        groups={case.id: case.image_sha256 for case in fingerprint.cases},
    )
    write_document(place.splits_file, splits)
    return MadePlan(plan=plan, splits=splits, is_new=not kept)


def read_plan(place: Workspace) -> Plan:
    """The workspace's plan, or the shipped one of that name.

    Raises:
        UserError: no such plan, or one that can't work.
    """
    if not place.plan_file.exists():
        shipped = _shipped(place.plan_name)
        if shipped is not None:
            return shipped
    return read_document(place.plan_file, Plan, made_by="kitspipe_plan")


def read_fold(
    place: Workspace, fold: int | Literal["all"]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of the training and the validation cases of a fold; "all" gives every case twice.

    Raises:
        UserError: no splits, or no such fold.
    """
    splits = read_document(place.splits_file, Splits, made_by="kitspipe_plan")
    if fold == "all":
        parts = (part for fold in splits.folds for part in (fold.train, fold.validation))
        ids = tuple(sorted({case for part in parts for case in part}))
        return ids, ids
    if fold >= len(splits.folds):
        raise UserError(
            place.splits_file,
            found=f"{len(splits.folds)} folds, none has the number {fold}",
            expected=f"a fold from 0 to {len(splits.folds) - 1}, or all",
            remedy="give another fold; `folds` in the plan and kitspipe_plan make more",
        )
    return splits.folds[fold].train, splits.folds[fold].validation


def training_key(plan: Plan, stage: Stage) -> str:
    """Hash of all plan values that a trained network depends on."""
    stage_plan = msgspec.to_builtins(plan.kidney if stage == "kidney" else plan.tumor)
    trained = {key: stage_plan[key] for key in sorted(stage_plan) if key not in _NOT_TRAINED[stage]}
    values = [stage, plan.seed, msgspec.to_builtins(plan.labels), trained]
    return hashlib.sha256(msgspec.json.encode(values)).hexdigest()


def _shipped(name: str) -> Plan | None:
    """A plan that travels in the package, None where there is none of this name."""
    file = resources.files("kitspipe.plans") / f"{name}.json"
    if not file.is_file():
        return None
    return msgspec.json.decode(file.read_bytes(), type=Plan)


def _require_same_fingerprint(plan: Plan, fingerprint: Fingerprint, place: Workspace) -> None:
    if plan.fingerprint_sha256 not in (None, sha256(fingerprint)):
        raise UserError(
            place.plan_file,
            found="a plan made for another state of the data set",
            expected=f"a plan made from {place.fingerprint_file}",
            remedy="plan anew with --replan (hand edits are lost), or under another name with -p",
        )
