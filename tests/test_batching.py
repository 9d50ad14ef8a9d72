import numpy as np
import pytest
from conftest import encoded_texts

from sklearn_transformers._batching import Budget, Padding, pad, sorted_batches, training_steps


@pytest.fixture
def lengths():
    return np.random.default_rng(0).integers(1, 100, 1000)


def test_training_steps__epoch__holds_every_row_once(lengths):
    steps = training_steps(lengths, 32, np.random.default_rng(0))
    assert sorted(np.concatenate(steps)) == list(range(1000))
    assert len(steps) == 32
    assert set(map(len, steps)) == {31, 32}


def test_training_steps__window__saves_most_padding(lengths):
    steps = training_steps(lengths, 32, np.random.default_rng(0))
    padded = sum(len(step) * lengths[step].max() for step in steps)
    unsorted = sum(32 * lengths[i : i + 32].max() for i in range(0, 1000, 32))
    assert padded < 1.15 * lengths.sum()
    assert unsorted > 1.8 * lengths.sum()


@pytest.mark.parametrize("n_rows", [9, 25, 57, 129])
def test_training_steps__few_rows__meet_others_in_each_epoch_and_none_is_alone(n_rows):
    rng = np.random.default_rng(0)
    lengths = rng.permutation(n_rows) + 3
    epochs = [training_steps(lengths, 8, rng) for _ in range(20)]
    steps = [frozenset(step) for epoch in epochs for step in epoch]
    assert len(set(steps)) > 0.6 * len(steps)
    assert min(map(len, steps)) >= 4


def test_training_steps__two_epochs__differ_in_composition_and_order(lengths):
    rng = np.random.default_rng(0)
    first, second = (training_steps(lengths, 32, rng) for _ in range(2))
    together = {frozenset(step) for step in first} & {frozenset(step) for step in second}
    assert not together
    means = [lengths[step].mean() for step in first]
    assert np.abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5


@pytest.mark.parametrize("masked", [True, False])
def test_sorted_batches__budget__is_kept_and_nothing_lost(lengths, masked):
    rows = np.arange(0, 1000, 2)
    padding = Padding(pad_id=0, longest=100, masked=masked)
    batches = list(sorted_batches(lengths, rows, padding, Budget(512)))
    assert sorted(np.concatenate(batches)) == list(rows)
    assert all(len(batch) * padding.width(lengths[batch].max()) <= 512 for batch in batches)
    assert lengths[batches[0]].max() == lengths[rows].max()


def test_sorted_batches__mask_that_does_not_work__batches_have_one_length(lengths):
    padding = Padding(pad_id=0, longest=100, masked=False)
    for batch in sorted_batches(lengths, np.arange(1000), padding, Budget(16_384)):
        assert set(lengths[batch]) == {lengths[batch[0]]}
        assert padding.width(lengths[batch[0]]) == lengths[batch[0]]


def test_sorted_batches__text_above_budget__goes_alone():
    lengths, padding = np.array([1000, 3]), Padding(0, 1000)
    batches = list(sorted_batches(lengths, np.arange(2), padding, Budget(512)))
    assert [list(batch) for batch in batches] == [[0], [1]]


def test_pad__rows__are_right_padded_to_multiple_of_eight():
    texts = encoded_texts([5, 6, 7], [8], [9] * 9)
    input_ids, mask = pad(texts, np.array([1, 0]), Padding(pad_id=1, longest=100))
    assert input_ids.dtype == mask.dtype == np.int64
    np.testing.assert_array_equal(input_ids, [[8] + [1] * 7, [5, 6, 7] + [1] * 5])
    np.testing.assert_array_equal(mask, [[1] + [0] * 7, [1] * 3 + [0] * 5])
    assert pad(texts, np.array([2]), Padding(pad_id=1, longest=100))[0].shape == (1, 16)


def test_pad__position_limit__is_never_exceeded():
    texts = encoded_texts([9] * 9)
    assert pad(texts, np.array([0]), Padding(pad_id=1, longest=10))[0].shape == (1, 10)


def test_sorted_batches__budget_falls_on_the_way__the_rest_comes_in_smaller_batches():
    budget = Budget(80)
    batches = sorted_batches(np.full(20, 8), np.arange(20), Padding(0, 100), budget)
    assert len(next(batches)) == 10
    with pytest.warns(UserWarning, match="Memory ran out with 10 texts of 8 tokens"):
        budget.halve(10, 8)
    assert [len(batch) for batch in batches] == [5, 5]
