"""Arguments of every command, nothing else."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from kitspipe import __version__, console, errors

Parser = argparse.ArgumentParser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command named by the program (`kitspipe_train`) or by the first argument.

    Returns:
        The exit status: 0 all done, 1 some cases failed, 2 the request was wrong, 130 stopped.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    program = Path(sys.argv[0]).name if arguments is None else "kitspipe"
    command = program.removeprefix("kitspipe_")
    if command in COMMANDS:
        parser = _parser(command, f"kitspipe_{command}")
    else:
        if not given or given[0] not in COMMANDS:
            return _overview(given)
        command = given.pop(0)
        parser = _parser(command, f"kitspipe {command}")
    options = vars(parser.parse_args(given))
    quiet, verbose = options.pop("quiet"), options.pop("verbose")
    console.set_verbosity(
        console.QUIET if quiet else console.VERBOSE if verbose else console.NORMAL
    )
    return _run(command, options)


def _run(command: str, options: dict[str, object]) -> int:
    # Waiting threads spin for microseconds only, then sleep: on a machine that does other work
    # too, training is then several times as fast. OpenMP takes this at its start only, so before
    # torch comes in; the second line is for GNU's, which the first would not let spin at all.
    os.putenv("OMP_WAIT_POLICY", "PASSIVE")
    os.putenv("GOMP_SPINCOUNT", "4000")
    # Imported only now, so that --help and wrong arguments are answered at once.
    from kitspipe import pipeline

    try:
        return int(getattr(pipeline, command)(**options))
    except errors.UserError as error:
        console.error(str(error))
        return errors.WRONG_REQUEST
    except OSError as error:
        console.error(f"{error.filename or command}: {error.strerror or error}")
        return errors.WRONG_REQUEST
    except KeyboardInterrupt:
        console.error("stopped; the same command goes on from here")
        return errors.STOPPED


def _overview(given: list[str]) -> int:
    parser = Parser(
        prog="kitspipe",
        description="Learns to find kidneys and kidney tumors in CT, and segments new scans.",
        epilog="commands, in the order of the flow:\n"
        + "\n".join(f"  {name:<20} {text}" for name, (text, _) in COMMANDS.items())
        + "\n\nEach is also a program of its own: kitspipe_train, kitspipe_predict, ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kitspipe {__version__}")
    parser.add_argument("command", choices=[*COMMANDS], metavar="command")
    parser.parse_args(given or ["--help"])
    return errors.WRONG_REQUEST


def _parser(command: str, program: str) -> Parser:
    text, add_arguments = COMMANDS[command]
    parser = Parser(
        prog=program,
        description=text[0].upper() + text[1:] + ".",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_arguments(parser)
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_true", help="warnings and errors only")
    loudness.add_argument("-v", "--verbose", action="store_true", help="more details")
    return parser


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


def _fold(text: str) -> int | str:
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no fold: give a number from 0, or all")
    return text if text == "all" else int(text)


COMMANDS: dict[str, tuple[str, Callable[[Parser], None]]] = {
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


if __name__ == "__main__":
    sys.exit(main())
