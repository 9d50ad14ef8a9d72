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
    budget = Budget(512)
    batches = list(sorted_batches(lengths, rows, padding, budget))
    assert sorted(np.concatenate(batches)) == list(rows)
    assert all(len(batch) * budget.width(lengths[batch].max(), padding) <= 512 for batch in batches)
    assert lengths[batches[0]].max() == lengths[rows].max()


def test_sorted_batches__mask_that_does_not_work__batches_have_one_length(lengths):
    padding, budget = Padding(pad_id=0, longest=100, masked=False), Budget(16_384)
    for batch in sorted_batches(lengths, np.arange(1000), padding, budget):
        assert set(lengths[batch]) == {lengths[batch[0]]}
        assert budget.width(lengths[batch[0]], padding) == lengths[batch[0]]


def test_sorted_batches__text_above_budget__goes_alone():
    lengths, padding = np.array([1000, 3]), Padding(0, 1000)
    batches = list(sorted_batches(lengths, np.arange(2), padding, Budget(512)))
    assert [list(batch) for batch in batches] == [[0], [1]]


def test_pad__rows__are_right_padded_to_multiple_of_eight():
    texts = encoded_texts([5, 6, 7], [8], [9] * 9)
    padding, budget = Padding(pad_id=1, longest=100), Budget.on("cuda")
    input_ids, mask = pad(texts, np.array([1, 0]), padding, budget)
    assert input_ids.dtype == mask.dtype == np.int64
    np.testing.assert_array_equal(input_ids, [[8] + [1] * 7, [5, 6, 7] + [1] * 5])
    np.testing.assert_array_equal(mask, [[1] + [0] * 7, [1] * 3 + [0] * 5])
    assert pad(texts, np.array([2]), padding, budget)[0].shape == (1, 16)


def test_width__on_the_cpu__is_finer_for_short_texts():
    padding, budget = Padding(pad_id=1, longest=130), Budget.on("cpu")
    lengths = [1, 2, 3, 31, 32, 33, 36, 37, 63, 64, 65, 72, 73, 129]
    assert [budget.width(length, padding) for length in lengths] == [
        *[2, 2, 4, 32, 32],
        *[36, 36, 40, 64, 64],
        *[72, 72, 80, 130],
    ]
    # Few shapes, and hardly ever more than a tenth of padding, once there is a sentence.
    widths = {budget.width(length, Padding(1, 512)) for length in range(1, 513)}
    assert len(widths) == 16 + 8 + 56
    assert all(budget.width(n, padding) <= max(n + 1, 1.12 * n) for n in range(1, 129))


def test_pad__position_limit__is_never_exceeded():
    texts = encoded_texts([9] * 9)
    padding, budget = Padding(pad_id=1, longest=10), Budget.on("cuda")
    assert pad(texts, np.array([0]), padding, budget)[0].shape == (1, 10)


def test_sorted_batches__budget_falls_on_the_way__the_rest_comes_in_smaller_batches():
    budget = Budget(80)
    batches = sorted_batches(np.full(20, 8), np.arange(20), Padding(0, 100), budget)
    assert len(next(batches)) == 10
    with pytest.warns(UserWarning, match="Memory ran out with 10 texts of 8 tokens"):
        budget.halve(10, 8)
    assert [len(batch) for batch in batches] == [5, 5]
