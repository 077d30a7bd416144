"""One case, once: claimed, done or failed, and recorded whatever happens."""

from __future__ import annotations

import platform
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import torch

from kitspipe import __version__, console
from kitspipe.dataset.cases import Case
from kitspipe.errors import UserError
from kitspipe.prediction.agreement import case_quality
from kitspipe.prediction.cascade import Cascade
from kitspipe.prediction.claims import Claim, claimed
from kitspipe.prediction.job import Job
from kitspipe.prediction.memory_use import peak_mib, reset_peak
from kitspipe.prediction.records import Outcome, Run, begun, failure_of, identify
from kitspipe.prediction.run import predict_case

_PACKAGES = ("torch", "numpy", "scipy", "SimpleITK", "connected-components-3d")
_SHARED = ("plan_name", "device", "format", "probabilities", "dicom_seg")


def describe_run(job: Job, cascade: Cascade) -> Run:
    """What the cases of a job share."""
    on, options = cascade.device, msgspec.to_builtins(job)
    name = f" ({torch.cuda.get_device_name(on)})" if on.type == "cuda" else ""
    versions = {package: metadata.version(package) for package in _PACKAGES}
    return Run(
        recipe=job.recipe,
        job={key: options[key] for key in _SHARED},
        device=f"{on}{name}",
        threads=torch.get_num_threads(),
        versions={"kitspipe": __version__, "python": platform.python_version(), **versions},
        machine=platform.node(),
    )


def attempt(case: Case, job: Job, cascade: Cascade, *, run: str, seen: str) -> Outcome:
    """Do a case, unless another process has it or has done it; what goes wrong is recorded.

    Args:
        case: the case.
        job: what is asked for.
        cascade: the job's networks.
        run: key of what all cases share.
        seen: `attempt` of the record that the command saw at its start, empty without. Another
            one now means that somebody did the case since.
    """
    try:
        with claimed(Path(job.output), case.id) as claim:
            if claim is None:
                return Outcome(status="busy")
            known = claim.read()
            if known is not None and known.status != "under way" and known.attempt != seen:
                return Outcome(status="elsewhere", record=known)
            return _recorded(case, job, cascade, claim, run)
    except UserError as error:
        # The record can't be written: a full disk.
        record = msgspec.structs.replace(
            begun(case, job, run), status="failed", failure=failure_of(error)
        )
        return Outcome(status="failed", record=record)


def _recorded(case: Case, job: Job, cascade: Cascade, claim: Claim, run: str) -> Outcome:
    record = begun(case, job, run)
    claim.write(record)
    gpu = cascade.device if cascade.device.type == "cuda" else None
    reset_peak()
    if gpu is not None:
        torch.cuda.reset_peak_memory_stats(gpu)
    is_defect, started = False, time.perf_counter()
    changes: dict[str, Any] = {"status": "failed"}
    with console.collected_warnings() as warnings:
        try:
            prediction = predict_case(case, job, cascade)
            warnings += prediction.warnings
            changes = {
                "status": "done",
                "input": identify(case.image),
                "outputs": tuple(job.names_of(case)),
                "seconds": prediction.seconds,
                "quality": case_quality(prediction.agreement, cascade.calibration),
            }
        except UserError as error:
            changes["failure"] = failure_of(error)
        except OSError as error:
            changes["failure"] = failure_of(_unreadable(case, error))
        except Exception:
            is_defect = True
            changes["failure"] = failure_of(_defect(case))
    seconds = changes.get("seconds", {}) | {"total": time.perf_counter() - started}
    changes |= {
        "seconds": {phase: round(taken, 3) for phase, taken in seconds.items()},
        "peak_memory_mib": peak_mib(),
        "warnings": tuple(dict.fromkeys(warnings)),
    }
    if gpu is not None and not is_defect:
        changes["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated(gpu) / 2**20, 1)
    record = msgspec.structs.replace(record, **changes)
    claim.write(record)
    return Outcome(status=changes["status"], record=record, is_defect=is_defect)


def _unreadable(case: Case, error: OSError) -> UserError:
    return UserError(
        error.filename or case.image,
        found=f"it can't be read: {error.strerror or error}",
        expected="files that stay where they are while a command runs",
        remedy="look at the file and its disk, then run the same command again",
    )


def _defect(case: Case) -> UserError:
    return UserError(
        case.image,
        found=traceback.format_exc(),
        expected="no exception",
        remedy="this is a defect of kitspipe: please report it with the lines above",
    )
