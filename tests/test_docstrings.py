"""Public docstrings are numpydoc, and name what the signatures have, in their order."""

import inspect
import re

import pytest
from numpydoc.docscrape import FunctionDoc, NumpyDocString
from numpydoc.validate import validate

import sklearn_transformers
from sklearn_transformers import TransformerTextClassifier

PUBLIC_METHODS = [
    name
    for name, member in vars(TransformerTextClassifier).items()
    if inspect.isfunction(member) and not name.startswith("_")
]
CLASS_DOC = NumpyDocString(inspect.getdoc(TransformerTextClassifier))


def test_class__parameters__match_signature_in_order():
    documented = [parameter.name for parameter in CLASS_DOC["Parameters"]]
    assert documented == list(inspect.signature(TransformerTextClassifier).parameters)


@pytest.mark.parametrize("parameter", CLASS_DOC["Parameters"], ids=lambda p: p.name)
def test_class__default__matches_signature(parameter):
    stated = re.search(r"default=(.+)$", parameter.type).group(1)
    actual = inspect.signature(TransformerTextClassifier).parameters[parameter.name].default
    assert stated == (f'"{actual}"' if isinstance(actual, str) else repr(actual))


def test_class__attributes__are_those_of_a_fitted_estimator(fitted):
    documented = {attribute.name for attribute in CLASS_DOC["Attributes"]}
    public = {name for name in vars(fitted) if name.endswith("_") and not name.startswith("_")}
    assert documented == public


@pytest.mark.parametrize("name", PUBLIC_METHODS)
def test_method__parameters_and_defaults__match_signature(name):
    method = getattr(TransformerTextClassifier, name)
    documented = FunctionDoc(method)["Parameters"]
    signature = [p for p in inspect.signature(method).parameters.values() if p.name != "self"]
    assert [p.name for p in documented] == [p.name for p in signature]
    for parameter, actual in zip(documented, signature, strict=True):
        if actual.default is not inspect.Parameter.empty:
            assert parameter.type.endswith(f"default={actual.default}"), parameter.name


IGNORED = {
    "EX01",  # the class has the example
    "SA01",  # the class says what to see also
    "RT02",  # what is returned has a name here, as in scikit-learn
    "ES01",  # a summary that says all needs no extension
    "GL01",  # text may begin on the line of the quotes
}


@pytest.mark.parametrize(
    "name",
    [
        "TransformerTextClassifier",
        *(f"TransformerTextClassifier.{name}" for name in PUBLIC_METHODS),
        "OnnxTextClassifier",
        *(f"OnnxTextClassifier.{name}" for name in ("load", "fit", "predict", "predict_proba")),
        "InvalidTextError",
        "PretrainedModelError",
        "TextDataWarning",
        "TrainingDivergedError",
        "testing.adapt_text_estimator",
        "testing.check_text_estimator",
        "testing.rows_to_texts",
    ],
)
def test_numpydoc__validation__finds_nothing(name):
    errors = validate(f"sklearn_transformers.{name}")["errors"]
    assert [error for error in errors if error[0] not in IGNORED] == []


def test_all__names__exist_and_are_complete():
    for name in sklearn_transformers.__all__:
        assert getattr(sklearn_transformers, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Nope'"):
        _ = sklearn_transformers.Nope
