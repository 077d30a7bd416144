"""Arguments of the commands that tell what masks mean."""

from __future__ import annotations

from pathlib import Path

from kitspipe.arguments.shared import Parser, add_jobs


def evaluate(parser: Parser) -> None:
    """Of kitspipe_evaluate."""
    parser.add_argument(
        "-r", "--references", type=Path, required=True, help="reference masks, any layout"
    )
    parser.add_argument("-i", "--predictions", type=Path, required=True, help="predicted masks")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=None,
        help="folder for evaluation.csv, cases.csv, lesions.csv and summary.json; default: that of "
        "the predictions",
    )
    parser.add_argument(
        "--against",
        type=Path,
        default=None,
        metavar="OTHER",
        help="another set of predictions of the same cases: which is better, case by case",
    )
    add_jobs(parser)


def report(parser: Parser) -> None:
    """Of kitspipe_report."""
    parser.add_argument(
        "-i", "--images", type=Path, required=True, help="the scans, as predict takes them"
    )
    parser.add_argument(
        "-s", "--masks", type=Path, required=True, help="their masks, as predict writes them"
    )
    parser.add_argument(
        "-r",
        "--references",
        type=Path,
        default=None,
        help="reference masks, for scores; any layout",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder for the pages: open its index.html"
    )
    parser.add_argument(
        "--series", default=None, metavar="UID", help="as for predict, where it was given there"
    )
    parser.add_argument(
        "--names", action="store_true", help="show patients' names, as DICOM files have them"
    )
    add_jobs(parser)


def measure(parser: Parser) -> None:
    """Of kitspipe_measure."""
    parser.add_argument(
        "-i", "--masks", type=Path, required=True, help="masks, any layout, or one mask"
    )
    parser.add_argument(
        "-c", "--images", type=Path, default=None, help="their CTs, as predict takes them, for HU"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("measurements.csv"),
        help="the table; a .json with all numbers is written beside",
    )
    add_jobs(parser)
