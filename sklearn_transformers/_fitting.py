"""The path of the data through `fit` and `partial_fit`: parameters in, fitted attributes out."""

from dataclasses import asdict
from typing import Any

import numpy as np

from sklearn_transformers._callbacks import (
    Progress,
    Settle,
    ValidationScore,
    check_callbacks,
    epoch_tasks,
    has_schedule,
    release,
    shows_epochs,
)
from sklearn_transformers._choices import check_choices, resolve_tuning
from sklearn_transformers._compat import FitTask
from sklearn_transformers._contrast import net_of
from sklearn_transformers._cross_fit import cross_fit
from sklearn_transformers._data import LabelledTexts, read_rows, read_validation, tokenise_rows
from sklearn_transformers._device import draw_seed, own_grad_mode, resolve_device, resolve_precision
from sklearn_transformers._diagnosis import report_truncation, warn_of_rows, warn_of_tokens
from sklearn_transformers._fingerprint import unfinished_fit
from sklearn_transformers._head_start import HeadStart
from sklearn_transformers._heads import output_layer
from sklearn_transformers._held_out import HeldOut, choose_rows, first_report
from sklearn_transformers._history import Clock, plain, records
from sklearn_transformers._inference import run
from sklearn_transformers._losses import mean_loss
from sklearn_transformers._model import TextClassifier
from sklearn_transformers._process import seeded
from sklearn_transformers._recipe import Recipe
from sklearn_transformers._schedule import Schedule
from sklearn_transformers._snapshot import NoSnapshots, Snapshots
from sklearn_transformers._start import (
    check_start,
    draw_prompt,
    origins,
    prompt_length,
    resolve_recipe,
    set_head,
    start_head,
    start_parameters,
    starting_model,
)
from sklearn_transformers._stopping import KeepBest, TrainOrNot
from sklearn_transformers._targets import ClassCodec
from sklearn_transformers._tokenization import golden_ids, longest_input
from sklearn_transformers._validation import check_texts
from sklearn_transformers._vectors import on_vectors
from sklearn_transformers._word_regression import words_beside

__all__ = ["fine_tune"]


