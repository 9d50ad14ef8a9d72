"""A search reads the model once and tokenises each text once, and nobody can tell otherwise."""

import collections
import copy
import json
import os
import pickle
import re
import shutil
import threading

import numpy as np
import pytest
import torch
from conftest import toy_texts
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_validate
from torch import nn
from transformers import AutoTokenizer

from sklearn_transformers import _pretrained, _tokenization, clear_cache, set_cache_size
from sklearn_transformers._cache import CHECKPOINTS, TOKENS, ByteCache
from sklearn_transformers._pretrained import load_pretrained
from sklearn_transformers._tokenization import encode


@pytest.fixture
def counted(monkeypatch):
    """Count what is read from files, and how often each text is tokenised."""
    counts = collections.Counter()
    read, tokenise = _pretrained.read_checkpoint, _tokenization._tokenise

    def counting_read(*arguments):
        counts["reads"] += 1
        return read(*arguments)

    def counting_tokenise(tokenizer, texts, max_length, side):
        counts.update(("text", text, max_length) for text in texts)
        return tokenise(tokenizer, texts, max_length, side)

    monkeypatch.setattr(_pretrained, "read_checkpoint", counting_read)
    monkeypatch.setattr(_tokenization, "_tokenise", counting_tokenise)
    return counts


@pytest.fixture
def folder(checkpoints, tmp_path):
    """A copy of the tiny BERT checkpoint that a test may change."""
    shutil.copytree(checkpoints["bert"], tmp_path / "model")
    return tmp_path / "model"


def texts_counted(counts):
    return {key: count for key, count in counts.items() if key != "reads"}


def test_fit__several_epochs__tokenises_each_text_once(make, three_classes, counted):
    X, y = three_classes
    set_cache_size(tokens=0)
    make(max_epochs=3, early_stopping=True).fit(X, y)
    assert texts_counted(counted) == {("text", text, 300): X.count(text) for text in X}


# --- a search costs its training and nothing else --------------------------------------------


def test_search__candidates_and_folds__read_once_and_tokenise_each_text_once(
    make, three_classes, counted
):
    X, y = three_classes
    grid = {"learning_rate": [1e-3, 5e-3], "dropout": [0.0, 0.1], "batch_size": [16, 64]}
    scoring = ["accuracy", "neg_log_loss"]
    GridSearchCV(make(max_epochs=1), grid, cv=3, scoring=scoring, refit="accuracy").fit(X, y)
    cross_validate(make(max_epochs=1, scoring="accuracy"), X, y, return_train_score=True)
    assert counted["reads"] == 1
    assert texts_counted(counted) == {("text", text, 300): 1 for text in set(X)}


def test_search__caches_off__gives_the_same_bits(make, three_classes, counted):
    X, y = three_classes
    search = GridSearchCV(make(max_epochs=2), {"learning_rate": [1e-3, 5e-3]}, cv=2)
    with_caches = clone(search).fit(X, y)
    assert counted["reads"] == 1
    set_cache_size(weights=0, tokens=0)
    without = clone(search).fit(X, y)
    assert counted["reads"] == 1 + 2 * 2 + 1
    assert len(CHECKPOINTS) == len(TOKENS) == 0
    for key in ("mean_test_score", "split0_test_score", "split1_test_score"):
        np.testing.assert_array_equal(with_caches.cv_results_[key], without.cv_results_[key])
    np.testing.assert_array_equal(with_caches.predict_proba(X), without.predict_proba(X))


@pytest.mark.parametrize(
    "parameters",
    [{}, {"tuning": "head"}, {"head_init": "logistic", "early_stopping": False}],
    ids=str,
)
def test_fit__weights_absent_from_the_checkpoint__are_drawn_by_the_seed_not_the_cache(
    make, folder, three_classes, parameters
):
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "layer.1.output" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    def answers(seed):
        clf = make(model=folder, random_state=seed, max_epochs=1, **parameters)
        with pytest.warns(UserWarning, match="4 weight tensors of the model are not in"):
            clf.fit(*three_classes)
        found = clf.predict_proba(three_classes[0])
        np.testing.assert_array_equal(copy.deepcopy(clf).predict_proba(three_classes[0]), found)
        return found

    set_cache_size(weights=0, vectors=0)
    expected = [answers(seed) for seed in (0, 1)]
    set_cache_size(weights=10**9, vectors=10**9)
    for seed in (0, 1):
        np.testing.assert_array_equal(answers(seed), expected[seed])


def test_predict__head_that_writes_to_its_input__leaves_the_cache_alone(make, three_classes):
    X, y = three_classes

    def head(width, n_classes):
        return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(width, n_classes))

    own = make(tuning="head", head=head, max_epochs=1).fit(X, y)
    before, answers = own.transform(X), own.predict_proba(X)
    assert (before < 0).any()
    np.testing.assert_array_equal(own.transform(X), before)
    np.testing.assert_array_equal(own.predict_proba(X), answers)


