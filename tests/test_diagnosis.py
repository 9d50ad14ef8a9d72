"""Each fault in the data is said once, with figures and a remedy; sound data say nothing."""

import warnings

import numpy as np
import pytest
import torch
from conftest import SIZES, toy_texts
from transformers import BertConfig, BertModel, ByT5Tokenizer

from sklearn_transformers import TextDataWarning, TransformerTextClassifier
from sklearn_transformers._checkpoint import BUNDLED_NAME
from sklearn_transformers._diagnosis import report_truncation, warn_of_useless_fit
from sklearn_transformers._pretrained import load_pretrained
from sklearn_transformers._script import is_spelled_out


def faults(clf, X, y, **arguments):
    """The warnings about the data that a fit gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clf.fit(X, y, **arguments)
    return [str(w.message) for w in caught if issubclass(w.category, TextDataWarning)]


def test_sound_data__says_nothing(make, three_classes):
    assert faults(make(max_epochs=8), *three_classes) == []


def test_truncated_texts__are_counted_and_measured(make, binary):
    X, y = binary
    lengths = np.array([len(text.split()) + 2 for text in X])
    clf = make(max_epochs=1, max_length=8, early_stopping=False)
    (message,) = faults(clf, X, y)
    n_cut, lost = (lengths > 8).sum(), np.maximum(lengths - 8, 0).sum() / lengths.sum()
    expected = {
        "n_texts": 200,
        "n_cut": n_cut,
        "share_cut": n_cut / 200,
        "share_of_tokens_lost": pytest.approx(lost),
        "length_for_95_percent": np.quantile(lengths, 0.95, method="higher"),
        "longest": lengths.max(),
    }
    assert clf.truncation_report_ == expected
    assert f"{n_cut} of 200 ({n_cut / 200:.1%}) texts are longer than max_length=8" in message
    assert f"lost {lost:.0%} of all tokens" in message
    assert f"max_length={expected['length_for_95_percent']} would keep 95 %" in message


@pytest.mark.parametrize(("max_length", "is_much"), [(4, True), (12, False)])
def test_truncated_texts__most_tokens_lost__tfidf_is_named(make, binary, max_length, is_much):
    X, y = binary
    clf = make(max_epochs=1, max_length=max_length, early_stopping=False)
    with pytest.warns(TextDataWarning, match="were cut in their middle, which lost") as caught:
        clf.fit(X, y)
    (message,) = [str(w.message) for w in caught if "were cut" in str(w.message)]
    assert (clf.truncation_report_["share_of_tokens_lost"] > 0.5) == is_much
    assert ("Compare with TF-IDF" in message) == is_much


@pytest.mark.parametrize(
    ("side", "where"),
    [("middle", "in their middle"), ("right", "at their end"), ("left", "at their start")],
)
def test_truncated_texts__side__is_said(make, binary, side, where):
    clf = make(max_epochs=1, max_length=8, truncation_side=side, early_stopping=False)
    (message,) = faults(clf, *binary)
    assert f"were cut {where}, which" in message
    assert "but this model reads" not in message


def test_truncated_texts__model_reads_no_more__is_said(make, binary):
    X, y = ["good film " * 200 + text for text in binary[0]], binary[1]
    (message,) = faults(make(max_epochs=1, early_stopping=False), X, y)
    assert "would keep 95 % of the texts whole, but this model reads no more than 300;" in message


def test_truncated_texts__suggested_length__keeps_95_percent(make, binary):
    X, y = binary
    clf = make(max_epochs=1, max_length=8, early_stopping=False)
    faults(clf, X, y)
    clf.set_params(max_length=clf.truncation_report_["length_for_95_percent"])
    assert faults(clf, X, y) == []
    assert 0 < clf.truncation_report_["share_cut"] <= 0.05


def test_truncation_report__known_lengths__come_from_the_cache_as_well(make, binary):
    reports = []
    for _ in range(2):
        clf = make(max_epochs=1, max_length=8, early_stopping=False)
        faults(clf, *binary)
        reports.append(clf.truncation_report_)
    assert reports[0] == reports[1]


def test_report_truncation__nothing_cut__is_zero():
    report = report_truncation(np.array([3, 8], np.int32), 8)
    assert (report["n_cut"], report["share_of_tokens_lost"]) == (0, 0)


def test_duplicates__with_other_labels__are_counted(make, binary):
    X, y = binary
    X = [*X, "a fine day", "a fine day", "a fine day", "we ate"]
    y = [*y, "yes", "no", "yes", "no"]
    (message,) = faults(make(max_epochs=1, early_stopping=False), X, y)
    assert "3 of 204 (1.5%) rows hold a text that also occurs with another label" in message
    assert "'a fine day' with 'no', 'yes'" in message


def test_duplicates__of_weight_zero__do_not_count(make, binary):
    X, y = binary
    X, y = [*X, "a fine day", "a fine day"], [*y, "yes", "no"]
    weights = np.ones(202)
    weights[-1] = 0
    assert faults(make(max_epochs=1, early_stopping=False), X, y, sample_weight=weights) == []


@pytest.mark.parametrize("early_stopping", [True, "auto"])  # a part, or folds
def test_single_row_classes__are_named(make, binary, early_stopping):
    X, y = binary
    X, y = [*X, "the song", "the meal"], [*y, "rare", "scarce"]
    messages = faults(make(max_epochs=6, early_stopping=early_stopping), X, y)
    assert len(messages) == 1
    assert "2 of 4 (50.0%) classes have a single row" in messages[0]
    assert "'rare', 'scarce'" in messages[0]
    # Nothing is held out here.
    assert faults(make(max_epochs=1, early_stopping=False), X, y) == []


@pytest.mark.parametrize("early_stopping", [True, "auto"])
def test_single_row_classes__all_of_them__are_said_once(make, early_stopping):
    clf = make(max_epochs=1, early_stopping=early_stopping)
    (message,) = faults(clf, ["the song", "the meal", "the film"], ["a", "b", "c"])
    assert "None of the 3 different rows can be held out" in message
    assert "not calibrated" in message
    assert clf.best_score_ is None


@pytest.mark.parametrize("early_stopping", [True, "auto"])
def test_single_row_classes__copies_of_them__are_said_once(make, early_stopping):
    X = ["the song", "the song", "a song", "the meal", "the meal", "a meal"]
    clf = make(max_epochs=1, early_stopping=early_stopping)
    (message,) = faults(clf, X, ["a", "a", "a", "b", "b", "b"])
    assert "None of the 4 different rows can be held out" in message
    assert "copies are most of it" in message
    assert clf.best_score_ is None


def test_classes_of_no_weight__are_named(make, binary):
    X, y = binary
    weights = np.where(np.array(y) == "no", 0.0, 1.0)
    messages = faults(make(max_epochs=1, early_stopping=False), X, y, sample_weight=weights)
    assert len(messages) == 1
    assert "1 of 2 (50.0%) classes have no row of a weight above zero" in messages[0]
    assert "'no'" in messages[0]


def test_texts_alike_to_the_tokenizer__with_other_labels__are_counted(make, binary):
    X, y = binary
    X = [
        *X,
        "a fine \u2603 day",
        "a fine \u2600 day",
        "a fine \u2601 day",
        "we \u2603",
        "we \u2600",
    ]
    y = [*y, "yes", "yes", "no", "no", "no"]
    clf = make(max_epochs=1, early_stopping=False)
    (message,) = faults(clf, X, y)
    assert "3 of 205 (1.5%) rows hold texts with other labels that are the same" in message
    assert "'a fine \u2603 day' and 'a fine \u2601 day'" in message
    # What was cut off may well tell them apart, and was told of itself.
    long = [" ".join(["day"] * 9), " ".join(["day"] * 8 + ["night"])]
    (message,) = faults(
        make(max_epochs=1, early_stopping=False, max_length=8), long * 20, ["no", "yes"] * 20
    )
    assert "were cut" in message


def test_empty_texts__are_counted(make, binary):
    X, y = binary
    X = [X[0], "", " \n", *X[3:]]
    (message,) = faults(make(max_epochs=1, early_stopping=False), X, y)
    assert "2 of 200 (1.0%) texts are empty or only spaces" in message


def test_constant_texts__are_said_once(make):
    y = ["no", "yes"] * 20
    (message,) = faults(make(max_epochs=1, early_stopping=False), ["the film"] * 40, y)
    assert "All 40 texts are the same ('the film')" in message


def test_unknown_script__share_of_unknown_tokens_is_told(make, binary):
    X, y = binary
    X = [f"今天 天气 很好 {text}" if i % 2 else text for i, text in enumerate(X)]
    (message,) = faults(make(max_epochs=1, early_stopping=False), X, y)
    assert "tokens are unknown to the tokenizer" in message
    assert "multilingual" in message
    assert "今天" in message


def test_unknown_script__tokenizer_over_bytes__is_noticed(make):
    X = [f"今天天气很好{i}" for i in range(40)]
    (message,) = faults(make("gpt2", max_epochs=1, early_stopping=False), X, ["a", "b"] * 20)
    assert "spells 40 of 40 (100.0%) texts out, at" in message
    assert "hardly knows this script" in message


def test_random_labels__model_no_better_than_shares__is_told(make, binary):
    X, _ = binary
    y = np.random.default_rng(0).permutation(["no", "yes"] * 100)
    messages = faults(make(max_epochs=2), X, y)
    assert any("no better than always answering the share of each class" in m for m in messages)


def test_useless_fit__weights__decide():
    losses, prior = np.array([0.1, 0.1, 2.0]), np.full(3, 0.7)
    with pytest.warns(TextDataWarning, match="its loss is 0.733, theirs 0.700"):
        warn_of_useless_fit(losses, prior, np.ones(3), in_folds=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_useless_fit(losses, prior, np.array([1, 1, 1e-9]), in_folds=False)


def test_useless_fit__single_row__tells_nothing(make, binary):
    with warnings.catch_warnings():
        warnings.simplefilter("error", TextDataWarning)
        make(max_epochs=1).fit(*binary, X_val=binary[0][:1], y_val=binary[1][:1])


def test_partial_fit__says_nothing(make):
    X, y = toy_texts(20)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TextDataWarning)
        clf = make(max_length=4).partial_fit(["", *X], ["no", *y], classes=["no", "yes"])
    assert clf.truncation_report_["n_texts"] == 21


def test_warnings__code_without_a_module__are_given_all_the_same(make, binary):
    X, y = binary
    names = {"clf": make(max_epochs=1, early_stopping=False), "X": ["", *X[1:]], "y": y}
    with pytest.warns(TextDataWarning, match="empty"):
        exec("clf.fit(X, y)", names)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("Сегодня хорошая погода", True),
        ("Σήμερα ο καιρός είναι καλός", True),
        ("Das schöne Mädchen läuft über die Brücke", False),
        ("L'été dernier, nous étions à la plage", False),
        ("I paid 20€ – “great” value", False),
        ("Сегодня хорошая погода 😀👍", True),
        ("Σήμερα ο καιρός είναι καλός 天", True),
        ("what a day 😀😀😀", False),
        ("😀", False),
    ],
)
@pytest.mark.pretrained
def test_spelled_out__bundled_tokenizer__tells_scripts_from_accents(text, spelled):
    tokenizer = load_pretrained(BUNDLED_NAME).tokenizer
    n_pieces = len(tokenizer.tokenize(text))
    assert is_spelled_out(text, n_pieces) == spelled


def test_unknown_script__tokenizer_that_reads_bytes_by_design__is_none(make, checkpoints, tmp_path):
    ByT5Tokenizer().save_pretrained(tmp_path)
    config = BertConfig(vocab_size=384, intermediate_size=64, **SIZES)
    with torch.random.fork_rng([]):
        BertModel(config).save_pretrained(tmp_path)
    X = [f"Съешь же ещё этих мягких французских булок {i}" for i in range(40)]
    assert (
        faults(make(model=tmp_path, max_epochs=1, early_stopping=False), X, ["a", "b"] * 20) == []
    )


@pytest.mark.pretrained
def test_unknown_script__chinese_texts_and_the_bundled_encoder__is_told():
    X = [
        "今天股市大幅上涨，投资者信心恢复",
        "球队在加时赛中赢得冠军奖杯",
        "央行宣布下调贷款利率",
        "前锋受伤将缺席下周的比赛",
        "公司公布第三季度财务报告",
        "教练对年轻球员的表现感到满意",
    ]
    clf = TransformerTextClassifier(max_epochs=1, early_stopping=False, random_state=0, verbose=0)
    messages = faults(clf, X, ["finance", "sports"] * 3)
    assert [message for message in messages if "tokens are unknown to the tokenizer" in message]


def test_empty_texts__where_the_unknown_token_means_other_things__are_no_script(make):
    X, y = toy_texts(20)
    X[:4] = [""] * 4
    messages = faults(make("gpt2", max_epochs=1, early_stopping=False), X, y)
    assert len(messages) == 2  # empty; the same text with two labels
    assert not [m for m in messages if "script" in m]


def test_warnings__in_a_fit__point_at_the_caller(make, binary):
    X, y = binary
    with pytest.warns(TextDataWarning) as caught:
        make(max_epochs=1, early_stopping=False).fit(["", *X[1:]], y)
    assert caught[0].filename == __file__
