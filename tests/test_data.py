import numpy as np
import pytest
from transformers import AutoTokenizer

from sklearn_transformers import TransformerTextClassifier
from sklearn_transformers._batching import Padding
from sklearn_transformers._data import Rows, read_rows, split_rows, tokenise_rows
from sklearn_transformers._held_out import choose_rows
from sklearn_transformers._targets import ClassCodec

CODEC = ClassCodec.learn(["a", "b"])
PADDING = Padding(pad_id=0, longest=16)


@pytest.fixture
def tokenizer(checkpoints):
    return AutoTokenizer.from_pretrained(checkpoints["bert"])


def rows_of(weights):
    return read_rows(CODEC, ["good", "bad", "fine"], ["a", "b", "b"], weights)


def test_read_rows__weight_zero__is_absent():
    rows = rows_of([1.0, 0.0, 2.0])
    assert rows.texts == ["good", "fine"]
    np.testing.assert_array_equal(rows.codes, [0, 1])
    np.testing.assert_array_equal(rows.weights, [1, 2])


def test_tokenise_rows__weights__are_multiplied_and_scaled_to_a_mean_of_one(tokenizer):
    data, _ = tokenise_rows(rows_of([1.0, 2.0, 3.0]), np.array([4.0, 1.0]), tokenizer, PADDING)
    np.testing.assert_allclose(data.weights, np.array([4, 2, 3]) / 3)
    assert len(data) == len(data.texts) == 3


@pytest.mark.parametrize("scale", [1e308, 1e-300, 1e-320])
@pytest.mark.parametrize("class_scale", [1.0, 1e308, 1e-300])
def test_tokenise_rows__huge_or_tiny_weights__equal_ordinary_ones(tokenizer, scale, class_scale):
    data, _ = tokenise_rows(rows_of([scale] * 3), np.full(2, class_scale), tokenizer, PADDING)
    np.testing.assert_allclose(data.weights, 1)
    balanced = CODEC.class_weights("balanced", np.array([0, 1, 1]), np.full(3, scale))
    np.testing.assert_allclose(balanced, [1.5, 0.75])


def test_split_rows__parts__keep_text_code_and_weight_together():
    codes = np.arange(40) % 2
    rows = Rows([str(i) for i in range(40)], codes, np.arange(40.0))
    train, valid = split_rows(rows, 0.25, np.random.default_rng(0))
    assert (len(train), len(valid)) == (30, 10)
    for part in (train, valid):
        numbers = np.array([int(text) for text in part.texts])
        np.testing.assert_array_equal(part.codes, numbers % 2)
        np.testing.assert_array_equal(part.weights, numbers)


@pytest.mark.parametrize(("n_texts", "n_folds"), [(60, 2), (400, 0)])
def test_choose_rows__oversampled_rows__judge_no_training_that_has_seen_them(n_texts, n_folds):
    """Drawn with replacement, as by RandomOverSampler: by rows, most held-out texts are seen."""
    drawn = np.random.default_rng(0).integers(n_texts, size=2000)
    rows = Rows([str(i) for i in drawn], drawn % 2, np.ones(2000))
    train, held = choose_rows(
        TransformerTextClassifier(),
        rows,
        None,
        np.array(["a", "b"]),
        np.random.default_rng(0),
        weigh_scores=False,
        proceed=False,
        looked_at=False,
    )
    assert len(held.folds) == n_folds  # few are few, however often they are given
    if n_folds:
        assert len(train) == 2000
        for fold in held.folds:
            rest = np.setdiff1d(np.arange(2000), fold)
            assert not set(drawn[fold]) & set(drawn[rest])
    else:
        assert not set(train.texts) & set(held.rows.texts)
        assert len(train) + len(held.rows) == 2000


def test_rows__other_case_and_spaces__are_copies():
    texts = ["Thank you", "thank  you", " THANK YOU\n", "thankyou", "thank you"]
    texts += ["Straße", "STRASSE"]
    rows = Rows(texts, np.array([0, 0, 0, 0, 1, 0, 0]), np.ones(7))
    np.testing.assert_array_equal(rows.copies, [0, 0, 0, 1, 2, 3, 3])
    assert rows.distinct().texts == ["Thank you", "thankyou", "thank you", "Straße"]


def test_rows__distinct__are_pairs_of_text_and_code():
    rows = Rows(["a", "b", "a", "a"], np.array([0, 0, 1, 0]), np.arange(4.0))
    np.testing.assert_array_equal(rows.copies, [0, 1, 2, 0])
    assert rows.distinct().texts == ["a", "b", "a"]
    np.testing.assert_array_equal(rows.distinct().codes, [0, 0, 1])
