import numpy as np
import pytest
from conftest import ARCHITECTURES
from transformers import AutoModel, AutoTokenizer

from sklearn_transformers import _tokenization
from sklearn_transformers._tokenization import CHUNK, encode, resolve_max_length


@pytest.fixture(params=ARCHITECTURES)
def pretrained(request, checkpoints):
    folder = checkpoints[request.param]
    return request.param, AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)


def test_encode__texts__equal_the_tokenizers_own_ids(pretrained):
    _, tokenizer, _ = pretrained
    texts = ["the film was great", "", "we ate", "zzz ñ 漢字 🙂 عربى"]
    encoded = encode(tokenizer, texts, 64)
    for row, text in enumerate(texts):
        expected = tokenizer(text)["input_ids"] or [tokenizer.bos_token_id]
        np.testing.assert_array_equal(encoded.tokens(np.array([row])), expected)


def test_encode__long_text__is_cut_at_the_end(pretrained):
    kind, tokenizer, _ = pretrained
    encoded = encode(tokenizer, ["great " + "the film " * 50], 8)
    assert list(encoded.lengths) == [8]
    ids = list(encoded.ids)
    assert ids[:3] == tokenizer("great the film")["input_ids"][:3]
    if kind != "gpt2":
        assert ids[-1] == tokenizer.sep_token_id


def test_encode__more_texts_than_a_chunk__keeps_order(checkpoints):
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    texts = ["great " * (i % 7 + 1) for i in range(2 * CHUNK + 3)]
    lengths = encode(tokenizer, texts, 64).lengths
    np.testing.assert_array_equal(lengths, [i % 7 + 3 for i in range(len(texts))])


def test_encode__long_texts__are_handed_over_a_few_at_a_time(checkpoints, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    texts = ["good " * n for n in (1, 2, 300, 3, 4, 5)]
    expected = encode(tokenizer, texts, 64).contents()
    monkeypatch.setattr(_tokenization, "CHUNK_CHARACTERS", 40)
    _tokenization.TOKENS.clear()
    portions = []
    tokenise = _tokenization._tokenise
    monkeypatch.setattr(
        _tokenization, "_tokenise", lambda *a: portions.append(a[1]) or tokenise(*a)
    )
    assert encode(tokenizer, texts, 64).contents() == expected
    assert portions == [texts[:2], texts[2:3], texts[3:5], texts[5:]]


def test_resolve_max_length__no_room_for_text__says_how_much_it_takes(pretrained):
    kind, tokenizer, backbone = pretrained
    if kind == "gpt2":
        assert resolve_max_length(1, tokenizer, backbone) == 1
        return
    with pytest.raises(ValueError, match=r"max_length=2 leaves no room.*Use at least 3"):
        resolve_max_length(2, tokenizer, backbone)
    assert resolve_max_length(3, tokenizer, backbone) == 3


def test_resolve_max_length__more_than_positions__is_lowered_with_warning(pretrained):
    _, tokenizer, backbone = pretrained
    assert resolve_max_length(256, tokenizer, backbone) == 256
    with pytest.warns(UserWarning, match="max_length=1000 is more.*using 300"):
        assert resolve_max_length(1000, tokenizer, backbone) == 300


def test_resolve_max_length__tokenizer_limit__counts(checkpoints):
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"], model_max_length=50)
    backbone = AutoModel.from_pretrained(checkpoints["bert"])
    with pytest.warns(UserWarning, match="using 50"):
        assert resolve_max_length(256, tokenizer, backbone) == 50
