"""Folds of cross-validation, one file for both stages."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from kitspipe.errors import UserError
from kitspipe.planning.document import Document

# Paper 3.1: cases 0-194 train, 195-209 validate, so 15 of 210.
PAPER_TRAIN = range(195)
PAPER_VALIDATION = range(195, 210)
VALIDATION_SHARE = len(PAPER_VALIDATION) / (len(PAPER_TRAIN) + len(PAPER_VALIDATION))


class Fold(Document, frozen=True, kw_only=True):
    """Case ids that a model learns from, and those it is judged on."""

    train: tuple[str, ...]
    validation: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.train or not self.validation:
            raise ValueError("a fold without cases to train on or to validate on")
        twice = _repeated(self.train + self.validation)
        if twice:
            raise ValueError(f"{', '.join(twice)} more than once in a fold")


class Splits(Document, frozen=True, kw_only=True):
    """All folds. Several folds validate every case exactly once; a single one need not."""

    folds: tuple[Fold, ...]

    def __post_init__(self) -> None:
        if not self.folds:
            raise ValueError("no folds")
        if len(self.folds) == 1:
            return
        validated = [name for fold in self.folds for name in fold.validation]
        twice = _repeated(validated)
        if twice:
            raise ValueError(f"{', '.join(twice)} validated in more than one fold")
        for number, fold in enumerate(self.folds):
            astray = set(validated) ^ {*fold.train, *fold.validation}
            if astray:
                raise ValueError(
                    f"{', '.join(sorted(astray))} in fold {number} and validated in none, "
                    "or validated and not in this fold"
                )


def make_splits(
    ids: Iterable[str], folds: int, seed: int, groups: Mapping[str, str] | None = None
) -> Splits:
    """Folds of sizes that differ by one case at most, whatever the order of `ids`.

    Args:
        ids: the cases.
        folds: how many; fewer where there are fewer groups. 1 is the paper's way: the last 1/14
            of the cases by id validate, nothing is shuffled.
        seed: of the shuffling.
        groups: case id -> group, e.g. a patient or an image's hash. A group stays in one fold;
            a case that is not named is a group of its own. Sizes then differ by a group at most.

    Raises:
        ValueError: an id twice, or `folds` below 1.
        UserError: fewer than two groups.
    """
    units = _units(ids, groups or {})
    if folds < 1:
        raise ValueError(f"{folds} folds")
    if len(units) < 2:
        raise UserError(
            "the data set",
            found=f"{sum(map(len, units))} usable cases of {len(units)} patients",
            expected="at least two patients: one to train on, one to validate on",
            remedy="add cases, or mend those that kitspipe_check names",
        )
    names = sorted(name for unit in units for name in unit)
    held_out = [_last_units(units)] if folds == 1 else _dealt(units, min(folds, len(units)), seed)
    return Splits(
        folds=tuple(
            Fold(
                train=tuple(name for name in names if name not in validation),
                validation=tuple(sorted(validation)),
            )
            for validation in held_out
        )
    )


def _units(ids: Iterable[str], groups: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Cases that stay together, ordered by their first id."""
    names = sorted(ids)
    twice = _repeated(names)
    if twice:
        raise ValueError(f"{', '.join(twice)} given more than once")
    together: dict[tuple[bool, str], list[str]] = defaultdict(list)
    for name in names:
        together[(name in groups, groups.get(name, name))].append(name)
    return [tuple(unit) for unit in together.values()]


def _last_units(units: Sequence[tuple[str, ...]]) -> set[str]:
    """The last 1/14 of the cases, at least one; at least one group is left."""
    wanted = max(1, round(sum(map(len, units)) * VALIDATION_SHARE))
    last: set[str] = set()
    for unit in reversed(units[1:]):
        if len(last) >= wanted:
            break
        last.update(unit)
    return last


def _dealt(units: Sequence[tuple[str, ...]], folds: int, seed: int) -> list[set[str]]:
    """Shuffled groups, the large ones first, each to the fold with the fewest cases so far."""
    shuffled = list(units)
    random.Random(seed).shuffle(shuffled)
    dealt: list[set[str]] = [set() for _ in range(folds)]
    for unit in sorted(shuffled, key=len, reverse=True):
        min(dealt, key=len).update(unit)
    return dealt


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)
