"""Our models <-> the sequence-classification checkpoints that transformers itself reads.

transformers' classes have heads of their own: most put a dense layer with an activation between
the first token's hidden state and the logits. Which one is found out by comparing answers.
"""

import copy
import itertools
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._batching import Padding
from sklearn_transformers._checkpoint import find_checkpoint
from sklearn_transformers._device import draw_seed, resolve_device
from sklearn_transformers._heads import ACTIVATIONS, DenseHead
from sklearn_transformers._history import Clock
from sklearn_transformers._mean_layer import add_mean_layer, has_room
from sklearn_transformers._model import TextClassifier, head_dropout
from sklearn_transformers._pretrained import Pretrained, empty_model, load_pretrained
from sklearn_transformers._process import preserved_rng_state, quiet
from sklearn_transformers._start import origins, start_parameters
from sklearn_transformers._steady import SteadyLinear
from sklearn_transformers._tokenization import golden_ids, resolve_max_length
from sklearn_transformers.exceptions import PretrainedModelError

__all__ = ["adopt", "as_published"]

# Where transformers' classes keep the layers of their heads.
OUTPUTS = ("score", "classifier", "classifier.out_proj")
DENSE = ("classifier.dense", "pre_classifier", "pooler.dense", "{}.pooler.dense", "{}.pooler")

SINGLE_LABEL = "single_label_classification"

TEXTS = ("The quick brown fox jumps over the lazy dog.", "Why not?")
# Logits that differ by less, as a share of the largest, are the same but for rounding.
TOLERANCE = 1e-4

# By which factor and shift a dense layer hands its inputs on, whatever the activation behind it: so
# small that a hyperbolic tangent is a straight line, or shifted to where the others are.
HANDED_ON = ((2.0**-12, 0.0), (1.0, 64.0))
UNCHANGED = (1.0, 0.0)


def as_published(
    model: TextClassifier, tokenizer: Tokenizer, labels: Sequence[str], temperature: float
) -> PreTrainedModel | None:
    """The same classifier as a model of transformers; None where there is no such.

    Its logits are those of `model` divided by the temperature, and its configuration names the
    labels. Both are asked about a few texts: what answers otherwise is not returned.

    Parameters
    ----------
    model : TextClassifier
        On the CPU, in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase
    labels : sequence of str
        Names of the classes, in the order of the logits.
    temperature : float
    """
    config = copy.deepcopy(model.backbone.config)
    kind = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    own_dense, output = _own_layers(model)
    if kind is None or output is None or model.prompt is not None or model.attention is not None:
        return None
    weight, bias = output.weight.detach() / temperature, output.bias.detach() / temperature
    body = dict(model.backbone.state_dict())
    if model.pooling == "mean" and has_room(body, config, len(labels)):
        body, weight, bias = add_mean_layer(body, config, weight, bias)
    config.architectures = [kind.__name__]
    config.problem_type = SINGLE_LABEL
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: code for code, label in enumerate(labels)}
    weights = {f"{kind.base_model_prefix}.{name}": tensor for name, tensor in body.items()}
    # The head is written below. Left out, it would be drawn at random, which is a fit's to do.
    whole = empty_model(kind, config).state_dict()
    weights |= {n: torch.zeros(w.shape) for n, w in whole.items() if n not in weights}
    with quiet():
        twin = kind.from_pretrained(None, config=config, state_dict=weights, dtype=torch.float32)
    dense, last = _layers(twin.eval())
    if last is None or (own_dense is not None and dense is None):
        return None
    expected = _logits(model, tokenizer) / temperature
    for factor, shift in (UNCHANGED,) if dense is None or own_dense is not None else HANDED_ON:
        if own_dense is not None:
            _write(dense, own_dense.weight, own_dense.bias)
        elif dense is not None:
            _write(dense, factor * torch.eye(*dense.weight.shape), torch.tensor(shift))
        else:
            _into_norm(twin, last, weight, bias)
        _write(last, weight / factor, bias - shift * weight.sum(dim=1))
        if _same(_logits(twin, tokenizer), expected):
            return twin
    return None


def adopt(estimator: Any, side: str | None) -> dict[str, Any]:
    """The fitted attributes of an estimator whose `model` was published fine-tuned already.

    Long texts are cut at `side`; None stands for the one that the tokenizer states.

    Raises
    ------
    PretrainedModelError
        When it is no single-label classifier, or one that this package cannot answer like.
    """
    clock, name = Clock(), os.fspath(estimator.model)
    device, seed = resolve_device(estimator.device), draw_seed(estimator.random_state)
    pretrained = load_pretrained(name, dropout=estimator.dropout)
    tokenizer = pretrained.tokenizer
    published = _read(name, pretrained)
    labels = [str(published.config.id2label[code]) for code in range(published.config.num_labels)]
    classes, order = np.unique(labels, return_index=True)
    model = _alike(published, pretrained, order)
    if model is None or len(classes) < len(labels):
        raise PretrainedModelError(
            f"model={name!r} is a {type(published).__name__} with the labels {labels}, which this "
            "package cannot answer like: heads of this kind are not known, or labels are not "
            "distinct. Use transformers itself, or fit a classifier of your own from it."
        )
    longest = resolve_max_length(estimator.max_length, tokenizer, model.backbone)
    side = tokenizer.truncation_side if side is None else side
    padding = Padding(pretrained.pad_id, longest, pretrained.masks_padding, side)
    untrained = ("learning_rate_", "head_learning_rate_", "batch_size_", "best_score_")
    return dict.fromkeys(untrained) | {
        "classes_": classes,
        "model_": model.to(device).eval(),
        "tokenizer_": tokenizer,
        "device_": device,
        "precision_": "float32",
        "tuning_": "full",
        "max_epochs_": 0,
        "early_stopping_": False,
        "max_length_": longest,
        "truncation_report_": {},
        "pooling_": model.pooling,
        "temperature_": 1.0,
        "bag_of_words_weight_": 0.0,
        "seed_": seed,
        "n_trainable_": 0,
        "history_": [{"epoch": 0, "load_seconds": clock.lap(), "seconds": clock.total()}],
        "n_iter_": 0,
        "best_epoch_": 0,
        "_padding": asdict(padding),
        "_golden_ids": golden_ids(tokenizer),
        "_report": {
            "n_train": 0,
            "n_held_out": 0,
            "n_folds": 0,
            **origins(estimator, proceed=False, seed=seed),
        },
        "_started_with": start_parameters(estimator),
        "_n_features_out": model.width,
    }


