"""What nnU-Net 2.8.1 takes for whole scans; run by `predict.py` with nnU-Net's own Python.

    PYTHON benchmarks/nnunet_predict.py PLANS DATASET_JSON COMPARED [IMAGE...]

Prints one line of JSON: the plan, seconds of one window of its network, and for each image by its
number of slices the windows that its own rule asks for; for the image number COMPARED also seconds
of its own preprocessing and export.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

CLASSES, WINDOWS, STEP = 4, 2, 0.5


def main() -> None:
    """Measure and print."""
    plans_file, dataset_file, compared, *images = sys.argv[1:]
    plans = PlansManager(plans_file)
    dataset = json.loads(Path(dataset_file).read_text())
    configuration = plans.get_configuration("3d_fullres")
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        CLASSES,
        deep_supervision=False,
    ).eval()
    patch = tuple(configuration.patch_size)
    wall, processor = window_seconds(network, patch)
    found: dict[str, object] = {
        "plan": f"patches {patch}, spacing {[round(s, 2) for s in configuration.spacing]} mm, "
        f"{torch.get_num_threads()} threads, a window {wall:.2f} s (processor {processor:.2f} s)",
        "window": {"seconds": wall, "processor": processor},
    }
    for number, image in enumerate(images):
        reader = sitk.ImageFileReader()
        reader.SetFileName(image)
        reader.ReadImageInformation()
        # nnU-Net reads the array's axes from last to first, as SimpleITK gives them.
        size, spacing = reader.GetSize()[::-1], reader.GetSpacing()[::-1]
        order = plans.transpose_forward
        shape = [
            round(size[axis] * spacing[axis] / target)
            for axis, target in zip(order, configuration.spacing, strict=True)
        ]
        padded = [max(n, p) for n, p in zip(shape, patch, strict=True)]
        steps = compute_steps_for_sliding_window(tuple(padded), patch, STEP)
        own: dict[str, float] = {"windows": math.prod(len(axis) for axis in steps)}
        if number == int(compared):
            own |= around_network(image, plans, dataset, configuration)
        found[str(min(size, key=lambda n: n == 512))] = own
    print(json.dumps(found))


def window_seconds(network: torch.nn.Module, patch: tuple[int, ...]) -> tuple[float, float]:
    """Median seconds of a window, and of all processors, after one to warm up."""
    walls, processors = [], []
    with torch.inference_mode():
        image = torch.randn(1, 1, *patch)
        for _ in range(WINDOWS + 1):
            wall, processor = time.perf_counter(), time.process_time()
            network(image)
            walls.append(time.perf_counter() - wall)
            processors.append(time.process_time() - processor)
    return statistics.median(walls[1:]), statistics.median(processors[1:])


def around_network(image, plans, dataset, configuration) -> dict[str, float]:  # noqa: ANN001
    """Seconds of preprocessing and export of one scan."""
    started = time.perf_counter()
    data, _, properties = DefaultPreprocessor(verbose=False).run_case(
        [image], None, plans, configuration, dataset
    )
    preprocess = time.perf_counter() - started
    logits = torch.randn(1, *data.shape[1:]).repeat(CLASSES, 1, 1, 1).numpy().astype(np.float32)
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        export_prediction_from_logits(
            torch.from_numpy(logits), properties, configuration, plans, dataset, f"{folder}/mask"
        )
    return {"preprocess": preprocess, "export": time.perf_counter() - started}


if __name__ == "__main__":
    main()
