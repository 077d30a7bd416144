"""What became of each case: a record per case, and `run.json` with all of them.

A case's record is `.records/CASE.json` in the output folder. The file is the case's lock too
(`claims.py`), so it is written in place, never renamed, and never removed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import field

from kitspipe import workspace
from kitspipe.dataset.cases import Case
from kitspipe.errors import UserError
from kitspipe.imaging.dicom import find_series
from kitspipe.planning.document import Document, encode, sha256
from kitspipe.planning.fingerprint import file_sha256
from kitspipe.prediction.agreement import CaseQuality
from kitspipe.prediction.job import Job, Recipe

RUN_FILE = "run.json"
RECORDS = ".records"
RUNS = "runs"
Status = Literal["under way", "done", "failed"]
Standing = Literal["missing", "kept", "other"]


class Input(Document, frozen=True, kw_only=True):
    """Which scan it was: where it lay, and the hash, size and last change of its file or files."""

    path: str
    sha256: str
    bytes: int
    modified_ns: int


class Failure(Document, frozen=True, kw_only=True):
    """Why a case has no mask: the parts of a `UserError`."""

    file: str
    found: str
    expected: str
    remedy: str


class Run(Document, frozen=True, kw_only=True):
    """What cases of one command share.

    Args:
        recipe: what decided the masks.
        job: the other options.
        device: that the networks ran on, with its name.
        threads: of torch on the CPU.
        versions: of Python and the packages that matter.
        machine: its name.
    """

    recipe: Recipe
    job: dict[str, Any]
    device: str
    threads: int
    versions: dict[str, str]
    machine: str

    @property
    def key(self) -> str:
        """Equal runs have equal ones."""
        return sha256(self)[:16]


class CaseRecord(Document, frozen=True, kw_only=True):
    """What became of a case.

    Args:
        case_id: the case.
        status: "under way" stays where the process was killed.
        attempt: unique, so that one sees whether a record changed.
        recipe: key of what decided the mask.
        run: key of the `Run`; None before networks were loaded.
        input: the scan.
        outputs: names of the files written, in the output folder.
        started: UTC, ISO 8601.
        seconds: by phase, and `total`.
        peak_memory_mib: of the process, while it worked on the case.
        peak_gpu_memory_mib: None without a GPU.
        warnings: what a reader should look at.
        quality: what networks and mirrored passes agree on; None with a single one.
        failure: why it failed.
    """

    case_id: str
    status: Status
    attempt: str = ""
    recipe: str = ""
    run: str | None = None
    input: Input | None = None
    outputs: tuple[str, ...] = ()
    started: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_mib: float | None = None
    peak_gpu_memory_mib: float | None = None
    warnings: tuple[str, ...] = ()
    quality: CaseQuality | None = None
    failure: Failure | None = None


class Outcome(Document, frozen=True, kw_only=True):
    """What became of a case that was asked for.

    Args:
        status: "busy": another process has it; "elsewhere": another has done it meanwhile.
        record: of the case; None where it is busy.
        is_defect: ours, after which networks and device are not to be trusted.
    """

    status: Literal["done", "failed", "busy", "elsewhere"]
    record: CaseRecord | None = None
    is_defect: bool = False


def record_file(output: Path, case_id: str) -> Path:
    """Where a case's record and lock are."""
    return output / RECORDS / f"{case_id}.json"


def read_record(file: Path) -> CaseRecord | None:
    """A case's record; None where there is none. A torn one counts as "under way"."""
    try:
        return decoded(file.read_bytes(), file.stem)
    except OSError:
        return None


def decoded(content: bytes, case_id: str) -> CaseRecord:
    """The record in a file's content; "under way" where it is not whole."""
    try:
        return msgspec.json.decode(content, type=CaseRecord)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return CaseRecord(case_id=case_id, status="under way")


def write_run(output: Path, run: Run) -> None:
    """Keep what cases share, for `merge`."""
    workspace.write_bytes(output / RECORDS / RUNS / f"{run.key}.json", encode(run))


