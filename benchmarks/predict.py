"""Whole scans on the CPU: our cascade beside nnU-Net 2.8.1's 3d_fullres, without mirroring.

    python benchmarks/predict.py --masks KITS --nnunet PYTHON --work FOLDER [--rounds 2]

Paints CTs of 512 x 512 with 64, 157, 270, 611 and 1059 slices around masks of KiTS (the last is one
of 834 slices with air added at both ends before the body is painted around it) and plans a standard
training with both programs. Ours runs as the real command, from file to file, in a process of its
own; printed are seconds, processor seconds and the peak memory of all its processes.

Nobody trains standard networks for this. Kidneys are painted 1500 HU brighter than they are, so
that a kidney network that saw some minutes of small patches finds them in every window; the tumor
network's weights are random. Both do all the work that trained ones do.

nnU-Net's time is one window of its own network, measured anew before each scan, times the windows
that its own rule asks for, plus, for the scan of 157 slices, its own preprocessing and export of
that scan, measured once; random weights, as time does not depend on them. PYTHON is that of its
environment.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from preprocess import link_for_nnunet, nnunet_environment
from process_tree import Run, run

GIB = 1024**3
BIN = Path(sys.executable).parent
HERE = Path(__file__).parent
MARK_HU = 1500
RATE = 2e-3
STEPS, PATCH = 320, (16, 64, 64)


@dataclass(frozen=True)
class Scan:
    """A KiTS mask to paint around, and how many slices it is to have."""

    number: int
    slices: int


SCANS = (Scan(4, 64), Scan(6, 157), Scan(3, 270), Scan(0, 611), Scan(5, 1059))
COMPARED = 157


def paint(masks: Path, raw: Path) -> None:
    """Full-size CTs with bright kidneys, in KiTS layout; what is there is kept."""
    import numpy as np

    from kitspipe.dataset.anatomy import anatomy_around
    from kitspipe.dataset.phantoms import MASK_NAME
    from kitspipe.dataset.phantoms import paint as paint_ct
    from kitspipe.imaging.formats import read_labels, write_image, write_labels
    from kitspipe.imaging.header import header_for
    from kitspipe.imaging.volume import Box, Volume

    for scan in SCANS:
        place = raw / f"case_{scan.number:05d}"
        if (place / MASK_NAME).exists():
            continue
        labels, _ = read_labels(masks / place.name / MASK_NAME)
        more = scan.slices - labels.grid.shape[0]
        padded = np.pad(labels.array, [(more // 2, more - more // 2), (0, 0), (0, 0)])
        box = Box(start=(-(more // 2), 0, 0), stop=(scan.slices - more // 2, *padded.shape[1:]))
        anatomy = anatomy_around(Volume(array=padded, grid=labels.grid.crop(box)), scan.number)
        ct = paint_ct(anatomy, scan.number)
        marked = ct.array + np.int16(MARK_HU) * (anatomy.labels.array > 0)
        header = header_for(ct.grid, axes="IPL")
        write_image(place / "imaging.nii.gz", Volume(array=marked, grid=ct.grid), header)
        write_labels(place / MASK_NAME, anatomy.labels, header)
        print(f"painted {place.name}: {ct.grid.shape}, {ct.grid.spacing} mm", flush=True)


def prepare(work: Path) -> None:
    """A standard plan, a kidney network that finds bright kidneys, a random tumor network."""
    import torch

    from kitspipe.networks.vnet25d import VNet25D
    from kitspipe.networks.weights import save_weights
    from kitspipe.planning.planner import read_plan, training_key
    from kitspipe.prediction.job import FINAL
    from kitspipe.workspace import Workspace

    place = Workspace(root=work / "ours")
    files = {stage: place.fold_folder(stage, 0) / FINAL for stage in ("kidney", "tumor")}
    if all(file.exists() for file in files.values()):
        return
    run([BIN / "kitspipe_fingerprint", "-d", work / "raw", "-w", place.root, "-j", "1"])
    run([BIN / "kitspipe_plan", "-w", place.root])
    plan = read_plan(place)
    torch.manual_seed(0)
    tumor = VNet25D(plan.tumor.network)
    tumor.set_prior(plan.tumor.loss.prior)
    for stage, network in (("kidney", trained_kidney(work, plan)), ("tumor", tumor)):
        save_weights(files[stage], network, plan_sha256=training_key(plan, stage), stage=stage)


def trained_kidney(work: Path, plan):  # noqa: ANN001, ANN201
    """A network of the plan after some steps on small patches of the two smallest scans."""
    import numpy as np
    import torch

    from kitspipe.imaging.formats import read_image, read_labels
    from kitspipe.networks.device import autocast, put_on
    from kitspipe.networks.losses import KidneyLoss
    from kitspipe.networks.resunet3d import ResUNet3D
    from kitspipe.preprocessing.intensity import normalize
    from kitspipe.preprocessing.preprocess import kidney_arrays

    arrays = []
    for scan in SCANS[:2]:
        folder = work / "raw" / f"case_{scan.number:05d}"
        image, labels = (
            read_image(folder / "imaging.nii.gz")[0],
            read_labels(folder / "segmentation.nii.gz")[0],
        )
        arrays.append(kidney_arrays(image, labels, plan))
    network = put_on(ResUNet3D(plan.kidney.network), torch.device("cpu"))
    loss_of, rng = KidneyLoss(plan.kidney.loss), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    fine = plan.kidney.network.target_refinement
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        images, targets = [], []
        for half in range(2):
            region = arrays[int(rng.integers(len(arrays)))]
            shape = region.image.shape
            start = [
                int(rng.integers(0, n - size + 1)) for n, size in zip(shape, PATCH, strict=True)
            ]
            if half == 0:
                bright = np.argwhere(region.image > MARK_HU)
                middle = bright[int(rng.integers(len(bright)))]
                start = [
                    int(np.clip(m - size // 2, 0, n - size))
                    for m, size, n in zip(middle, PATCH, shape, strict=True)
                ]
            place = tuple(slice(a, a + n) for a, n in zip(start, PATCH, strict=True))
            finer = tuple(
                slice(a * r, (a + n) * r) for a, n, r in zip(start, PATCH, fine, strict=True)
            )
            images.append(normalize(region.image[place], plan.kidney.hu_window))
            targets.append(region.target[finer] > 0)
        image = torch.from_numpy(np.stack(images))[:, None]
        target = torch.from_numpy(np.stack(targets).astype(np.uint8))
        with autocast(torch.device("cpu")):
            logits = network(image.to(memory_format=torch.channels_last_3d))
        loss = loss_of(logits, target, 0.0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % 40 == 0 or step == STEPS - 1:
            print(f"  step {step}, loss {float(loss.detach()):.3f}", flush=True)
    return network


def ours(work: Path, scan: Scan, *options: str) -> Run:
    """Our command on one scan, and what it found."""
    output = work / "predictions"
    shutil.rmtree(output, ignore_errors=True)
    image = work / "raw" / f"case_{scan.number:05d}" / "imaging.nii.gz"
    command = [BIN / "kitspipe_predict", "-i", image, "-o", output, "-w", work / "ours", "-v"]
    return run([*command, "--device", "cpu", *options])


def kidney_dice(work: Path, scan: Scan) -> float:
    """Of the mask just written against the painted kidneys: whether there was work to do."""
    from kitspipe.imaging.formats import read_labels

    folder = work / "raw" / f"case_{scan.number:05d}"
    found = read_labels(next((work / "predictions").glob("*.nii.gz")))[0].array > 0
    painted = read_labels(folder / "segmentation.nii.gz")[0].array > 0
    return 2 * int((found & painted).sum()) / (int(found.sum()) + int(painted.sum()))


def nnunet(python: Path, work: Path) -> dict[str, dict[str, float]]:
    """Windows and seconds of nnU-Net per scan, from its own code."""
    dataset = work / "nnunet_raw" / "Dataset001_Kidneys"
    link_for_nnunet(work / "raw", dataset)
    environment = nnunet_environment(work)
    commands = python.parent
    if not (work / "nnunet_preprocessed" / dataset.name / "nnUNetPlans.json").exists():
        run([commands / "nnUNetv2_extract_fingerprint", "-d", "1", "-np", "1"], environment)
        run([commands / "nnUNetv2_plan_experiment", "-d", "1"], environment)
    images = [str(dataset / "imagesTr" / f"case_{scan.number:05d}_0000.nii.gz") for scan in SCANS]
    compared = next(i for i, scan in enumerate(SCANS) if scan.slices == COMPARED)
    return measured(python, work, images, compared)


def measured(python: Path, work: Path, images: list[str], compared: int = -1) -> dict:
    """What `nnunet_predict.py` prints; without images, only the seconds of a window."""
    name = "Dataset001_Kidneys"
    plans = work / "nnunet_preprocessed" / name / "nnUNetPlans.json"
    description = work / "nnunet_raw" / name / "dataset.json"
    command = [python, HERE / "nnunet_predict.py", plans, description, str(compared), *images]
    return json.loads(run(command).output.strip().splitlines()[-1])


def main() -> None:
    """Paint, prepare, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=Path, required=True, help="KiTS folder with masks")
    parser.add_argument("--nnunet", type=Path, help="Python of nnU-Net's environment; none: ours")
    parser.add_argument("--work", type=Path, required=True, help="where all is written")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--slices", type=int, nargs="*", help="only these scans")
    options = parser.parse_args()
    paint(options.masks, options.work / "raw")
    prepare(options.work)
    theirs = nnunet(options.nnunet, options.work) if options.nnunet else None
    if theirs:
        print(f"nnU-Net 3d_fullres: {theirs['plan']}")
    for scan in SCANS:
        if options.slices and scan.slices not in options.slices:
            continue
        if theirs:
            # Anew for each scan, as the machine may be shared.
            theirs["window"] = measured(options.nnunet, options.work, [])["window"]
        for name, flags in (("default", ()), ("--fast", ("--fast",))):
            runs = [ours(options.work, scan, *flags) for _ in range(options.rounds)]
            seconds = statistics.median(one.seconds for one in runs)
            peak = max(one.peak_bytes for one in runs)
            phases = re.findall(r"seconds (\{.*\})", runs[-1].output)
            line = (
                f"{scan.slices:5} slices  {name:8} {seconds:6.1f} s, processor "
                f"{statistics.median(one.cpu_seconds for one in runs):6.1f} s, peak "
                f"{peak / GIB:.2f} GiB, kidney Dice {kidney_dice(options.work, scan):.3f}"
            )
            if theirs:
                own = theirs[str(scan.slices)]
                total = own["windows"] * theirs["window"]["seconds"]
                cpu = own["windows"] * theirs["window"]["processor"]
                window_s = theirs["window"]["seconds"]
                line += (
                    f", nnU-Net's {own['windows']:.0f} windows of {window_s:.1f} s {total:.0f} s: "
                )
                line += f"{total / seconds:.0f} times (processor {cpu / median_cpu(runs):.0f})"
                if "preprocess" in own:
                    whole = total + own["preprocess"] + own["export"]
                    line += f"; with its preprocessing and export {whole:.0f} s: "
                    line += f"{whole / seconds:.0f} times"
            print(f"{line}  {phases[-1] if phases else ''}", flush=True)


def median_cpu(runs: list[Run]) -> float:
    """Processor seconds."""
    return statistics.median(one.cpu_seconds for one in runs)


if __name__ == "__main__":
    main()