def fine_tune(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    X_val: Any = None,
    y_val: Any = None,
    sample_weight_val: Any = None,
    codec: ClassCodec | None = None,
    proceed: bool = False,
    one_epoch: bool = False,
    task: FitTask | None = None,
) -> dict[str, Any]:
    """Fine-tune and return the fitted attributes; `estimator` is read, never written.

    Parameters
    ----------
    estimator : TransformerTextClassifier
        Carries the parameters and, with `proceed`, the model to go on from.
    X, y, sample_weight, X_val, y_val, sample_weight_val
        As the user passed them to `fit`.
    codec : ClassCodec, default=None
        The classes; None reads them off `y`.
    proceed : bool, default=False
        Go on from the estimator's fitted model instead of the pretrained one.
    one_epoch : bool, default=False
        Train one epoch without validation, as `partial_fit` does.
    task : FitTask, default=None
        Tells scikit-learn's own callbacks of the epochs.

    Returns
    -------
    attributes : dict
        Name -> value of every fitted attribute.
    """
    # 1. Read the data and the parameters; what is wrong with them is said before any loading.
    clock = Clock()
    texts = check_texts(X)
    labels = ClassCodec.read(y)
    codec = ClassCodec.learn(labels) if codec is None else codec
    rows = read_rows(codec, texts, labels, sample_weight)
    valid = read_validation(codec, X_val, y_val, sample_weight_val)
    callbacks = check_callbacks(estimator.callbacks)
    check_start(estimator, proceed)
    loss = check_choices(estimator, len(codec.classes), valid is not None, one_epoch)
    codes = rows.distinct().codes
    tuning = resolve_tuning(estimator, codes, len(codec.classes), proceed, one_epoch)
    if not one_epoch:
        warn_of_rows(rows, codec.classes)

    # 2. Resolve "auto" where it depends on the machine alone.
    device = resolve_device(estimator.device)
    precision = resolve_precision(estimator.precision, device)
    history = list(estimator.history_) if proceed else []
    made_of = (estimator, codec.classes, rows, valid, device, precision, len(history))
    folder = None if one_epoch else estimator.checkpoint_dir
    snapshots = unfinished_fit(folder, draw_seed(estimator.random_state), *made_of)
    seed = snapshots.seed
    rng = np.random.default_rng([seed, len(history)])
    past = origins(estimator, proceed, seed)

    # 3. Hold out rows to judge epochs by.
    train, held = rows, None
    if not one_epoch:
        weigh_scores = (sample_weight if valid is None else sample_weight_val) is not None
        looked_at = bool(callbacks) or estimator.schedule == "plateau"
        hows: dict[str, Any] = {"weigh_scores": weigh_scores, "looked_at": looked_at}
        hows |= {"proceed": proceed, "known": past["known"]}
        # Where training goes on with the same rows, the same of them are to be held out.
        split_rng = np.random.default_rng([past["split_seed"], 0]) if proceed else rng
        train, held = choose_rows(estimator, rows, valid, codec.classes, split_rng, **hows)
    class_weights = codec.class_weights(estimator.class_weight, train.codes, train.weights)

    with snapshots, seeded(int(rng.integers(2**63)), device), own_grad_mode(device):
        # 4. The model to start from.
        model, tokenizer, padding = starting_model(
            estimator, len(codec.classes), proceed, tuning, device
        )
        load_seconds = clock.lap()

        # 5. Texts become tokens.
        train_data, lengths = tokenise_rows(train, class_weights, tokenizer, padding)
        truncation = report_truncation(lengths, padding.longest)
        if not one_epoch:
            n_prompt = prompt_length(estimator, model, tuning)
            limit = longest_input(tokenizer, model.backbone, n_prompt)
            warn_of_tokens(tokenizer, train, train_data.texts, lengths, truncation, padding, limit)
        if held is not None:
            held.data, _ = tokenise_rows(held.rows, class_weights, tokenizer, padding)
        recipe = resolve_recipe(
            estimator, model, padding, device, precision, tuning, train_data, one_epoch, loss
        )
        snapshots.begin(model, train_data.texts.ids)
        fitted = {
            "classes_": codec.classes,
            "model_": model,
            "tokenizer_": tokenizer,
            "device_": device,
            "precision_": precision,
            "tuning_": tuning,
            "learning_rate_": recipe.learning_rate,
            "head_learning_rate_": None if tuning == "contrastive" else recipe.head_learning_rate,
            "batch_size_": recipe.batch_size,
            "max_epochs_": recipe.max_epochs,
            "early_stopping_": held is not None and bool(estimator.early_stopping),
            "max_length_": padding.longest,
            "truncation_report_": truncation,
            "pooling_": model.pooling,
            "temperature_": 1.0,
            "seed_": seed,
            "_padding": asdict(padding),
            "_golden_ids": golden_ids(tokenizer),
            "_report": first_report(rows, train, held, past, one_epoch),
            "_started_with": start_parameters(estimator),
            "_n_features_out": model.width,
        }
        start = {"epoch": 0, "load_seconds": load_seconds, "tokenise_seconds": clock.lap()}
        words = words_beside(estimator, model, train_data, held, tokenizer, padding)
        start["bag_of_words_seconds"] = clock.lap()

        trainee, recipe, train_data = _trainee(estimator, model, recipe, train_data, held, rng)

        # 6. The head's first weights, and how held-out rows are answered with them.
        with_head = not proceed and not one_epoch and estimator.head_init != "random"
        with_head = with_head and output_layer(model.head) is not None
        head, answers = _begin(
            estimator, trainee, train_data, held, recipe, rng, with_head, start, clock
        )
        checks = [] if held is None else held.checks(answers, fitted)
        start |= {"learning_rate": 0.0, "seconds": clock.total(), **(checks[0] if checks else {})}

        # 7. Training.
        stopper = None if held is None else held.stopper(estimator, answers, checks)
        watched = None if held is None or held.folds else held
        callbacks = callbacks + epoch_tasks(task, fitted)
        epochs, fitted["n_trainable_"], logits = _train(
            estimator, trainee, recipe, rng, train_data, watched, stopper, callbacks, snapshots
        )
        if len(epochs) == recipe.max_epochs:
            for check in checks[1:]:
                epochs[-1] |= check  # found by models that were trained without the row

        # 8. Plain records of what happened; net, optimiser and batches end here.
        model.eval().requires_grad_(True)
        if head is not None and stopper is not None and stopper.best_epoch_ == 0:
            set_head(model, head, 1.0)  # the regression itself is the answer
        fitted |= records(estimator, history, start, epochs, stopper)
        words.settle(fitted, held, answers[0] if logits is None else logits, train_data)
    return fitted


