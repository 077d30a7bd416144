"""nnU-Net's own trainer for a given time, then its predictions, for `quality.py`.

Runs with the Python of nnU-Net's environment, on its planned and preprocessed 3d_fullres. The
learning rate falls to its end as the time does, and a CPU may compute in bfloat16; nothing else
differs from its default trainer.

    python nnunet_quality.py PREPROCESSED RESULTS IMAGES OUTPUT SECONDS DEVICE PRECISION
"""

import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

INITIAL_RATE, EXPONENT = 1e-2, 0.9
ON_CPU = torch.autocast("cpu", torch.bfloat16, enabled=sys.argv[7] == "bfloat16")


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

    def train_step(self, batch: dict) -> None:
        """nnU-Net's on a GPU; on a CPU the same steps, the network's pass in bfloat16."""
        if self.device.type == "cuda":
            super().train_step(batch)
            return
        targets = batch["target"]
        self.optimizer.zero_grad(set_to_none=True)
        with ON_CPU:
            outputs = self.network(batch["data"])
        loss = self.loss([output.float() for output in outputs], targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.optimizer.step()


# Predictions look for the trainer by its name.
TimedTrainer.__name__ = "nnUNetTrainer"


def main() -> None:
    """Train on all cases, predict, print steps and seconds as JSON."""
    preprocessed, results, images, output = map(Path, sys.argv[1:5])
    seconds, device = float(sys.argv[5]), torch.device(sys.argv[6])
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False
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
    with ON_CPU if device.type == "cpu" else nullcontext():
        predictor.predict_from_files_sequential(
            [[str(case / "imaging.nii.gz")] for case in cases],
            [str(output / case.name) for case in cases],
            overwrite=False,
        )
    (results / "quality.json").write_text(
        json.dumps(
            {
                "steps": steps,
                **{
                    key: plans["configurations"]["3d_fullres"][key]
                    for key in ("patch_size", "batch_size", "spacing")
                },
                "predict_seconds": time.monotonic() - started,
            }
        )
    )


if __name__ == "__main__":
    main()
