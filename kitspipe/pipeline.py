"""READ FIRST: one function per command, in the order of the flow.

raw -- check -- fingerprint -- plan -- preprocess -- train kidney -- train tumor -- predict
-- evaluate. Each function returns the command's exit status. Folders are imported where they are
used, so that commands without networks start without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from kitspipe import console
from kitspipe.errors import ALL_DONE, SOME_CASES_FAILED, STOPPED, UserError
from kitspipe.workspace import STAGES, Stage, Workspace, sweep

Fold = int | Literal["all"]
Size = Literal["standard", "small"]
Form = Literal["nnunet", "kits", "nifti"]


def plan_and_preprocess(
    *,
    data: Path,
    workspace: Path,
    plan_name: str,
    memory: float,
    size: Size,
    replan: bool,
    jobs: int | None,
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
    stage: Stage,
    fold: Fold,
    workspace: Path,
    plan_name: str,
    device: str,
    dry_run: bool = False,
    **options: Any,
) -> int:
    """Train one fold of a stage and validate it on whole cases; `options` as in `FoldOptions`."""
    from kitspipe.evaluation.validation import validate_fold
    from kitspipe.networks.device import pick_device
    from kitspipe.planning.planner import read_fold, read_plan, training_key
    from kitspipe.prediction.cascade import region_tumor
    from kitspipe.preprocessing.preprocess import open_cases
    from kitspipe.training.distributed import this_process, together
    from kitspipe.training.fold import rehearse_fold, train_fold
    from kitspipe.training.options import fold_options
    from kitspipe.training.stages import kidney_task, tumor_task

    process = this_process()
    if not process.is_first:
        console.set_verbosity(console.QUIET)
    place, on = Workspace(root=workspace, plan_name=plan_name), process.device(pick_device(device))
    the_plan, folder = read_plan(place), place.fold_folder(stage, fold)
    training_ids, validation_ids = read_fold(place, fold)
    training = open_cases(place, stage, the_plan, training_ids)
    validation = open_cases(place, stage, the_plan, validation_ids)
    if stage == "kidney":
        task = kidney_task(the_plan, training, validation)
    else:
        predict_region = partial(region_tumor, plan=the_plan.tumor, device=on)
        task = tumor_task(the_plan, training, validation, predict_region)
    fold_of = (task, the_plan.stage(stage), folder, training_key(the_plan, stage))
    given = fold_options(on, process, **options)
    if dry_run:
        console.summary(f"train {stage} fold {fold} (dry run)", rehearse_fold(*fold_of, given))
        return ALL_DONE
    with together(process, on):
        is_complete = train_fold(*fold_of, given)
    if not is_complete:
        console.info(f"stopped; the same command goes on from {folder}")
        return STOPPED
    if process.is_first:
        scores = [] if fold == "all" else validate_fold(stage, fold, place, validation_ids, device)
        console.summary(f"train {stage} fold {fold}", [*scores, ("results", folder)])
    return ALL_DONE


def predict(
    *,
    images: Path,
    output: Path,
    workspace: Path,
    plan_name: str,
    folds: Sequence[Fold] | None,
    device: str,
    overwrite: bool,
    series: str | None = None,
) -> int:
    """Segment scans with the whole cascade; masks that are there are kept."""
    from kitspipe.dataset.cases import find_images
    from kitspipe.prediction.run import load_cascade, predict_case, unfinished

    cases = find_images(images, series)
    cascade = load_cascade(Workspace(root=workspace, plan_name=plan_name), folds, device)
    todo = unfinished(cases, output, cascade, overwrite=overwrite)
    failures = []
    for case in console.progress(todo, len(todo), "predict"):
        try:
            prediction = predict_case(case, output, cascade)
        except UserError as error:
            failures.append((case.id, str(error)))
            continue
        for text in prediction.warnings:
            console.warning(f"{case.id}: {text}")
        console.detail(f"{case.id}: seconds {prediction.seconds}")
    console.summary(
        "predict",
        [
            ("written", len(todo) - len(failures)),
            ("kept", len(cases) - len(todo)),
            ("masks", output),
        ],
    )
    return _status(failures)


def evaluate(*, references: Path, predictions: Path, output: Path | None, jobs: int | None) -> int:
    """Official KiTS19 and KiTS21/23 scores of predictions."""
    from kitspipe.dataset.cases import find_masks
    from kitspipe.evaluation import evaluate as scoring
    from kitspipe.planning.plan import Labels

    evaluation = scoring.evaluate(
        find_masks(references), find_masks(predictions), Labels(cyst=3), jobs
    )
    csv, summary = scoring.write(evaluation, output or predictions)
    console.table(*scoring.as_table(evaluation))
    console.summary("evaluate", [("scores", csv), ("summary", summary)])
    return _status(evaluation.failures)


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
    plan_and_preprocess(
        data=raw,
        workspace=output,
        plan_name="default",
        memory=11.0,
        size="small",
        replan=False,
        jobs=None,
    )
    for stage in STAGES:
        status = train(
            stage=stage,
            fold="all",
            workspace=output,
            plan_name="default",
            device=device,
            workers=2,
            restart=False,
        )
        if status != ALL_DONE:
            return status
    predictions = output / "predictions"
    predict(
        images=held_out,
        output=predictions,
        workspace=output,
        plan_name="default",
        folds=None,
        device=device,
        overwrite=False,
    )
    return evaluate(references=held_out, predictions=predictions, output=None, jobs=None)


def _status(failures: Sequence[tuple[str, str]]) -> int:
    for case_id, reason in failures:
        console.error(f"{case_id}: {reason}")
    return SOME_CASES_FAILED if failures else ALL_DONE
