"""Logistic regression on TF-IDF weights of the training texts' tokens.

What words mean a Transformer knows; which of them give a class away in the user's own field, counts
tell sooner: names, codes, terms that no pretraining saw. Both together are the wide and the deep
part of Cheng et al. (2016), "Wide & Deep Learning for Recommender Systems", each trained by itself.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfTransformer
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._bag_of_words import BagOfWords
from sklearn_transformers._batching import Padding
from sklearn_transformers._data import LabelledTexts
from sklearn_transformers._head_start import RegressionPath, all_classes
from sklearn_transformers._held_out import HeldOut
from sklearn_transformers._inference import run
from sklearn_transformers._model import TextClassifier

__all__ = ["Words", "fit_words", "words_beside"]

# scikit-learn's C. Vectors of length 1 want a weaker penalty than its default of 1.
C = 10.0

# Coefficients that the optimiser keeps a few dozen copies of: with more classes than this allows
# for all tokens, the rarest tokens are left out.
MOST_COEFFICIENTS = 2**22


@dataclass(frozen=True, eq=False)
class Words:
    """A bag of words that a model may get, and what is known of it.

    Parameters
    ----------
    bag : BagOfWords or None
    weight : float
        How many times it is in its own logits, where that is known before training.
    says : ndarray of shape (n_held, n_classes) or None
        What it, or one like it that has not seen them, answers to the held-out rows.
    """

    bag: BagOfWords | None
    weight: float = 0.0
    says: np.ndarray | None = None

    def settle(
        self, fitted: dict[str, Any], held: HeldOut | None, logits: np.ndarray, data: LabelledTexts
    ) -> None:
        """Give the model its words, and say what became of the last answers to held-out rows."""
        bag, weight = self.bag, self.weight
        if bag is not None and self.says is not None and held is not None:
            weight = held.weight_beside(logits, self.says)
            logits = logits + np.float32(weight) * self.says
            bag = bag.times(weight) if weight else None
        fitted["bag_of_words_weight_"] = weight
        fitted["model_"].words = bag if bag is None else bag.to(fitted["device_"])
        if held is not None:
            held.conclude(fitted, logits, data)


def words_beside(
    estimator: Any,
    model: TextClassifier,
    data: LabelledTexts,
    held: HeldOut | None,
    tokenizer: Tokenizer,
    padding: Padding,
) -> Words:
    """Those of all training rows if rows are held out, else the model's, which it trains without.

    Where rows are held out in folds, each of them is answered by what is fitted to the others.
    """
    known, model.words = model.words, None
    if held is None:
        return Words(known, 0.0 if known is None else estimator.bag_of_words_weight_)
    if not estimator.bag_of_words:
        return Words(None)
    ignored, everyone = tokenizer.all_special_ids, np.arange(len(data))
    words = fit_words(data, model.n_classes, ignored)
    if not held.folds:
        return Words(words, says=run(words, held.data.texts, padding, "cpu"))
    says = []
    for fold in held.folds:
        own = fit_words(data.take(np.setdiff1d(everyone, fold)), model.n_classes, ignored)
        says.append(run(own, data.texts.take(fold), padding, "cpu"))
    return Words(words, says=np.concatenate(says))


def fit_words(data: LabelledTexts, n_classes: int, ignored: list[int]) -> BagOfWords:
    """Multinomial logistic regression on which tokens the texts have; rows by their weights."""
    data = data.distinct()
    ids, offsets = data.texts.ids, data.texts.offsets
    counts = csr_matrix((np.ones(len(ids)), ids, offsets), copy=True)
    counts.sum_duplicates()
    n_texts = counts.getnnz(axis=0)
    n_texts[np.intersect1d(ids, ignored)] = 0
    common = np.argsort(-n_texts, kind="stable")[: MOST_COEFFICIENTS // n_classes]
    known = np.sort(common[n_texts[common] > 0])
    if len(known) == 0 or len(np.unique(data.codes)) == 1:
        return BagOfWords.of(known[:0], np.ones(0), np.zeros((n_classes, 0)), np.zeros(n_classes))
    tf_idf = TfidfTransformer(sublinear_tf=True)
    path = RegressionPath(tf_idf.fit_transform(counts[:, known]), data.codes, data.weights)
    coef, bias = all_classes(*path.fit(1 / (C * len(data))), n_classes)
    return BagOfWords.of(known, tf_idf.idf_, coef, bias)
