"""What is trained: all, additions, biases, a prompt, the head; and that nothing else is."""

import copy
import pickle
import sys

import numpy as np
import pytest
import torch
from conftest import n_texts, toy_texts
from skorch.callbacks import Callback

from sklearn_transformers import (
    TextDataWarning,
    TransformerTextClassifier,
    clear_cache,
    set_cache_size,
)
from sklearn_transformers._cache import VECTORS
from sklearn_transformers._pretrained import load_pretrained

PARTIAL = ("lora", "bias", "prompt", "head")
EVERY = ("full", "contrastive", *PARTIAL)


@pytest.fixture
def tuned(make):
    """Make a classifier that trains a part only, fast enough to move it."""

    def tuned(tuning, architecture="bert", **parameters):
        defaults = {"tuning": tuning, "learning_rate": 0.02, "max_epochs": 3}
        if tuning == "contrastive":
            defaults |= {"head_init": "auto", "head_learning_rate": "auto"}
        return make(architecture, **(defaults | {"early_stopping": False} | parameters))

    return tuned


def changed(clf):
    """Names of the backbone's weights that are not the checkpoint's any more."""
    before = load_pretrained(clf.model).backbone.state_dict()
    after = clf.model_.backbone.state_dict()
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


# --- what changes and what does not ----------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
@pytest.mark.parametrize("tuning", ["prompt", "head"])
def test_backbone__prompt_and_head__stays_as_it_was_bit_for_bit(
    tuned, three_classes, tuning, architecture
):
    clf = tuned(tuning, architecture).fit(*three_classes)
    assert changed(clf) == set()
    assert all(weight.requires_grad for weight in clf.model_.parameters())


def test_backbone__bias__only_biases_change(tuned, three_classes):
    clf = tuned("bias").fit(*three_classes)
    names = {name for name, _ in clf.model_.backbone.named_parameters() if name.endswith("bias")}
    # The keys' biases add the same to all scores of a token, which the softmax takes out again.
    assert names - {n for n in names if "key" in n} <= changed(clf) <= names


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_backbone__lora__only_linear_layers_change_by_few_ranks(tuned, three_classes, architecture):
    clf = tuned("lora", architecture, lora_rank=2).fit(*three_classes)
    before = load_pretrained(clf.model).backbone.state_dict()
    after = clf.model_.backbone.state_dict()
    names = changed(clf)
    assert len(names) == (12 if architecture == "bert" else 8)
    for name in names:
        assert before[name].ndim == 2
        spectrum = torch.linalg.svdvals(after[name].double() - before[name].double())
        assert spectrum[1] > 1e-4, name
        assert spectrum[2] < 1e-5 * spectrum[0], name


@pytest.mark.parametrize("tuning", EVERY)
def test_model__after_fit__consists_of_plain_modules(tuned, three_classes, tuning):
    clf = tuned(tuning).fit(*three_classes)
    origins = {type(module).__module__.split(".")[0] for module in clf.model_.modules()}
    assert origins <= {"torch", "transformers", "sklearn_transformers"}
    assert type(clf.model_.backbone).__name__ == "BertModel"
    assert not hasattr(clf.model_.backbone, "peft_config")


@pytest.mark.parametrize(
    ("tuning", "parameters", "n_trainable"),
    [
        # Ten linear layers of 32 x 32, 32 x 64 and 64 x 32 in two layers of the tiny BERT.
        ("lora", {"lora_rank": 3}, 3 * 2 * (4 * 64 + 2 * 96) + 99),
        ("prompt", {"n_prompt_tokens": 5}, 5 * 32 + 99),
        ("head", {}, 3 * 32 + 3),
        ("head", {"head": "mlp"}, 3 * 32 + 3 + 32 * 32 + 32),
        ("head", {"head": "attention"}, 3 * 32 + 3 + 32),
    ],
)
def test_n_trainable__counted_by_hand(tuned, three_classes, tuning, parameters, n_trainable):
    clf = tuned(tuning, **parameters).fit(*three_classes)
    assert clf.n_trainable_ == n_trainable


def test_n_trainable__full_tuning__is_every_weight_but_unread_embeddings(tuned, three_classes):
    clf = tuned("full").fit(*three_classes)
    table = clf.model_.backbone.get_input_embeddings()
    read = set(np.concatenate([clf.tokenizer_(text)["input_ids"] for text in three_classes[0]]))
    unread = (table.num_embeddings - len(read - {table.padding_idx})) * table.embedding_dim
    assert clf.n_trainable_ == sum(w.numel() for w in clf.model_.parameters()) - unread


