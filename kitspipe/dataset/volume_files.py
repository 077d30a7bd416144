"""Volumes in folders, by name; hidden files are left out."""

from __future__ import annotations

from pathlib import Path

from kitspipe.imaging.formats import IMAGE_SUFFIXES


def content_of(folder: Path) -> str:
    """What a folder holds, for a message."""
    names = [entry.name + ("/" if entry.is_dir() else "") for entry in entries(folder)]
    if not names:
        return "an empty folder"
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"


def entries(folder: Path) -> list[Path]:
    """Entries by name, none for a missing folder; hidden ones (half-written files too) left out."""
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def volumes(folder: Path) -> list[Path]:
    """The volumes of a folder by name."""
    return [entry for entry in entries(folder) if entry.is_file() and is_volume(entry)]


def volume_named(folder: Path, stem: str) -> Path | None:
    """The volume `stem` in a folder, in whichever format."""
    files = (folder / f"{stem}{suffix}" for suffix in IMAGE_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def is_volume(path: Path) -> bool:
    """Whether a name ends as a volume's does."""
    return path.name.lower().endswith(IMAGE_SUFFIXES)


def suffix_of(path: Path) -> str:
    """A volume's ending as it is written, `.nii.gz` whole."""
    return next(path.name[-len(s) :] for s in IMAGE_SUFFIXES if path.name.lower().endswith(s))


def stem_of(path: Path) -> str:
    """A volume's name without its ending."""
    return path.name[: -len(suffix_of(path))]