def _read(name: str, pretrained: Pretrained) -> PreTrainedModel:
    """The whole classifier of transformers, head included."""
    kind = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(pretrained.backbone.config), None)
    if kind is None:
        raise PretrainedModelError(
            f"model={name!r}: transformers has no sequence classifier of the kind "
            f"{pretrained.backbone.config.model_type!r}."
        )
    with preserved_rng_state(), quiet():
        published, report = kind.from_pretrained(
            find_checkpoint(os.path.expanduser(name)),
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            local_files_only=True,  # the backbone has just been read from the same files
        )
    body, config = f"{kind.base_model_prefix}.", published.config
    absent = sorted(n for n in report["missing_keys"] if not n.startswith(body))
    absent += sorted(n for n, *_ in report["mismatched_keys"])
    problem, codes = config.problem_type, sorted(config.id2label)
    is_complete = not absent and codes == list(range(config.num_labels)) and len(codes) > 1
    if not is_complete or problem not in (None, SINGLE_LABEL):
        raise PretrainedModelError(
            f"model={name!r} is no fine-tuned classifier of single labels (weights that are "
            f"missing or of another shape: {absent}, labels: {config.id2label}, problem_type: "
            f"{problem!r}). To fine-tune it yourself, use "
            "TransformerTextClassifier(model=...).fit(X, y)."
        )
    return published.eval()


def _alike(
    published: PreTrainedModel, pretrained: Pretrained, order: np.ndarray
) -> TextClassifier | None:
    """The model of ours that answers as a published one; None where there is no such.

    Logit i of ours is logit ``order[i]`` of theirs.
    """
    dense, last = _layers(published)
    if last is None:
        return None
    backbone, width, tokenizer = pretrained.backbone, pretrained.width, pretrained.tokenizer
    expected = _logits(published, tokenizer)[:, order]
    dropout = head_dropout(backbone.config, None)
    kinds = ("linear",) if dense is None else tuple(ACTIVATIONS)
    for pooling, kind in itertools.product(("cls", "last", "mean"), kinds):
        model = TextClassifier(backbone, width, pooling, len(order), dropout, kind).eval()
        own_dense, output = _own_layers(model)
        if dense is not None:
            _write(own_dense, dense.weight, _bias(dense))
        _write(output, last.weight[order], _bias(last)[order])
        if _same(_logits(model, tokenizer), expected):
            return model
    return None


def _own_layers(model: TextClassifier) -> tuple[Any, Any]:
    """The dense layer of our head, if it has one, and the one that gives the logits."""
    if isinstance(model.head, DenseHead):
        return model.head.dense, model.head.output
    return None, model.head if isinstance(model.head, SteadyLinear) else None


def _layers(model: PreTrainedModel) -> tuple[Any, Any]:
    """The dense layer of a head and the one that gives the logits, where they are to be found."""
    modules = dict(model.named_modules())
    dense, output = (
        next((modules[name] for name in names if isinstance(modules.get(name), nn.Linear)), None)
        for names in ([name.format(model.base_model_prefix) for name in DENSE], OUTPUTS)
    )
    return dense, output


def _bias(layer: nn.Linear) -> torch.Tensor:
    return torch.zeros(layer.out_features) if layer.bias is None else layer.bias


def _write(layer: nn.Linear, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Give a layer weights of its own, and a bias if it has one."""
    layer.weight = nn.Parameter(weight.detach().clone())
    if layer.bias is not None:
        layer.bias = nn.Parameter(bias.detach().expand(len(weight)).clone())


def _into_norm(
    model: PreTrainedModel, last: nn.Linear, weight: torch.Tensor, bias: torch.Tensor
) -> None:
    """Let the last norm's bias do the work of the bias that a head of transformers lacks."""
    norms = [norm for norm in model.base_model.modules() if isinstance(norm, nn.LayerNorm)]
    before = norms[-1].bias if norms else None
    if last.bias is None and before is not None and len(before) == weight.shape[1]:
        shift = torch.linalg.lstsq(weight, bias[:, None]).solution[:, 0]
        norms[-1].bias = nn.Parameter(before.detach() + shift)


def _logits(model: nn.Module, tokenizer: Tokenizer) -> torch.Tensor:
    """Logits of shape (n_texts, n_classes), each text by itself."""
    answers: list[Any] = []
    with torch.inference_mode():
        for text in TEXTS:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            answer = model(input_ids=ids, attention_mask=torch.ones_like(ids))
            answers.append(answer if torch.is_tensor(answer) else answer.logits)
    return torch.cat(answers)


def _same(logits: torch.Tensor, others: torch.Tensor) -> bool:
    largest = float(others.abs().max().clamp(min=1))
    return bool((logits - others).abs().max() <= TOLERANCE * largest)
