"""The data of the examples, and that each example stays short. `.ci/run` runs them."""

from collections import Counter
from pathlib import Path

import pytest
from conftest import load_example
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


def test_docstring_topics__size__is_as_advertised(topics):
    texts, labels = topics
    counts = Counter(labels)
    assert len(counts) == 19
    assert max(counts.values()) == 120
    assert min(counts.values()) >= 40
    assert 1800 <= len(texts) == len(labels) <= 2200


def test_docstring_topics__paragraphs__are_unique_prose(topics):
    texts, _ = topics
    assert len(set(texts)) == len(texts)
    assert all(len(text) >= 40 and "\n" not in text for text in texts)
    assert not [text for text in texts if ">>>" in text or "----" in text]


def test_docstring_topics__two_calls__are_the_same(topics):
    assert load_example("docstring_topics").load_docstring_topics() == topics


def test_docstring_topics__tf_idf__finds_it_neither_trivial_nor_hopeless(topics):
    parts = train_test_split(*topics, test_size=0.25, stratify=topics[1], random_state=0)
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)),
        LogisticRegression(C=10, max_iter=1000),
    )
    assert 0.6 < model.fit(parts[0], parts[2]).score(parts[1], parts[3]) < 0.85


def test_docstring_topics__max_per_topic__bounds_every_topic():
    _, labels = load_example("docstring_topics").load_docstring_topics(max_per_topic=10)
    assert set(Counter(labels).values()) == {10}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example__any__is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 100


def test_quickstart__csv__is_read(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text('stars,review\n5,"good, really"\n1,"bad\nvery"\n', encoding="utf-8-sig")
    texts, labels = load_quickstart().read_csv(file, "review", "stars")
    assert texts == ["good, really", "bad\nvery"]
    assert labels == ["5", "1"]


def test_quickstart__wrong_column__says_which(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="has no column 'review' in row 1"):
        load_quickstart().read_csv(file, "review", "b")


def load_quickstart():
    import sys

    sys.path.insert(0, str(EXAMPLES[0].parent))
    try:
        return load_example("quickstart")
    finally:
        sys.path.pop(0)
