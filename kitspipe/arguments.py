"""Arguments of every command, nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from kitspipe.argument_types import above_zero, fold, natural, part, positive

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
        "-j", "--jobs", type=positive, default=None, help="cases at once; default: one per core"
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


def _add_folds(parser: Parser) -> None:
    parser.add_argument(
        "-f",
        "--folds",
        type=fold,
        nargs="+",
        default=None,
        help="folds to average; default: all that are trained in both stages",
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
    parser.add_argument("fold", type=fold, help="0, 1, ... or all: the fold held out")
    _add_workspace(parser)
    _add_device(parser)
    parser.add_argument(
        "--workers", type=natural, default=2, help="processes that load and augment; 0: none"
    )
    parser.add_argument(
        "--restart", action="store_true", help="throw the fold's training away and start anew"
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
    _add_folds(parser)
    parser.add_argument(
        "-m",
        "--model",
        type=Path,
        default=None,
        metavar="FILE",
        help="a file of kitspipe_export, or a folder, instead of the workspace's own model",
    )
    _add_device(parser)
    parser.add_argument("--overwrite", action="store_true", help="do cases anew that are there")
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
    _add_cluster(parser)


def _export(parser: Parser) -> None:
    _add_workspace(parser)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("model.kitspipe"), help="the file to write"
    )
    _add_folds(parser)


def _install(parser: Parser) -> None:
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
    parser.add_argument("--cases", type=positive, default=None, help="how many scans are painted")
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
        "-j", "--jobs", type=positive, default=4, help="files at once over the network"
    )


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
    "export": ("write the trained cascade as one file", _export),
    "install": ("take a cascade that was exported into a workspace", _install),
    "evaluate": ("score predictions with the official KiTS metrics", _evaluate),
    "demo": ("paint scans, then run the whole flow on them", _demo),
}
"""name: (one line of help, function that adds its arguments)."""
