"""All of scikit-learn's checks for classifiers and transformers, on a tiny local model."""

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import estimator_checks_generator
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from sklearn_transformers import InvalidTextError, TransformerTextClassifier
from sklearn_transformers.testing import (
    adapt_text_estimator,
    check_text_estimator,
    rows_to_texts,
)

# At most five. Each must fail: an entry that passes has to go.
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": (
        "It asks for answers equal to 1e-7. Weighting a row and repeating it are the same loss, "
        "but float32 sums over other numbers of rows differ in the last digit. "
        "test_weights__whole_numbers__equal_repeated_rows holds them to 1e-5."
    ),
}
# What these ask for is the adapter's, as its docstring says.
ABOUT_COLUMNS = {
    "check_n_features_in",
    "check_n_features_in_after_fitting",
    "check_estimators_partial_fit_n_features",
}
# In scikit-learn's own test suite, though not in its battery for others. The two about column
# names are left out: texts have no columns.
BEYOND = (
    "check_param_validation",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_global_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_inplace_ensure_writeable",
)


def describe(check):
    """The check's name, and what tells it from others of that name."""
    options = ",".join(f"{name}={value}" for name, value in check.keywords.items())
    return f"{check.func.__name__}({options})" if options else check.func.__name__


CHECKS = [
    describe(check)
    for _, check in estimator_checks_generator(adapt_text_estimator(TransformerTextClassifier()))
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The matrices are far too small to be worth sharing out."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Folder of a one-layer BERT whose tokenizer knows the words of 30 columns."""
    grid = np.repeat(np.arange(0, 16, 0.25)[:, None], 30, axis=1)
    words = " ".join(rows_to_texts(grid)).split()
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]"
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    folder = str(tmp_path_factory.mktemp("contract") / "rows")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(checkpoint):
    """Learns 300 rows of two columns in half a second; small sets fit into one batch."""
    return TransformerTextClassifier(
        checkpoint,
        max_length=32,
        dropout=0.0,
        learning_rate=1e-2,
        batch_size=64,
        max_epochs=8,
        early_stopping=False,
        device="cpu",
        precision="float32",
        random_state=0,
        verbose=0,
    )


@pytest.fixture(scope="module")
def records(classifier):
    """What became of every check."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCIPY_ARRAY_API", "1")  # without it, check_array_api_input skips itself
        return check_text_estimator(
            classifier, expected_failed_checks=EXPECTED_FAILURES, on_skip=None, on_fail=None
        )


@pytest.mark.parametrize("position", range(len(CHECKS)), ids=CHECKS)
def test_contract__check__passes(position, records):
    record = records[position]
    assert record["check_name"] == CHECKS[position].split("(")[0]
    if record["status"] in {"failed", "skipped"}:
        raise AssertionError(record["status"]) from record["exception"]
    assert record["status"] == ("xfail" if record["expected_to_fail"] else "passed")


def test_contract__checks_that_ran__are_all_and_many(records):
    assert len(records) == len(CHECKS)
    passed = [record["check_name"] for record in records if record["status"] == "passed"]
    assert len(passed) == len(CHECKS) - len(EXPECTED_FAILURES)
    # Without those that pass or skip themselves whatever the estimator does.
    about_it = [name for name in passed if name not in ABOUT_COLUMNS | {"check_array_api_input"}]
    assert len(about_it) >= 63
    assert {
        "check_classifiers_train",
        "check_class_weight_classifiers",
        "check_estimators_pickle",
        "check_transformer_general",
        "check_transformer_data_not_an_array",
    } <= set(about_it)


def test_contract__expected_failures__are_few_and_do_fail(records):
    assert len(EXPECTED_FAILURES) <= 5
    failed = {record["check_name"] for record in records if record["status"] == "xfail"}
    assert failed == set(EXPECTED_FAILURES)


@pytest.mark.parametrize("name", BEYOND)
def test_contract__check_beyond_the_battery__passes(name, classifier):
    check = getattr(estimator_checks, name)
    check("TransformerTextClassifier", adapt_text_estimator(classifier))


def test_weights__whole_numbers__equal_repeated_rows(classifier):
    rng = np.random.default_rng(0)
    X = np.array(rows_to_texts(rng.random((15, 8))))
    y = np.arange(15) % 3
    weights = rng.permutation(np.arange(15) % 5)
    weighted = clone(classifier).fit(X, y, sample_weight=weights)
    repeated = clone(classifier).fit(X.repeat(weights), y.repeat(weights))
    plain = clone(classifier).fit(X, y)
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-5)
    assert np.abs(weighted.predict_proba(X) - plain.predict_proba(X)).max() > 1e-2


TEXTS = ["c0b01", "c0b02", "c0b03"]
# The adapter would recast these refusals; these are the estimator's own words.
MALFORMED = {
    "complex": (np.array([[1 + 1j], [2 + 1j], [3 + 1j]]), "Complex data not supported"),
    "sparse matrix": (sparse.csr_matrix(np.eye(3)), "sparse"),
    "sparse array": (sparse.csr_array(np.eye(3)), "sparse"),
    "no rows": ([], r"0 sample\(s\)"),
    "no columns": (np.empty((3, 0)), r"0 feature\(s\) \(shape=\(3, 0\)\) while a minimum of 1"),
    "NaN": ([*TEXTS[:2], np.nan], r"X\[2\] is nan.*contains NaN"),
    "None": ([*TEXTS[:2], None], r"X\[2\] is None.*contains NaN or None"),
    "no text": ([*TEXTS[:2], {"a": 1}], r"X\[2\] is {'a': 1} of type dict"),
    "one text": (TEXTS[0], r"For a single text pass a list: \[X\]"),
    "numbers": (np.ones((3, 2)), r"shape \(3, 2\)"),
}


@pytest.fixture(scope="module")
def trained(classifier):
    """Fitted on three texts; refusals leave it as it is."""
    return clone(classifier).fit(TEXTS, [0, 1, 1])


@pytest.mark.parametrize("kind", MALFORMED)
@pytest.mark.parametrize("method", ["fit", "partial_fit", "predict", "predict_proba", "transform"])
def test_method__malformed_texts__are_refused_in_so_many_words(trained, method, kind):
    X, words = MALFORMED[kind]
    arguments = {"fit": ([0, 1, 1],), "partial_fit": ([0, 1, 1],)}.get(method, ())
    with pytest.raises(InvalidTextError, match=words):
        getattr(trained, method)(X, *arguments)
