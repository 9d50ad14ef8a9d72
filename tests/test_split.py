import numpy as np
import pytest

from sklearn_transformers._split import hold_out


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
