"""Saved folders as transformers reads them, and its published classifiers as we read them."""

import json
import threading

import numpy as np
import pytest
import torch
from conftest import _tokenizer
from skorch.callbacks import Callback
from test_families import CONFIGS
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    pipeline,
)

from sklearn_transformers import PretrainedModelError, TransformerTextClassifier

TEXTS = ["the film was great", "bad " * 30, "a sad day", "quite 漢字"]


def their_logits(folder, texts=TEXTS):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = []
    with torch.inference_mode():
        for text in texts:
            batch = tokenizer([text], return_tensors="pt", truncation=True)
            batch.pop("token_type_ids", None)
            answers.append(model(**batch).logits.numpy())
    return np.concatenate(answers), model.config


READABLE = [
    ("bert", "cls"),
    ("bert", "mean"),
    ("roberta", "cls"),
    ("roberta", "mean"),
    ("distilbert", "cls"),
    ("gpt2", "last"),
]


@pytest.mark.parametrize(("architecture", "pooling"), READABLE)
def test_auto_model__saved_folder__same_logits_and_names(
    make, three_classes, tmp_path, architecture, pooling
):
    clf = make(architecture, pooling=pooling, max_epochs=2).fit(*three_classes)
    clf.save(tmp_path / "saved")
    logits, config = their_logits(tmp_path / "saved")
    np.testing.assert_allclose(logits, clf.decision_function(TEXTS), rtol=1e-4, atol=1e-4)
    assert list(config.id2label.values()) == clf.classes_.tolist()
    assert config.label2id == {"bad": 0, "good": 1, "plain": 2}


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pipeline__saved_folder__same_probabilities(make, three_classes, tmp_path, pooling):
    clf = make(pooling=pooling, max_epochs=2).fit(*three_classes)
    clf.save(tmp_path / "saved")
    classify = pipeline("text-classification", str(tmp_path / "saved"), top_k=None, device="cpu")
    for answers, expected in zip(classify(TEXTS), clf.predict_proba(TEXTS), strict=True):
        found = {answer["label"]: answer["score"] for answer in answers}
        np.testing.assert_allclose(
            [found[label] for label in clf.classes_], expected, rtol=0, atol=1e-5
        )


def test_pipeline__batch_with_padding__same_labels(make, three_classes, tmp_path):
    clf = make(pooling="mean", max_epochs=2).fit(*three_classes)
    clf.save(tmp_path / "saved")
    texts = three_classes[0][:50]
    classify = pipeline("text-classification", str(tmp_path / "saved"), device="cpu")
    found = [answer["label"] for answer in classify(texts, batch_size=16)]
    assert found == clf.predict(texts).tolist()