def _trainee(
    estimator: Any,
    model: TextClassifier,
    recipe: Recipe,
    data: LabelledTexts,
    held: HeldOut | None,
    rng: np.random.Generator,
) -> tuple[TextClassifier, Recipe, LabelledTexts]:
    """What is trained and on what: a model whose backbone rests needs no more than its vectors."""
    if recipe.tuning == "prompt" and model.prompt is None:
        draw_prompt(model, estimator.n_prompt_tokens, np.unique(data.texts.ids), rng)
    if recipe.tuning != "head" or model.attention is not None:
        return model, recipe, data
    if held is None:
        model, recipe, (data,) = on_vectors(model, recipe, [data])
    else:
        model, recipe, (data, held.data) = on_vectors(model, recipe, [data, held.data])
    return model, recipe, data


def _begin(
    estimator: Any,
    model: TextClassifier,
    data: LabelledTexts,
    held: HeldOut | None,
    recipe: Recipe,
    rng: np.random.Generator,
    with_head: bool,
    notes: dict[str, Any],
    clock: Clock,
) -> tuple[HeadStart | None, Any]:
    """Set the head, and answer the held-out rows: before training, and in folds also after it."""
    head, answers = None, np.empty((1, 0))
    if with_head:
        head, answered = start_head(model, data, recipe, rng)
        notes |= {"penalty": head.penalty, "head_seconds": clock.lap()}
        if recipe.tuning != "contrastive" and isinstance(estimator.loss, str):
            # Pairs have another loss, and one of the user's is for training alone.
            notes["train_loss"] = mean_loss(recipe.loss, *answered)
    if held is not None and held.folds:
        penalty = None if head is None else head.penalty
        watched = shows_epochs(estimator.verbose)
        answers = cross_fit(model, data, held.folds, recipe, rng, penalty, watched)
        notes |= {"n_folds": len(held.folds), "cross_fit_seconds": clock.lap()}
    if held is not None and not held.folds:
        precision, texts = recipe.predict_precision, held.data.texts
        logits = run(model, texts, recipe.padding, recipe.device, precision, recipe.budget)
        answers = logits[None] / np.float32(1 if head is None else head.shrink)
        notes["valid_seconds"] = clock.lap()
    return head, answers


def _train(
    estimator: Any,
    model: TextClassifier,
    recipe: Recipe,
    rng: np.random.Generator,
    train: LabelledTexts,
    held: HeldOut | None,
    stopper: KeepBest | TrainOrNot | None,
    callbacks: list[Any],
    snapshots: Snapshots | NoSnapshots,
) -> tuple[list[dict[str, Any]], int, Any]:
    """Train in place; return a dict per epoch, how many weights learnt, and the last answers."""
    ours: list[Any] = []
    if held is not None:
        ours.append(ValidationScore(held.judge.score))
    if not has_schedule(callbacks):
        ours.append(Schedule(recipe.schedule, recipe.warmup))
    if stopper is not None:
        ours.append(stopper)
    progress = Progress() if shows_epochs(estimator.verbose) else None
    if progress is not None:
        ours.append(progress)
    if callbacks:
        ours.append(Settle())
    measure, valid = (None, None) if held is None else (held.measure, held.data)
    verbose = int(estimator.verbose)
    net = net_of(recipe)(model, recipe, rng, ours + callbacks, measure, verbose, snapshots)
    try:
        net.train(train, valid)
    finally:
        release(callbacks)
        if progress is not None:
            progress.close()
    logits = getattr(net, "valid_logits_", None) if stopper is None else stopper.logits_
    return plain(net.history), net.n_trainable_, logits
