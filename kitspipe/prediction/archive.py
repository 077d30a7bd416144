"""A trained cascade as one file: a zip, stored, of JSON, weights and a text, with their hashes.

Laid out as a workspace. What a stranger may have made is refused unless it is exactly that: known
names, each once, no links, nothing compressed, sizes and hashes as the manifest says, weights that
are safetensors.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from kitspipe.errors import UserError
from kitspipe.planning.document import Document, encode
from kitspipe.planning.plan import Plan
from kitspipe.planning.planner import training_key
from kitspipe.prediction.job import FINAL
from kitspipe.workspace import STAGES, Stage

MANIFEST, CARD, CHOICE = "manifest.json", "model_card.md", "choice.json"
SUFFIX = ".kitspipe"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_MOST_BYTES = 16 << 30
_MOST_JSON_BYTES = 16 << 20
_BLOCK = 1 << 20
_DATE = (1980, 1, 1, 0, 0, 0)  # Equal models are equal files.
_MODE = (stat.S_IFREG | 0o644) << 16
_WEIGHTS = re.compile(rf"results/([^/]+)/(kidney|tumor)/fold_(0|[1-9][0-9]{{0,3}}|all)/{FINAL}")


class Member(Document, frozen=True, kw_only=True):
    """A file of the archive."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Meta(ge=0)]


class Manifest(Document, frozen=True, kw_only=True):
    """What the archive holds.

    Args:
        schema: of archives.
        kitspipe: version that wrote it.
        name: of the plan.
        files: all others, by path in the archive.
    """

    schema: Literal[1] = 1
    kitspipe: str
    name: str
    files: dict[str, Member]


def plan_member(name: str) -> str:
    """Where the plan is."""
    return f"plans/{name}.json"


def choice_member(name: str) -> str:
    """Where the choices are."""
    return f"results/{name}/{CHOICE}"


def write_archive(path: Path, manifest: Manifest, files: dict[str, Path | bytes]) -> None:
    """Write an archive.

    Args:
        path: the file, under its temporary name.
        manifest: of the files.
        files: content by path in the archive.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {MANIFEST: encode(manifest), **files}.items():
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system, info.external_attr = 3, _MODE
            info.file_size = len(content) if isinstance(content, bytes) else content.stat().st_size
            with archive.open(info, "w") as member:
                if isinstance(content, bytes):
                    member.write(content)
                    continue
                with content.open("rb") as source:
                    while block := source.read(_BLOCK):
                        member.write(block)


def unpack(path: Path, folder: Path) -> Manifest:
    """All files of an archive in a folder, once everything about it has been checked.

    Raises:
        UserError: it is no archive of ours, damaged or unsafe; the folder may hold some files.
    """
    try:
        with _refusing(path), zipfile.ZipFile(path) as archive:
            infos = _sound_members(archive, path)
            manifest = _manifest(_content(archive, infos, MANIFEST))
            _refuse_others({name: info.file_size for name, info in infos.items()}, manifest)
            for name, info in infos.items():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, target.open("wb") as file:
                    while block := source.read(_BLOCK):
                        file.write(block)
    except OSError as error:
        raise UserError(
            path,
            found=f"it can't be read or unpacked: {error.strerror or error}",
            expected="a file that kitspipe_export wrote, and room to unpack it",
            remedy="look at the file and the disk",
        ) from None
    verify(folder, path)
    return manifest


def verify(folder: Path, path: Path | None = None) -> Manifest:
    """The manifest of an unpacked archive whose files are what it says.

    Args:
        folder: with the files.
        path: what messages name; None: the folder.

    Raises:
        UserError: they are not.
    """
    with _refusing(path or folder):
        manifest = _manifest(_json_bytes(folder / MANIFEST))
        for name, member in manifest.files.items():
            _check_file(folder / name, name, member)
        plan = msgspec.json.decode(_json_bytes(folder / plan_member(manifest.name)), type=Plan)
        for name in manifest.files:
            found = _WEIGHTS.fullmatch(name)
            if found is not None:
                stage: Stage = "kidney" if found[2] == "kidney" else "tumor"
                _check_weights(folder / name, name, stage, training_key(plan, stage))
        if choice_member(manifest.name) in manifest.files:
            choice = json.loads(_json_bytes(folder / choice_member(manifest.name)))
            if not isinstance(choice, dict):
                raise _Unsound(f"{CHOICE} that is no JSON object")
    return manifest


class _Unsound(Exception):
    """What is wrong with an archive."""


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        _Unsound,
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        msgspec.DecodeError,
        NotImplementedError,
        RuntimeError,
        EOFError,
        ValueError,
        OverflowError,
    ) as error:
        raise UserError(
            path,
            found=str(error) or type(error).__name__,
            expected="a model as kitspipe_export writes it, whole and unchanged",
            remedy="get it again from where it came; don't trust one that was changed",
        ) from None


def _sound_members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Members by name."""
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.orig_filename
        if name in infos:
            raise _Unsound(f"two members with the name {name!r}")
        if name != info.filename or not _is_known(name):
            raise _Unsound(f"the member {name!r}, which no model has")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise _Unsound(f"the member {name!r}, a link or another special file")
        if info.flag_bits & 1:
            raise _Unsound(f"the member {name!r}, encrypted")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise _Unsound(f"the member {name!r}, compressed")
        infos[name] = info
    # Members of a crafted zip may share their bytes.
    total = sum(info.file_size for info in infos.values())
    if total > min(_MOST_BYTES, path.stat().st_size):
        raise _Unsound(f"members of {total} bytes in a file of {path.stat().st_size}")
    if MANIFEST not in infos:
        raise _Unsound(f"no {MANIFEST}")
    return infos


