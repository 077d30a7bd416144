"""DICOM files byte by byte, where SimpleITK does not tell or takes what is not there for zeros."""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path

# Before a file's `DICM`, and how files without that preamble begin (group 0008).
PREAMBLE_BYTES, _BARE_START = 128, b"\x08\x00"
START_BYTES = PREAMBLE_BYTES + 4
# All but CT Image Storage and its enhanced forms. Source: DICOM PS3.4 B.5.
_OTHER_CLASS = re.compile(r"1\.2\.840\.10008\.(?!5\.1\.4\.1\.1\.2(\.\d+)?$)[0-9.]+")
_META_BYTES = 4096
# Implicit, explicit little, explicit big endian; others compress. Source: DICOM PS3.5 10.
_NATIVE = {
    "1.2.840.10008.1.2": b"\xe0\x7f\x10\x00",
    "1.2.840.10008.1.2.1": b"\xe0\x7f\x10\x00",
    "1.2.840.10008.1.2.2": b"\x7f\xe0\x00\x10",
}


def is_dicom_start(raw: bytes) -> bool:
    """Whether a file that begins with these bytes is DICOM."""
    return _has_preamble(raw) or raw.startswith(_BARE_START)


def starts_as_dicom(file: Path) -> bool:
    """Whether a file is DICOM, by its first bytes."""
    with file.open("rb") as opened:
        return is_dicom_start(opened.read(START_BYTES))


def is_cut_start(file: Path) -> bool:
    """Whether a file that does not start as DICOM is empty, or ends or is damaged right there."""
    with file.open("rb") as opened:
        raw = opened.read(PREAMBLE_BYTES)
    return not raw.strip(b"\0") and not file.name.startswith(".")


def may_be_ct(file: Path) -> bool:
    """Whether a DICOM file that can't be read is a CT slice, or damaged too much to tell."""
    with file.open("rb") as opened:
        raw = opened.read(_META_BYTES)
        if not _has_preamble(raw):
            return False
        media_class = _meta_uid(raw, 0x0002)
        if media_class is None or _OTHER_CLASS.fullmatch(media_class) is None:
            return True
        # Plans, contours and reports have no pixels.
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            return any(whole.find(tag) >= 0 for tag in set(_NATIVE.values()))


def has_pixels(file: Path, count_bytes: int) -> bool:
    """Whether the PixelData of a file are of this length; True where they are compressed."""
    with file.open("rb") as opened:
        raw = opened.read(_META_BYTES)
        syntax = _meta_uid(raw, 0x0010) if _has_preamble(raw) else "1.2.840.10008.1.2"
        if syntax not in _NATIVE:
            return syntax is not None
        tag = _NATIVE[syntax]
        order = ">" if tag.startswith(b"\x7f") else "<"
        # Values are padded to an even length, which not all writers do.
        lengths = {count_bytes, count_bytes + count_bytes % 2}
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            # Most files end with their pixels; what stands in a sequence before is an icon's.
            place = whole.rfind(tag, 0, max(0, len(whole) - count_bytes))
            while place >= 0:
                for gap in (4, 8):
                    head = whole[place + gap : place + gap + 4]
                    if len(head) == 4 and struct.unpack(f"{order}I", head)[0] in lengths:
                        return len(whole) >= place + gap + 4 + count_bytes
                place = whole.rfind(tag, 0, place)
    return False


def _has_preamble(raw: bytes) -> bool:
    return raw[PREAMBLE_BYTES:START_BYTES] == b"DICM"


def _meta_uid(raw: bytes, element: int) -> str | None:
    """A UID of the file's meta information (group 0002), None where it is not found."""
    start = struct.pack("<HH2s", 2, element, b"UI")
    place = raw.find(start)
    if place < 0 or len(raw) < place + 8:
        return None
    (length,) = struct.unpack("<H", raw[place + 6 : place + 8])
    if len(raw) < place + 8 + length:
        return None
    return raw[place + 8 : place + 8 + length].decode("latin-1").rstrip("\0 ")