@pytest.mark.parametrize("tuning", ["full", "lora", "bias", "contrastive"])
def test_freeze_layers__lowest_layer_and_embeddings__stay(tuned, three_classes, tuning):
    clf = tuned(tuning, freeze_layers=1).fit(*three_classes)
    names = changed(clf)
    assert any("layer.1." in name for name in names)
    assert not any("layer.0." in name or "embeddings" in name for name in names)


@pytest.mark.parametrize("tuning", EVERY)
def test_tuning__toy_texts__are_learnt(tuned, three_classes, tuning):
    X, y = three_classes
    parameters = {"head_init": "auto", "max_epochs": 12, "pooling": "mean"}
    clf = tuned(tuning, **parameters).fit(X, y)
    assert clf.tuning_ == tuning
    # A third by guessing; what a backbone of random weights makes of the texts goes only so far.
    assert clf.score(X, y) > (0.9 if tuning in ("full", "contrastive", "lora") else 0.6)


@pytest.mark.parametrize("tuning", EVERY)
def test_tuning__pickled__answers_the_same_and_names_no_library(tuned, three_classes, tuning):
    X, y = three_classes
    clf = tuned(tuning).fit(X, y)
    data = pickle.dumps(clf)
    for name in (b"torch", b"peft", b"skorch"):
        assert b"c" + name not in data
    loaded = pickle.loads(data)
    np.testing.assert_array_equal(loaded.predict_proba(X), clf.predict_proba(X))
    np.testing.assert_array_equal(loaded.transform(X), clf.transform(X))


