"""READ FIRST: one function per command, in the order of the flow.

raw -- check -- fingerprint -- plan -- preprocess -- train kidney -- train tumor -- predict
-- evaluate -- report. Each function returns the command's exit status. Folders are imported where
they are used, so that commands without networks start without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kitspipe import console
from kitspipe.errors import ALL_DONE, SOME_CASES_FAILED
from kitspipe.workspace import STAGES, Stage, Workspace, sweep

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from kitspipe.prediction.predict import Options

Fold = int | Literal["all"]
Size = Literal["standard", "small"]
Form = Literal["nnunet", "kits", "nifti"]


def plan_and_preprocess(
    *,
    data: Path,
    workspace: Path,
    size: Size,
    plan_name: str = "default",
    memory: float = 11.0,
    replan: bool = False,
    jobs: int | None = None,
    cluster: str | None = None,
) -> int:
    """fingerprint, which checks too, plan, preprocess."""
    fingerprint(data=data, workspace=workspace, plan_name=plan_name, jobs=jobs, cluster=cluster)
    plan(workspace=workspace, plan_name=plan_name, memory=memory, size=size, replan=replan)
    return preprocess(
        data=data, workspace=workspace, plan_name=plan_name, jobs=jobs, cluster=cluster
    )


def download(
    *, output: Path, cases: str, base_url: str, masks_url: str, no_masks: bool, jobs: int
) -> int:
    """Fetch KiTS19's scans and masks; what is there is kept."""
    from kitspipe.dataset import download as downloading

    places = downloading.Addresses(images=base_url, masks=None if no_masks else masks_url)
    done = downloading.download(output, downloading.case_numbers(cases), places, jobs=jobs)
    console.summary("download", done.rows)
    return _status(done.failures)


def convert(*, source: Path, target: Path, form: Form, copy: bool, jobs: int | None) -> int:
    """Turn a data set into another layout; what is there is kept."""
    from kitspipe.dataset.convert import convert_dataset

    done = convert_dataset(source, target, form, copy=copy, jobs=jobs)
    console.summary("convert", [*done.rows, ("folder", target)])
    return _status(done.failures)


def check(*, data: Path, jobs: int | None, cluster: str | None = None) -> int:
    """Print every problem of every case.

    Raises:
        UserError: at least one is an error; warnings alone are no failure.
    """
    from kitspipe.dataset.cases import find_dataset
    from kitspipe.dataset.check import check_dataset
    from kitspipe.dataset.cluster import on_cluster, same_everywhere
    from kitspipe.dataset.problems import report

    dataset = find_dataset(same_everywhere(data, cluster))
    with on_cluster(cluster, reads=dataset.folder):
        problems = check_dataset(dataset, jobs)
    report(data, problems, len(dataset.cases))
    return ALL_DONE


def fingerprint(
    *, data: Path, workspace: Path, plan_name: str, jobs: int | None, cluster: str | None = None
) -> int:
    """Check and measure a data set; cases that are measured and did not change are kept.

    Raises:
        UserError: a problem is an error; the other cases' measures are kept.
    """
    from kitspipe.dataset.cases import find_dataset
    from kitspipe.dataset.cluster import on_cluster, same_everywhere
    from kitspipe.dataset.problems import report
    from kitspipe.planning.document import write_document
    from kitspipe.planning.measured import kept, read_measured
    from kitspipe.planning.survey import survey_dataset

    place = Workspace(root=workspace, plan_name=plan_name)
    file = place.fingerprint_file
    known = read_measured(file)
    dataset = find_dataset(same_everywhere(data, cluster))
    with on_cluster(cluster, reads=dataset.folder), kept(file) as keep:
        survey = survey_dataset(dataset, known, jobs, keep)
        report(data, survey.problems, len(dataset.cases))
        write_document(file, survey.fingerprint)
    console.summary("fingerprint", [("cases", len(survey.fingerprint.cases)), ("file", file)])
    return ALL_DONE


