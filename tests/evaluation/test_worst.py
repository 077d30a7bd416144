import pytest
from small_evaluations import anatomy, case

from kitspipe.evaluation.worst import reasons, worst_cases


def test_the_lowest_mean_dice_comes_first_and_failures_before_all():
    scores = [
        case("good"),
        case("moved", shift=1),
        case("lost", failed=True),
        case("missed", missed=True),
    ]
    found = worst_cases(scores, most=3)
    assert [worst.case_id for worst in found] == ["lost", "missed", "moved"]
    assert found[0].mean_dice == 0


def test_there_are_ten_and_equal_ones_are_by_id():
    found = worst_cases([case(f"case_{n:02d}") for n in range(12, 0, -1)])
    assert [worst.case_id for worst in found] == [f"case_{n:02d}" for n in range(1, 11)]


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ({"failed": True}, ["not scored: no prediction"]),
        ({"missed": True}, ["tumor of 1.8 cm missed"]),
        ({"false": True}, ["false tumor, 1.1 ml, on cyst"]),
        ({"kidneys": 1}, ["kidney of 36 ml missed, 0 % labelled"]),
        (
            {"missed": True, "false": True},
            ["tumor of 1.8 cm missed", "false tumor, 1.1 ml, on cyst"],
        ),
    ],
)
def test_a_reason_says_what_went_wrong(spoiled, said):
    assert reasons(case("case", **spoiled)) == said


def test_a_good_case_names_its_lowest_score():
    assert reasons(case("case", shift=1)) == [reasons(case("case", shift=1))[0]]
    assert reasons(case("case", shift=1))[0].startswith("outline: ")
    assert reasons(case("case")) == ["outline: Dice of kidney and mass 1.000"]


def test_the_ball_in_the_words_above_is_the_tumor_painted():
    voxels = int((anatomy() == 2).sum())
    assert voxels * 2.5 * 0.9 * 0.8 / 1000 == pytest.approx(2.88)
    assert pytest.approx(1.8, abs=0.05) == (6 * 2880 / 3.14159) ** (1 / 3) / 10
