import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitspipe.errors import UserError
from kitspipe.planning.document import read_document, write_document
from kitspipe.planning.splits import Fold, Splits, make_splits

IDS = st.lists(st.text("abc019_", min_size=1, max_size=6), min_size=2, max_size=40, unique=True)
KITS19 = [f"case_{number:05d}" for number in range(210)]


def validated(splits):
    return [name for fold in splits.folds for name in fold.validation]


# Invariants of the document


@pytest.mark.parametrize(
    ("folds", "said"),
    [
        ([], "no folds"),
        ([("a", "")], "without cases"),
        ([("", "a")], "without cases"),
        ([("ab", "b")], "b more than once"),
        ([("aa", "b")], "a more than once"),
        ([("a", "b"), ("a", "b")], "b validated in more than one"),
        # c trains, but nobody validates it
        ([("ac", "b"), ("bc", "a")], "c in fold 0"),
        # c is missing in the second fold
        ([("ab", "c"), ("b", "a"), ("ac", "b")], "c in fold 1"),
    ],
)
def test_impossible_splits_are_refused(folds, said):
    with pytest.raises(ValueError, match=said):
        Splits(folds=tuple(Fold(train=tuple(t), validation=tuple(v)) for t, v in folds))


def test_a_single_fold_need_not_validate_all():
    splits = Splits(folds=(Fold(train=("a", "b"), validation=("c",)),))
    assert splits.folds[0].train == ("a", "b")


def test_splits_survive_their_file(tmp_path):
    splits = make_splits("abcdefg", 3, seed=1)
    write_document(tmp_path / "splits.json", splits)
    assert read_document(tmp_path / "splits.json", Splits, made_by="kitspipe_plan") == splits


def test_an_edited_file_that_trains_on_validation_cases_is_refused_with_the_place(tmp_path):
    content = {"folds": [{"train": ["a", "b"], "validation": ["b"]}]}
    (tmp_path / "splits.json").write_bytes(msgspec.json.encode(content))
    with pytest.raises(UserError) as refused:
        read_document(tmp_path / "splits.json", Splits, made_by="kitspipe_plan")
    assert "b more than once" in refused.value.found
    assert "$.folds[0]" in refused.value.found


# make_splits


@given(IDS, st.integers(2, 12), st.integers(0, 5))
def test_every_case_is_validated_once_in_folds_of_even_size(ids, folds, seed):
    splits = make_splits(ids, folds, seed)
    assert sorted(validated(splits)) == sorted(ids)
    assert len(splits.folds) == min(folds, len(ids))
    sizes = [len(fold.validation) for fold in splits.folds]
    assert max(sizes) - min(sizes) <= 1
    for fold in splits.folds:
        assert sorted(fold.train + fold.validation) == sorted(ids)


@given(IDS.flatmap(lambda ids: st.tuples(st.just(ids), st.permutations(ids))), st.integers(1, 5))
def test_the_order_of_the_ids_does_not_matter(orders, folds):
    ids, permuted = orders
    assert make_splits(ids, folds, 7) == make_splits(permuted, folds, 7)


def test_the_seed_decides():
    assert make_splits(KITS19, 5, 0) == make_splits(KITS19, 5, 0)
    firsts = {make_splits(KITS19, 5, seed).folds[0].validation for seed in range(4)}
    assert len(firsts) == 4


def test_folds_are_shuffled_and_not_runs_of_numbers():
    # 42 of 210 cases: in a run the span would be 42, drawn at random it is above 150.
    for fold in make_splits(KITS19, 5, 0).folds:
        numbers = [int(name[-5:]) for name in fold.validation]
        assert max(numbers) - min(numbers) > 150


