"""What single arguments may be."""

from __future__ import annotations

import argparse
import re


def positive(text: str) -> int:
    """A whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def natural(text: str) -> int:
    """A whole number from 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


def above_zero(text: str) -> float:
    """A number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{number} is not above 0")
    return number


def seconds(text: str) -> float:
    """A time, as 90s, 30m, 2h or 1h30m."""
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    hours, minutes, rest = (int(part or 0) for part in parts.groups()) if parts else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + rest
    if total == 0:
        raise argparse.ArgumentTypeError(f"{text} is no time: write 90s, 30m, 2h or 1h30m")
    return float(total)


def part(text: str) -> tuple[int, int]:
    """`I/N` as (I, N), 1 <= I <= N."""
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text} is no part: give 1/4, 2/4, 3/4 or 4/4")
    return int(number), int(parts)


def fold(text: str) -> int | str:
    """A fold's number, or all."""
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no fold: give a number from 0, or all")
    return text if text == "all" else int(text)
