"""Problems of a data set: which file, what was found, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kitspipe import console
from kitspipe.errors import UserError

Severity = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What is wrong with a case.

    Args:
        case_id: the case.
        file: the file or files it is about; may be empty.
        found: what is there.
        expected: what should be there.
        remedy: what the user can do.
        severity: an `error` keeps the case from training, a `warning` does not.

    Raises:
        ValueError: a text other than `file` is empty.
    """

    case_id: str
    file: str
    found: str
    expected: str
    remedy: str
    severity: Severity

    def __post_init__(self) -> None:
        if not all((self.case_id, self.found, self.expected, self.remedy)):
            raise ValueError("a problem needs case_id, found, expected and remedy")

    @property
    def text(self) -> str:
        """The problem as the console prints it."""
        return (
            f"{self.case_id}{': ' if self.file else ''}{self.file}\n  found:    {self.found}\n"
            f"  expected: {self.expected}\n  to do:    {self.remedy}"
        )


def errors_in(problems: Sequence[Problem]) -> list[Problem]:
    """Those that keep a case from training."""
    return [problem for problem in problems if problem.severity == "error"]


def report(data: Path, problems: Sequence[Problem], n_cases: int) -> None:
    """Print every problem and their number.

    Raises:
        UserError: at least one is an error; warnings alone are no failure.
    """
    errors = errors_in(problems)
    for problem in problems:
        (console.error if problem.severity == "error" else console.warning)(problem.text)
    console.summary(
        f"check {data}",
        [("cases", n_cases), ("errors", len(errors)), ("warnings", len(problems) - len(errors))],
    )
    if errors:
        raise UserError(
            data,
            found=f"{len(errors)} errors in {len({p.case_id for p in errors})} cases, named above",
            expected="a data set without errors",
            remedy="mend these cases or take them out",
        )
