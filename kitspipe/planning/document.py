"""Documents: typed values that are kept as JSON. Reading, writing, hashing.

Unknown keys, wrong types and impossible combinations are refused with the key's path.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from kitspipe import workspace
from kitspipe.errors import UserError


class Document(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that is kept as JSON."""


D = TypeVar("D", bound=Document)


def encode(document: Document) -> bytes:
    """JSON for a file, indented."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def sha256(document: Document) -> str:
    """Hash of a document's content, whatever its layout on disk."""
    return hashlib.sha256(msgspec.json.encode(as_read(document))).hexdigest()


def as_read(document: D) -> D:
    """The document as a file gives it back: an int where a float belongs has become a float."""
    return msgspec.json.decode(msgspec.json.encode(document), type=type(document))


def write_document(path: Path, document: Document) -> None:
    """Write JSON beside and rename."""
    workspace.write_bytes(path, encode(document))


def read_document(path: Path, kind: type[D], *, made_by: str) -> D:
    """The document in a JSON file.

    Args:
        path: the file.
        kind: its type.
        made_by: the command that writes such files, for the message where it is missing.

    Raises:
        UserError: no such file, no JSON, or a key that is unknown, of another type or impossible.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise UserError(
            path, found="no such file", expected=f"what {made_by} writes", remedy=f"run {made_by}"
        ) from None
    except msgspec.ValidationError as error:
        raise UserError(
            path,
            found=str(error),
            expected="keys and values as docs/plan.md lists them",
            remedy="mend this key, or write the file anew with " + made_by,
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(
            path,
            found=f"no JSON: {error}",
            expected="a JSON document",
            remedy="mend the file, or write it anew with " + made_by,
        ) from None
