"""Arguments of every command, nothing else."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

Parser = argparse.ArgumentParser

# Source: the challenge's own download scripts (kits19, kits23) and its repository's data folder.
KITS19_IMAGES = "https://kits19.sfo2.digitaloceanspaces.com"
KITS19_MASKS = (
    "https://raw.githubusercontent.com/neheller/kits19/master/data/{case}/segmentation.nii.gz"
)


def _add_workspace(parser: Parser) -> None:
    parser.add_argument(
        "-w",
        "--workspace",
        type=Path,
        default=Path(),
        help="folder with plans/, preprocessed/ and results/",
    )
    parser.add_argument(
        "-p",
        "--plan",
        dest="plan_name",
        default="default",
        metavar="NAME",
        help="which plan: plans/NAME.json",
    )


def _add_data(parser: Parser) -> None:
    parser.add_argument(
        "-d",
        "--data",
        type=Path,
        required=True,
        help="training scans with masks, in KiTS or nnU-Net layout",
    )


def _add_jobs(parser: Parser) -> None:
    parser.add_argument(
        "-j", "--jobs", type=_positive, default=None, help="cases at once; default: one per core"
    )


def _add_cluster(parser: Parser) -> None:
    parser.add_argument(
        "--cluster",
        default=None,
        metavar="ADDRESS",
        help="work on a Dask cluster, like tcp://HOST:8786; -j does not matter then",
    )


def _add_planning(parser: Parser) -> None:
    parser.add_argument(
        "--memory",
        type=float,
        default=11.0,
        metavar="GIB",
        help="memory that training may take on the device",
    )
    parser.add_argument(
        "--size",
        choices=["standard", "small"],
        default="standard",
        help="small: coarse grids, few channels and epochs, for a first try or a laptop's CPU",
    )
    parser.add_argument(
        "--replan", action="store_true", help="write a new plan over one that is there"
    )


def _add_device(parser: Parser) -> None:
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps; auto takes what is there"
    )


def _check(parser: Parser) -> None:
    _add_data(parser)
    _add_jobs(parser)
    _add_cluster(parser)


def _fingerprint(parser: Parser) -> None:
    _add_data(parser)
    _add_workspace(parser)
    _add_jobs(parser)
    _add_cluster(parser)


def _plan(parser: Parser) -> None:
    _add_workspace(parser)
    _add_planning(parser)


def _preprocess(parser: Parser) -> None:
    _add_data(parser)
    _add_workspace(parser)
    _add_jobs(parser)
    _add_cluster(parser)


def _plan_and_preprocess(parser: Parser) -> None:
    _add_data(parser)
    _add_workspace(parser)
    _add_planning(parser)
    _add_jobs(parser)
    _add_cluster(parser)


def _train(parser: Parser) -> None:
    parser.add_argument("stage", choices=["kidney", "tumor"], help="which network")
    parser.add_argument("fold", type=_fold, help="0, 1, ... or all: the fold held out")
    _add_workspace(parser)
    _add_device(parser)
    parser.add_argument(
        "--workers", type=_natural, default=2, help="processes that load and augment; 0: none"
    )
    parser.add_argument(
        "--restart", action="store_true", help="throw the fold's training away and start anew"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only say what would run, how long, in what memory"
    )
    parser.add_argument(
        "--init-from",
        type=Path,
        default=None,
        metavar="WEIGHTS",
        help="start from another model: a safetensors file, or a fold's folder",
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write for TensorBoard, too, beside the log"
    )
    _add_training_settings(parser)


def _add_training_settings(parser: Parser) -> None:
    """Options that a training remembers in its checkpoint."""
    group = parser.add_argument_group("kept when a training is gone on with, unless given anew")
    group.add_argument(
        "--epochs", type=_positive, default=None, help="in place of the plan's; schedules follow"
    )
    group.add_argument(
        "--max-time",
        dest="max_seconds",
        type=_seconds,
        default=None,
        metavar="TIME",
        help="end after so long, all starts together: 90s, 30m, 2h, 1h30m; schedules follow",
    )
    group.add_argument(
        "--patience",
        type=_positive,
        default=None,
        metavar="EPOCHS",
        help="end after so many epochs without a better average validation Dice",
    )
    group.add_argument(
        "--precision",
        choices=["auto", "float32", "bfloat16"],
        default=None,
        help="of the network's passes; auto: bfloat16 on CUDA, float32 elsewhere",
    )
    group.add_argument(
        "--compile",
        dest="compiled",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="let torch compile the network",
    )


def _predict(parser: Parser) -> None:
    parser.add_argument(
        "-i",
        "--images",
        type=Path,
        required=True,
        help="a volume, a folder of volumes, a KiTS folder, a DICOM series (folder or zip)",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the masks")
    parser.add_argument(
        "--series",
        default=None,
        metavar="UID",
        help="which CT series of a DICOM folder or zip; default: that with the most slices",
    )
    _add_workspace(parser)
    parser.add_argument(
        "-f",
        "--folds",
        type=_fold,
        nargs="+",
        default=None,
        help="folds to average; default: all that are trained in both stages",
    )
    _add_device(parser)
    parser.add_argument("--overwrite", action="store_true", help="do cases anew that are there")


def _evaluate(parser: Parser) -> None:
    parser.add_argument(
        "-r", "--references", type=Path, required=True, help="reference masks, any layout"
    )
    parser.add_argument("-i", "--predictions", type=Path, required=True, help="predicted masks")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=None,
        help="folder for evaluation.csv and summary.json; default: that of the predictions",
    )
    _add_jobs(parser)


def _describe(parser: Parser) -> None:
    _add_workspace(parser)


def _demo(parser: Parser) -> None:
    parser.add_argument("-o", "--output", type=Path, default=Path("demo"), help="its workspace")
    parser.add_argument(
        "--masks",
        type=Path,
        default=None,
        help="paint CTs around these masks (KiTS folders) instead of invented anatomy",
    )
    parser.add_argument("--cases", type=_positive, default=None, help="how many scans are painted")
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        default=None,
        metavar=("Z", "Y", "X"),
        help="with --masks: mm to which the masks are resampled first; default: as they are",
    )
    parser.add_argument(
        "--only-data", action="store_true", help="paint the scans, then stop: raw/ and held_out/"
    )
    _add_device(parser)


def _convert(parser: Parser) -> None:
    parser.add_argument(
        "-i",
        "--source",
        type=Path,
        required=True,
        help="a KiTS or nnU-Net folder, or scans as predict takes them, DICOM too",
    )
    parser.add_argument(
        "-o", "--target", type=Path, required=True, help="folder to write, not inside the source"
    )
    parser.add_argument(
        "--to", dest="form", choices=["nnunet", "kits", "nifti"], required=True, help="which layout"
    )
    parser.add_argument(
        "--copy", action="store_true", help="copy files where a link to the source would do"
    )
    _add_jobs(parser)


def _download(parser: Parser) -> None:
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder for case_XXXXX/imaging.nii.gz"
    )
    parser.add_argument(
        "--cases", default="0-209", help="numbers, ranges or names: 0-9,15,case_00023"
    )
    parser.add_argument(
        "--base-url",
        default=KITS19_IMAGES,
        metavar="URL",
        help="where images lie: a folder of master_XXXXX.nii.gz, or an address with {number} "
        "(00000) or {case} (case_00000) in it",
    )
    parser.add_argument(
        "--masks-url", default=KITS19_MASKS, metavar="URL", help="the same for masks, cases 0-209"
    )
    parser.add_argument("--no-masks", action="store_true", help="images only")
    parser.add_argument(
        "-j", "--jobs", type=_positive, default=4, help="files at once over the network"
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


def _seconds(text: str) -> float:
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    hours, minutes, seconds = (int(part or 0) for part in parts.groups()) if parts else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if total == 0:
        raise argparse.ArgumentTypeError(f"{text} is no time: write 90s, 30m, 2h or 1h30m")
    return float(total)


def _fold(text: str) -> int | str:
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no fold: give a number from 0, or all")
    return text if text == "all" else int(text)


COMMANDS: dict[str, tuple[str, Callable[[Parser], None]]] = {
    "download": ("fetch KiTS19's scans and masks; run again, it goes on", _download),
    "convert": ("turn KiTS, nnU-Net or DICOM data into another layout", _convert),
    "plan_and_preprocess": (
        "check, fingerprint, plan and preprocess a data set",
        _plan_and_preprocess,
    ),
    "check": ("name every problem of a data set", _check),
    "fingerprint": ("measure a data set", _fingerprint),
    "plan": ("choose everything that a training needs, from the fingerprint", _plan),
    "describe": ("parameters, operations and shapes of a plan's networks", _describe),
    "preprocess": ("turn scans into training arrays", _preprocess),
    "train": ("train one fold of a stage; run again, it goes on where it stopped", _train),
    "predict": ("segment new scans with the whole cascade", _predict),
    "evaluate": ("score predictions with the official KiTS metrics", _evaluate),
    "demo": ("paint scans, then run the whole flow on them", _demo),
}
"""name: (one line of help, function that adds its arguments)."""
