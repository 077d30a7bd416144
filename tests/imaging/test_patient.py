import shutil

import pytest
from dicom_files import write_series
from small_data import painted

from kitspipe.imaging.formats import write_image
from kitspipe.imaging.header import header_for
from kitspipe.imaging.patient import patient_name, without_name


@pytest.fixture
def series(tmp_path):
    folder = tmp_path / "scan"
    write_series(folder, painted(0, shape=(3, 20, 22))[0], PatientName="Muster Mann^Erika^^Dr.")
    (folder / "0_readme.txt").write_text("not DICOM")
    return folder


def test_the_name_of_a_folder_and_of_its_zip_are_one(series):
    zipped = shutil.make_archive(str(series), "zip", series)
    assert patient_name(series) == "Muster Mann Erika Dr."
    assert patient_name(series.parent / zipped) == "Muster Mann Erika Dr."


def test_one_series_of_a_folder_has_the_folders_name(series):
    assert patient_name(series / "1.2.3") == "Muster Mann Erika Dr."


def test_other_files_tell_no_name(tmp_path):
    image, _ = painted(0, shape=(3, 20, 22))
    write_image(tmp_path / "a.nii.gz", image, header_for(image.grid))
    write_series(tmp_path / "b", image)
    (tmp_path / "c").mkdir()
    assert [patient_name(tmp_path / name) for name in ("a.nii.gz", "b", "c")] == [None] * 3


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("case_00001", "Muster Erika", "case_00001"),
        ("case_00001", None, "case_00001"),
        ("MUSTER_2 of erika", "Muster^Erika".replace("^", " "), "…_2 of …"),
        ("Ann and Annabel", "Annabel Ann", "… and …"),
        ("a.c and abc", "a.c", "… and abc"),  # no pattern
        ("of Jo", "Jo", "of Jo"),  # too short to be told from words
    ],
)
def test_parts_of_the_name_are_taken_out(text, name, expected):
    assert without_name(text, name) == expected
