"""What holds for any texts at all: of every script, with NUL, combining marks and surrogates."""

import pickle

import numpy as np
import pytest
from conftest import ARCHITECTURES
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sklearn_transformers import InvalidTextError, clear_cache
from sklearn_transformers._tokenization import encode

# The same examples in every run, and none judged by its time.
steady = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the cache's; tests clear it
)

MARKS = ["\0", "\u0301", "\u200d", "\ufe0f", "\u202e", "\ufeff", "\U0001f469", "ſ", "İ", "ﬁ"]
KNOWN = ["good", "bad", "film", "[SEP]", "[MASK]", "<s>", "<|endoftext|>", "  ", "\n"]
TEXT = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(MARKS + KNOWN) | st.characters(exclude_categories=["Cs"])).map(
        "".join
    ),
)
TEXTS = st.lists(TEXT, min_size=1, max_size=12)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def tokenizer(request, checkpoints):
    return AutoTokenizer.from_pretrained(checkpoints[request.param])


@steady
@given(texts=TEXTS, max_length=st.integers(3, 60), side=st.sampled_from(["right", "left"]))
@example(texts=["", "good " * 100, "\0"], max_length=3, side="right")
def test_encode__any_texts__equal_the_tokenizers_own_one_at_a_time(
    tokenizer, texts, max_length, side
):
    encoded = encode(tokenizer, texts, max_length, side)
    tokenizer.truncation_side = side
    assert len(encoded) == len(texts)
    assert encoded.lengths.min() >= 1
    assert encoded.lengths.max() <= max_length
    for row, text in enumerate(texts):
        alone = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
        expected = alone or [tokenizer.bos_token_id]  # no text is nothing to a model
        assert encoded.tokens(np.array([row])).tolist() == expected


@steady
@given(texts=TEXTS)
def test_encode__again__finds_the_same_in_the_cache(tokenizer, texts):
    clear_cache()
    first = encode(tokenizer, texts, 16, "middle").contents()
    assert encode(tokenizer, texts, 16, "middle").contents() == first


@steady
@given(texts=TEXTS, where=st.integers(0, 40), surrogate=st.integers(0xD800, 0xDFFF), data=st.data())
def test_predict_proba__lone_surrogate_anywhere__is_refused_by_row(
    fitted, texts, where, surrogate, data
):
    row = data.draw(st.integers(0, len(texts) - 1))
    where = min(where, len(texts[row]))
    texts[row] = texts[row][:where] + chr(surrogate) + texts[row][where:]
    message = rf"X\[{row}\] holds a lone surrogate .* at position {where},"
    with pytest.raises(InvalidTextError, match=message):
        fitted.predict_proba(texts)


@steady
@given(texts=TEXTS)
def test_predict_proba__any_texts__are_answered_as_alone(fitted, texts):
    together = fitted.predict_proba(texts)
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=0, atol=1e-12)
    alone = np.vstack([fitted.predict_proba([text]) for text in texts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


@steady
@given(texts=TEXTS, data=st.data())
def test_predict_proba__texts_in_another_order__are_answered_in_that_order(fitted, texts, data):
    order = data.draw(st.permutations(range(len(texts))))
    shuffled = fitted.predict_proba([texts[i] for i in order])
    np.testing.assert_allclose(shuffled, fitted.predict_proba(texts)[order], rtol=0, atol=1e-5)


@steady
@given(texts=TEXTS, rows=st.lists(st.integers(0, 11), min_size=1))
def test_predict_proba__texts_again__have_the_very_same_answers(fitted, texts, rows):
    rows = [row % len(texts) for row in rows]
    answers = fitted.predict_proba(texts + [texts[row] for row in rows])
    np.testing.assert_array_equal(answers[len(texts) :], answers[rows])


@pytest.fixture(scope="module")
def loaded(fitted):
    """The fitted classifier, pickled and read back."""
    return pickle.loads(pickle.dumps(fitted))


@steady
@given(texts=TEXTS)
def test_pickle__any_texts__have_the_same_tokens_and_the_same_bits(fitted, loaded, texts):
    expected = fitted.predict_proba(texts)
    clear_cache()  # else the copy would find the tokens of the original
    np.testing.assert_array_equal(loaded.predict_proba(texts), expected)
    clear_cache()
    tokens = encode(loaded.tokenizer_, texts, 32, "middle").contents()
    clear_cache()
    assert tokens == encode(fitted.tokenizer_, texts, 32, "middle").contents()
