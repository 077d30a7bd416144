"""Damaged files: each is refused with a UserError or read right, and fast, and in little memory.

The files are read in processes of their own, many in each: a crash or a hang of the readers'
C++ code ends such a process, and is counted against the file it was at.
"""

import gzip
import json
import shutil
import struct
import subprocess
import sys
import threading

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import write_series

from kitspipe.imaging.formats import write_image
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Grid, Volume

SEEDS = {".nii": 11, ".nii.gz": 12, ".nrrd": 13, "raw.nrrd": 14, ".mha": 15, "raw.mha": 16}
DICOM_SEED = 17
PER_KIND = 70
SECONDS = 10
# What Python, numpy and SimpleITK map is about 1.5 GiB; the files themselves are under 100 kB.
MEMORY_BYTES = 4 << 30

READER = f"""
import json, resource, sys, warnings
from pathlib import Path
from kitspipe.errors import UserError
from kitspipe.imaging.formats import read_image
warnings.simplefilter("error")
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY_BYTES},) * 2)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for line in sys.stdin:
    path = Path(line.rstrip("\\n"))
    try:
        volume, header = read_image(path)
        stored = header.from_canonical(volume.array)
        answer = {{
            "values": stored.ravel().tolist() if stored.size < 10**6 else "giant",
            "size": header.size, "spacing": header.spacing,
            "origin": header.origin, "direction": header.direction,
        }}
    except UserError as error:
        answer = {{"refused": str(error)}}
    except BaseException as error:
        answer = {{"failed": f"{{type(error).__name__}}: {{error}}"}}
    sys.stderr.write(json.dumps(answer) + "\\n")
    sys.stderr.flush()
"""


def read_in_processes(paths):
    """What reading each path comes to, as `READER` says it; `failed` too for crash and hang."""
    answers, todo = [], list(paths)
    while todo:
        process = subprocess.Popen(
            [sys.executable, "-c", READER],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            while todo and process.poll() is None:
                answer = _ask(process, todo.pop(0), SECONDS if answers else 60)
                answers.append(answer)
                if "lost" in answer:
                    process.kill()
                    answers[-1] = {"failed": answer["lost"]}
                    break
            process.stdin.close()
    return answers


def _ask(process, path, seconds):
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        process.stdin.write(f"{path}\n")
        process.stdin.flush()
        warnings = []
        for line in process.stderr:
            # The C++ readers write to the same place.
            if line.startswith("warning: "):
                warnings.append(line)
            if line.startswith("{"):
                return json.loads(line) | {"warnings": warnings}
    except BrokenPipeError:
        pass
    finally:
        timer.cancel()
    return {"lost": f"crashed, or took over {seconds} s (exit status {process.wait()})"}


def failures(paths, answers):
    """Answers that are neither a refusal nor a small volume."""
    giant = ("alloc", "memory", "giant")
    return [
        (path.name, answer)
        for path, answer in zip(paths, answers, strict=True)
        if "failed" in answer
        or any(word in str(answer.get("refused", answer.get("values"))).lower() for word in giant)
    ]


@pytest.fixture
def ct():
    values = np.random.default_rng(0).integers(-1000, 1500, (5, 6, 7)).astype(np.int16)
    grid = Grid(shape=(5, 6, 7), spacing=(2.5, 0.7, 0.8), origin=(-41.0, 107.5, -613.0))
    return Volume(array=values, grid=grid)


def whole_file(folder, name, ct):
    """A sound file; of `raw.*` the voxels are not compressed."""
    path = folder / f"whole_{name}"
    write_image(path, ct, header_for(ct.grid))
    if name.startswith("raw"):
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path), False)
    return path


def flipped(raw, rng, count, end):
    """Some bytes before `end` changed, mostly by one bit."""
    changed = bytearray(raw)
    for place in rng.integers(0, min(end, len(raw)), count):
        changed[place] ^= int(rng.integers(1, 256)) if rng.random() < 0.5 else 1 << rng.integers(8)
    return bytes(changed)


