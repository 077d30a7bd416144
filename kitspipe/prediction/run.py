"""A trained cascade on one case: files in, masks out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kitspipe import console
from kitspipe.dataset.cases import Case
from kitspipe.errors import UserError
from kitspipe.imaging.formats import read_image
from kitspipe.imaging.volume import Grid, Volume
from kitspipe.networks.device import pick_device
from kitspipe.networks.inference import for_prediction
from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.networks.vnet25d import VNet25D
from kitspipe.networks.weights import load_weights
from kitspipe.planning.choice import read_choice
from kitspipe.planning.planner import read_plan, training_key
from kitspipe.prediction.cascade import Cascade, Prediction, segment
from kitspipe.prediction.effort import DEFAULT, Effort
from kitspipe.prediction.job import Fold, Job, weight_files
from kitspipe.prediction.out_of_memory import is_out_of_memory, on_cpu
from kitspipe.prediction.outputs import write_outputs
from kitspipe.prediction.probabilities import StageProbability
from kitspipe.workspace import STAGES, Stage, Workspace


def load_cascade(
    place: Workspace,
    folds: Sequence[Fold] | None,
    device: str,
    stages: Sequence[Stage] = STAGES,
    effort: Effort = DEFAULT,
    *,
    chosen: bool = True,
) -> Cascade:
    """The trained networks of a workspace, with what `kitspipe_choose` chose for them.

    Args:
        place: the workspace.
        folds: which to average; None: all that are trained in the stages asked for.
        device: a name as `pick_device` takes it.
        stages: which networks are needed.
        effort: how hard is looked.
        chosen: whether `choice.json` counts.

    Raises:
        UserError: a stage or fold is not trained, or was trained with another plan.
    """
    plan, on = read_plan(place), pick_device(device)
    most = 1 if effort.one_network else None
    files = {stage: [*weight_files(place, stage, folds).values()][:most] for stage in stages}
    choice = read_choice(place, plan) if chosen else None
    kidney = [
        load_weights(ResUNet3D(plan.kidney.network), file, training_key(plan, "kidney"))
        for file in files.get("kidney", [])
    ]
    tumor = [
        load_weights(VNet25D(plan.tumor.network), file, training_key(plan, "tumor"))
        for file in files.get("tumor", [])
    ]
    return Cascade(
        plan=plan if choice is None else choice.applied(plan),
        kidney=[for_prediction(network, on) for network in kidney],
        tumor=[for_prediction(network, on) for network in tumor],
        device=on,
        effort=effort,
        calibrations={} if choice is None else choice.quality,
    )


def predict_case(case: Case, job: Job, cascade: Cascade) -> Prediction:
    """Segment one case and write what the job asks for, on the input's voxels and geometry.

    What its file leaves open stands first in the warnings.

    Args:
        case: the case.
        job: what is asked for, and where it is written.
        cascade: the job's networks.

    Raises:
        UserError: the scan can't be read, or is larger than memory.
    """
    maps: list[StageProbability] = []
    started = time.perf_counter()
    try:
        image, header = read_image(case.image)
        read = time.perf_counter()
        prediction = segment_anyhow(image, cascade, maps if job.probabilities else None)
        segmented = time.perf_counter()
        write_outputs(case, job, prediction.labels, header, cascade.plan.labels, maps)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        first_line = (str(error) or "the system gave no more").splitlines()[0]
        raise UserError(
            case.image,
            found=f"out of memory: {first_line}",
            expected="memory for the scan, and for its masks on the networks' voxels",
            remedy="end other programs, or segment it on a machine with more memory",
        ) from None
    return replace(
        prediction,
        warnings=(*header.doubts, *prediction.warnings),
        seconds={
            "read": read - started,
            **prediction.seconds,
            "write": time.perf_counter() - segmented,
        },
    )


def segment_anyhow(
    image: Volume, cascade: Cascade, maps: list[StageProbability] | None = None
) -> Prediction:
    """Segment a scan, on the CPU where a GPU's memory does not suffice; a warning says so.

    Args:
        image: int16 HU, canonical.
        cascade: the networks.
        maps: gets the probabilities; None: they are not kept.
    """

    def keep(name: str, array: NDArray[np.float32], grid: Grid) -> None:
        if maps is not None:
            maps.append(StageProbability(name=name, array=array, grid=grid))

    if maps is not None:
        cascade = replace(cascade, observe=keep)
    try:
        return segment(image, cascade)
    except (MemoryError, RuntimeError) as error:
        if cascade.device.type == "cpu" or not is_out_of_memory(error):
            raise
    # Only here, behind the handler: its exception holds what has to go.
    console.warning("out of GPU memory with a single patch: segmented on the CPU")
    if maps is not None:
        maps.clear()
    return segment(image, on_cpu(cascade))
