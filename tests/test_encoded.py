import numpy as np
from conftest import encoded_texts

LISTS = [[1, 2, 3], [4], [5, 6], [7]]


def test_from_chunks__chunks__are_joined_in_int32():
    texts = encoded_texts(*LISTS)
    assert len(texts) == 4
    assert texts.ids.dtype == texts.offsets.dtype == np.int32
    np.testing.assert_array_equal(texts.lengths, [3, 1, 2, 1])
    np.testing.assert_array_equal(texts.ids, [1, 2, 3, 4, 5, 6, 7])


def test_from_chunks__many_texts__cost_four_bytes_a_token():
    texts = encoded_texts(*[range(20)] * 1000)
    assert texts.ids.nbytes + texts.offsets.nbytes <= 4.5 * 20_000


def test_tokens__rows_in_any_order__are_concatenated():
    np.testing.assert_array_equal(encoded_texts(*LISTS).tokens(np.array([2, 0])), [5, 6, 1, 2, 3])


def test_head__more_or_fewer__gives_the_first():
    texts = encoded_texts(*LISTS)
    np.testing.assert_array_equal(texts.head(2).ids, [1, 2, 3, 4])
    np.testing.assert_array_equal(texts.head(2).lengths, [3, 1])
    assert len(texts.head(9)) == 4


def test_distinct__equal_texts__have_the_first_as_their_twin():
    rows, twins = encoded_texts([1, 2], [3], [1, 2], [3, 1], [3], [1, 2]).distinct()
    np.testing.assert_array_equal(rows, [0, 1, 3])
    np.testing.assert_array_equal(twins, [0, 1, 0, 2, 1, 0])
    rows, twins = encoded_texts(*LISTS).distinct()
    np.testing.assert_array_equal(rows, np.arange(4))
    np.testing.assert_array_equal(twins, np.arange(4))