def test_training__cached_weights__are_not_touched(make, three_classes):
    X, y = three_classes
    first = make(max_epochs=2).fit(X, y)
    with torch.no_grad():
        for weight in first.model_.parameters():
            weight.zero_()
    second = make(max_epochs=2).fit(X, y)
    clear_cache()
    np.testing.assert_array_equal(
        second.predict_proba(X), make(max_epochs=2).fit(X, y).predict_proba(X)
    )


# --- keys ------------------------------------------------------------------------------------


def test_weights__file_changed_in_place__are_read_again(folder):
    before = load_pretrained(folder).backbone.state_dict()
    file = folder / "model.safetensors"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    changed = {name: weight + 1 for name, weight in load_file(file).items()}
    save_file(changed, file, metadata={"format": "pt"})
    os.utime(file, ns=times)  # as rsync and cp -p do: size and time are those of the old file
    after = load_pretrained(folder).backbone.state_dict()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight + 1)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "1_Pooling/config.json"])
def test_weights__any_other_file_changed__are_read_again(folder, file, counted):
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode": "max"}')
    load_pretrained(folder)
    load_pretrained(folder)
    assert counted["reads"] == 1
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content, indent=3))
    load_pretrained(folder)
    assert counted["reads"] == 2


def test_weights__folder_changed_often__are_kept_once(folder):
    for number in range(3):
        (folder / "notes.txt").write_text("x" * number)
        load_pretrained(folder)
    assert len(CHECKPOINTS) == 1


def test_weights__what_is_no_file__is_passed_over(folder):
    (folder / ".lock").symlink_to("nowhere")
    (folder / "runs").mkdir()
    assert load_pretrained(folder).width == 32


