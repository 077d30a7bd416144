"""What a user did wrong, in one message, and the exit statuses of all commands."""

from __future__ import annotations

from pathlib import Path

ALL_DONE = 0
SOME_CASES_FAILED = 1
WRONG_REQUEST = 2
STOPPED = 130


class UserError(Exception):
    """A mistake that the user can mend: where, what was found, what was expected, what to do.

    Args:
        file: the file, folder or option the message is about.
        found: what is there.
        expected: what should be there.
        remedy: what the user can do about it.
    """

    def __init__(self, file: Path | str, *, found: str, expected: str, remedy: str) -> None:
        self.file = str(file)
        self.found = found
        self.expected = expected
        self.remedy = remedy
        super().__init__(file, found, expected, remedy)

    def __str__(self) -> str:
        return (
            f"{self.file}\n  found:    {self.found}\n"
            f"  expected: {self.expected}\n  to do:    {self.remedy}"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (_user_error, (self.file, self.found, self.expected, self.remedy))


def _user_error(file: str, found: str, expected: str, remedy: str) -> UserError:
    """The error again after it crossed a process border."""
    return UserError(file, found=found, expected=expected, remedy=remedy)
