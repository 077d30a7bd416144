import pickle

from kitspipe.errors import UserError

ERROR = UserError("scan.nii.gz", found="two slices", expected="more", remedy="scan again")


def test_a_message_names_file_found_expected_and_remedy():
    assert str(ERROR).split("\n") == [
        "scan.nii.gz",
        "  found:    two slices",
        "  expected: more",
        "  to do:    scan again",
    ]


def test_an_error_crosses_a_process_border():
    # joblib's workers send their exceptions as pickles.
    assert str(pickle.loads(pickle.dumps(ERROR))) == str(ERROR)
