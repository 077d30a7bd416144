"""One file over HTTP, resumed where it broke off; it has its name only when it is whole."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO

from kitspipe import __version__
from kitspipe.errors import UserError
from kitspipe.workspace import not_written, temporary_beside

_CHUNK_BYTES = 1 << 18
# Asked again: too slow, too many requests; and all 5xx. Source: RFC 9110, RFC 6585.
_TRY_AGAIN = {408, 425, 429}
_BEYOND_END = 416


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a file is tried for.

    Args:
        attempts: in a row without a new byte.
        first_s: wait before the second one; it doubles, and half of it is drawn at random.
        most_s: longest wait, also where the server asks for more.
        stall_s: without a byte for so long, a connection counts as broken.
    """

    attempts: int = 6
    first_s: float = 1.0
    most_s: float = 60.0
    stall_s: float = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetch:
    """What a file is fetched with.

    Args:
        check: raises UserError where a file of this path is not what was asked for.
        patience: how long it is tried for.
        stop: set from outside to end all transfers.
    """

    check: Callable[[Path], None]
    patience: Patience = field(default_factory=Patience)
    stop: threading.Event = field(default_factory=threading.Event)


class Stopped(Exception):
    """A transfer was told to end; what it has got is kept."""


class _Broken(Exception):
    """An attempt failed in a way that the next one may not."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def fetch(url: str, path: Path, how: Fetch) -> None:
    """Bring a file; `path` appears whole and checked, or not at all.

    What has come so far stands in `path` + `.part`, and in `.part.tag` which version of the file
    it is of; a later call goes on from there where the server still has that version.

    Raises:
        UserError: the server refuses, all attempts failed, another process fetches the same
            file, or the disk is full.
        Stopped: `how.stop` was set.
    """
    part = path.with_name(f"{path.name}.part")
    with _locked(part, path) as stream:
        if stream is None:
            return
        failures, most_bytes = 0, os.fstat(stream.fileno()).st_size
        while True:
            try:
                _attempt(url, part, stream, how)
                _refuse_rubbish(part, path, how.check)
                break
            except _Broken as broken:
                size = os.fstat(stream.fileno()).st_size
                failures = 1 if size > most_bytes else failures + 1
                most_bytes = max(most_bytes, size)
                if failures >= how.patience.attempts:
                    raise _given_up(url, broken, failures) from None
                _wait(how, failures, broken.wait_s)
        try:
            os.fsync(stream.fileno())
            part.replace(path)
            _tag_file(part).unlink(missing_ok=True)
        except OSError as error:
            raise not_written(path, error) from None


def _refuse_rubbish(part: Path, path: Path, check: Callable[[Path], None]) -> None:
    """Delete what `check` refuses, so that the next attempt starts anew."""
    seen = temporary_beside(path)
    seen.unlink(missing_ok=True)
    try:
        # Readers tell formats by the name's end.
        os.link(part, seen)
    except OSError:
        seen.symlink_to(part.name)
    try:
        check(seen)
    except UserError as error:
        with part.open("r+b") as stream:
            stream.truncate(0)
        raise _Broken(f"what came is no whole scan: {error.found}") from None
    finally:
        seen.unlink(missing_ok=True)


def _attempt(url: str, part: Path, stream: IO[bytes], how: Fetch) -> None:
    """One connection: all that is missing, or _Broken."""
    offset, tag = _known(url, part, stream)
    headers = {"User-Agent": f"kitspipe/{__version__}"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": tag}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=how.patience.stall_s) as response:
            offset = _start(url, part, stream, response, offset)
            expected = response.length
            for chunk in _chunks(response, how.stop):
                _write(stream, chunk, part)
            got = os.fstat(stream.fileno()).st_size - offset
    except urllib.error.HTTPError as error:
        with error:
            _refused(url, error, stream, offset)
        return
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _Broken(f"the connection broke: {reason or type(error).__name__}") from None
    if expected is not None and got != expected:
        raise _Broken(f"the connection ended after {got} of {expected} bytes")


def _start(
    url: str, part: Path, stream: IO[bytes], response: http.client.HTTPResponse, offset: int
) -> int:
    """Where the answer's first byte belongs; the part is cut there and its version noted."""
    if response.status == 206:
        places = response.headers.get("Content-Range", "")
        if not places.startswith(f"bytes {offset}-"):
            _write(stream, None, part)
            raise _Broken(f"the server sent another piece than asked for: {places!r}")
        return offset
    _write(stream, None, part)
    headers = response.headers
    tag = headers.get("ETag", "")
    # A weak tag does not promise equal bytes (RFC 9110, 13.1.5).
    tag = headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
    try:
        _tag_file(part).write_text(json.dumps({"url": url, "tag": tag}), encoding="utf-8")
    except OSError as error:
        raise not_written(_tag_file(part), error) from None
    return 0


