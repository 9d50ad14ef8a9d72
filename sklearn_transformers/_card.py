"""The page that introduces a saved model: what it is, how well it does, how to use it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["model_card"]

# More labels than this are counted, not named.
MOST_NAMED = 20


def model_card(estimator: Any, versions: Mapping[str, str], *, published: bool) -> str:
    """Write the card as Markdown, with the head that the Hub reads.

    Parameters
    ----------
    estimator : TransformerTextClassifier
        Fitted.
    versions : dict of str to str
        Package -> version.
    published : bool
        Whether transformers can read the model as one of its own.
    """
    sections = [
        _head(estimator, published),
        f"# {_title(estimator)}\n\n{_labels(estimator)}",
        f"## Use\n\n{_use(estimator, published)}",
        f"## Evaluation\n\n{_evaluation(estimator)}",
        f"## Training\n\n{_parameters(estimator)}",
        "## Versions\n\n" + _table({"package": "version", **versions}),
    ]
    return "\n\n".join(sections) + "\n"


def _head(estimator: Any, published: bool) -> str:
    library = "transformers" if published else "sklearn-transformers"
    lines = [
        f"library_name: {library}",
        "pipeline_tag: text-classification",
        "tags:",
        "- sklearn-transformers",
        "- text-classification",
    ]
    base = estimator._report.get("base_model")
    lines += [f"base_model: {base}"] if base else []
    return "\n".join(["---", *lines, "---"])


def _title(estimator: Any) -> str:
    return f"Text classifier with {len(estimator.classes_)} classes"


def _labels(estimator: Any) -> str:
    labels = [_in_line(label) for label in estimator.classes_.tolist()]
    named = ", ".join(f"`{label}`" for label in labels[:MOST_NAMED])
    more = len(labels) - MOST_NAMED
    named += f" and {more} more" if more > 0 else ""
    # Where a folder lies on this machine is nobody's business.
    folder = Path(estimator._started_with["model"]).name
    origin = estimator._report.get("base_model") or folder
    how = "Taken over" if _is_untrained(estimator) else "Fine-tuned"
    return f"Labels: {named}.\n\n{how} from `{origin}` with sklearn-transformers."


def _is_untrained(estimator: Any) -> bool:
    return bool(estimator._report["n_train"] == 0)


def _in_line(label: Any) -> str:
    """A label as it cannot break out of a line of code in Markdown."""
    return " ".join(str(label).replace("`", "'").split())


def _use(estimator: Any, published: bool) -> str:
    own = (
        "```python\n"
        "from sklearn_transformers import TransformerTextClassifier\n\n"
        'clf = TransformerTextClassifier.load("path/to/this/folder")\n'
        'clf.predict(["a text"])\n'
        "```"
    )
    theirs = (
        "\n\nor, without sklearn-transformers:\n\n"
        "```python\n"
        "from transformers import pipeline\n\n"
        'classify = pipeline("text-classification", "path/to/this/folder")\n'
        'classify(["a text"], truncation=True)\n'
        "```\n\n"
        "in float32 or bfloat16; float16 has not the range for every such model."
    )
    if estimator._padding.get("cut") == "middle":
        theirs += (
            f" Texts of more than {estimator.max_length_} tokens are cut at their end there, which "
            "is not what the model was trained with."
        )
    return own + theirs if published else own


def _evaluation(estimator: Any) -> str:
    report = estimator._report
    if _is_untrained(estimator):
        return "The model was taken over as it was published; nothing was measured."
    rows = {"": "", "texts trained on": f"{report['n_train']:,}"}
    none = "No rows were held out"
    if report.get("n_before"):
        rows["in earlier calls, some perhaps the same"] = f"{report['n_before']:,}"
        none = "The last call held out no rows"
    if "accuracy" not in report:
        return _table(rows) + f"\n\n{none} to judge the model by."
    how = "held-out texts"
    if report["n_folds"]:
        how = f"texts, each answered without it in {report['n_folds']} folds"
    rows |= {
        how: f"{report['n_held_out']:,}",
        "accuracy": f"{report['accuracy']:.3f}",
        "log loss": f"{report['log_loss']:.3f}",
        "expected calibration error": f"{report['calibration_error']:.3f}",
        "temperature": f"{estimator.temperature_:.3f}",
    }
    chosen = ["the best epoch"] if estimator.early_stopping_ else []
    chosen += ["the weight of the bag of words"] if estimator.bag_of_words_weight_ else []
    chosen += ["the temperature"] if report.get("calibrated", True) else []
    if not chosen:
        return _table(rows)
    *others, last = chosen
    named = f"{', '.join(others)} and {last}" if others else last
    return _table(rows) + (
        f"\n\nThe same texts chose {named}, so that new ones may do a little worse."
    )


def _parameters(estimator: Any) -> str:
    resolved = ("tuning", "learning_rate", "batch_size", "max_epochs", "max_length", "pooling")
    rows = {"parameter": "value"}
    rows |= {name: f"`{getattr(estimator, name + '_')}`" for name in resolved}
    if estimator.bag_of_words_weight_:
        rows["weight of the bag of words beside it"] = f"`{estimator.bag_of_words_weight_:.3f}`"
    rows |= {"weights trained": f"{estimator.n_trainable_:,}", "seed": f"`{estimator.seed_}`"}
    return _table(rows)


def _table(rows: Mapping[str, str]) -> str:
    """A Markdown table; the first row is its head."""
    (left, right), *body = rows.items()
    return "\n".join([f"| {left} | {right} |", "|---|---|", *(f"| {k} | {v} |" for k, v in body)])
