"""From raw scans to training arrays, ours beside nnU-Net 2.8.1, in one run.

Paints full-size CTs around masks of KiTS, then runs nnU-Net's fingerprint, plan and preprocess for
its one 3d_fullres configuration and our plan_and_preprocess (check, fingerprint, plan, arrays of
both stages), taking turns, with the same number of processes. Prints seconds, peak memory of the
whole process tree and ratios, and where our time goes.

    python benchmarks/preprocess.py --masks KITS --nnunet BIN --work FOLDER

BIN is the folder of nnU-Net's commands, in an environment of its own.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from process_tree import Run, run

# 50 to 270 slices of 1 to 3.75 mm, and one of 611 slices of 0.5 mm.
CASES = (10, 7, 23, 19, 6, 3, 0)
GIB = 1024**3
BIN = Path(sys.executable).parent


def paint(masks: Path, raw: Path, numbers: Sequence[int] = CASES) -> None:
    """Full-size CTs around the masks, in KiTS layout; what is there is kept."""
    from kitspipe.dataset.anatomy import anatomy_around
    from kitspipe.dataset.phantoms import MASK_NAME, write_case
    from kitspipe.imaging.formats import read_labels

    for number in numbers:
        name = f"case_{number:05d}"
        if not (raw / name / MASK_NAME).exists():
            labels, _ = read_labels(masks / name / MASK_NAME)
            write_case(raw, name, anatomy_around(labels, number), number)


def link_for_nnunet(raw: Path, dataset: Path) -> None:
    """The same files in nnU-Net's raw layout."""
    for folder, file, suffix in (
        ("imagesTr", "imaging", "_0000.nii.gz"),
        ("labelsTr", "segmentation", ".nii.gz"),
    ):
        (dataset / folder).mkdir(parents=True, exist_ok=True)
        for case in raw.iterdir():
            link = dataset / folder / f"{case.name}{suffix}"
            if not link.exists():
                link.symlink_to((case / f"{file}.nii.gz").resolve())
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "kidney": 1, "tumor": 2, "cyst": 3},
        "numTraining": sum(1 for _ in raw.iterdir()),
        "file_ending": ".nii.gz",
    }
    (dataset / "dataset.json").write_text(json.dumps(description))


def nnunet_environment(work: Path) -> dict[str, str]:
    """Where nnU-Net finds its folders, all in one."""
    names = ("raw", "preprocessed", "results")
    return {f"nnUNet_{name}": str(work / f"nnunet_{name}") for name in names}


def nnunet(commands: Path, work: Path, jobs: int) -> Run:
    """nnU-Net's three steps from nothing."""
    shutil.rmtree(work / "nnunet_preprocessed", ignore_errors=True)
    environment = nnunet_environment(work)
    parts = [
        run([commands / "nnUNetv2_extract_fingerprint", "-d", "1", "-np", str(jobs)], environment),
        run([commands / "nnUNetv2_plan_experiment", "-d", "1"], environment),
        run(
            [commands / "nnUNetv2_preprocess", "-d", "1", "-c", "3d_fullres", "-np", str(jobs)],
            environment,
        ),
    ]
    return _sum(parts)


def ours(work: Path, jobs: int) -> Run:
    """Our one command from nothing."""
    shutil.rmtree(work / "ours", ignore_errors=True)
    command = [BIN / "kitspipe_plan_and_preprocess", "-d", work / "raw", "-w", work / "ours"]
    return run([*command, "-j", str(jobs)])


def where_time_goes(work: Path) -> None:
    """Seconds of our steps over all cases, in one process."""
    from isal import igzip

    from kitspipe.dataset.case_files import CaseFiles
    from kitspipe.dataset.cases import find_dataset
    from kitspipe.dataset.check import check_case
    from kitspipe.planning.fingerprint import fingerprint_case
    from kitspipe.planning.planner import read_plan
    from kitspipe.preprocessing.preprocess import kidney_arrays, tumor_arrays
    from kitspipe.preprocessing.store import _write
    from kitspipe.workspace import Workspace

    plan = read_plan(Workspace(root=work / "ours"))
    spent: dict[str, float] = {}

    def timed(name: str, action):  # noqa: ANN001, ANN202
        started = time.perf_counter()
        result = action()
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - started
        return result

    for found in find_dataset(work / "raw").cases:
        files = CaseFiles(found)
        for file in (found.image, files.mask_file):
            timed("unpacking alone, Python's gzip", lambda f=file: gzip.decompress(f.read_bytes()))
            timed("unpacking alone, isal", lambda f=file: igzip.decompress(f.read_bytes()))
        image = timed("read scan", lambda f=files: f.image[0])
        labels = timed("read mask", lambda f=files: f.labels[0])
        timed("check", lambda c=found, f=files: check_case(c, None, files=f))
        timed("measure", lambda f=files: fingerprint_case(f))
        regions = [timed("kidney arrays", lambda i=image, m=labels: kidney_arrays(i, m, plan))]
        regions += timed("tumor arrays", lambda i=image, m=labels: tumor_arrays(i, m, plan))
        for region in regions:
            for array in (region.image, region.target):
                timed("compress", lambda array=array: _write(work / "part.b2nd", array))
    print("\nwhere our time goes, one process, seconds over all cases (scans are read twice)")
    for name, seconds in spent.items():
        print(f"  {name:32} {seconds:6.1f}")


def _sum(parts: list[Run]) -> Run:
    return Run(
        seconds=sum(part.seconds for part in parts),
        peak_bytes=max(part.peak_bytes for part in parts),
        output="",
    )


def main() -> None:
    """Paint, run both in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=Path, required=True, help="KiTS folder with masks")
    parser.add_argument("--nnunet", type=Path, help="folder of nnU-Net's commands; none: ours only")
    parser.add_argument("--work", type=Path, required=True, help="where all is written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    paint(options.masks, options.work / "raw")
    link_for_nnunet(options.work / "raw", options.work / "nnunet_raw" / "Dataset001_Kidneys")
    runs: dict[str, list[Run]] = {"ours": [], "nnU-Net": []}
    for _ in range(options.rounds):
        runs["ours"].append(ours(options.work, options.jobs))
        if options.nnunet:
            runs["nnU-Net"].append(nnunet(options.nnunet, options.work, options.jobs))
    print(f"{len(CASES)} cases, {options.jobs} process(es), medians of {options.rounds} rounds")
    medians = {}
    for name, found in runs.items():
        if found:
            seconds = statistics.median(one.seconds for one in found)
            peak = statistics.median(one.peak_bytes for one in found)
            medians[name] = (seconds, peak)
            each = ", ".join(f"{one.seconds:.1f}" for one in found)
            print(f"  {name:8} {seconds:7.1f} s ({each})   peak {peak / GIB:.2f} GiB")
    if options.nnunet:
        time_ratio, memory_ratio = (
            theirs / own for theirs, own in zip(medians["nnU-Net"], medians["ours"], strict=True)
        )
        print(
            f"  nnU-Net takes {time_ratio:.1f} times as long, {memory_ratio:.1f} times the memory"
        )
    where_time_goes(options.work)


if __name__ == "__main__":
    main()
