"""Arguments of the commands that make and use a trained cascade."""

from __future__ import annotations

import argparse
from pathlib import Path

from kitspipe.arguments.shared import Parser, add_cluster, add_device, add_folds, add_workspace
from kitspipe.arguments.types import above_zero, fold, natural, part, positive, seconds


def train(parser: Parser) -> None:
    """Of kitspipe_train."""
    parser.add_argument(
        "stage", choices=["kidney", "tumor", "all"], help="which network; all: kidney, then tumor"
    )
    parser.add_argument(
        "fold",
        type=fold,
        nargs="?",
        default=None,
        help="the fold held out, 0, 1, ...; all: one training on every case; default: each fold",
    )
    add_workspace(parser)
    add_device(parser)
    parser.add_argument(
        "--workers", type=natural, default=2, help="processes that load and augment; 0: none"
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
    _training_settings(parser)


def _training_settings(parser: Parser) -> None:
    """Options that a training remembers in its checkpoint."""
    group = parser.add_argument_group("kept when a training is gone on with, unless given anew")
    group.add_argument(
        "--epochs", type=positive, default=None, help="in place of the plan's; schedules follow"
    )
    group.add_argument(
        "--max-time",
        dest="max_seconds",
        type=seconds,
        default=None,
        metavar="TIME",
        help="end after so long, all starts together: 90s, 30m, 2h, 1h30m; schedules follow",
    )
    group.add_argument(
        "--patience",
        type=positive,
        default=None,
        metavar="EPOCHS",
        help="end after so many epochs without a better average validation Dice",
    )
    group.add_argument(
        "--precision",
        choices=["auto", "float32", "bfloat16"],
        default=None,
        help="of the network's passes; auto: bfloat16 where that is faster",
    )
    group.add_argument(
        "--compile",
        dest="compiled",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="let torch compile the network",
    )


def choose(parser: Parser) -> None:
    """Of kitspipe_choose."""
    add_workspace(parser)
    add_device(parser)


def predict(parser: Parser) -> None:
    """Of kitspipe_predict."""
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
    add_workspace(parser)
    add_folds(parser)
    parser.add_argument(
        "-m",
        "--model",
        type=Path,
        default=None,
        metavar="FILE",
        help="a file of kitspipe_export, or a folder, instead of the workspace's own model",
    )
    add_device(parser)
    parser.add_argument(
        "--fast",
        action="store_true",
        help="a preview: coarser kidneys, every second slice, one fold",
    )
    parser.add_argument(
        "--mirror",
        action="store_true",
        help="average over mirrored scans, as the training mirrored: 2 to 4 times as long",
    )
    parser.add_argument("--overwrite", action="store_true", help="do cases anew that are there")
    parser.add_argument(
        "--report",
        dest="with_report",
        action="store_true",
        help="write pages to review the masks with, in report/ beside them",
    )
    parser.add_argument(
        "--format",
        choices=["nii.gz", "nii", "nrrd", "mha", "input"],
        default="nii.gz",
        help="of the masks; input: that of each scan (DICOM: nii.gz)",
    )
    parser.add_argument(
        "--probabilities", action="store_true", help="write them too, in probabilities/"
    )
    parser.add_argument(
        "--dicom-seg", action="store_true", help="write DICOM-SEG too, for scans that are DICOM"
    )
    parser.add_argument(
        "--part", type=part, default=None, metavar="I/N", help="only the I-th of N parts: 1/4"
    )
    parser.add_argument(
        "--case-seconds",
        type=above_zero,
        default=None,
        metavar="S",
        help="a case that takes longer fails",
    )
    parser.add_argument(
        "--case-memory",
        type=above_zero,
        default=None,
        metavar="GIB",
        help="a case whose process holds more fails",
    )
    add_cluster(parser)


def export(parser: Parser) -> None:
    """Of kitspipe_export."""
    add_workspace(parser)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("model.kitspipe"), help="the file to write"
    )
    add_folds(parser)


def install(parser: Parser) -> None:
    """Of kitspipe_install."""
    parser.add_argument("file", type=Path, help="what kitspipe_export wrote")
    parser.add_argument(
        "-w", "--workspace", type=Path, default=Path(), help="folder that gets plans/ and results/"
    )
    parser.add_argument(
        "-p",
        "--plan",
        dest="plan_name",
        default=None,
        metavar="NAME",
        help="what to call the plan; default: as in the file",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace another model of that name"
    )
