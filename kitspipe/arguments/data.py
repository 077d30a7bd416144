"""Arguments of the commands from raw scans to training arrays, and of the demo."""

from __future__ import annotations

from pathlib import Path

from kitspipe.arguments.shared import (
    Parser,
    add_cluster,
    add_data,
    add_device,
    add_jobs,
    add_planning,
    add_workspace,
)
from kitspipe.arguments.types import positive

KITS19_IMAGES = "https://kits19.sfo2.digitaloceanspaces.com"
KITS19_MASKS = (
    "https://raw.githubusercontent.com/neheller/kits19/master/data/{case}/segmentation.nii.gz"
)


def download(parser: Parser) -> None:
    """Of kitspipe_download."""
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


def convert(parser: Parser) -> None:
    """Of kitspipe_convert."""
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
    add_jobs(parser)


def check(parser: Parser) -> None:
    """Of kitspipe_check."""
    add_data(parser)
    add_jobs(parser)
    add_cluster(parser)


def fingerprint(parser: Parser) -> None:
    """Of kitspipe_fingerprint."""
    add_data(parser)
    add_workspace(parser)
    add_jobs(parser)
    add_cluster(parser)


def plan(parser: Parser) -> None:
    """Of kitspipe_plan."""
    add_workspace(parser)
    add_planning(parser)


def plan_and_preprocess(parser: Parser) -> None:
    """Of kitspipe_plan_and_preprocess."""
    add_data(parser)
    add_workspace(parser)
    add_planning(parser)
    add_jobs(parser)
    add_cluster(parser)


def preprocess(parser: Parser) -> None:
    """Of kitspipe_preprocess."""
    add_data(parser)
    add_workspace(parser)
    add_jobs(parser)
    add_cluster(parser)


def describe(parser: Parser) -> None:
    """Of kitspipe_describe."""
    add_workspace(parser)


def demo(parser: Parser) -> None:
    """Of kitspipe_demo."""
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
    add_device(parser)
