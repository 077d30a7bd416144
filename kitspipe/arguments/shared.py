"""Arguments that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path

from kitspipe.arguments.types import fold, positive

Parser = argparse.ArgumentParser


def add_workspace(parser: Parser) -> None:
    """-w, -p."""
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


def add_data(parser: Parser) -> None:
    """-d."""
    parser.add_argument(
        "-d",
        "--data",
        type=Path,
        required=True,
        help="training scans with masks, in KiTS or nnU-Net layout",
    )


def add_jobs(parser: Parser) -> None:
    """-j."""
    parser.add_argument(
        "-j", "--jobs", type=positive, default=None, help="cases at once; default: one per core"
    )


def add_cluster(parser: Parser) -> None:
    """--cluster."""
    parser.add_argument(
        "--cluster",
        default=None,
        metavar="ADDRESS",
        help="work on a Dask cluster, like tcp://HOST:8786; -j does not matter then",
    )


def add_planning(parser: Parser) -> None:
    """--memory, --size, --replan."""
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


def add_device(parser: Parser) -> None:
    """--device."""
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps; auto takes what is there"
    )


def add_folds(parser: Parser) -> None:
    """-f."""
    parser.add_argument(
        "-f",
        "--folds",
        type=fold,
        nargs="+",
        default=None,
        help="folds to average; default: all that are trained in both stages",
    )
