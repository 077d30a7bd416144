"""Training samples of nnU-Net's own loader and augmentation, for `loader.py`.

Runs with the Python of nnU-Net's environment: prints seconds per sample and of processor time.

    python nnunet_loader.py PREPROCESSED Z Y X SAMPLES
"""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

DEEP_SUPERVISION = [[1, 1, 1], [1, 0.5, 0.5], [0.5, 0.25, 0.25], [0.25, 0.125, 0.125]]


def main() -> None:
    """Load and augment samples one after the other, on one thread."""
    preprocessed, (*patch_size, samples) = Path(sys.argv[1]), map(int, sys.argv[2:])
    torch.set_num_threads(1)
    plans = PlansManager(json.loads((preprocessed / "nnUNetPlans.json").read_text()))
    dataset = json.loads((preprocessed / "dataset.json").read_text())
    labels = plans.get_label_manager(dataset)
    trainer = SimpleNamespace(
        configuration_manager=SimpleNamespace(patch_size=patch_size),
        print_to_log_file=lambda *_: None,
    )
    rotation, dummy_2d, initial, mirror = (
        nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(trainer)
    )
    transforms = nnUNetTrainer.get_training_transforms(
        patch_size,
        rotation,
        DEEP_SUPERVISION,
        mirror,
        dummy_2d,
        use_mask_for_norm=[False],
        foreground_labels=labels.foreground_labels,
    )
    loader = nnUNetDataLoader(
        nnUNetDatasetBlosc2(str(preprocessed / "nnUNetPlans_3d_fullres")),
        1,
        initial,
        patch_size,
        labels,
        oversample_foreground_percent=0.33,
        transforms=transforms,
        probabilistic_oversampling=True,
    )
    np.random.seed(0)  # noqa: NPY002 - what nnU-Net draws from
    torch.manual_seed(0)
    next(loader)
    started, cpu = time.perf_counter(), time.process_time()
    for _ in range(samples):
        next(loader)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(json.dumps({"seconds": seconds / samples, "cpu": cpu / samples}))


if __name__ == "__main__":
    main()