def cut(raw, rng):
    return raw[: int(rng.integers(0, len(raw)))]


# Place and struct of a NIfTI-1 field, and what to set it to. Source: nifti1.h.
HUGE, NAN, INF = 32767, float("nan"), float("inf")
NIFTI_FIELDS = [
    *(("<h", 40 + 2 * k, value) for k in range(5) for value in (0, -1, -32768, HUGE, 1, 2, 8)),
    *(("<h", 70, code) for code in (0, 1, 2, 8, 16, 32, 64, 128, 256, 512, 768, 1280, 2304, -4)),
    *(("<h", 72, bits) for bits in (0, -1, 1, 8, 64, HUGE)),
    *(("<f", 108, value) for value in (NAN, INF, -INF, -1, 0, 1, 348, 353, 354.5, 1e6, 2e9, 1e30)),
    *(
        ("<f", 76 + 4 * k, value)
        for k in range(4)
        for value in (0, NAN, INF, -1, 1e30, 1e-30, -0.7, 1.9)
    ),
    *(("<f", place, value) for place in (112, 116) for value in (NAN, INF, 0, -1, 1e38, -1e-38)),
    *(("<h", place, value) for place in (252, 254) for value in (0, 1, 2, 4, 5, -1, HUGE)),
    *(("<f", 256 + 4 * k, value) for k in range(18) for value in (NAN, INF, 1e30, 0.6)),
    *(("<i", 0, value) for value in (0, -1, 540, 349, 1543569408)),
    *(("<i", 344, value) for value in (0, 0x00316E6E, 0x00322B6E, 0x0031696E)),
    *(("<i", 348, value) for value in (1, -1, 0x01010101)),
]


def mutated_nifti(raw, rng, number, name):
    plain = gzip.decompress(raw) if name.endswith(".gz") else raw
    if number < len(NIFTI_FIELDS):
        kind, place, value = NIFTI_FIELDS[number]
        changed = bytearray(plain)
        struct.pack_into(kind, changed, place, value)
        plain = bytes(changed)
    elif number % 3 == 0:
        plain = flipped(plain, rng, int(rng.integers(1, 6)), 352)
    elif number % 3 == 1:
        plain = cut(plain, rng)
    else:
        return cut(raw, rng) if rng.random() < 0.5 else flipped(raw, rng, 1, 40)
    return gzip.compress(plain, mtime=0) if name.endswith(".gz") else plain


