import numpy as np
import pytest

from sklearn_transformers._split import hold_out, stratified_folds


def split(codes, fraction, seed=0):
    return hold_out(np.asarray(codes), fraction, np.random.default_rng(seed))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize(
    "codes",
    [
        [0, 1] * 50,
        [0] * 90 + [1] * 9 + [2],
        [0, 0, 1, 1],
        [0, 0, 1],
        list(range(30)) * 2,
        [0, 2, 2, 2],  # class 1 has no rows
    ],
)
def test_hold_out__any_classes__partitions_and_keeps_every_class_in_training(codes, fraction):
    train, valid = split(codes, fraction)
    assert sorted([*train, *valid]) == list(range(len(codes)))
    assert len(valid) >= 1
    assert set(np.asarray(codes)[train]) == set(codes)


def test_hold_out__large_classes__are_stratified():
    codes = np.repeat([0, 1, 2], [700, 200, 100])
    _, valid = split(codes, 0.1)
    np.testing.assert_array_equal(np.bincount(codes[valid]), [70, 20, 10])


def test_hold_out__more_classes_than_validation_rows__spreads_over_classes():
    codes = np.repeat(np.arange(77), 8)
    _, valid = split(codes, 0.1)
    assert len(valid) == 62
    assert np.bincount(codes[valid]).max() == 1


def test_hold_out__singletons__stay_in_training():
    codes = [0] * 10 + [1]
    for seed in range(20):
        train, _ = split(codes, 0.5, seed)
        assert 10 in train


def test_hold_out__only_singletons__holds_nothing_out():
    train, valid = split([0, 1, 2], 0.5)
    assert sorted(train) == [0, 1, 2]
    assert len(valid) == 0


def test_hold_out__sorted_rows__are_shuffled():
    train, valid = split([0] * 100 + [1] * 100, 0.1)
    assert not (np.diff(train) > 0).all()
    assert set(valid) != set(range(10)) | set(range(100, 110))


def test_hold_out__seed__decides():
    codes = [0, 1] * 50
    np.testing.assert_array_equal(split(codes, 0.2, 1)[1], split(codes, 0.2, 1)[1])
    assert set(split(codes, 0.2, 1)[1]) != set(split(codes, 0.2, 2)[1])


# --- copies ----------------------------------------------------------------------------------

# Rows 0 and 3 are one row, so are 1 and 2; class 1 has one row twice, class 3 one alone.
COPIES = np.array([0, 1, 1, 0, 2, 3, 3, 6, 4, 5, 7])
CODES = np.array([0, 2, 2, 0, 0, 1, 1, 0, 2, 3, 2])


@pytest.mark.parametrize("seed", range(20))
def test_hold_out__copies__stay_together_and_keep_every_class_in_training(seed):
    train, valid = hold_out(CODES, 0.4, np.random.default_rng(seed), COPIES)
    assert sorted([*train, *valid]) == list(range(11))
    assert not set(COPIES[train]) & set(COPIES[valid])
    assert set(CODES[train]) == {0, 1, 2, 3}
    assert len(set(COPIES[valid])) == 3  # two fifths of seven, rounded


@pytest.mark.parametrize("seed", range(20))
def test_stratified_folds__copies__share_a_fold_and_a_row_with_copies_only_is_in_none(seed):
    folds = stratified_folds(CODES, 2, np.random.default_rng(seed), COPIES)
    held = np.concatenate(folds)
    assert set(held) == set(np.flatnonzero((CODES == 0) | (CODES == 2)))
    assert len(held) == len(set(held))
    assert not set(COPIES[folds[0]]) & set(COPIES[folds[1]])
    for fold in folds:
        assert set(np.delete(CODES, fold)) == {0, 1, 2, 3}


def test_split__no_copies__is_the_one_by_rows():
    codes = np.repeat([0, 1, 2], [7, 20, 3])
    for ours, plain in zip(
        hold_out(codes, 0.3, np.random.default_rng(4), np.arange(30)),
        hold_out(codes, 0.3, np.random.default_rng(4)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, plain)
    for ours, plain in zip(
        stratified_folds(codes, 2, np.random.default_rng(4), np.arange(30)),
        stratified_folds(codes, 2, np.random.default_rng(4)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, plain)


@pytest.mark.parametrize("seed", range(40))
def test_split__a_row_that_is_most_of_its_class__stays_in_training(seed):
    """An answer such as "ok" in a survey: held out, it would be the whole judgement."""
    copies = np.concatenate([np.zeros(500, int), np.arange(1, 501)])
    codes = np.concatenate([np.zeros(600, int), np.ones(400, int)])
    train, valid = hold_out(codes, 0.1, np.random.default_rng(seed), copies)
    assert len(valid) == 50  # a tenth of what may be held out
    assert set(range(500)) < set(train)
    np.testing.assert_array_equal(np.bincount(codes[valid]), [10, 40])
    folds = stratified_folds(codes, 2, np.random.default_rng(seed), copies)
    assert sorted(np.concatenate(folds)) == list(range(500, 1000))
    assert [len(fold) for fold in folds] == [250, 250]


def test_hold_out__one_row_many_times__holds_nothing_out():
    train, valid = hold_out(np.array([0, 0, 1]), 0.5, np.random.default_rng(0), np.array([0, 0, 1]))
    assert sorted(train) == [0, 1, 2]
    assert len(valid) == 0
