"""Plan files of a workspace: made once, kept when edited, read with their folds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, TypeVar

import msgspec

from kitspipe.errors import UserError
from kitspipe.planning import recipes, rules
from kitspipe.planning.document import as_read, read_document, sha256, write_document
from kitspipe.planning.fingerprint import Fingerprint
from kitspipe.planning.plan import KidneyPlan, Labels, Plan, TumorPlan
from kitspipe.planning.rules import Choice
from kitspipe.planning.splits import Splits, make_splits
from kitspipe.workspace import STAGES, Stage, Workspace

_NOT_TRAINED = {
    "kidney": {"why", "window_stride", "window_blend", "minimal_kidney_ml"},
    "tumor": {"why", "threshold", "components", "minimal_tumor_ml", "minimal_healthy_ml"},
}
"""Fields that change what is made of a trained network, not the network."""


S = TypeVar("S", KidneyPlan, TumorPlan)


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


def plan_dataset(
    data: Fingerprint, *, name: str, memory_gib: float = 11.0, size: rules.Size = "standard"
) -> Plan:
    """The plan for a data set: every rule applied, every choice with its reason.

    Args:
        data: what was measured.
        name: of the plan.
        memory_gib: memory that training may take.
        size: how large a training.
    """
    # A tenth is left to the device's own needs: context, workspace of convolutions.
    memory_bytes = int(0.9 * memory_gib * rules.GIB)
    named = data.cases[0].values
    labels = msgspec.structs.replace(
        named, cyst=named.cyst if named.cyst in data.label_values else None
    )
    return Plan(
        name=name,
        fingerprint_sha256=sha256(data),
        seed=20191013,
        labels=labels,
        folds=5,
        kidney=_kidney_plan(data, memory_bytes, size),
        tumor=_tumor_plan(data, labels, memory_bytes, size),
    )


def _kidney_plan(data: Fingerprint, memory_bytes: int, size: rules.Size) -> KidneyPlan:
    spacing = rules.kidney_spacing(data, size)
    refinement = rules.target_refinement(data, spacing.value)
    network = rules.kidney_network(spacing.value, refinement.value, size)
    patch = rules.kidney_patch(data, spacing.value, network.value, size, memory_bytes)
    batch = rules.kidney_batch(
        network.value, patch.value, recipes.KIDNEY_BATCH_AT_MOST, memory_bytes
    )
    return _with_reasons(
        KidneyPlan,
        {
            "target_spacing_mm": spacing,
            "patch_size": patch,
            "hu_window": rules.hu_window(data),
            "network": Choice(network.value, f"{network.why}; {refinement.why}"),
            "loss": recipes.kidney_loss(),
            "sampling": recipes.kidney_sampling(),
            "augmentation": recipes.kidney_augmentation(),
            "schedule": recipes.kidney_schedule(size, batch),
            "window_stride": rules.window_stride(patch.value, size),
            "window_blend": Choice("gaussian", "windows fade to their borders, no seams"),
            "minimal_kidney_ml": Choice(10.0, "what is smaller is no kidney (KiTS23, 2nd place)"),
        },
    )


def _tumor_plan(
    data: Fingerprint, labels: Labels, memory_bytes: int, size: rules.Size
) -> TumorPlan:
    spacing = rules.tumor_spacing(data, size)
    depth = rules.slab_depth(spacing.value[0])
    network = rules.tumor_network(depth.value, len(labels.values) - 1, size)
    patch = rules.tumor_patch(data, spacing.value, network.value.divisor)
    batch = rules.tumor_batch(
        network.value, patch.value, recipes.TUMOR_BATCH_AT_MOST[size], memory_bytes
    )
    return _with_reasons(
        TumorPlan,
        {
            "target_spacing_mm": spacing,
            "patch_size": patch,
            "slab_depth": depth,
            "roi_margin_mm": Choice(
                rules.ROI_MARGIN_MM, "the dilated mask and some surroundings, the rest is blank"
            ),
            "mask_dilation_mm": Choice(
                rules.MASK_DILATION_MM[size],
                "5 to 10 mm keep tumors in sight that the kidney stage cut short; more where it is "
                "trained for minutes only",
            ),
            "hu_window": rules.hu_window(data),
            "network": network,
            "loss": recipes.tumor_loss(),
            "sampling": recipes.tumor_sampling(size),
            "augmentation": recipes.tumor_augmentation(size),
            "schedule": recipes.tumor_schedule(size, batch),
            "threshold": Choice(0.5, "Dice loss is calibrated around one half"),
            "components": Choice(
                "all", "keeping the largest only would lose real tumors in 4 to 7 % of patients"
            ),
            "minimal_tumor_ml": Choice(
                0.5,
                "a ball of 1 cm; KiTS19's smallest tumor has 0.8 ml, so what is smaller is more "
                "often a false one",
            ),
            "minimal_healthy_ml": Choice(
                10.0,
                "what is lesion all through is another organ: of 40 kidneys of KiTS with tumors, "
                "none has less than 100 ml beside them",
            ),
        },
    )


def _with_reasons(kind: type[S], choices: dict[str, Choice[Any]]) -> S:
    """A stage's plan from its choices, the reasons in `why`."""
    values = {name: choice.value for name, choice in choices.items()}
    return kind(**values, why={name: choice.why for name, choice in choices.items()})


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


def chosen_folds(
    place: Workspace, stage: Stage | Literal["all"], fold: int | Literal["all"] | None
) -> list[tuple[Stage, int | Literal["all"]]]:
    """What is to be trained, in order: kidneys first, as the tumor stage learns from them.

    Args:
        place: the workspace.
        stage: one, or "all" for both.
        fold: one, "all" for a training on every case, None for each fold.

    Raises:
        UserError: no splits.
    """
    splits = read_document(place.splits_file, Splits, made_by="kitspipe_plan")
    stages = STAGES if stage == "all" else (stage,)
    folds = range(len(splits.folds)) if fold is None else (fold,)
    return [(one_stage, one_fold) for one_stage in stages for one_fold in folds]


def training_key(plan: Plan, stage: Stage) -> str:
    """Hash of all plan values that a trained network depends on."""
    plan = as_read(plan)
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