# The line of a text header that begins so becomes that; None takes it away.
NRRD_LINES = [
    *(
        ("sizes:", f"sizes: {sizes}")
        for sizes in (
            "7 6 500000000", "-7 6 5", "0 6 5", "7 6", "7 6 5 1", "99999999999999999999 6 5",
            "7 6 6", "7 6 4", "70000 60000 50000", "a b c", "", "2147483648 2 1", "7 5 6", "x 6 5",
        )
    ),
    *(
        ("encoding:", f"encoding: {encoding}")
        for encoding in ("raw", "gzip", "gz", "bzip2", "ascii", "hex", "zebra", "")
    ),
    *(
        ("space directions:", f"space directions: {directions}")
        for directions in (
            "(0,0,0) (0,0,0) (0,0,0)", "(nan,0,0) (0,1,0) (0,0,1)", "none none none",
            "(1,0,0) (0,1,0)", "(1,0,0) (1,0,0) (0,0,1)", "(inf,0,0) (0,1,0) (0,0,1)",
            "(1e300,0,0) (0,1,0) (0,0,1)", "(1e-300,0,0) (0,1,0) (0,0,1)", "(((", "",
            "(1,0,0) (0,1,0) (0.5,0,1)",
        )
    ),
    *(("type:", f"type: {kind}") for kind in ("double", "block", "uint8", "float", "zebra", "")),
    *(("dimension:", f"dimension: {count}") for count in ("0", "2", "4", "-3", "99999", "17", "x")),
    *(("endian:", f"endian: {order}") for order in ("big", "zebra", "")),
    *(("space:", f"space: {space}") for space in ("zebra", "scanner-xyz", "right-up", "")),
    *(("space origin:", f"space origin: {o}") for o in ("(nan,0,0)", "(0,0)", "(1e300,0,0)", "x")),
    *(("endian:", line) for line in ("byte skip: 99999999999", "line skip: -5", "byte skip: -9")),
    ("endian:", "data file: nowhere.raw"),
    ("endian:", "data file: /dev/zero"),
    *((key, None) for key in ("type:", "dimension:", "sizes:", "encoding:", "endian:", "space")),
]  # fmt: skip
MHA_LINES = [
    *(
        ("DimSize", f"DimSize = {sizes}")
        for sizes in (
            "7 6 500000000", "-7 6 5", "0 6 5", "7 6", "7 6 5 1", "99999999999999999999 6 5",
            "7 6 6", "7 6 4", "70000 60000 50000", "a b c", "", "2147483648 2 1", "7 5 6", "x 6 5",
        )
    ),
    *(("NDims", f"NDims = {count}") for count in ("0", "2", "4", "-3", "99999", "11", "x", "")),
    *(
        ("ElementSpacing", f"ElementSpacing = {spacing}")
        for spacing in ("0 1 1", "nan 1 1", "-1 1 1", "inf 1 1", "1e300 1 1", "1e-300 1 1", "1", "")
    ),
    *(
        ("TransformMatrix", f"TransformMatrix = {matrix}")
        for matrix in (
            "0 0 0 0 0 0 0 0 0", "nan 0 0 0 1 0 0 0 1", "1 0 0 0 1 0", "1 0 0 1 0 0 0 0 1", "x",
            "1 0 0 0 1 0 0.5 0 1", "2 0 0 0 2 0 0 0 2", "inf 0 0 0 1 0 0 0 1",
        )
    ),
    *(
        ("ElementType", f"ElementType = {kind}")
        for kind in ("MET_DOUBLE", "MET_UCHAR", "MET_ZEBRA", "MET_SHORT_ARRAY", "MET_OTHER", "")
    ),
    *(
        ("CompressedDataSize", f"CompressedDataSize = {count}")
        for count in ("0", "-1", "5", "99999999999", "9223372036854775807", "x")
    ),
    *(("CompressedData ", f"CompressedData = {is_so}") for is_so in ("False", "True", "x")),
    *(("BinaryData ", f"BinaryData = {is_so}") for is_so in ("False", "x")),
    *(("BinaryDataByteOrderMSB", f"BinaryDataByteOrderMSB = {is_so}") for is_so in ("True", "x")),
    *(
        ("ElementDataFile", f"ElementDataFile = {name}")
        for name in ("nowhere.raw", "/dev/zero", "LIST", "%d.raw 1 999999 1", "x 9 1 -1", "")
    ),
    *(("ElementType", f"{line}\nElementType = MET_SHORT") for line in (
        "ElementNumberOfChannels = 0", "ElementNumberOfChannels = -1",
        "ElementNumberOfChannels = 99999999", "HeaderSize = -1", "HeaderSize = 99999999999",
        "HeaderSize = -7", "ElementToIntensityFunctionSlope = 2",
    )),
    *(("Offset", f"Offset = {o}") for o in ("nan 0 0", "1e300 0 0", "0", "")),
    *((key, None) for key in ("DimSize", "NDims", "ElementType", "ElementDataFile", "ObjectType")),
]  # fmt: skip


def with_line(raw, start, line):
    lines = raw.split(b"\n")
    assert any(found.startswith(start.encode()) for found in lines[:20]), start
    for place, found in enumerate(lines[:20]):
        if found.startswith(start.encode()):
            lines[place : place + 1] = [] if line is None else [line.encode()]
            break
    return b"\n".join(lines)