@pytest.mark.parametrize("tuning", PARTIAL)
def test_tuning__same_seed__gives_the_same_bits(tuned, three_classes, tuning):
    X, y = three_classes
    first, second = (tuned(tuning).fit(X, y).predict_proba(X) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("tuning", PARTIAL)
def test_tuning__batched__answers_as_for_single_texts(tuned, three_classes, tuning):
    X, y = three_classes
    clf = tuned(tuning).fit(X, y)
    alone = np.vstack([clf.predict_proba([text]) for text in X[:12]])
    np.testing.assert_allclose(clf.predict_proba(X)[:12], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tuning", EVERY)
def test_tuning__copied_by_a_scorer__answers_as_it_did_then(tuned, three_classes, tuning):
    X, y = three_classes
    differences = []

    def compare(clf, texts, labels):
        twin = copy.deepcopy(clf)  # by way of what a pickle holds
        differences.append(np.abs(twin.predict_proba(X) - clf.predict_proba(X)).max())
        return 0.0

    tuned(tuning, early_stopping=True, scoring=compare).fit(X, y)
    assert len(differences) > 1
    assert max(differences) < 1e-5


def test_lora__merged__answers_as_the_additions_did(tuned, three_classes):
    X, y = three_classes
    clf = tuned("lora", early_stopping=True, scoring="neg_log_loss", calibrate=False)
    clf.fit(X, y, X_val=X[:60], y_val=y[:60])
    log_proba = clf.predict_log_proba(X[:60])
    codes = np.searchsorted(clf.classes_, y[:60])
    assert clf.best_epoch_ > 0
    assert np.mean(log_proba[np.arange(60), codes]) == pytest.approx(clf.best_score_, abs=1e-5)


@pytest.mark.parametrize("tuning", ["lora", "bias", "prompt"])
def test_tuning__gradient_checkpointing__does_not_matter(tuned, three_classes, tuning):
    X, y = three_classes
    plain = tuned(tuning, dropout=0.0).fit(X, y)
    sparing = tuned(tuning, dropout=0.0, gradient_checkpointing=True).fit(X, y)
    np.testing.assert_allclose(sparing.predict_proba(X), plain.predict_proba(X), atol=1e-5)


# --- going on --------------------------------------------------------------------------------


@pytest.mark.parametrize("tuning", PARTIAL)
def test_partial_fit__every_tuning__goes_on_from_the_model(tuned, three_classes, tuning):
    X, y = three_classes
    clf = tuned(tuning).fit(X[:120], y[:120])
    before = clf.predict_proba(X)
    names = changed(clf)
    clf.partial_fit(X[120:], y[120:])
    assert np.abs(clf.predict_proba(X) - before).max() > 1e-4
    if tuning in ("prompt", "head"):
        assert changed(clf) == names == set()


@pytest.mark.parametrize("tuning", EVERY)
def test_warm_start__another_tuning__begins_where_the_last_ended(tuned, three_classes, tuning):
    X, y = three_classes
    clf = tuned(tuning, warm_start=True).fit(X, y)
    before = clf.model_.state_dict()
    clf.set_params(tuning="head", head_learning_rate=1e-12, head_init="random").fit(X, y)
    after = clf.model_.state_dict()
    assert clf.tuning_ == "head"
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)


def test_warm_start__full_after_contrastive__trains_the_head_again(tuned, binary):
    X, y = binary
    clf = tuned("contrastive", warm_start=True).fit(X, y)
    head = clf.model_.head.weight.detach().clone()
    clf.set_params(tuning="full").fit(X, y)
    assert not torch.equal(clf.model_.head.weight, head)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_warm_start__after_a_prompt__keeps_it(tuned, three_classes, tuning):
    X, y = three_classes
    clf = tuned("prompt", warm_start=True, n_prompt_tokens=4).fit(X, y)
    clf.set_params(tuning=tuning).fit(X, y)
    assert clf.model_.prompt.shape == (4, 32)
    assert changed(clf) != set()


def test_warm_start__other_head__is_refused(tuned, three_classes):
    clf = tuned("full", warm_start=True).fit(*three_classes)
    with pytest.raises(ValueError, match="began with head='linear', but the parameter is now"):
        clf.set_params(head="mlp").fit(*three_classes)


# --- prompts ---------------------------------------------------------------------------------


def test_prompt__texts_that_are_cut__are_told_what_can_be_read_beside_it(tuned, binary):
    X = [" ".join([text] * 60) for text in binary[0]]
    with pytest.warns(TextDataWarning, match="but this model reads no more than 200;"):
        tuned("prompt", n_prompt_tokens=100, max_length=50, max_epochs=1).fit(X, binary[1])


def test_prompt__positions__are_taken_from_the_longest_input(tuned, three_classes):
    with pytest.warns(UserWarning, match="more than this model can read; using 290"):
        clf = tuned("prompt", n_prompt_tokens=10, max_length=300).fit(*three_classes)
    assert clf.max_length_ == 290
    assert np.isfinite(clf.predict_proba(["good " * 400])).all()


def test_prompt__longer_than_the_model_can_read__is_refused(tuned, three_classes):
    with pytest.raises(ValueError, match="n_prompt_tokens=298 leaves no room for text"):
        tuned("prompt", n_prompt_tokens=298).fit(*three_classes)


def test_prompt__forward__is_that_of_vectors_in_front(tuned, three_classes):
    clf = tuned("prompt", pooling="mean").fit(*three_classes)
    model, ids = clf.model_, torch.tensor([clf.tokenizer_("good film")["input_ids"]])
    with torch.no_grad():
        words = model.backbone.get_input_embeddings()(ids)
        vectors = torch.cat([model.prompt[None], words], dim=1)
        hidden = model.backbone(inputs_embeds=vectors).last_hidden_state[0, len(model.prompt) :]
    np.testing.assert_allclose(clf.transform(["good film"])[0], hidden.mean(dim=0), atol=1e-5)


def test_prompt__moved__from_the_embeddings_that_it_started_as(tuned, three_classes):
    clf = tuned("prompt", learning_rate=1e-12).fit(*three_classes)
    table = clf.model_.backbone.get_input_embeddings().weight
    nearest = torch.cdist(clf.model_.prompt, table).min(dim=1).values
    assert nearest.max() < 1e-3
    moved = tuned("prompt").fit(*three_classes).model_.prompt
    assert torch.cdist(moved, table).min() > 1e-3


# --- frozen backbone: vectors once -----------------------------------------------------------


class Reads:
    """Counts the texts that go through the backbone."""

    def __init__(self, monkeypatch):
        self.n_texts = 0
        from transformers import BertModel

        forward = BertModel.forward

        def counted(module, input_ids=None, **inputs):
            self.n_texts += n_texts(input_ids, **inputs)
            return forward(module, input_ids=input_ids, **inputs)

        counted.__signature__ = __import__("inspect").signature(forward)
        monkeypatch.setattr(BertModel, "forward", counted)


def test_head__many_epochs__read_each_text_once(tuned, three_classes, monkeypatch):
    X, y = three_classes
    clf = tuned("head", early_stopping=True, head_init="auto", max_epochs=5)
    load_pretrained(clf.model)  # which reads a few tokens to get to know the model
    reads = Reads(monkeypatch)
    clf.fit(X, y)
    assert reads.n_texts == len(set(X))
    clf.set_params(head_learning_rate=0.3, head="mlp", loss="focal").fit(X, y)
    assert reads.n_texts == len(set(X))


def test_head__new_seed_each_time__needs_no_text_again(tuned, three_classes, monkeypatch):
    X, y = three_classes
    parameters = {"early_stopping": True, "head_init": "auto", "random_state": None}
    load_pretrained(tuned("head").model)
    reads = Reads(monkeypatch)
    for _ in range(3):
        tuned("head", **parameters).fit(X, y)
    assert reads.n_texts == len(set(X))


def test_head_start__few_rows_again__reads_nothing_before_training(
    tuned, three_classes, monkeypatch
):
    X, y = [part[:80] for part in three_classes]
    counts = []
    for _ in range(2):
        reads = Reads(monkeypatch)
        tuned("full", early_stopping="auto", head_init="auto", max_epochs=1).fit(X, y)
        counts.append(reads.n_texts)
        monkeypatch.undo()
    # The head of all rows, and that of each fold; the first fit also gets to know the model.
    assert counts[0] - counts[1] >= len(set(X)) + len(set(X)) - 5


def test_head__scored_again__reads_nothing(tuned, three_classes, monkeypatch):
    X, y = three_classes
    clf = tuned("head").fit(X[:120], y[:120])
    reads = Reads(monkeypatch)
    first = clf.predict_proba(X[120:])
    assert reads.n_texts == len(set(X[120:]))
    np.testing.assert_array_equal(clf.predict_proba(X[120:]), first)
    again = tuned("head").fit(X[:120], y[:120])
    np.testing.assert_array_equal(again.predict_proba(X[120:]), first)
    assert reads.n_texts == len(set(X[120:]))


def test_head__without_cache__gives_the_same_bits(tuned, three_classes):
    X, y = three_classes
    answers = []
    for size in (2**28, 2**28, 0):
        set_cache_size(vectors=size)
        answers.append(tuned("head", head_init="auto").fit(X, y).predict_proba(X))
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


def test_head__backbone_changed_by_hand__is_read_anew(tuned, three_classes):
    X, y = three_classes
    clf = tuned("head").fit(X, y)
    before = clf.transform(X)
    with torch.no_grad():
        clf.model_.backbone.encoder.layer[1].output.dense.weight.mul_(2)
    assert np.abs(clf.transform(X) - before).max() > 0.1


def test_transform__remembered_vectors__are_the_callers_to_change(tuned, three_classes):
    X, y = three_classes
    clf = tuned("head").fit(X, y)
    vectors = clf.transform(X)
    expected = vectors.copy()
    vectors[:] = 0
    np.testing.assert_array_equal(clf.transform(X), expected)


def test_cache__trained_backbone__leaves_no_vectors_of_its_own(tuned, three_classes):
    X, y = three_classes
    clf = tuned("full", head_init="auto").fit(X, y)
    assert len(VECTORS) == 1  # what the head started from
    clf.predict(X)
    assert len(VECTORS) == 1
    clear_cache()
    assert len(VECTORS) == 0


def test_head__frozen__is_at_least_the_regression_on_held_out_rows(tuned, three_classes):
    X, y = three_classes
    clf = tuned("head", early_stopping=True, head_init="auto", scoring="neg_log_loss")
    clf.fit(X[:180], y[:180], X_val=X[180:], y_val=y[180:])
    assert clf.best_score_ >= clf.history_[0]["valid_score"] - 0.05
    assert "penalty" in clf.history_[0]


# --- refused ---------------------------------------------------------------------------------


def test_lora__without_peft__is_one_clear_line(tuned, three_classes, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    message = r"tuning='lora' needs peft: pip install 'sklearn-transformers\[peft\]'\."
    with pytest.raises(ImportError, match=message):
        tuned("lora").fit(*three_classes)


def test_freeze_layers__more_than_there_are__is_refused(tuned, three_classes):
    with pytest.raises(ValueError, match="freeze_layers=3, but BertModel has 2 layers"):
        tuned("full", freeze_layers=3).fit(*three_classes)


def test_freeze_layers__nothing_left__is_refused_by_name(tuned, three_classes):
    with pytest.raises(ValueError, match="freeze_layers=2 freezes the whole backbone"):
        tuned("contrastive", freeze_layers=2).fit(*three_classes)


def test_prompt__other_length__is_refused_when_training_goes_on(tuned, three_classes):
    clf = tuned("prompt", warm_start=True, n_prompt_tokens=4).fit(*three_classes)
    with pytest.raises(ValueError, match="a prompt of 4 vectors, but n_prompt_tokens=9"):
        clf.set_params(n_prompt_tokens=9).fit(*three_classes)


def test_callbacks__see_what_rests(tuned, three_classes):
    class Look(Callback):
        def on_train_begin(self, net, **kwargs):
            self.names = [n for n, w in net.module_.named_parameters() if w.requires_grad]

    look = Look()
    tuned("prompt", callbacks=[look]).fit(*three_classes)
    assert look.names == ["prompt", "head.weight", "head.bias"]


def test_search__over_tuning_and_head__runs_as_any_other(make):
    from sklearn.model_selection import GridSearchCV

    X, y = toy_texts(90, classes=("bad", "good", "plain"))
    clf = make(max_epochs=2, early_stopping=False)
    grid = {"tuning": ["full", "lora", "head"], "head": ["linear", "mlp"]}
    search = GridSearchCV(clf, grid, cv=2, error_score="raise").fit(X, y)
    assert len(search.cv_results_["params"]) == 6
    assert isinstance(search.best_estimator_, TransformerTextClassifier)
    assert np.ptp(search.cv_results_["mean_test_score"]) > 0


# --- new classes -----------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["linear", "mlp", "attention"])
def test_add_classes__before_training__changes_no_label(make, binary, head):
    X, y = binary
    clf = make(head=head).fit(X, y)
    labels, vectors = clf.predict(X), clf.transform(X)
    scores = clf.decision_function(X)
    assert clf.add_classes(["maybe"]) is clf
    assert clf.classes_.tolist() == ["maybe", "no", "yes"]
    np.testing.assert_array_equal(clf.predict(X), labels)
    np.testing.assert_array_equal(clf.transform(X), vectors)
    wide = clf.decision_function(X)
    np.testing.assert_allclose(wide[:, 2] - wide[:, 1], scores, atol=1e-5)
    np.testing.assert_allclose(wide[:, 0], wide[:, 1:].mean(axis=1), atol=1e-5)


@pytest.mark.parametrize("tuning", ["full", "lora", "head"])
def test_add_classes__training_goes_on__learns_the_new_and_keeps_the_old(
    tuned, three_classes, tuning
):
    X, y = np.array(three_classes[0]), np.array(three_classes[1])
    old = y != "good"
    parameters = {"warm_start": True, "pooling": "mean", "max_epochs": 12}
    if tuning == "full":
        parameters["learning_rate"] = 0.003  # at more, it takes luck to learn the new class
    clf = tuned(tuning, **parameters).fit(X[old], y[old])
    clf.add_classes(["good"])
    again = pickle.loads(pickle.dumps(clf))
    for model in (clf.fit(X, y), again.fit(X, y)):
        assert model.classes_.tolist() == ["bad", "good", "plain"]
        assert model.n_iter_ == 24
        right = model.predict(X) == y
        assert min(right[y == label].mean() for label in model.classes_) > 0.3
        assert right.mean() > (0.55 if tuning == "head" else 0.85)
    np.testing.assert_array_equal(clf.predict_proba(X), again.predict_proba(X))


def test_add_classes__numbers__keep_their_type_and_order(make):
    X, y = toy_texts(60, classes=(3, 7))
    clf = make(early_stopping=False, max_epochs=1).fit(X, y).add_classes([5, 1])
    assert clf.classes_.tolist() == [1, 3, 5, 7]
    assert clf.classes_.dtype == np.asarray(y).dtype
    clf.partial_fit(["good film", "bad film"], [1, 5])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["yes", "maybe"], r"\['yes'\] are known already"),
        ([3], "same kind"),
        ([], "classes is empty"),
    ],
)
def test_add_classes__unusable__is_refused_and_nothing_changes(make, binary, classes, message):
    clf = make(early_stopping=False, max_epochs=1).fit(*binary)
    before = dict(vars(clf))
    with pytest.raises(ValueError, match=message):
        clf.add_classes(classes)
    assert vars(clf) == before


def test_add_classes__head_of_the_users__is_refused(make, binary):
    clf = make(head=torch.nn.Linear, early_stopping=False, max_epochs=1).fit(*binary)
    with pytest.raises(ValueError, match="cannot be widened"):
        clf.add_classes(["maybe"])


def test_add_classes__unfitted__says_so(make):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        make().add_classes(["maybe"])
