"""What is wrong with the data: each fault said once, with figures and what to do about it."""

import sys
import warnings
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._batching import Padding
from sklearn_transformers._calibration import mean_and_error
from sklearn_transformers._data import Rows
from sklearn_transformers._encoded import EncodedTexts
from sklearn_transformers._script import is_spelled_out, spells_all_out
from sklearn_transformers._validation import listed
from sklearn_transformers.exceptions import TextDataWarning

__all__ = [
    "report_truncation",
    "warn_of_known_rows",
    "warn_of_rare_classes",
    "warn_of_rows",
    "warn_of_tokens",
    "warn_of_useless_fit",
]

# Shares of the texts and of the tokens up to which it is not worth a warning.
FEW_CUT = 0.05
FEW_UNKNOWN = 0.1
FEW_SPELLED = 0.3

# Of tokens that are cut off: beyond this, who reads whole texts has read more than twice as much.
MUCH_LOST = 0.5
CUT = {"middle": "in their middle", "right": "at their end", "left": "at their start"}

# Packages through which the user's call came.
OURS = {"sklearn_transformers", "sklearn", "joblib"}


def warn_of_rows(rows: Rows, classes: np.ndarray) -> None:
    """Look at texts and labels as they came."""
    _warn_of_texts(rows.texts)
    _warn_of_labels(rows, classes)
    _warn_of_absent_classes(rows.codes, classes)


def warn_of_tokens(
    tokenizer: Tokenizer,
    rows: Rows,
    encoded: EncodedTexts,
    full_lengths: np.ndarray,
    truncation: dict[str, Any],
    padding: Padding,
    limit: int,
) -> None:
    """Look at what the tokenizer made of the rows' texts, and at what was left out.

    `limit` is the longest input that the model can read.
    """
    _warn_of_truncation(truncation, padding, limit)
    if not _warn_of_vocabulary(tokenizer, rows.texts, encoded, full_lengths):
        _warn_of_likeness(rows, encoded, full_lengths <= padding.longest)


def _warn_of_texts(texts: list[str]) -> None:
    """Say how many texts are empty, or that all are the same."""
    n_empty = sum(not text.strip() for text in texts)
    if n_empty:
        _warn(
            f"{_share(n_empty, len(texts))} texts are empty or only spaces. "
            "They carry nothing to learn from; drop them, or fill in what is missing."
        )
    if len(texts) > 1 and n_empty < len(texts) and len(set(texts)) == 1:
        _warn(
            f"All {len(texts)} texts are the same ({_quote(texts[0])}): no label can be told from "
            "another. Look whether the right column was passed."
        )


def _warn_of_labels(rows: Rows, classes: np.ndarray) -> None:
    """Say how many texts have several labels, each time they occur another."""
    first: dict[str, int] = {}
    torn: set[str] = set()
    for text, code in zip(rows.texts, rows.codes.tolist(), strict=True):
        if first.setdefault(text, code) != code:
            torn.add(text)
    if not torn or len(first) == 1:  # a single text for all has been said already
        return
    n_rows = sum(text in torn for text in rows.texts)
    example = next(text for text in rows.texts if text in torn)
    labels = {code for text, code in zip(rows.texts, rows.codes, strict=True) if text == example}
    _warn(
        f"{_share(n_rows, len(rows.texts))} rows hold a text that also occurs with another label, "
        f"such as {_quote(example)} with {listed(classes[sorted(labels)].tolist())}. No model can "
        "get all of them right; correct the labels, or drop the duplicates."
    )


def _warn_of_absent_classes(codes: np.ndarray, classes: np.ndarray) -> None:
    """Say which classes have lost all rows, because these weigh nothing."""
    absent = classes[np.bincount(codes, minlength=len(classes)) == 0].tolist()
    if absent:
        _warn(
            f"{_share(len(absent), len(classes))} classes have no row of a weight above zero, so "
            f"nothing can be learned of them: {listed(absent)}. Look at sample_weight, by which a "
            "BaggingClassifier draws rows, or drop them."
        )


def warn_of_rare_classes(codes: np.ndarray, classes: np.ndarray, none_is_held: bool) -> None:
    """Say which classes cannot be held out, because training needs their only row.

    `codes` are those of the distinct rows.
    """
    counts = np.bincount(codes, minlength=len(classes))
    rare = classes[counts == 1].tolist()
    if none_is_held:
        _warn(
            f"None of the {len(codes)} different rows can be held out, for each class has but one, "
            "or one whose copies are most of it: training runs for max_epochs, and its "
            "probabilities are not calibrated. Add rows, or pass X_val and y_val."
        )
    elif rare:
        _warn(
            f"{_share(len(rare), len(classes))} classes have a single row, case and spaces aside, "
            f"and are trained, but not validated: {listed(rare)}. Give them more rows, merge them, "
            "or pass X_val and y_val."
        )


def report_truncation(full_lengths: np.ndarray, max_length: int) -> dict[str, Any]:
    """Measure what `max_length` cuts off.

    Parameters
    ----------
    full_lengths : ndarray of shape (n_texts,)
        Tokens in each text, uncut.
    max_length : int

    Returns
    -------
    report : dict
        The fitted attribute `truncation_report_`.
    """
    cut = np.maximum(full_lengths.astype(np.int64) - max_length, 0)
    return {
        "n_texts": len(full_lengths),
        "n_cut": int((cut > 0).sum()),
        "share_cut": float((cut > 0).mean()),
        "share_of_tokens_lost": float(cut.sum() / full_lengths.sum(dtype=np.int64)),
        "length_for_95_percent": int(np.quantile(full_lengths, 0.95, method="higher")),
        "longest": int(full_lengths.max()),
    }