def plan(*, workspace: Path, plan_name: str, memory: float, size: Size, replan: bool) -> int:
    """Write the plan and the folds; a plan that is there is kept, as it may be edited by hand."""
    from kitspipe.planning.planner import make_plan

    place = Workspace(root=workspace, plan_name=plan_name)
    made = make_plan(place, memory_gib=memory, size=size, replan=replan)
    kidney, tumor = made.plan.kidney, made.plan.tumor
    console.summary(
        "plan" if made.is_new else "plan (kept as it is; --replan plans anew)",
        [
            ("kidney", f"{kidney.target_spacing_mm} mm, patches of {kidney.patch_size}"),
            ("tumor", f"{tumor.target_spacing_mm} mm, slabs of {tumor.slab_depth} slices"),
            ("folds", f"{len(made.splits.folds)}, in {place.splits_file}"),
            ("file", place.plan_file),
        ],
    )
    return ALL_DONE


def describe(*, workspace: Path, plan_name: str) -> int:
    """Print parameters, operations and shapes of a plan's networks."""
    from kitspipe.networks.describe import describe as describe_plan
    from kitspipe.planning.planner import read_plan

    for stage in describe_plan(read_plan(Workspace(root=workspace, plan_name=plan_name))):
        console.summary(stage.title, stage.facts)
        console.table(("level", "shape"), stage.levels)
    return ALL_DONE


def preprocess(
    *, data: Path, workspace: Path, plan_name: str, jobs: int | None, cluster: str | None = None
) -> int:
    """Make the training arrays of both stages; what is whole and of this plan is kept."""
    from kitspipe.dataset.cases import find_dataset
    from kitspipe.dataset.cluster import on_cluster, same_everywhere
    from kitspipe.dataset.parallel import CaseFailure, for_each_case
    from kitspipe.planning.planner import read_plan
    from kitspipe.preprocessing.preprocess import preprocess_case

    place = Workspace(root=same_everywhere(workspace, cluster), plan_name=plan_name)
    work = partial(preprocess_case, plan=read_plan(place), workspace=place)
    dataset = find_dataset(same_everywhere(data, cluster))
    for stage in STAGES:
        sweep(place.preprocessed_folder(stage))
    with on_cluster(cluster, reads=dataset.folder, writes=place.root):
        results = list(for_each_case(work, dataset.labelled, jobs=jobs, label="preprocess"))
    failures = [result for result in results if isinstance(result, CaseFailure)]
    made = [r.case_id for r in results if not isinstance(r, CaseFailure) and r.made]
    console.summary(
        "preprocess",
        [
            ("made", len(made)),
            ("kept", len(results) - len(made) - len(failures)),
            ("arrays", place.preprocessed_folder("kidney").parent),
        ],
    )
    return _status([(failure.case_id, str(failure.error)) for failure in failures])


def train(
    *,
    stage: Stage | Literal["all"],
    fold: Fold | None,
    workspace: Path,
    device: str,
    plan_name: str = "default",
    dry_run: bool = False,
    **options: Any,
) -> int:
    """Train and validate a fold of a stage; without a number every fold, "all" both stages.

    `options` are those of `FoldOptions` and `Settings`.
    """
    from kitspipe.cross_validation import run_fold
    from kitspipe.networks.device import pick_device
    from kitspipe.planning.planner import chosen_folds
    from kitspipe.training.distributed import this_process
    from kitspipe.training.options import fold_options

    process, place = this_process(), Workspace(root=workspace, plan_name=plan_name)
    if not process.is_first:
        console.set_verbosity(console.QUIET)
    given = fold_options(process.device(pick_device(device)), process, **options)
    for one_stage, one_fold in process.one_at_a_time(chosen_folds(place, stage, fold)):
        status = run_fold(one_stage, one_fold, place, given, dry_run=dry_run)
        if status != ALL_DONE:
            return status
    return ALL_DONE


def choose(*, workspace: Path, plan_name: str, device: str) -> int:
    """Post-processing, mask margin, threshold and folds, by the cross-validation alone."""
    from kitspipe.evaluation import choose as choosing

    place = Workspace(root=workspace, plan_name=plan_name)
    choice = choosing.choose(place, device)
    console.table(choosing.HEADER, choosing.rows(choice))
    title = f"choose, on {choice.cases} held-out cases"
    console.summary(title, [*choice.why.items(), ("file", place.choice_file)])
    return ALL_DONE