def test_weights__loaded_twice__share_nothing(folder):
    first, second = load_pretrained(folder, dropout=0.5), load_pretrained(folder)
    assert first.tokenizer is not second.tokenizer
    assert first.backbone.config.hidden_dropout_prob == 0.5
    assert second.backbone.config.hidden_dropout_prob == 0.1
    for one, other in zip(first.backbone.parameters(), second.backbone.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr()


def other_vocabulary(folder):
    """The same words, other ids."""
    state = json.loads((folder / "tokenizer.json").read_text())
    words = state["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    (folder / "tokenizer.json").write_text(json.dumps(state))


def no_lower_case(folder):
    state = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(state | {"normalizer": None}))


@pytest.mark.parametrize("change", [other_vocabulary, no_lower_case])
def test_tokens__another_tokenizer__are_computed_anew(folder, change):
    texts = ["Good film", "good book", "bad day"]
    before = encode(AutoTokenizer.from_pretrained(folder), texts, 64, "middle")
    change(folder)
    after = encode(AutoTokenizer.from_pretrained(folder), texts, 64, "middle")
    clear_cache()
    expected = encode(AutoTokenizer.from_pretrained(folder), texts, 64, "middle")
    np.testing.assert_array_equal(after.ids, expected.ids)
    assert list(after.ids) != list(before.ids)


def test_tokens__words_added_to_the_tokenizer__are_computed_anew(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before = encode(tokenizer, ["zebra"], 64, "middle")
    tokenizer.add_tokens(["zebra"])
    after = encode(tokenizer, ["zebra"], 64, "middle")
    assert list(after.ids) == tokenizer("zebra")["input_ids"] != list(before.ids)


def test_tokens__max_length__is_part_of_the_key(folder, counted):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "good " * 30
    assert [len(encode(tokenizer, [text], n, "middle").ids) for n in (8, 16, 8)] == [8, 16, 8]
    assert texts_counted(counted) == {("text", text, 8): 1, ("text", text, 16): 1}


def test_tokens__equal_tokenizers__share_them(folder, counted):
    for _ in range(2):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer("good", truncation=True, max_length=3)  # leaves its mark in the tokenizer
        encode(tokenizer, ["good film"], 64, "middle")
    assert texts_counted(counted) == {("text", "good film", 64): 1}


def test_tokens__special_tokens_written_out__follow_the_tokenizers_setting(folder):
    for split in (False, True):
        tokenizer = AutoTokenizer.from_pretrained(folder, split_special_tokens=split)
        expected = tokenizer("good [SEP] film")["input_ids"]
        assert list(encode(tokenizer, ["good [SEP] film"], 64, "middle").ids) == expected


def test_tokens__texts_twice_in_one_call__are_computed_once(folder, counted):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = encode(tokenizer, ["good", "bad day", "good"], 64, "middle")
    np.testing.assert_array_equal(encoded.lengths, [3, 4, 3])
    np.testing.assert_array_equal(encoded.tokens(np.array([0])), encoded.tokens(np.array([2])))
    assert set(texts_counted(counted).values()) == {1}


def test_tokens__tokenizer_in_python__only_equals_itself(folder):
    class Words:
        """Numbers each word by its length, from an offset on."""

        bos_token_id = cls_token_id = eos_token_id = pad_token_id = 0

        def __init__(self, offset):
            self.offset = offset

        def __len__(self):
            return 100

        def __call__(self, texts, **_):
            ids = [[self.offset + len(word) for word in text.split()] for text in texts]
            return {"input_ids": ids}

    tens, fifties = Words(10), Words(50)
    for tokenizer, expected in [(tens, [13, 14]), (fifties, [53, 54]), (tens, [13, 14])]:
        assert list(encode(tokenizer, ["the film"], 64, "middle").ids) == expected


# --- bounds ----------------------------------------------------------------------------------


def test_byte_cache__full__forgets_what_was_not_used_for_longest():
    cache = ByteCache(3, len)
    cache.put_many({"a": "x", "b": "x", "c": "x"})
    assert cache.get_many(["a"]) == ["x"]
    cache.put_many({"d": "x"})
    assert cache.get_many("abcd") == ["x", None, "x", "x"]
    assert cache.n_bytes == 3


def test_byte_cache__value_beyond_the_bound__is_not_kept():
    cache = ByteCache(3, len)
    cache.put_many({"a": "x", "b": "xxxx"})
    assert cache.get_many("ab") == ["x", None]


def test_byte_cache__same_key_twice__counts_once():
    cache = ByteCache(9, len)
    cache.put_many({"a": "xx"})
    cache.put_many({"a": "xx"})
    assert (len(cache), cache.n_bytes) == (1, 2)


def test_byte_cache__resized_and_cleared__counts_on():
    cache = ByteCache(9, len)
    cache.put_many({"a": "xx", "b": "xxx"})
    cache.resize(3)
    assert (cache.get_many("ab"), cache.n_bytes) == ([None, "xxx"], 3)
    cache.clear()
    assert (len(cache), cache.n_bytes) == (0, 0)


def test_byte_cache__many_threads__stays_within_its_bound():
    cache = ByteCache(50, len)

    def work(seed):
        rng = np.random.default_rng(seed)
        for key in rng.integers(0, 40, 2000):
            cache.put_many({int(key): "x" * (1 + key % 7)})
            cache.get_many([int(key)])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.n_bytes == sum(map(len, cache._values.values())) <= 50


def test_tokens__corpus_beyond_the_bound__is_right_and_bounded(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = toy_texts(3000)[0]
    expected = encode(tokenizer, texts, 64, "middle")
    set_cache_size(tokens=20_000)
    clear_cache()
    for _ in range(2):
        encoded = encode(tokenizer, texts, 64, "middle")
        np.testing.assert_array_equal(encoded.ids, expected.ids)
        np.testing.assert_array_equal(encoded.offsets, expected.offsets)
        assert 10_000 < TOKENS.n_bytes <= 20_000


def test_weights__size__is_that_of_the_arrays(folder):
    load_pretrained(folder)
    weights = (folder / "model.safetensors").stat().st_size
    assert 0.9 * weights < CHECKPOINTS.n_bytes < weights + 300 * 100


@pytest.mark.parametrize("name", ["weights", "tokens"])
@pytest.mark.parametrize("size", [-1, 0.5, "1 GB"])
def test_set_cache_size__no_number_of_bytes__is_refused(name, size):
    message = f"{name} must be a number of bytes, 0 or more. Got {size!r} instead."
    with pytest.raises(ValueError, match=re.escape(message)):
        set_cache_size(**{name: size})


def test_set_cache_size__one_of_them__leaves_the_other():
    set_cache_size(weights=7)
    assert (CHECKPOINTS.max_bytes, TOKENS.max_bytes) == (7, 256 * 2**20)


def test_clear_cache__afterwards__everything_is_read_again(make, binary, counted):
    X, y = binary
    for _ in range(2):
        make(max_epochs=1).fit(X, y)
        clear_cache()
        assert len(CHECKPOINTS) == len(TOKENS) == CHECKPOINTS.n_bytes == TOKENS.n_bytes == 0
    assert counted["reads"] == 2
    assert set(texts_counted(counted).values()) == {2}


# --- what must not happen to it --------------------------------------------------------------


def test_pickle__filled_caches__are_not_in_it(make, binary):
    clf = make(max_epochs=1).fit(*binary)
    with_caches = pickle.dumps(clf)
    clear_cache()
    assert pickle.dumps(clf) == with_caches


def test_cache__texts__are_named_by_digests(make, binary):
    X, y = binary
    make(max_epochs=1).fit(X, y)
    assert len(TOKENS) == len(set(X))
    assert {type(key) for key in TOKENS._values} == {bytes}
    assert {len(key) for key in TOKENS._values} == {16}