def _warn_of_truncation(report: dict[str, Any], padding: Padding, limit: int) -> None:
    """Say how much `max_length` leaves out, where it is much."""
    if report["share_cut"] > FEW_CUT:
        lost, enough = report["share_of_tokens_lost"], report["length_for_95_percent"]
        advice = f"max_length={enough} would keep 95 % of the texts whole"
        if enough > limit:
            advice += f", but this model reads no more than {limit}"
        beside = " Compare with TF-IDF, which reads whole texts." if lost > MUCH_LOST else ""
        _warn(
            f"{_share(report['n_cut'], report['n_texts'])} texts are longer than max_length="
            f"{padding.longest} tokens and were cut {CUT[padding.cut]}, which lost "
            f"{lost:.0%} of all tokens. {advice}; see truncation_report_.{beside}"
        )


def _warn_of_vocabulary(
    tokenizer: Tokenizer, texts: list[str], encoded: EncodedTexts, full_lengths: np.ndarray
) -> bool:
    """Say when the tokenizer does not know the script of the texts; return whether it does not."""
    advice = "Take a model trained on this language, such as a multilingual one."
    shared = [t for name, t in tokenizer.special_tokens_map.items() if name != "unk_token"]
    # GPT-2's stands for much else; its tokenizer knows every byte anyway.
    unknown = None if tokenizer.unk_token in shared else tokenizer.unk_token_id
    special = [i for i in tokenizer.all_special_ids if i != unknown]
    n_tokens = int((~np.isin(encoded.ids, special)).sum())
    is_unknown = encoded.ids == (-1 if unknown is None else unknown)
    n_unknown = int(is_unknown.sum())
    if n_unknown > FEW_UNKNOWN * n_tokens:
        worst = np.add.reduceat(is_unknown, encoded.offsets[:-1], dtype=np.int64).argmax()
        _warn(
            f"{_share(n_unknown, n_tokens)} tokens are unknown to the tokenizer of this model, "
            f"most of them in {_quote(texts[worst])}. {advice}"
        )
        return True
    # Other tokenizers spell a script out that they do not know, by letters or by bytes.
    if spells_all_out(tokenizer):
        return False
    n_pieces = full_lengths - tokenizer.num_special_tokens_to_add()
    spelled = [i for i, text in enumerate(texts) if is_spelled_out(text, int(n_pieces[i]))]
    if len(spelled) > FEW_SPELLED * len(texts):
        example = spelled[0]
        ratio = n_pieces[spelled].sum() / sum(len(texts[i]) for i in spelled)
        _warn(
            f"The tokenizer of this model spells {_share(len(spelled), len(texts))} texts out, at "
            f"{ratio:.1f} tokens a character, such as {_quote(texts[example])}: it hardly knows "
            f"this script. {advice}"
        )
        return True
    return False


def _warn_of_likeness(rows: Rows, encoded: EncodedTexts, whole: np.ndarray) -> None:
    """Say how many rows differ by label and to the eye, but not to the model."""
    alike: dict[bytes, list[int]] = {}
    for row, content in enumerate(encoded.contents()):
        if whole[row] and rows.texts[row].strip():  # of empty ones it has been said
            alike.setdefault(content, []).append(row)
    torn = 0
    example: list[str] = []
    for own in filter(lambda group: len(group) > 1, alike.values()):
        # Of texts that are the same to the letter it has been said, too.
        labels = dict(zip([rows.texts[row] for row in own], rows.codes[own], strict=True))
        if len(set(labels.values())) > 1:
            torn += len(own)
            first = next(iter(labels))
            other = next(text for text in labels if labels[text] != labels[first])
            example = example or [_quote(first), _quote(other)]
    if torn:
        _warn(
            f"{_share(torn, len(rows))} rows hold texts with other labels that are the same to the "
            f"tokenizer of this model, such as {' and '.join(example)}: it does not know what they "
            "differ in, or makes no difference of it. Where that is what decides, take another "
            "model or put words in its place; else correct the labels."
        )


def warn_of_useless_fit(
    losses: np.ndarray, prior_losses: np.ndarray, weights: np.ndarray, in_folds: bool
) -> None:
    """Say when the model answers the validation rows no better than the share of each class.

    Better means that the mean loss is lower by more than its standard error.

    Parameters
    ----------
    losses, prior_losses : ndarray of shape (n_valid,)
        Loss of each row by the model, and by the shares of the classes in the training rows.
    weights : ndarray of shape (n_valid,)
    in_folds : bool
        Whether models answered that were trained without the row's fold.
    """
    gain, error = mean_and_error(prior_losses - losses, weights)
    if gain <= error < np.inf:  # a single row tells of no error
        who = "a model of the other rows" if in_folds else "the model"
        _warn(
            f"On the {len(losses)} validation rows {who} is no better than always answering "
            "the share of each class among the training rows: its loss is "
            f"{np.average(losses, weights=weights):.3f}, theirs "
            f"{np.average(prior_losses, weights=weights):.3f}, with a standard error of "
            f"{error:.3f} of the difference. Look whether texts and labels belong together; if "
            "so, it takes more rows or another model."
        )


def warn_of_known_rows(n_rows: int) -> None:
    """Say that what is held out has been trained on before."""
    _warn(
        f"An earlier fit trained on all of these {n_rows} rows, so those held out now are not new "
        "to the model: best_score_, the choice of the epoch and the probabilities will be too "
        "good to be true. Pass X_val and y_val, or set early_stopping='auto' or False."
    )


def _warn(message: str) -> None:
    """Warn of the line that called `fit`, be it by way of scikit-learn."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in OURS:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, TextDataWarning, stacklevel=level)


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.1%})"


def _quote(text: str, most: int = 40) -> str:
    return repr(text if len(text) <= most else text[: most - 1] + "…")