def predict(
    *,
    images: Path,
    output: Path,
    workspace: Path,
    plan_name: str = "default",
    with_report: bool = False,
    **options: Unpack[Options],
) -> int:
    """Segment scans with the whole cascade; masks that are there are kept."""
    from kitspipe.prediction.predict import predict_scans

    place = Workspace(root=workspace, plan_name=plan_name)
    done = predict_scans(images, output, place, options)
    console.summary("predict", [*done.rows, ("masks", output), ("record", output / "run.json")])
    status = _status(done.failures)
    if not with_report:
        return status
    series = options.get("series")
    return max(status, report(images=images, masks=output, output=output / "report", series=series))


def export(*, workspace: Path, plan_name: str, output: Path, folds: Sequence[Fold] | None) -> int:
    """Write the trained cascade as one file."""
    from kitspipe.prediction.export import export_model

    done = export_model(Workspace(root=workspace, plan_name=plan_name), output, folds)
    console.summary("export", [*done.rows, ("file", output)])
    return ALL_DONE


def install(*, file: Path, workspace: Path, plan_name: str | None, overwrite: bool) -> int:
    """Take an exported cascade into a workspace."""
    from kitspipe.prediction.install import install_model

    place = install_model(file, workspace, plan_name, overwrite=overwrite)
    console.summary("install", [("plan", place.plan_file), ("results", place.results_folder)])
    return ALL_DONE


def evaluate(
    *,
    references: Path,
    predictions: Path,
    output: Path | None,
    jobs: int | None,
    against: Path | None = None,
) -> int:
    """Scores as the challenges have them, tumors found and made up; two sets compared."""
    from kitspipe.evaluation.evaluate_folders import evaluate_folders

    done = evaluate_folders(references, predictions, output or predictions, jobs, against)
    for table in done.tables:
        console.info(table.title)
        console.table(table.header, table.rows)
        console.info("")
    console.summary("evaluate", [(file.name, file) for file in done.files])
    return _status(done.failures)


def report(
    *,
    images: Path,
    masks: Path,
    output: Path,
    references: Path | None = None,
    series: str | None = None,
    names: bool = False,
    jobs: int | None = None,
) -> int:
    """Pages to review masks with: one for all cases, one for each."""
    from kitspipe.evaluation.report import Sources, report_folders

    sources = Sources(images=images, masks=masks, references=references, series=series)
    done = report_folders(sources, output, names=names, jobs=jobs)
    console.summary("report", done.rows)
    return _status(done.failures)


def measure(*, masks: Path, images: Path | None, output: Path, jobs: int | None) -> int:
    """Kidneys and tumors of masks in mm, ml and, with their CTs, HU."""
    from kitspipe.evaluation.measurement_files import measure_files

    done = measure_files(masks, images, output, jobs)
    for case in done.cases:
        for text in case.warnings:
            console.warning(f"{case.case_id}: {text}")
    console.summary("measure", done.rows)
    return _status(done.failures)


def demo(
    *,
    output: Path,
    masks: Path | None,
    cases: int | None,
    spacing: tuple[float, float, float] | None,
    only_data: bool,
    device: str,
) -> int:
    """Paint scans, then run the whole flow on them and score the held-out ones."""
    from kitspipe.dataset.phantom_dataset import paint_demo

    raw, held_out = paint_demo(output, masks=masks, cases=cases, spacing_mm=spacing)
    if only_data:
        console.summary("painted", [("training", raw), ("held out", held_out)])
        return ALL_DONE
    plan_and_preprocess(data=raw, workspace=output, size="small")
    status = train(stage="all", fold="all", workspace=output, device=device)
    if status != ALL_DONE:
        return status
    masks = output / "predictions"
    predict(images=held_out, output=masks, workspace=output, device=device)
    status = evaluate(references=held_out, predictions=masks, output=None, jobs=None)
    pages = report(images=held_out, masks=masks, references=held_out, output=output / "report")
    return max(status, pages)


def _status(failures: Sequence[tuple[str, str]]) -> int:
    for case_id, reason in failures:
        console.error(f"{case_id}: {reason}")
    return SOME_CASES_FAILED if failures else ALL_DONE
