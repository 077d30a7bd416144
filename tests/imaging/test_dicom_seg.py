import shutil
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import write_series

from kitspipe.errors import UserError
from kitspipe.imaging.dicom_seg import Segment, write_seg
from kitspipe.imaging.formats import read_image
from kitspipe.imaging.volume import Volume

highdicom = pytest.importorskip("highdicom", reason="needs kitspipe[dicom]")
SEGMENTS = [
    Segment(value=1, name="Kidney"),
    Segment(value=2, name="Tumor"),
    Segment(value=3, name="Cyst"),
]
STUDY = {
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.2",
    "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.3",
    "PatientID": "p",
    "PatientName": "Doe^Jane",
    "PatientBirthDate": "19500102",
    "PatientSex": "F",
    "StudyID": "7",
    "StudyDate": "20200102",
    "StudyTime": "101010",
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
}


def labels_on(grid):
    """A ball of each label but 0, in corners that tell all axes apart."""
    z, y, x = np.indices(grid.shape)
    array = np.zeros(grid.shape, np.uint8)
    for value, center in enumerate(((4, 8, 6), (9, 22, 7), (12, 12, 17)), 1):
        places = zip((z, y, x), center, (3, 5, 4), strict=True)
        array[sum(((a - c) / r) ** 2 for a, c, r in places) < 1] = value
    return Volume(array=array, grid=grid)


@pytest.fixture
def series(tmp_path, hard_grid):
    """An oblique series whose files' names say nothing of their order, and labels on it."""
    rng = np.random.default_rng(0)
    image = Volume(array=rng.integers(-900, 900, hard_grid.shape, np.int16), grid=hard_grid)
    folder = write_series(tmp_path / "series", image, **STUDY)
    volume, header = read_image(folder)
    return folder, labels_on(volume.grid), header


