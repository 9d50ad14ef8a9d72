import numpy as np
import pytest
from conftest import ARCHITECTURES
from transformers import AutoModel, AutoTokenizer, BertConfig, CanineTokenizer

from sklearn_transformers import _tokenization
from sklearn_transformers._encoded import kept_tokens
from sklearn_transformers._tokenization import CHUNK, encode, resolve_max_length


@pytest.fixture(params=ARCHITECTURES)
def pretrained(request, checkpoints):
    folder = checkpoints[request.param]
    return request.param, AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)


def test_encode__texts__equal_the_tokenizers_own_ids(pretrained):
    _, tokenizer, _ = pretrained
    texts = ["the film was great", "", "we ate", "zzz ñ 漢字 🙂 عربى"]
    encoded = encode(tokenizer, texts, 64, "middle")
    for row, text in enumerate(texts):
        expected = tokenizer(text)["input_ids"] or [tokenizer.bos_token_id]
        np.testing.assert_array_equal(encoded.tokens(np.array([row])), expected)


# Of 8 tokens, how many of a text's own are from its start, with and without [CLS] and [SEP].
FROM_THE_START = {"right": (6, 8), "middle": (1, 2), "left": (0, 0)}


@pytest.mark.parametrize("side", FROM_THE_START)
def test_encode__long_text__is_cut_where_asked(pretrained, side):
    kind, tokenizer, _ = pretrained
    text = "we ate the film was great and good " * 20
    encoded = encode(tokenizer, [text, "the film", text], 8, side)
    assert list(encoded.lengths[[0, 2]]) == [8, 8]
    whole = tokenizer(text, verbose=False)["input_ids"]
    first, *own, last = whole if kind != "gpt2" else [None, *whole, None]
    n_own = 8 if kind == "gpt2" else 6
    n_first = FROM_THE_START[side][kind == "gpt2"]
    expected = own[:n_first] + own[len(own) - n_own + n_first :]
    expected = expected if kind == "gpt2" else [first, *expected, last]
    for row in (0, 2):
        np.testing.assert_array_equal(encoded.tokens(np.array([row])), expected)
    np.testing.assert_array_equal(encoded.tokens(np.array([1])), tokenizer("the film")["input_ids"])


@pytest.mark.parametrize(
    ("is_special", "expected"),
    [
        ([1, 1, 0, 0, 0, 0, 0, 0, 0, 1], (2 + 1, 4 + 1)),  # five places for text: 1 and 4
        ([0] * 10, (2, 6)),
        ([0] * 8 + [1] * 2, (1, 7)),
    ],
    ids=["both ends", "none", "after"],
)
def test_kept_tokens__middle__keeps_all_that_is_special(is_special, expected):
    assert kept_tokens(8, "middle", is_special) == expected


def test_encode__text_that_looks_special__is_cut_like_any_other(checkpoints):
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    whole = tokenizer("[CLS] [SEP] good film [CLS] [SEP]")["input_ids"]
    encoded = encode(tokenizer, ["[CLS] [SEP] good film [CLS] [SEP]"], 6, "middle")
    assert encoded.ids.tolist() == [*whole[:2], *whole[-4:]]


def test_encode__tokenizer_in_python__keeps_what_it_added_at_both_ends():
    tokenizer = CanineTokenizer()
    whole = tokenizer("abcdefghij")["input_ids"]
    encoded = encode(tokenizer, ["abcdefghij", "ab"], 8, "middle")
    assert encoded.ids.tolist() == [*whole[:2], *whole[-6:], *tokenizer("ab")["input_ids"]]


@pytest.mark.parametrize("side", FROM_THE_START)
def test_encode__tokenizer_that_cannot_say_what_it_added__keeps_it(side):
    class Silent(CanineTokenizer):
        def get_special_tokens_mask(self, *arguments, **others):
            raise NotImplementedError

    ids = encode(Silent(), ["abcdefghij"], 8, side).ids.tolist()
    assert [ids[0], ids[-1]] == [Silent().cls_token_id, Silent().sep_token_id]


def test_encode__sides_in_turn__do_not_answer_for_each_other(checkpoints):
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    text = "good bad " * 10 + "film"
    ids = {side: encode(tokenizer, [text], 8, side).ids.tolist() for side in FROM_THE_START}
    assert len(set(map(tuple, ids.values()))) == 3


def test_encode__more_texts_than_a_chunk__keeps_order(checkpoints):
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    texts = ["great " * (i % 7 + 1) for i in range(2 * CHUNK + 3)]
    lengths = encode(tokenizer, texts, 64, "middle").lengths
    np.testing.assert_array_equal(lengths, [i % 7 + 3 for i in range(len(texts))])


def test_encode__long_texts__are_handed_over_a_few_at_a_time(checkpoints, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    texts = ["good " * n for n in (1, 2, 300, 3, 4, 5)]
    expected = encode(tokenizer, texts, 64, "middle").contents()
    monkeypatch.setattr(_tokenization, "CHUNK_CHARACTERS", 40)
    _tokenization.TOKENS.clear()
    portions = []
    tokenise = _tokenization._tokenise
    monkeypatch.setattr(
        _tokenization, "_tokenise", lambda *a: portions.append(a[1]) or tokenise(*a)
    )
    assert encode(tokenizer, texts, 64, "middle").contents() == expected
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


@pytest.mark.parametrize(("limit", "expected"), [(1000, 300), (100, 100)])
@pytest.mark.filterwarnings("error")
def test_resolve_max_length__auto__is_what_the_model_can_read(checkpoints, limit, expected):
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"], model_max_length=limit)
    backbone = AutoModel.from_pretrained(checkpoints["bert"])
    assert resolve_max_length("auto", tokenizer, backbone) == expected
    assert resolve_max_length("auto", tokenizer, backbone, 30) == min(expected, 270)


def test_resolve_max_length__auto__is_512_where_the_model_could_read_more():
    config = BertConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=4096,
    )
    backbone = AutoModel.from_config(config)
    assert resolve_max_length("auto", CanineTokenizer(model_max_length=2048), backbone) == 512


def test_resolve_max_length__tokenizer_limit__counts(checkpoints):
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"], model_max_length=50)
    backbone = AutoModel.from_pretrained(checkpoints["bert"])
    with pytest.warns(UserWarning, match="using 50"):
        assert resolve_max_length(256, tokenizer, backbone) == 50
