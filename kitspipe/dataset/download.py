"""KiTS19's scans and masks from where the challenge keeps them, into KiTS layout."""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast
from urllib.parse import urlsplit

import numpy as np
from isal import igzip
from isal.igzip_lib import IsalError

from kitspipe import console
from kitspipe.dataset.cases import KITS_IMAGE, KITS_MASKS, KITS_SUBFOLDERS
from kitspipe.dataset.transfer import Fetch, Patience, Stopped, fetch
from kitspipe.dataset.volume_files import volume_named
from kitspipe.errors import UserError
from kitspipe.imaging.formats import read_header
from kitspipe.imaging.header import Header
from kitspipe.imaging.packed import chunks

LAST_CASE, LAST_LABELLED = 299, 209
_PART = re.compile(r"(?:case_)?(\d{1,5})(?:-(?:case_)?(\d{1,5}))?")
_FIRST_VOXEL_BYTE = 352
_CORRUPT = (OSError, EOFError, zlib.error, cast("type[Exception]", IsalError))


@dataclass(frozen=True, kw_only=True, slots=True)
class Addresses:
    """Where files lie.

    Args:
        images: URL of a folder with `master_XXXXX.nii.gz`, or one with `{number}` or `{case}`.
        masks: the same with `segmentation.nii.gz` below `case_XXXXX`; None: no masks are wanted.

    Raises:
        UserError: no http or https address, or braces that are neither.
    """

    images: str
    masks: str | None

    def __post_init__(self) -> None:
        for option, url in (("--base-url", self.images), ("--masks-url", self.masks)):
            if url is not None:
                _refuse_odd_url(option, url)

    def files(self, number: int) -> list[tuple[str, str]]:
        """Name in the case's folder and address of each file; the mask, which is small, first."""
        found = []
        if self.masks is not None and number <= LAST_LABELLED:
            name = f"{KITS_MASKS[0]}.nii.gz"
            found.append((name, _filled(self.masks, f"{{case}}/{name}", number)))
        image = _filled(self.images, "master_{number}.nii.gz", number)
        return [*found, (f"{KITS_IMAGE}.nii.gz", image)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Downloaded:
    """What a download did.

    Args:
        folder: where the cases lie.
        fetched: ids of cases of which a file was fetched.
        kept: ids of those that were complete.
        failures: id and reason of those that are not.
    """

    folder: Path
    fetched: tuple[str, ...]
    kept: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]

    @property
    def rows(self) -> list[tuple[str, object]]:
        """For a summary."""
        counts = [("fetched", self.fetched), ("kept", self.kept), ("failed", self.failures)]
        return [*((name, len(some)) for name, some in counts), ("folder", self.folder)]


