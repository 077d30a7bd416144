"""Archives that somebody else made: only what kitspipe_export would write is taken."""

import hashlib
import io
import json
import pickle
import random
import stat
import struct
import zipfile
import zlib

import pytest
from small_model import write_model

from kitspipe.errors import UserError
from kitspipe.prediction.archive import MANIFEST, unpack, verify
from kitspipe.prediction.export import export_model

WEIGHTS = "results/default/kidney/fold_0/final.safetensors"
FUZZED = 300


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    place = write_model(folder, threshold=0.5)
    export_model(place, folder / "model.kitspipe", None)
    return folder / "model.kitspipe"


def content(model):
    with zipfile.ZipFile(model) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, files, *, infos=None, compression=zipfile.ZIP_STORED):
    """A zip of files, its manifest made true for them where they have one."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr((infos or {}).get(name, name), data)
    return path


def with_true_manifest(files):
    manifest = json.loads(files[MANIFEST])
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in files.items()
        if name != MANIFEST
    }
    return {**files, MANIFEST: json.dumps(manifest).encode()}


def refused(path, folder):
    """The message for an archive; nothing may lie outside the folder then."""
    folder.mkdir()
    inner = folder / "deep" / "inner"
    inner.mkdir(parents=True)
    with pytest.raises(UserError) as error:
        unpack(path, inner)
    assert [file for file in folder.rglob("*") if inner not in (file, *file.parents)] == [
        folder / "deep"
    ]
    assert not [file for file in inner.rglob("*") if file.is_symlink()]
    assert error.value.file == str(path)
    return error.value.found


def test_what_was_exported_is_taken(model, tmp_path):
    assert unpack(model, tmp_path).name == "default"
    assert verify(tmp_path).name == "default"
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert files == set(content(model))


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


PICKLE = pickle.dumps(Evil())


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("../evil.json", b"{}"),
        ("/tmp/evil.json", b"{}"),
        ("plans/../../evil.json", b"{}"),
        ("plans\\..\\..\\evil.json", b"{}"),
        ("C:/evil.json", b"{}"),
        ("plans/.json", b"{}"),
        ("plans/..json", b"{}"),
        ("results/../kidney/fold_0/final.safetensors", b"{}"),
        ("results/default/kidney/fold_0/extra.pkl", PICKLE),
        ("results/default/postprocessing.py", b"print()"),
        ("results/default/kidney/fold_00/final.safetensors", b"{}"),
        ("plans/default.json/", b""),
        ("plans/a\0b.json", b"{}"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_member_that_no_model_has_is_refused(model, tmp_path, name, data):
    files = with_true_manifest(content(model) | {name: data})
    assert "member" in refused(write(tmp_path / "x.kitspipe", files), tmp_path / "out")


def test_a_pickle_in_place_of_weights_is_refused_and_not_run(model, tmp_path, capsys):
    files = with_true_manifest(content(model) | {WEIGHTS: PICKLE})
    found = refused(write(tmp_path / "x.kitspipe", files), tmp_path / "out")
    assert "no safetensors file" in found
    assert capsys.readouterr().out == ""


def test_an_older_torch_checkpoint_is_refused(model, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as inner:
        inner.writestr("archive/data.pkl", PICKLE)
    files = with_true_manifest(content(model) | {WEIGHTS: buffer.getvalue()})
    found = refused(write(tmp_path / "x.kitspipe", files), tmp_path / "out")
    assert "no safetensors file" in found


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_other_special_files_are_refused(model, tmp_path, kind):
    info = zipfile.ZipInfo(WEIGHTS)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    files = with_true_manifest(content(model) | {WEIGHTS: b"/etc/passwd"})
    path = write(tmp_path / "x.kitspipe", files, infos={WEIGHTS: info})
    assert "special file" in refused(path, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_a_name_twice_is_refused(model, tmp_path, name):
    path = write(tmp_path / "x.kitspipe", content(model))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"other")
    assert "two members" in refused(path, tmp_path / "out")


def test_compressed_members_are_refused_before_they_are_unpacked(model, tmp_path):
    files = with_true_manifest(content(model) | {WEIGHTS: bytes(20 << 20)})
    path = write(tmp_path / "x.kitspipe", files, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 18
    assert "compressed" in refused(path, tmp_path / "out")


def test_members_that_share_their_bytes_are_refused(model, tmp_path):
    """A bomb of stored members: many entries of the directory that lead to the same bytes."""
    path = write(tmp_path / "x.kitspipe", content(model))
    with zipfile.ZipFile(path, "a") as archive:
        [weights] = [info for info in archive.filelist if info.filename == WEIGHTS]
        for fold in range(1, 200):
            twin = zipfile.ZipInfo(WEIGHTS.replace("fold_0", f"fold_{fold}"))
            for field in ("file_size", "compress_size", "CRC", "header_offset", "create_system"):
                setattr(twin, field, getattr(weights, field))
            archive.filelist.append(twin)
        archive._didModify = True
    assert "members of" in refused(path, tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["files"][WEIGHTS].update(sha256="0" * 64),
        lambda manifest: manifest["files"][WEIGHTS].update(bytes=5),
        lambda manifest: manifest["files"].pop(WEIGHTS),
        lambda manifest: manifest["files"].update(
            {WEIGHTS.replace("fold_0", "fold_1"): {"sha256": "0" * 64, "bytes": 1}}
        ),
        lambda manifest: manifest.update(name="../../evil"),
        lambda manifest: manifest.update(name="other"),
        lambda manifest: manifest.update(schema=2),
        lambda manifest: manifest.update(run="rm"),
        lambda manifest: manifest.update(files={}),
        lambda manifest: manifest["files"].update({"../evil": {"sha256": "0" * 64, "bytes": 1}}),
    ],
)
def test_a_manifest_that_lies_is_refused(model, tmp_path, change):
    files = content(model)
    manifest = json.loads(files[MANIFEST])
    change(manifest)
    files[MANIFEST] = json.dumps(manifest).encode()
    refused(write(tmp_path / "x.kitspipe", files), tmp_path / "out")


def test_weights_of_another_stage_or_plan_are_refused(model, tmp_path):
    files = content(model)
    swapped = files | {WEIGHTS: files[WEIGHTS.replace("kidney", "tumor")]}
    path = write(tmp_path / "a.kitspipe", with_true_manifest(swapped))
    assert "not trained with the plan" in refused(path, tmp_path / "a")
    plan = json.loads(files["plans/default.json"])
    plan["seed"] += 1
    changed = files | {"plans/default.json": json.dumps(plan).encode()}
    path = write(tmp_path / "b.kitspipe", with_true_manifest(changed))
    assert "not trained with the plan" in refused(path, tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("plans/default.json", b"{}"),
        ("plans/default.json", b"\xff"),
        ("results/default/choice.json", b"[1]"),
        ("results/default/choice.json", b"[" * 100_000),
        (WEIGHTS, b""),
        (WEIGHTS, struct.pack("<Q", 1 << 62) + b"{}"),
        (WEIGHTS, struct.pack("<Q", 2) + b"{}"),
        (WEIGHTS, struct.pack("<Q", 2) + b"[]"),
    ],
)
def test_content_that_is_none_is_refused_even_with_true_hashes(model, tmp_path, name, data):
    files = with_true_manifest(content(model) | {name: data})
    refused(write(tmp_path / "x.kitspipe", files), tmp_path / "out")


@pytest.mark.parametrize("data", [b"", b"PK", PICKLE, b"PK\x05\x06" + bytes(18), bytes(1000)])
def test_what_is_no_archive_is_refused(tmp_path, data):
    (tmp_path / "x.kitspipe").write_bytes(data)
    refused(tmp_path / "x.kitspipe", tmp_path / "out")


def test_damaged_archives_are_refused_or_whole(model, tmp_path):
    """Bytes changed, cut or moved at random: one message, or the model as it was."""
    whole, rng = model.read_bytes(), random.Random(20191013)
    expected = {name: zlib.crc32(data) for name, data in content(model).items()}
    refusals = 0
    for trial in range(FUZZED):
        data = bytearray(whole)
        # Most of the bytes are weights; the rest is where zips lie.
        start = rng.choice([0, len(data) - 1200, 0 if trial % 3 else len(data) - 100])
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(start, len(data))
            kind = rng.randrange(4)
            if kind == 0:
                data[place] ^= 1 << rng.randrange(8)
            elif kind == 1:
                data[place : place + 4] = rng.randbytes(4)
            elif kind == 2:
                del data[place : place + rng.randint(1, 64)]
            else:
                data[place:place] = rng.randbytes(rng.randint(1, 64))
        path, folder = tmp_path / "fuzzed.kitspipe", tmp_path / f"out{trial}"
        path.write_bytes(data)
        try:
            unpack(path, folder)
        except UserError:
            refusals += 1
            continue
        for name, checksum in expected.items():
            assert zlib.crc32((folder / name).read_bytes()) == checksum, (trial, name)
    assert refusals > FUZZED / 2
    assert [f.name for f in tmp_path.iterdir() if not f.name.startswith(("out", "fuzzed"))] == []