def test_tokenizer__truncation_without_a_length__cuts_as_the_classifier(
    make, three_classes, tmp_path
):
    make(max_epochs=1, max_length=7).fit(*three_classes).save(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert len(tokenizer("good " * 50, truncation=True)["input_ids"]) == 7


LONG = ["good " * 20 + "bad " * 20, "bad " * 20 + "good " * 20]


@pytest.mark.parametrize("side", ["right", "left"])
def test_pipeline__texts_that_are_cut__same_probabilities_unless_in_the_middle(
    make, three_classes, tmp_path, side
):
    clf = make(max_epochs=2, max_length=7, truncation_side=side).fit(*three_classes)
    clf.save(tmp_path / "saved")
    logits, _ = their_logits(tmp_path / "saved", LONG)
    np.testing.assert_allclose(logits, clf.decision_function(LONG), rtol=1e-4, atol=1e-4)
    classify = pipeline("text-classification", str(tmp_path / "saved"), top_k=None, device="cpu")
    # As the card says; each text has more tokens than the model has positions.
    for text in [*LONG, "bad good " * 200]:
        (answers,) = classify([text], truncation=True)
        found = {answer["label"]: answer["score"] for answer in answers}
        ours = clf.predict_proba([text])[0]
        np.testing.assert_allclose([found[c] for c in clf.classes_], ours, rtol=0, atol=1e-5)
    card = (tmp_path / "saved" / "README.md").read_text()
    assert 'classify(["a text"], truncation=True)' in card
    assert "cut at their end" not in card


def test_card__middle_is_left_out__says_that_transformers_cuts_elsewhere(
    make, three_classes, tmp_path
):
    make(max_epochs=1, max_length=7).fit(*three_classes).save(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "Texts of more than 7 tokens are cut at their end there" in card


def test_from_pretrained__texts_that_are_cut__answers_as_transformers(
    make, three_classes, tmp_path
):
    make(max_epochs=2, max_length=7).fit(*three_classes).save(tmp_path / "saved")
    adopted = TransformerTextClassifier.from_pretrained(tmp_path / "saved", max_length=7)
    assert adopted.truncation_side == "right"
    logits, _ = their_logits(tmp_path / "saved", LONG)
    np.testing.assert_allclose(adopted.decision_function(LONG), logits, rtol=1e-4, atol=1e-4)
    config = tmp_path / "saved" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"truncation_side": "left"}))
    lefty = TransformerTextClassifier.from_pretrained(tmp_path / "saved", max_length=7)
    assert lefty.truncation_side == "left"
    logits_of_ends, _ = their_logits(tmp_path / "saved", LONG)
    np.testing.assert_allclose(lefty.decision_function(LONG), logits_of_ends, rtol=1e-4, atol=1e-4)
    asked = TransformerTextClassifier.from_pretrained(
        tmp_path / "saved", max_length=7, truncation_side="left"
    )
    assert np.abs(asked.decision_function(LONG) - logits).max() > 0.01


@pytest.mark.parametrize("classes", [(0, 1), (False, True)], ids=str)
def test_auto_model__labels_that_are_no_texts__are_named_by_them(make, tmp_path, binary, classes):
    codes = [classes[label == "yes"] for label in binary[1]]
    make(max_epochs=1).fit(binary[0], codes).save(tmp_path / "saved")
    _, config = their_logits(tmp_path / "saved", ["good"])
    assert list(config.id2label.values()) == [str(label) for label in classes]


@pytest.mark.parametrize(
    "parameters",
    [{"head": "mlp"}, {"head": "attention"}, {"pooling": "max"}, {"tuning": "prompt"}],
    ids=str,
)
def test_auto_model__answers_that_transformers_cannot_give__backbone_only(
    make, binary, tmp_path, parameters
):
    clf = make(max_epochs=1, **parameters).fit(*binary)
    clf.save(tmp_path / "saved")
    backbone = AutoModel.from_pretrained(tmp_path / "saved")
    ours = clf.model_.backbone.state_dict()
    for name, weight in ours.items():
        assert torch.equal(backbone.state_dict()[name], weight)
    assert "pipeline(" not in (tmp_path / "saved" / "README.md").read_text()


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "gpt2"])
def test_save__generator__is_neither_drawn_from_nor_put_back(
    make, three_classes, tmp_path, monkeypatch, architecture
):
    clf = make(architecture, max_epochs=1).fit(*three_classes)
    monkeypatch.setattr(torch.random, "fork_rng", None)  # a fit in another thread may be drawing
    before = torch.get_rng_state()
    clf.save(tmp_path / "saved")
    assert torch.equal(torch.get_rng_state(), before)
    their_logits(tmp_path / "saved")


def test_saved_mean_layer__weights_of_the_backbone__stay_as_they_are(make, binary, tmp_path):
    clf = make(pooling="mean", max_epochs=1).fit(*binary)
    before = {name: weight.clone() for name, weight in clf.model_.state_dict().items()}
    clf.save(tmp_path / "saved")
    for name, weight in clf.model_.state_dict().items():
        assert torch.equal(weight, before[name])
    _, config = their_logits(tmp_path / "saved", ["good"])
    assert config.num_hidden_layers == clf.model_.backbone.config.num_hidden_layers + 1


FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "albert", "electra", "mpnet")
FAMILIES += ("deberta-v2", "gpt2", "llama", "qwen2", "qwen3", "bigbird", "convbert", "squeezebert")


@pytest.fixture
def publish(tmp_path):
    """Write a random sequence classifier of a family, as it is found on the Hub."""

    def publish(family, **changes):
        tokenizer = _tokenizer("roberta" if "roberta" in family else "bert")
        config = CONFIGS[family](
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=0,
            eos_token_id=2,
            sep_token_id=2,
        )
        config.id2label = {0: "plain", 1: "bad", 2: "good"}
        config.label2id = {"plain": 0, "bad": 1, "good": 2}
        for name, value in changes.items():
            setattr(config, name, value)
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            model = AutoModelForSequenceClassification.from_config(config)
            for name, weight in model.named_parameters():  # heads answer clearly
                if not name.startswith(f"{model.base_model_prefix}."):
                    torch.nn.init.normal_(weight, std=0.3)
        folder = tmp_path / family
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return publish


@pytest.mark.parametrize("family", FAMILIES)
def test_from_pretrained__published_classifier__same_logits_by_label(publish, family):
    folder = publish(family)
    clf = TransformerTextClassifier.from_pretrained(folder, device="cpu")
    logits, config = their_logits(folder)
    assert clf.classes_.tolist() == ["bad", "good", "plain"]
    columns = [config.label2id[label] for label in clf.classes_]
    np.testing.assert_allclose(
        clf.decision_function(TEXTS), logits[:, columns], rtol=1e-4, atol=1e-4
    )
    together = clf.predict_proba(TEXTS)
    alone = np.concatenate([clf.predict_proba([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "gpt2"])
def test_from_pretrained__saved_again__is_read_by_both(publish, tmp_path, family):
    clf = TransformerTextClassifier.from_pretrained(publish(family), device="cpu")
    clf.save(tmp_path / "saved")
    loaded = TransformerTextClassifier.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    logits, _ = their_logits(tmp_path / "saved")
    np.testing.assert_allclose(logits, clf.decision_function(TEXTS), rtol=1e-4, atol=1e-4)
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "nothing was measured" in card
    assert f"Taken over from `{family}`" in card


def test_from_pretrained__going_on__keeps_the_head_that_it_has(publish, three_classes):
    folder = publish("bert")
    clf = TransformerTextClassifier.from_pretrained(
        folder, device="cpu", learning_rate=1e-3, random_state=0, verbose=0, precision="float32"
    )
    before = clf.model_.head.dense.weight.clone()
    losses = []
    for _ in range(4):
        clf.partial_fit(*three_classes)
        losses.append(clf.history_[-1]["train_loss"])
    assert losses[-1] < losses[0]
    assert not torch.equal(clf.model_.head.dense.weight, before)
    assert clf.n_iter_ == 4
    assert [row["epoch"] for row in clf.history_] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "labels", [{0: "bad", 1: "good"}, {0: "bad", 1: "good", 3: "plain"}], ids=["fewer", "a gap"]
)
def test_from_pretrained__labels_that_are_not_those_of_the_weights__are_refused(publish, labels):
    folder = publish("bert")
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": labels, "label2id": {name: code for code, name in labels.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(PretrainedModelError, match="no fine-tuned classifier of single labels"):
        TransformerTextClassifier.from_pretrained(folder)


def test_from_pretrained__backbone_once_read__does_not_ask_the_hub_again(publish, monkeypatch):
    seen, original = [], BertForSequenceClassification.from_pretrained

    def from_pretrained(*arguments, **where):
        seen.append(where["local_files_only"])
        return original(*arguments, **where)

    monkeypatch.setattr(BertForSequenceClassification, "from_pretrained", from_pretrained)
    TransformerTextClassifier.from_pretrained(publish("bert"))
    assert seen == [True]


def test_from_pretrained__beside_a_fit_in_another_thread__neither_waits_for_ever(
    publish, make, binary, monkeypatch
):
    folder, reading, held = publish("bert"), threading.Event(), threading.Event()
    original = AutoTokenizer.from_pretrained

    def slow(source, **where):
        if str(source) == str(folder):
            reading.set()
            held.wait(1)  # in vain where the fit has to wait for its turn: that is right, too
        return original(source, **where)

    def fit():
        reading.wait()
        make(max_epochs=1, callbacks=[Signal(held)]).fit(*binary)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", slow)
    threads = [
        threading.Thread(target=target, daemon=True)
        for target in (fit, lambda: TransformerTextClassifier.from_pretrained(folder))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


class Signal(Callback):
    """Says that training has begun."""

    def __init__(self, event):
        self.event = event

    def on_train_begin(self, net, **kwargs):
        self.event.set()


def test_from_pretrained__fit__starts_anew_from_the_backbone(publish, three_classes, make):
    folder = publish("bert")
    settled = ("model", "pooling", "head")
    parameters = {n: v for n, v in make(max_epochs=1).get_params().items() if n not in settled}
    clf = TransformerTextClassifier.from_pretrained(folder, **parameters)
    plain = TransformerTextClassifier(folder, **parameters)
    np.testing.assert_array_equal(
        clf.fit(*three_classes).predict_proba(TEXTS),
        plain.fit(*three_classes).predict_proba(TEXTS),
    )


def test_from_pretrained__contrastive_from_there__is_refused(publish, three_classes):
    clf = TransformerTextClassifier.from_pretrained(
        publish("bert"), device="cpu", warm_start=True, tuning="contrastive", verbose=0
    )
    with pytest.raises(ValueError, match="tuning='contrastive' fits a linear head"):
        clf.fit(*three_classes)


def test_from_pretrained__backbone_without_head__is_refused(checkpoints):
    with pytest.raises(PretrainedModelError, match="is no fine-tuned classifier of single labels"):
        TransformerTextClassifier.from_pretrained(checkpoints["bert"])


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_from_pretrained__other_problems__are_refused(publish, problem):
    with pytest.raises(PretrainedModelError, match=f"problem_type: '{problem}'"):
        TransformerTextClassifier.from_pretrained(publish("bert", problem_type=problem))


def test_from_pretrained__labels_that_are_not_distinct__are_refused(publish):
    folder = publish("bert", id2label={0: "bad", 1: "bad", 2: "good"})
    with pytest.raises(PretrainedModelError, match="labels are not distinct"):
        TransformerTextClassifier.from_pretrained(folder)


def test_from_pretrained__head_of_another_kind__is_refused(publish):
    with pytest.raises(PretrainedModelError, match="heads of this kind are not known"):
        TransformerTextClassifier.from_pretrained(publish("modernbert"))


@pytest.mark.parametrize("settled", ["pooling", "head"])
def test_from_pretrained__what_the_checkpoint_settles__is_refused(settled):
    with pytest.raises(ValueError, match=f"{settled} cannot be passed to from_pretrained"):
        TransformerTextClassifier.from_pretrained("no/such-model", **{settled: "mean"})


def test_from_pretrained__bad_parameter__is_refused_before_loading():
    with pytest.raises(ValueError, match="'max_length' parameter"):
        TransformerTextClassifier.from_pretrained("no/such-model", max_length=0)


@pytest.mark.pretrained
def test_auto_model__default_classifier__same_logits(tmp_path, three_classes):
    clf = TransformerTextClassifier(
        max_epochs=1, bag_of_words=False, random_state=0, verbose=0, device="cpu"
    )
    clf.fit(three_classes[0][:60], three_classes[1][:60])
    clf.save(tmp_path / "saved")
    logits, _ = their_logits(tmp_path / "saved")
    np.testing.assert_allclose(logits, clf.decision_function(TEXTS), rtol=1e-4, atol=1e-4)
