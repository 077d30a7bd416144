"""Folders of masks in, files and tables out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kitspipe import console
from kitspipe.dataset.cases import find_masks
from kitspipe.evaluation import evaluation_files, evaluation_tables
from kitspipe.evaluation.compare import compare
from kitspipe.evaluation.evaluate import Evaluation, evaluate, label_values


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What `kitspipe_evaluate` has to tell.

    Args:
        tables: for the terminal.
        files: what was written.
        failures: case id and reason; ids of the other set have its folder before them.
    """

    tables: tuple[evaluation_tables.Table, ...]
    files: tuple[Path, ...]
    failures: tuple[tuple[str, str], ...]


def evaluate_folders(
    references: Path, predictions: Path, output: Path, jobs: int | None, against: Path | None
) -> Done:
    """Score a folder of predictions and write the files; compare it with another one.

    Args:
        references: folder of reference masks, in any layout.
        predictions: folder of predicted masks, in any layout.
        output: folder for the files.
        jobs: processes; None one per core.
        against: folder of other predictions for the same references.

    Raises:
        UserError: a folder without masks, no prediction for any reference, or the output can't be
            written.
    """
    expected = find_masks(references)
    found = [find_masks(folder) for folder in (predictions, against) if folder is not None]
    first = _scored(references, expected, predictions, found[0], jobs)
    files = evaluation_files.write(first, output)
    tables = evaluation_tables.as_tables(first)
    failures = first.failures
    if against is not None:
        other = _scored(references, expected, against, found[1], jobs)
        comparison, names = compare(first, other), (str(predictions), str(against))
        files += evaluation_files.write_comparison(comparison, output, names)
        tables.append(evaluation_tables.as_comparison_table(comparison, *names))
        failures += tuple((f"{against}: {case_id}", why) for case_id, why in other.failures)
    return Done(tables=tuple(tables), files=files, failures=failures)


def _scored(
    references: Path,
    expected: Mapping[str, Path],
    predictions: Path,
    found: Mapping[str, Path],
    jobs: int | None,
) -> Evaluation:
    labels, predicted_labels = label_values(references, predictions)
    done = evaluate(expected, found, labels, jobs, predicted_labels=predicted_labels)
    for case_id in done.without_reference:
        console.warning(f"{case_id}: no reference, so not scored: {found[case_id]}")
    return done
