"""nnU-Net's own trainer for a given time, then its predictions, for `quality.py`.

Runs with the Python of nnU-Net's environment, on its planned and preprocessed 3d_fullres. The
learning rate falls to its end as the time does; nothing else differs from its default trainer.

    python nnunet_quality.py PREPROCESSED RESULTS IMAGES OUTPUT SECONDS DEVICE
"""

import json
import sys
import time
from pathlib import Path

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

PARTS = 1000
INITIAL_RATE, EXPONENT = 1e-2, 0.9


class TimedTrainer(nnUNetTrainer):
    """Stops when its time is over."""

    def run_for(self, seconds: float) -> int:
        """Train; how many steps it took."""
        self.on_train_start()
        self.network.train()
        started, steps = time.monotonic(), 0
        while (passed := time.monotonic() - started) < seconds:
            for group in self.optimizer.param_groups:
                group["lr"] = INITIAL_RATE * (1 - passed / seconds) ** EXPONENT
            self.train_step(next(self.dataloader_train))
            steps += 1
        self.current_epoch = 1
        self.on_train_end()
        return steps


# Predictions look for the trainer by its name.
TimedTrainer.__name__ = "nnUNetTrainer"


def main() -> None:
    """Train on all cases, predict, print steps and seconds as JSON."""
    preprocessed, results, images, output = map(Path, sys.argv[1:5])
    seconds, device = float(sys.argv[5]), torch.device(sys.argv[6])
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    dataset = json.loads((preprocessed / "dataset.json").read_text())
    trainer = TimedTrainer(plans, "3d_fullres", "all", dataset, device=device)
    trainer.initialize()
    steps = trainer.run_for(seconds)
    predictor = nnUNetPredictor(
        use_mirroring=False, device=device, perform_everything_on_device=device.type == "cuda"
    )
    started = time.monotonic()
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, ("all",))
    cases = sorted(images.glob("case_*"))
    predictor.predict_from_files_sequential(
        [[str(case / "imaging.nii.gz")] for case in cases],
        [str(output / case.name) for case in cases],
    )
    (results / "quality.json").write_text(
        json.dumps(
            {
                "steps": steps,
                "patch_size": plans["configurations"]["3d_fullres"]["patch_size"],
                "predict_seconds": time.monotonic() - started,
            }
        )
    )


if __name__ == "__main__":
    main()