def mutated_text_header(raw, rng, number, name):
    known = NRRD_LINES if name.endswith("nrrd") else MHA_LINES
    end = 320
    if number < len(known):
        start, line = known[number]
        if start == "CompressedDataSize" and name.startswith("raw"):
            start, line = "CompressedData ", f"CompressedData = True\n{line}"
        return with_line(raw, start, line)
    if number % 2:
        return cut(raw, rng)
    return flipped(raw, rng, int(rng.integers(1, 6)), end)


def listed(name):
    if ".nii" in name:
        return len(NIFTI_FIELDS)
    return len(NRRD_LINES if name.endswith("nrrd") else MHA_LINES)


def mutants(folder, name, ct, counts):
    """Damaged copies of a sound file, with the bytes of each."""
    raw = whole_file(folder, name, ct).read_bytes()
    mutate = mutated_nifti if ".nii" in name else mutated_text_header
    rng = np.random.default_rng(SEEDS[name])
    paths = []
    for number in range(*counts):
        path = folder / f"{number:04d}{name.removeprefix('raw')}"
        path.write_bytes(mutate(raw, rng, number, name))
        paths.append(path)
    return paths


def is_as_nibabel_reads(path, answer):
    """Whether voxels and, where the header tells it, place are those of another reader."""
    try:
        image = nibabel.load(path)
    except ValueError as error:  # a quaternion longer than 1 by rounding, which it does not take
        return "w2 should be positive" in str(error)
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.asarray(image.dataobj, np.float64)
    hu = np.clip(np.nan_to_num(np.rint(array), nan=-1024, posinf=32767), -1024, 32767)
    if answer["values"] != hu.ravel(order="F").tolist():
        return False
    if not (image.header["sform_code"] or image.header["qform_code"]):
        return True
    if int(image.header["xyzt_units"]) & 7 in (1, 3):  # meter, micron; nibabel gives those
        return True
    columns = np.reshape(answer["direction"], (3, 3)) * answer["spacing"]
    lps = np.diag([-1, -1, 1]) @ image.affine[:3]
    return np.allclose(np.column_stack([columns, answer["origin"]]), lps, rtol=1e-3, atol=1e-3)


# Lines after which the same bytes are sound, but other values.
OTHER_VALUES = ("endian: big", "BinaryDataByteOrderMSB = True")


def is_right(path, name, number, answer, whole):
    if ".nii" in name:
        return is_as_nibabel_reads(path, answer)
    known = NRRD_LINES if name.endswith("nrrd") else MHA_LINES
    line = known[number][1] if number < len(known) else None
    return line in OTHER_VALUES or answer["values"] == whole["values"]


def assert_refused_or_right(tmp_path, ct, name, counts):
    paths = mutants(tmp_path, name, ct, counts)
    whole, *answers = read_in_processes([tmp_path / f"whole_{name}", *paths])
    assert whole["values"] == ct.array.ravel().tolist()
    assert failures(paths, answers) == []
    wrong = [
        (path.name, answer)
        for number, path, answer in zip(range(*counts), paths, answers, strict=True)
        if "values" in answer and not is_right(path, name, number, answer, whole)
    ]
    assert wrong == []
    # Mutations that change nothing would prove nothing.
    assert sum("refused" in answer for answer in answers) > len(answers) / 3


@pytest.mark.parametrize("name", SEEDS)
def test_damaged_volume_files_are_refused_or_read_right(tmp_path, ct, name):
    assert_refused_or_right(tmp_path, ct, name, (0, listed(name) + PER_KIND))


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEDS)
def test_many_more_damaged_volume_files(tmp_path, ct, name):
    first = listed(name) + PER_KIND
    assert_refused_or_right(tmp_path, ct, name, (first, first + 1500))


