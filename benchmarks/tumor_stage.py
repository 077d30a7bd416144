"""Variants of a tumor stage, each trained for the same time around the same kidneys.

Works in the folder of `quality.py`: on its scans and its held-out cases, with the kidney networks
of its "planner", which are not trained again. Prints `quality.py`'s table, the first variant beside
each other one. What is there already is kept.

    python benchmarks/tumor_stage.py --work FOLDER --minutes 12.5 --only "wide changes"

Pin each command to a core (`OMP_NUM_THREADS=1 taskset -c 0`) to run two at a time.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace
from process_tree import run
from quality import BIN, MANY, predict, scores_of, table

from kitspipe.planning.document import write_document
from kitspipe.planning.plan import TumorPlan
from kitspipe.planning.planner import read_plan
from kitspipe.planning.recipes import tumor_augmentation
from kitspipe.workspace import Workspace


def narrow_changes(tumor: TumorPlan) -> TumorPlan:
    """Patches turned and scaled now and then, as the planner's small plan has it."""
    return replace(tumor, augmentation=tumor_augmentation("small").value)


def wide_changes(tumor: TumorPlan) -> TumorPlan:
    """Often and far, as its standard plan has it."""
    return replace(tumor, augmentation=tumor_augmentation("standard").value)


def one_slice(tumor: TumorPlan) -> TumorPlan:
    """Wide changes; 2D: the slice that is decided, without its neighbours."""
    network = replace(tumor.network, slab_depth=1)
    return replace(wide_changes(tumor), slab_depth=1, network=network)


VARIANTS: dict[str, Callable[[TumorPlan], TumorPlan]] = {
    "wide changes": wide_changes,
    "narrow changes": narrow_changes,
    "one slice": one_slice,
}


def copied(source: Path, target: Path, but: str = "") -> None:
    """A folder without the files of one name, over what a killed run left there."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(but), dirs_exist_ok=True)


def trained(work: Path, name: str, minutes: float) -> Path:
    """The tumor stage of a variant, then the held-out cases; the masks' folder."""
    source = Workspace(root=work / "planner")
    place = Workspace(root=work / f"tumor stage, {name}, {minutes:g} minutes")
    masks = place.root / "predictions"
    if (masks / "run.json").exists():
        return masks
    if not place.plan_file.exists():
        for folder in ("preprocessed", source.plan_file.parent.name):
            copied(source.root / folder, place.root / folder, but=source.plan_file.name)
        copied(source.results_folder / "kidney", place.results_folder / "kidney")
        plan = read_plan(source)
        # Last, as it says that all else is there.
        write_document(place.plan_file, replace(plan, tumor=VARIANTS[name](plan.tumor)))
    limits = ["--epochs", str(MANY), "--max-time", f"{round(60 * minutes)}s"]
    run([BIN / "kitspipe_train", "tumor", "all", "-w", place.root, "-q", *limits])
    predict(work, place, masks)
    return masks


def main() -> None:
    """Train what is missing, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="quality.py's, with its planner")
    parser.add_argument("--minutes", type=float, default=12.5, help="that each one trains")
    parser.add_argument("--only", nargs="+", choices=[*VARIANTS], help="columns to make now")
    options = parser.parse_args()
    work = options.work.resolve()
    names = options.only or [*VARIANTS]
    table({name: scores_of(work, trained(work, name, options.minutes)) for name in names})


if __name__ == "__main__":
    main()
