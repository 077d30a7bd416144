"""What a model is, for those who get it without its workspace: a page of markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kitspipe import __version__
from kitspipe.planning.document import read_document
from kitspipe.planning.fingerprint import Fingerprint
from kitspipe.planning.plan import KidneyPlan, Plan, TumorPlan
from kitspipe.prediction.job import Fold, weight_files
from kitspipe.workspace import STAGES, Stage, Workspace

_INTENDED = """\
## Intended use

Research on kidneys, kidney tumors and cysts in CT of adults. **Not a medical device**: not tested \
or approved for diagnosis or treatment. Somebody who can judge masks has to look at each.

It knows no other organs, and no scans unlike those it was trained on: see below for contrast, \
spacing and orientation of those. A lesion that leads out of the found kidney, or lies in a kidney \
that was not found, is missed."""


def model_card(place: Workspace, plan: Plan, folds: Sequence[Fold] | None) -> str:
    """Markdown on a workspace's model: no path, no case name, nothing of a single patient.

    Args:
        place: the workspace; fingerprint and validation are told where they are there.
        plan: the plan.
        folds: which networks; None: all that are trained.
    """
    networks = {stage: [*weight_files(place, stage, folds)] for stage in STAGES}
    parts = [
        f"# Kidney and kidney tumor segmentation: {place.plan_name}",
        f"A cascade that kitspipe {__version__} trained and exported. Install it with "
        "`kitspipe_install`, or use it with `kitspipe_predict -m FILE`.",
        _INTENDED,
        "## Labels",
        f"{plan.labels.kidney} kidney, {plan.labels.tumor} tumor"
        + ("" if plan.labels.cyst is None else f", {plan.labels.cyst} cyst")
        + "; 0 is everything else.",
        "## Networks",
        _table(
            ("stage", "spacing mm (Z, Y, X)", "patch", "networks (folds)"),
            [
                ("kidney", *_shape(plan.kidney), _listed(networks["kidney"])),
                ("tumor", *_shape(plan.tumor), _listed(networks["tumor"])),
            ],
        ),
        "## Training data",
        _data(place),
        "## Cross-validation",
        _scores(place, networks),
    ]
    return "\n\n".join(parts) + "\n"


def _data(place: Workspace) -> str:
    if not place.fingerprint_file.exists():
        return "Not known: the fingerprint was not there at export."
    data = read_document(place.fingerprint_file, Fingerprint, made_by="kitspipe_fingerprint")
    cases = data.cases
    tumors = [case for case in cases if case.tumor_ml > 0]
    rows = [
        ("scans", f"{len(cases)}"),
        ("slice distance, mm", _range(case.spacing_mm[0] for case in cases)),
        ("pixel size, mm", _range(case.spacing_mm[2] for case in cases)),
        ("slices", _range(case.shape[0] for case in cases)),
        ("orientations of the files", ", ".join(sorted({case.orientation for case in cases}))),
        ("kidneys with all lesions, ml", _range(case.kidney_ml for case in cases)),
        ("scans with tumor", f"{len(tumors)}"),
        ("tumor, ml", _range(case.tumor_ml for case in tumors)),
        ("scans with cyst", f"{sum(case.cyst_ml > 0 for case in cases)}"),
        (
            "HU of the kidneys, mean and standard deviation",
            f"{data.foreground_mean_hu:.0f}, {data.foreground_sd_hu:.0f}",
        ),
    ]
    return _table(("what", "lowest, median, highest"), rows)


def _scores(place: Workspace, networks: Mapping[Stage, Sequence[Fold]]) -> str:
    """Scores of held-out cases, fold by fold, as training wrote them."""
    rows = []
    for fold in sorted({*networks["kidney"], *networks["tumor"]}, key=str):
        kidney = _read(place.fold_folder("kidney", fold) / "validation" / "kidney.json")
        whole = _read(place.fold_folder("tumor", fold) / "validation_end_to_end" / "summary.json")
        scores = _mapping(_mapping(whole).get("kits19"))
        row = (_number(_mapping(kidney).get("mean")), *(_number(scores.get(k)) for k in _KITS19))
        if set(row) != {"-"}:
            rows.append((str(fold), *row))
    if not rows:
        return "None: no fold was validated on cases that it had not been trained on."
    header = ("fold", "kidney stage alone, Dice", "kidney Dice", "tumor Dice")
    return _table(header, rows) + "\n\nThe last two are end to end, on the scans' own voxels."


_KITS19 = ("kidney", "tumor")


def _read(path: Path) -> object:
    with suppress(OSError, ValueError):
        found: object = json.loads(path.read_bytes())
        return found
    return None


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float | int) else "-"


def _shape(plan: KidneyPlan | TumorPlan) -> tuple[str, str]:
    spacing, patch = plan.target_spacing_mm, plan.patch_size
    return ", ".join(map(str, spacing)), " x ".join(map(str, patch))


def _listed(folds: Sequence[Fold]) -> str:
    return f"{len(folds)} ({', '.join(map(str, folds))})"


def _range(values: Iterable[float]) -> str:
    ordered = sorted(values)
    if not ordered:
        return "-"
    return f"{ordered[0]:.3g}, {ordered[len(ordered) // 2]:.3g}, {ordered[-1]:.3g}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