# What a tag of a slice becomes: of one (False) or of all slices of a series (True).
DICOM_TAGS = [
    *((name, value) for name in ("Rows", "Columns") for value in (0, 1, 5, 8, 60000, None)),
    *(("BitsAllocated", value) for value in (0, 1, 8, 12, 32, 64, None)),
    *(("BitsStored", value) for value in (0, 8, 17, 255)),
    *(("SamplesPerPixel", value) for value in (0, 3, 4, None)),
    *(("PixelRepresentation", value) for value in (1, 7, None)),
    *(("NumberOfFrames", value) for value in (0, -1, 2, 1000000)),
    *(
        ("PixelSpacing", value)
        for value in ([0, 0], [-0.7, -0.8], ["1e30", "1e30"], ["1e-30", "1"], None)
    ),
    *(("RescaleSlope", value) for value in ("1e30", "0", "-1", None)),
    *(("RescaleIntercept", value) for value in ("1e30", "-1e30", None)),
    *(("ImagePositionPatient", value) for value in ([0, 0], ["1e30", "0", "0"], None)),
    *(
        ("ImageOrientationPatient", value)
        for value in ([0] * 6, [1, 0, 0, 1, 0, 0], ["1e30"] * 6, [1, 0, 0], None)
    ),
    *(("Modality", value) for value in ("MR", "", None)),
    *(("SeriesInstanceUID", value) for value in ("9.9", "", None)),
    *(("PhotometricInterpretation", value) for value in ("RGB", "MONOCHROME1", "PALETTE COLOR")),
    *(("PixelData", value) for value in (b"", b"\0\0", None)),
]  # fmt: skip


def with_tag(path, name, value):
    part = pydicom.dcmread(path)
    if value is None:
        delattr(part, name)
    else:
        setattr(part, name, value)
    part.save_as(path)


# With these the same bytes are other values in HU.
RESCALING = ("RescaleSlope", "RescaleIntercept", "PixelRepresentation")


def damaged_series(folder, ct, numbers):
    """Series of five slices, of which one is damaged, or all are."""
    whole = write_series(folder / "whole", ct)
    rng = np.random.default_rng(DICOM_SEED)
    paths = []
    for number in numbers:
        path = folder / f"{number:04d}"
        shutil.copytree(whole, path)
        slices = sorted(path.iterdir())
        one = slices[int(rng.integers(len(slices)))]
        if number < 2 * len(DICOM_TAGS):
            name, value = DICOM_TAGS[number // 2]
            for part in (one,) if number % 2 else slices:
                with_tag(part, name, value)
        else:
            raw = one.read_bytes()
            one.write_bytes(
                cut(raw, rng) if number % 2 else flipped(raw, rng, int(rng.integers(1, 6)), 1000)
            )
        paths.append(path)
    return paths


def is_right_series(number, answer, whole):
    """Whether it is the whole series, or is said to be part of it, or has other values by right."""
    if answer["warnings"] or answer["values"] == whole["values"]:
        return True
    if number < 2 * len(DICOM_TAGS):
        return DICOM_TAGS[number // 2][0] in RESCALING
    # A bit of a pixel or of the rescaling, in one slice.
    if answer["size"] != whole["size"]:
        return False
    size = whole["size"][::-1]
    other = np.reshape(answer["values"], size) != np.reshape(whole["values"], size)
    return other.any(axis=(1, 2)).sum() == 1


def assert_series_refused_or_right(tmp_path, ct, numbers):
    paths = damaged_series(tmp_path, ct, numbers)
    whole, *answers = read_in_processes([tmp_path / "whole", *paths])
    assert whole["values"] == ct.array.ravel().tolist()
    assert failures(paths, answers) == []
    wrong = [
        (path.name, answer)
        for number, path, answer in zip(numbers, paths, answers, strict=True)
        if "values" in answer and not is_right_series(number, answer, whole)
    ]
    assert wrong == []
    assert sum("refused" in answer for answer in answers) > len(answers) / 3


@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning")
def test_damaged_dicom_slices_are_refused_or_read_right(tmp_path, ct):
    numbers = range(0, 2 * len(DICOM_TAGS) + PER_KIND, 3)
    assert_series_refused_or_right(tmp_path, ct, numbers)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning")
def test_many_more_damaged_dicom_slices(tmp_path, ct):
    assert_series_refused_or_right(tmp_path, ct, range(2 * len(DICOM_TAGS) + 600))