def merge(output: Path) -> None:
    """Write `run.json`: all records of the folder, whichever command made them.

    Call it under the folder's lock; then no command's records are lost.
    """
    folder = output / RECORDS
    files = sorted(folder.glob("*.json"))
    cases = {record.case_id: record for file in files if (record := read_record(file))}
    runs = {}
    for file in sorted((folder / RUNS).glob("*.json")):
        with suppress(OSError, ValueError):
            runs[file.stem] = json.loads(file.read_bytes())
    used = {record.run for record in cases.values()}
    statuses = [record.status for record in cases.values()]
    content = {
        "schema": 1,
        "count": {status: statuses.count(status) for status in ("done", "failed", "under way")},
        "runs": {key: run for key, run in runs.items() if key in used},
        "cases": cases,
    }
    text = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
    workspace.write_bytes(output / RUN_FILE, text)


def identify(image: Path) -> Input:
    """Which scan this is: reads all of its bytes."""
    found = find_series(image)
    place = image if found is None else found[0]
    size, modified_ns = _size_and_change(place)
    return Input(
        path=str(image.absolute()), sha256=file_sha256(place), bytes=size, modified_ns=modified_ns
    )


def standing(case: Case, job: Job, record: CaseRecord | None) -> Standing:
    """Whether a case's files are there and of this job.

    Args:
        case: the case.
        job: what is asked for.
        record: of the case, None without.

    Returns:
        "missing": to do; "kept": whole; "other": there is a mask, but made by another recipe,
        from another scan, or by nobody knows whom.
    """
    files = job.files_of(case)
    is_there = files[0].exists()
    if record is None:
        return "other" if is_there else "missing"
    if record.status != "done" or not is_there:
        return "missing"
    if record.recipe != job.recipe.key or not _is_same_scan(case.image, record.input):
        return "other"
    return "kept" if all(file.exists() for file in files) else "missing"


def why_other(case: Case, job: Job, record: CaseRecord | None) -> UserError:
    """What to tell of a case whose standing is "other"."""
    if record is None:
        found = "a mask, without a record of what made it"
    elif record.recipe != job.recipe.key:
        found = "a mask made by another model, other options or another version of kitspipe"
    else:
        found = "a mask made from another scan of this name"
    return UserError(
        job.mask_file(case),
        found=found,
        expected="none yet, or one that the same command would make",
        remedy="--overwrite does it anew; or choose another output folder",
    )


def begun(case: Case, job: Job, run: str | None) -> CaseRecord:
    """The record of a case whose work begins now."""
    return CaseRecord(
        case_id=case.id,
        status="under way",
        attempt=uuid.uuid4().hex,
        recipe=job.recipe.key,
        run=run,
        started=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
    )


def failure_of(error: UserError) -> Failure:
    """A user's mistake as it is recorded."""
    return Failure(file=error.file, found=error.found, expected=error.expected, remedy=error.remedy)


def error_of(failure: Failure) -> UserError:
    """The error that was recorded."""
    return UserError(
        failure.file, found=failure.found, expected=failure.expected, remedy=failure.remedy
    )


def rows(records: Iterable[CaseRecord]) -> list[tuple[str, str]]:
    """Case and reason of those that failed."""
    return [(record.case_id, str(error_of(record.failure))) for record in records if record.failure]


def _is_same_scan(image: Path, known: Input | None) -> bool:
    found = find_series(image)
    place = image if found is None else found[0]
    if known is None or not place.exists():
        # What can't be read any more was not replaced by another.
        return known is not None
    if _size_and_change(place) == (known.bytes, known.modified_ns):
        return True
    return file_sha256(place) == known.sha256


def _size_and_change(place: Path) -> tuple[int, int]:
    files: Sequence[Path] = [place]
    if place.is_dir():
        files = [file for file in place.iterdir() if file.is_file()]
    stats = [file.stat() for file in files]
    return sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)
