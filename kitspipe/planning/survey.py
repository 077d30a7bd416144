"""Every case of a data set checked and measured, each of its files read once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from kitspipe.dataset.case_files import CaseFiles
from kitspipe.dataset.cases import Case, Dataset
from kitspipe.dataset.check import check_case, duplicate_problems, failed, partner_problems
from kitspipe.dataset.parallel import CaseFailure, for_each_case
from kitspipe.dataset.problems import Problem, errors_in
from kitspipe.errors import UserError
from kitspipe.planning.fingerprint import (
    KITS_VALUES,
    CaseFingerprint,
    Fingerprint,
    file_sha256,
    fingerprint_case,
)
from kitspipe.planning.plan import Labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What a data set holds.

    Args:
        problems: of all cases, in their order, then those between cases.
        fingerprint: of the cases that have a mask and no error.
    """

    problems: tuple[Problem, ...]
    fingerprint: Fingerprint


def survey_dataset(
    dataset: Dataset,
    known: Fingerprint | None,
    jobs: int | None,
    keep: Callable[[CaseFingerprint], None] | None = None,
) -> Survey:
    """The problems and the fingerprint of a data set.

    Cases in `known` whose files did not change cost a hash; what was found wrong with them then
    is found again.

    Args:
        dataset: the cases.
        known: an earlier fingerprint.
        jobs: processes; None one per core.
        keep: called with each case's record at once.

    Raises:
        UserError: no case has a mask.
    """
    values = KITS_VALUES if dataset.label_values is None else Labels(**dataset.label_values)
    records = {} if known is None else {case.id: case for case in known.cases}
    work = partial(survey_case, known=records, values=values)
    problems: list[Problem] = []
    measured: dict[str, CaseFingerprint] = {}
    for found in for_each_case(work, dataset.cases, jobs=jobs, label="check and fingerprint"):
        if isinstance(found, CaseFailure):
            problems.append(failed(found))
            continue
        of_case, record = found
        problems += of_case
        if record is not None:
            measured[record.id] = record
            if keep is not None:
                keep(record)
    problems += duplicate_problems(dataset.cases)
    if not errors_in(problems) and not measured:
        raise UserError(
            dataset.folder,
            found=f"no mask for any of {len(dataset.cases)} scans",
            expected="scans with masks to learn from",
            remedy="add the masks; KiTS keeps those of its test cases",
        )
    return Survey(
        problems=tuple(problems),
        fingerprint=Fingerprint(cases=tuple(measured[name] for name in sorted(measured))),
    )


def survey_case(
    case: Case, *, known: dict[str, CaseFingerprint], values: Labels = KITS_VALUES
) -> tuple[list[Problem], CaseFingerprint | None]:
    """A case's problems, and its record where it has a mask and no error.

    Args:
        case: the case.
        known: earlier records.
        values: which label value is what.
    """
    record = known.get(case.id)
    if record is not None and _describes(record, case, values):
        return list(record.warnings), record
    if case.labels is None:
        return partner_problems(case), None
    files = CaseFiles(case)
    names = {"kidney": values.kidney, "tumor": values.tumor}
    if values.cyst is not None:
        names["cyst"] = values.cyst
    problems = check_case(case, None, names=names, files=files)
    if errors_in(problems):
        return problems, None
    return problems, fingerprint_case(files, values, problems)


def _describes(record: CaseFingerprint, case: Case, values: Labels) -> bool:
    if case.labels is None or record.values != values:
        return False
    files = (case.image, case.labels)
    hashes = (record.image_sha256, record.labels_sha256)
    return all(file.exists() for file in files) and hashes == tuple(map(file_sha256, files))
