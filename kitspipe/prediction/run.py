"""Files in, masks out: a trained cascade on cases, and the record of what was run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from kitspipe import __version__, workspace
from kitspipe.dataset.cases import Case
from kitspipe.errors import UserError
from kitspipe.imaging.formats import read_image, write_labels
from kitspipe.networks.device import pick_device
from kitspipe.networks.inference import for_prediction
from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.networks.vnet25d import VNet25D
from kitspipe.networks.weights import load_weights
from kitspipe.planning.document import sha256
from kitspipe.planning.planner import read_plan, training_key
from kitspipe.prediction.cascade import Cascade, Prediction, segment
from kitspipe.prediction.effort import DEFAULT, Effort
from kitspipe.workspace import STAGES, Stage, Workspace

FINAL = "final.safetensors"
RUN_FILE = "run.json"
Fold = int | Literal["all"]


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


def load_cascade(
    place: Workspace,
    folds: Sequence[Fold] | None,
    device: str,
    stages: Sequence[Stage] = STAGES,
    effort: Effort = DEFAULT,
) -> Cascade:
    """The trained networks of a workspace.

    Args:
        place: the workspace.
        folds: which to average; None: all that are trained in the stages asked for.
        device: a name as `pick_device` takes it.
        stages: which networks are needed.
        effort: how hard is looked.

    Raises:
        UserError: a stage or fold is not trained, or was trained with another plan.
    """
    plan, on = read_plan(place), pick_device(device)
    files = {
        stage: [
            place.fold_folder(stage, fold) / FINAL
            for fold in (trained_folds(place, stage) if folds is None else folds)
        ]
        for stage in stages
    }
    for stage in stages:
        _require_trained(place, stage, files[stage])
        if effort.one_network:
            files[stage] = files[stage][:1]
    kidney = [
        load_weights(ResUNet3D(plan.kidney.network), file, training_key(plan, "kidney"))
        for file in files.get("kidney", [])
    ]
    tumor = [
        load_weights(VNet25D(plan.tumor.network), file, training_key(plan, "tumor"))
        for file in files.get("tumor", [])
    ]
    return Cascade(
        plan=plan,
        kidney=[for_prediction(network, on) for network in kidney],
        tumor=[for_prediction(network, on) for network in tumor],
        device=on,
        effort=effort,
    )


def predict_case(case: Case, output: Path, cascade: Cascade) -> Prediction:
    """Segment one case and write its mask on the input's voxels and geometry.

    What its file leaves open stands first in the warnings.

    Raises:
        UserError: the scan can't be read, or is larger than memory.
    """
    try:
        image, header = read_image(case.image)
        prediction = segment(image, cascade)
    except MemoryError as error:
        raise UserError(
            case.image,
            found=f"out of memory: {error or 'the system gave no more'}",
            expected="memory for the scan, and for its masks on the networks' voxels",
            remedy="end other programs, or segment it on a machine with more memory",
        ) from None
    write_labels(mask_file(output, case), prediction.labels, header)
    return replace(prediction, warnings=(*header.doubts, *prediction.warnings))


def unfinished(
    cases: Sequence[Case], output: Path, cascade: Cascade, *, overwrite: bool
) -> list[Case]:
    """Cases whose mask is not there yet; all of them where it came from other weights.

    Writes `run.json`, which names plan, weights and versions of the masks beside it.
    """
    record = _record(cascade)
    file = output / RUN_FILE
    same = file.exists() and file.read_bytes() == record
    workspace.write_bytes(file, record)
    if overwrite or not same:
        return list(cases)
    return [case for case in cases if not mask_file(output, case).exists()]


def mask_file(output: Path, case: Case) -> Path:
    """Where a case's mask is written."""
    return output / f"{case.id}.nii.gz"


def _record(cascade: Cascade) -> bytes:
    weights = hashlib.sha256()
    for network in (*cascade.kidney, *cascade.tumor):
        for tensor in network.state_dict().values():
            weights.update(tensor.cpu().contiguous().numpy().tobytes())
    content: dict[str, Any] = {
        "kitspipe": __version__,
        "plan": sha256(cascade.plan),
        "effort": asdict(cascade.effort),
        "weights": weights.hexdigest(),
        "kidney_networks": len(cascade.kidney),
        "tumor_networks": len(cascade.tumor),
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def _require_trained(place: Workspace, stage: Stage, files: Sequence[Path]) -> None:
    missing = [file for file in files if not file.exists()]
    if files and not missing:
        return
    trained = trained_folds(place, stage)
    raise UserError(
        missing[0] if missing else place.results_folder / stage,
        found=f"{stage} stage: folds trained to the end: {trained or 'none'}",
        expected="a trained network of each stage",
        remedy=f"run kitspipe_train {stage} 0, or name trained folds with -f",
    )