def conformance_errors(file):
    """What dciodvfy says is wrong."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (Debian: apt install dicom3tools)")
    said = subprocess.run([program, "-new", file], capture_output=True, text=True, check=False)
    return [line for line in said.stderr.splitlines() if line.startswith("Error")]


def test_segments_read_back_lie_on_their_slices(tmp_path, series):
    folder, labels, header = series
    file = tmp_path / "seg.dcm"
    write_seg(file, labels, SEGMENTS, folder)
    seg = highdicom.seg.segread(file)
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["Kidney", "Tumor", "Cyst"]
    _, reference = read_image(folder)
    found = seg.get_volume(combine_segments=True, skip_overlap_checks=False)
    # highdicom's own geometry, through DICOM's patient coordinates, voxel by voxel.
    places = np.argwhere(found.array > 0)
    points = found.map_indices_to_reference(places)
    index = np.rint(labels.grid.to_index(points)).astype(int)
    assert np.abs(labels.grid.to_index(points) - index).max() < 1e-2
    assert (labels.array[tuple(index.T)] == found.array[tuple(places.T)]).all()
    assert len(places) == np.count_nonzero(labels.array)
    assert reference.grid.close_to(header.grid)


def test_each_frame_names_the_slice_it_lies_on(tmp_path, series):
    folder, labels, _ = series
    write_seg(tmp_path / "seg.dcm", labels, SEGMENTS, folder)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    import pydicom

    files = [pydicom.dcmread(file) for file in folder.iterdir()]
    places = {file.SOPInstanceUID: file.ImagePositionPatient for file in files}
    assert len(seg.PerFrameFunctionalGroupsSequence) > 10
    for frame in seg.PerFrameFunctionalGroupsSequence:
        [source] = frame.DerivationImageSequence[0].SourceImageSequence
        own = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(places[source.ReferencedSOPInstanceUID], own, atol=1e-4)
    [referenced] = seg.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == STUDY["SeriesInstanceUID"]
    assert len(referenced.ReferencedInstanceSequence) == len(files)
    assert seg.FrameOfReferenceUID == STUDY["FrameOfReferenceUID"]
    assert (seg.PatientName, seg.StudyInstanceUID) == ("Doe^Jane", STUDY["StudyInstanceUID"])


def test_codes_are_those_of_snomed(tmp_path, series):
    folder, labels, _ = series
    write_seg(tmp_path / "seg.dcm", labels, SEGMENTS, folder)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    codes = {
        s.SegmentLabel: (s.segmented_property_category.value, s.segmented_property_type.value)
        for s in seg.SegmentSequence
    }
    # Source: DICOM PS3.16, CID 7150, 7154, 7159.
    assert codes == {
        "Kidney": ("91723000", "64033007"),
        "Tumor": ("49755003", "108369006"),
        "Cyst": ("49755003", "367643001"),
    }
    assert {s.SegmentAlgorithmType for s in seg.SegmentSequence} == {"AUTOMATIC"}
    regions = [s.AnatomicRegionSequence[0].CodeValue for s in seg.SegmentSequence[1:]]
    assert regions == ["64033007"] * 2


def test_simpleitk_reads_the_same_frames(tmp_path, series):
    folder, labels, header = series
    write_seg(tmp_path / "seg.dcm", labels, SEGMENTS, folder)
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "seg.dcm")))
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    expected = header.from_canonical(labels.array)
    assert len(frames) == seg.NumberOfFrames
    # GDCM leaves the pixels of the last, partial byte of all frames as memory happened to be.
    unread = frames.size % 8
    frames.reshape(-1)[frames.size - unread :] = 0
    assert not expected[:, -1, -8:].any()
    for frame, group in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        position = group.PlanePositionSequence[0].ImagePositionPatient
        normal = np.reshape(header.direction, (3, 3))[:, 2]
        k = round((np.subtract(position, header.origin) @ normal) / header.spacing[2])
        np.testing.assert_array_equal(frame > 0, expected[k] == number)


@pytest.mark.parametrize("values", [(1, 2, 3), (1, 2), ()], ids=["all", "no cyst", "empty"])
def test_it_conforms_to_the_standard(tmp_path, series, values):
    folder, labels, _ = series
    kept = np.where(np.isin(labels.array, values), labels.array, np.uint8(0))
    file = tmp_path / "seg.dcm"
    write_seg(file, Volume(array=kept, grid=labels.grid), SEGMENTS, folder)
    assert conformance_errors(file) == []


def test_a_real_series_in_a_zip_gets_one_that_conforms(tmp_path, shared_data):
    path = shared_data / "real" / "dicom_series_no_kidney.zip"
    volume, _ = read_image(path)
    array = np.zeros(volume.grid.shape, np.uint8)
    array[3:9, 100:150, 200:260] = 1
    write_seg(tmp_path / "seg.dcm", Volume(array=array, grid=volume.grid), SEGMENTS, path)
    assert conformance_errors(tmp_path / "seg.dcm") == []
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert seg.get_volume(combine_segments=True).array.sum() == array.sum()


def test_what_anonymizers_take_away_is_made_up_or_left_empty(tmp_path, hard_grid, capsys):
    image = Volume(array=np.zeros(hard_grid.shape, np.int16), grid=hard_grid)
    uids = {key: STUDY[key] for key in ("StudyInstanceUID", "SeriesInstanceUID")}
    folder = write_series(tmp_path / "series", image, **uids)
    write_seg(tmp_path / "seg.dcm", labels_on(read_image(folder)[0].grid), SEGMENTS, folder)
    assert highdicom.seg.segread(tmp_path / "seg.dcm").PatientID == ""
    assert "FrameOfReferenceUID" in capsys.readouterr().err


def test_a_series_without_a_study_is_refused(tmp_path, hard_grid):
    image = Volume(array=np.zeros(hard_grid.shape, np.int16), grid=hard_grid)
    folder = write_series(tmp_path / "series", image)
    with pytest.raises(UserError, match="slices without StudyInstanceUID"):
        write_seg(tmp_path / "seg.dcm", labels_on(read_image(folder)[0].grid), SEGMENTS, folder)
    assert not (tmp_path / "seg.dcm").exists()


def test_without_highdicom_the_extra_is_named(tmp_path, series, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UserError, match=r"kitspipe\[dicom\]"):
        write_seg(tmp_path / "seg.dcm", series[1], SEGMENTS, series[0])