def case_numbers(text: str) -> list[int]:
    """The numbers of `0-9,15,case_00023`, each once, in order.

    Raises:
        UserError: something else, or a case that KiTS19 does not have.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        first = int(match[1]) if match else 1
        last = int(match[2] or match[1]) if match else 0
        if not first <= last <= LAST_CASE:
            raise UserError(
                "--cases",
                found=repr(part.strip()),
                expected=f"numbers, ranges or names from 0 to {LAST_CASE}: 0-9,15,case_00023",
                remedy="mend the list, or leave it out for all scans with a mask, 0-209",
            )
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def download(
    output: Path,
    numbers: Sequence[int],
    addresses: Addresses,
    *,
    jobs: int,
    patience: Patience | None = None,
) -> Downloaded:
    """Fetch what is missing of the cases; one that fails leaves the others alone.

    Args:
        output: the folder of the cases, or a clone of the challenge's repository.
        numbers: which cases.
        addresses: where they come from.
        jobs: cases at once.
        patience: how long each file is tried for.
    """
    folder = _case_folder_in(output)
    stop = threading.Event()
    how = Fetch(check=refuse_damaged, patience=patience or Patience(), stop=stop)
    fetched: list[str] = []
    kept: list[str] = []
    failures: list[tuple[str, str]] = []
    with ThreadPoolExecutor(jobs) as pool, _stopping(stop):
        tasks = {
            pool.submit(_bring, folder / f"case_{n:05d}", addresses.files(n), how): n
            for n in numbers
        }
        for task in console.progress(as_completed(tasks), len(tasks), "download"):
            case_id = f"case_{tasks[task]:05d}"
            try:
                (fetched if task.result() else kept).append(case_id)
            except UserError as error:
                failures.append((case_id, str(error)))
            except OSError as error:
                failures.append((case_id, f"{error.filename}: {error.strerror or error}"))
    return Downloaded(
        folder=folder,
        fetched=tuple(sorted(fetched)),
        kept=tuple(sorted(kept)),
        failures=tuple(sorted(failures)),
    )


def refuse_damaged(path: Path) -> None:
    """Raise where a `.nii.gz` is no whole volume: header, length and checksum of all its bytes.

    Raises:
        UserError: it is not.
    """
    header = read_header(path)
    least = _unpacked_bytes(header)
    try:
        with igzip.open(path, "rb") as opened:
            got = sum(len(chunk) for chunk in chunks(cast("IO[bytes]", opened)))
    except _CORRUPT as error:
        raise _damaged(path, f"corrupt or cut short: {error}") from None
    if got < least:
        raise _damaged(path, f"{got} of {least} bytes")


def _bring(folder: Path, files: Sequence[tuple[str, str]], how: Fetch) -> bool:
    """Whether a file was missing and is there now."""
    missing = []
    for name, url in files:
        there = volume_named(folder, name.removesuffix(".nii.gz"))
        if there is None:
            missing.append((name, url))
        else:
            _refuse_cut_short(there)
    errors = []
    for name, url in missing:
        if how.stop.is_set():
            raise Stopped
        try:
            fetch(url, folder / name, how)
        except UserError as error:
            errors.append(error)
            continue
        console.detail(f"{folder.name}: {name} is there")
    if errors:
        raise errors[0]
    return bool(missing)


def _refuse_cut_short(path: Path) -> None:
    """Raise where a file that is there does not open, or is not as long as its header says.

    Cheap: gzip ends with the length of its content; only where that is odd all is read.
    """
    header = read_header(path)
    if header.suffix != ".nii.gz":
        return
    with path.open("rb") as stream:
        stream.seek(-4, 2)
        told = int.from_bytes(stream.read(4), "little")
    if told != _unpacked_bytes(header) % 2**32:
        refuse_damaged(path)


def _unpacked_bytes(header: Header) -> int:
    """Bytes of a NIfTI file with such a header, before compression."""
    is_number = header.stored_dtype != "unknown"
    itemsize = np.dtype(header.stored_dtype).itemsize if is_number else 1
    return _FIRST_VOXEL_BYTE + int(np.prod(header.size, dtype=np.int64)) * itemsize


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Tells threads to end before their pool waits for them."""
    try:
        yield
    finally:
        stop.set()


def _case_folder_in(output: Path) -> Path:
    """`data/` of a clone of the challenge's repository, else the folder itself."""
    below = (output / name for name in KITS_SUBFOLDERS)
    return next((place for place in below if any(place.glob("case_*/"))), output)


def _filled(url: str, name: str, number: int) -> str:
    address = url if "{" in url else f"{url.rstrip('/')}/{name}"
    return address.replace("{case}", f"case_{number:05d}").replace("{number}", f"{number:05d}")


def _refuse_odd_url(option: str, url: str) -> None:
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.netloc and "{" not in _filled(url, "", 0):
            return
    raise UserError(
        option,
        found=repr(url),
        expected="an http:// or https:// address, with no braces but {case} and {number}",
        remedy="mend the address, or leave the option out for the challenge's own",
    )


def _damaged(path: Path, found: str) -> UserError:
    return UserError(
        path,
        found=found,
        expected="a whole volume as .nii.gz",
        remedy="take the file away, then run the same command again",
    )