def _is_known(name: str) -> bool:
    """Whether a path is one that an archive of some plan may hold."""
    if name in (MANIFEST, CARD):
        return True
    parts = name.split("/")
    plan = parts[1] if len(parts) > 1 else ""
    if parts[0] == "plans":
        plan = plan.removesuffix(".json")
    return NAME.fullmatch(plan) is not None and (
        name in (plan_member(plan), choice_member(plan)) or _WEIGHTS.fullmatch(name) is not None
    )


def _content(archive: zipfile.ZipFile, infos: dict[str, zipfile.ZipInfo], name: str) -> bytes:
    if infos[name].file_size > _MOST_JSON_BYTES:
        raise _Unsound(f"{name} of {infos[name].file_size} bytes")
    return archive.read(infos[name])


def _manifest(content: bytes) -> Manifest:
    manifest = msgspec.json.decode(content, type=Manifest)
    name = manifest.name
    if NAME.fullmatch(name) is None:
        raise _Unsound(f"the plan name {name!r}")
    for file in manifest.files:
        found = _WEIGHTS.fullmatch(file)
        of_plan = file in (plan_member(name), choice_member(name)) or (found and found[1] == name)
        if file != CARD and not of_plan:
            raise _Unsound(f"the file {file!r} in the manifest, which no model {name!r} has")
    stages = {found[2] for file in manifest.files if (found := _WEIGHTS.fullmatch(file))}
    if plan_member(name) not in manifest.files or stages != {*STAGES}:
        raise _Unsound("a manifest without a plan, or without networks of both stages")
    return manifest


def _refuse_others(sizes: dict[str, int], manifest: Manifest) -> None:
    expected = {name: member.bytes for name, member in manifest.files.items()}
    found = {name: size for name, size in sizes.items() if name != MANIFEST}
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        raise _Unsound(f"{wrong[0]!r}: missing, or not of the size that the manifest says")


def _check_file(path: Path, name: str, member: Member) -> None:
    if path.is_symlink() or not path.is_file():
        raise _Unsound(f"no file {name!r}")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if path.stat().st_size != member.bytes or digest.hexdigest() != member.sha256:
        raise _Unsound(f"{name!r}, which is not the file that the manifest names: its hash differs")


def _json_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise _Unsound(f"no {path.name}")
    if path.stat().st_size > _MOST_JSON_BYTES:
        raise _Unsound(f"{path.name} of {path.stat().st_size} bytes")
    return path.read_bytes()


def _check_weights(path: Path, name: str, stage: Stage, key: str) -> None:
    """Raise for what is no safetensors file of a stage trained with the plan."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MOST_JSON_BYTES, path.stat().st_size - 8):
            raise _Unsound(f"{name!r}, which is no safetensors file (a pickle?)")
        header = json.loads(file.read(length))
    content: Any = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(content, dict) or "kitspipe" not in content:
        raise _Unsound(f"{name!r}, which kitspipe didn't write")
    written = json.loads(content["kitspipe"])
    if not isinstance(written, dict) or written.get("kind") != "weights":
        raise _Unsound(f"{name!r}, which holds no weights of kitspipe")
    if written.get("stage") != stage or written.get("plan_sha256") != key:
        raise _Unsound(f"{name!r}, which was not trained with the plan in the archive")