def _known(url: str, part: Path, stream: IO[bytes]) -> tuple[int, str]:
    """Bytes that are there and of which version; 0 where that can't be told."""
    try:
        known = json.loads(_tag_file(part).read_bytes())
        is_known = known["url"] == url and bool(known["tag"])
    except (OSError, ValueError, TypeError, KeyError):
        is_known = False
    if not is_known:
        _write(stream, None, part)
        return 0, ""
    return os.fstat(stream.fileno()).st_size, str(known["tag"])


def _chunks(response: http.client.HTTPResponse, stop: threading.Event) -> Iterator[bytes]:
    while not stop.is_set():
        # read1: what has come is written at once, and is not lost when the rest does not come.
        chunk = response.read1(_CHUNK_BYTES)
        if not chunk:
            return
        yield chunk
    raise Stopped


def _write(stream: IO[bytes], chunk: bytes | None, part: Path) -> None:
    """Append, or for None empty the file; here an OSError is the disk's, not the network's."""
    try:
        if chunk is None:
            stream.truncate(0)
        else:
            left = memoryview(chunk)
            while left:
                left = left[stream.write(left) :]
    except OSError as error:
        raise not_written(part, error) from None


def _refused(url: str, error: urllib.error.HTTPError, stream: IO[bytes], offset: int) -> None:
    """Raise what an error status means; nothing where the part is whole already."""
    if error.code == _BEYOND_END and offset:
        if error.headers.get("Content-Range", "") == f"bytes */{offset}":
            return
        stream.truncate(0)
        raise _Broken("the file on the server is shorter than what is here")
    if error.code in _TRY_AGAIN or error.code >= 500:
        raise _Broken(f"HTTP status {error.code} {error.reason}", _asked_wait_s(error.headers))
    raise UserError(
        url,
        found=f"HTTP status {error.code} {error.reason}",
        expected="a file that anybody may fetch",
        remedy="look whether this address opens in a browser; --base-url and --masks-url say "
        "where files lie",
    )


def _asked_wait_s(headers: Message) -> float:
    """Seconds of a Retry-After; 0 without, or where it is a date."""
    with suppress(ValueError):
        return max(0.0, float(headers.get("Retry-After", "0")))
    return 0.0


def _wait(how: Fetch, failures: int, asked_s: float) -> None:
    patience = how.patience
    own_s = patience.first_s * 2.0 ** (failures - 1) * random.uniform(0.5, 1.0)
    if how.stop.wait(min(patience.most_s, max(own_s, asked_s))):
        raise Stopped


def _given_up(url: str, broken: _Broken, failures: int) -> UserError:
    return UserError(
        url,
        found=f"{broken} ({failures} attempts)",
        expected="a whole file from this address",
        remedy="look at the network and the address, then run the same command again: it goes on",
    )


def _tag_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


@contextmanager
def _locked(part: Path, path: Path) -> Iterator[IO[bytes] | None]:
    """The part, open to append; None where another process has finished the file meanwhile."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        stream = part.open("ab", buffering=0)
    except OSError as error:
        raise not_written(part, error) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _elsewhere(path) from None
        except OSError:
            pass  # A file system without locks.
        # Who held the lock until now may have given the file its name, or thrown it away.
        is_part = part.exists() and os.path.samestat(os.fstat(stream.fileno()), part.stat())
        if not is_part and not path.exists():
            raise _elsewhere(path)
        try:
            yield stream if is_part else None
        finally:
            if is_part and part.exists() and not part.stat().st_size:
                _remove_empty(part)


def _remove_empty(part: Path) -> None:
    """An empty case folder would look like a case that lacks its files."""
    with suppress(OSError):
        part.unlink()
        _tag_file(part).unlink(missing_ok=True)
        part.parent.rmdir()


def _elsewhere(path: Path) -> UserError:
    return UserError(
        path,
        found="another download is fetching this file",
        expected="one download per file at a time",
        remedy="let it end; then run the same command again",
    )
