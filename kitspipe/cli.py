"""From the command line to a function of `pipeline` and its exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from kitspipe import __version__, console, errors
from kitspipe.arguments.commands import COMMANDS
from kitspipe.arguments.shared import Parser

ENVIRONMENT = {
    # Waiting threads spin for microseconds only, then sleep: on a machine that does other work
    # too, training is then several times as fast. OpenMP takes this at its start only, so before
    # torch comes in; the second line is for GNU's, which the first would not let spin at all.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "4000",
    # Large pages for torch's maps: half the time of what reads and writes each value once.
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""What libraries read at their start; every command sets it before torch comes in."""


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
    for name, value in ENVIRONMENT.items():
        os.putenv(name, value)
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


if __name__ == "__main__":
    sys.exit(main())