@given(
    IDS.flatmap(
        lambda ids: st.tuples(
            st.just(ids), st.dictionaries(st.sampled_from(ids), st.sampled_from(["a", "p", "q"]))
        )
    ),
    st.integers(1, 6),
)
def test_a_group_is_never_split(drawn, folds):
    ids, groups = drawn
    alone = [name for name in ids if name not in groups]
    if len(alone) + len(set(groups.values())) < 2:
        with pytest.raises(UserError, match="two patients"):
            make_splits(ids, folds, 0, groups)
        return
    for fold in make_splits(ids, folds, 0, groups).folds:
        trained = {groups[name] for name in fold.train if name in groups}
        assert not trained & {groups[name] for name in fold.validation if name in groups}
        assert sorted(fold.train + fold.validation) == sorted(ids)


def test_a_group_named_as_another_case_does_not_take_it_along():
    # b is the group of a and c; the case b belongs to nobody.
    splits = make_splits("abc", 2, 0, groups={"a": "b", "c": "b"})
    assert {fold.validation for fold in splits.folds} == {("a", "c"), ("b",)}


@given(st.lists(st.integers(1, 9), min_size=2, max_size=20), st.integers(2, 6))
def test_folds_of_large_groups_differ_by_a_group_at_most(sizes, folds):
    groups = {f"{g}-{n}": str(g) for g, size in enumerate(sizes) for n in range(size)}
    lengths = [len(fold.validation) for fold in make_splits(groups, folds, 3, groups).folds]
    assert max(lengths) - min(lengths) <= max(sizes)


@pytest.mark.parametrize("seed", range(4))
def test_a_large_group_is_balanced_by_the_single_cases(seed):
    groups = dict.fromkeys("abcd", "p")
    splits = make_splits("abcdefgh", 2, seed, groups)
    assert {fold.validation for fold in splits.folds} == {tuple("abcd"), tuple("efgh")}


@pytest.mark.parametrize("ids", [[], ["a"]])
def test_one_case_is_too_few(ids):
    with pytest.raises(UserError) as refused:
        make_splits(ids, 5, 0)
    assert refused.value.found.startswith(str(len(ids)))


def test_two_cases_make_two_folds_of_one():
    assert {fold.validation for fold in make_splits("ab", 5, 0).folds} == {("a",), ("b",)}


@pytest.mark.parametrize(("ids", "folds"), [("aba", 2), ("abc", 0)])
def test_an_id_twice_and_no_folds_are_mistakes_of_the_caller(ids, folds):
    with pytest.raises(ValueError, match=r"more than once|0 folds"):
        make_splits(ids, folds, 0)


# One fold and the paper


@pytest.mark.parametrize(
    ("count", "held_out"),
    # round(n / 14), at least 1
    [(2, 1), (14, 1), (20, 1), (28, 2), (210, 15), (489, 35)],
)
def test_one_fold_holds_out_the_last_fourteenth(count, held_out):
    ids = [f"case_{number:05d}" for number in range(count)]
    [fold] = make_splits(ids, 1, seed=3).folds
    assert fold.train + fold.validation == tuple(ids)
    assert len(fold.validation) == held_out


def test_one_fold_keeps_the_last_group_whole():
    # 4 of 28 cases are one patient at the end; 2 were wanted.
    ids = [f"{number:02d}" for number in range(28)]
    [fold] = make_splits(ids, 1, 0, groups=dict.fromkeys(ids[-4:], "p")).folds
    assert fold.validation == tuple(ids[-4:])


def test_one_fold_leaves_a_group_to_train_on():
    # 2 of 28 were wanted, but all others are one patient.
    ids = [f"{number:02d}" for number in range(28)]
    [fold] = make_splits(ids, 1, 0, groups=dict.fromkeys(ids[:-1], "p")).folds
    assert fold.validation == ("27",)


def test_one_fold_of_kits19_trains_on_0_to_194_and_validates_195_to_209():
    [fold] = make_splits(reversed(KITS19), 1, seed=0).folds
    assert fold.train == tuple(f"case_{number:05d}" for number in range(195))
    assert fold.validation == tuple(f"case_{number:05d}" for number in range(195, 210))
