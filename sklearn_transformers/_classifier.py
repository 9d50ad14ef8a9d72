"""`TransformerTextClassifier`: scikit-learn's side of the package.

torch and transformers are imported by the methods that need them, so that importing,
constructing, cloning and printing an estimator stay as light as scikit-learn itself.
"""

import copy
import inspect
import os
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.metrics import get_scorer_names
from sklearn.utils.validation import check_is_fitted

import sklearn_transformers._fork  # noqa: F401  (prepares for forks before anything is trained)
from sklearn_transformers._compat import (
    CallbackSupportMixin,
    FitTask,
    Interval,
    StrOptions,
    fit_context,
    validate_parameter_constraints,
)
from sklearn_transformers._validation import check_texts

__all__ = ["TransformerTextClassifier"]


class TransformerTextClassifier(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    ClassifierMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Text classifier that fine-tunes a pretrained Transformer.

    Takes raw texts and labels and behaves like scikit-learn's own classifiers: it can stand
    in a Pipeline, be searched, cross-validated, cloned and pickled. `fit` trains all weights
    of the Transformer (the backbone) and a new linear layer on top of it (the head), on the
    GPU where there is one, and keeps the weights of the epoch that scored best on held-out
    rows; where rows are few it learns from pairs of texts. As a transformer it turns texts into
    the vectors that the head sees.

    Parameters
    ----------
    model : str or path-like, default="sentence-transformers/all-MiniLM-L6-v2"
        Pretrained encoder or decoder that ``transformers.AutoModel`` can load: a folder, or a
        name on the Hugging Face Hub; of encoder-decoders only T5 and its kin. The default has
        22.7 M weights and can be fine-tuned on a laptop's CPU; with the extra `offline` it is
        read from the installed package.
    max_length : int or "auto", default="auto"
        Longest input in tokens, special tokens included; time and memory grow at least linearly
        with it where texts are that long. A model that cannot read that much lowers it, with a
        warning. "auto" is 512, or less where the model reads less.
    truncation_side : {"middle", "right", "left"}, default="middle"
        Which part of a longer text is left out. "middle" keeps both ends, where it is said what a
        text is about and what it comes to: a quarter of `max_length` at the start, the rest at
        the end [15]_. "right" keeps the start only, as most other tools do, "left" the end.
        Training that goes on takes what is set then.
    pooling : {"auto", "cls", "mean", "max", "last"}, default="auto"
        How the hidden states of a text's tokens become one vector: the first token's, their mean,
        their maximum, or the last token's. "auto" takes what the checkpoint was trained for: its
        own setting for sentence-transformers checkpoints, "last" for decoders, "cls" for other
        encoders, and "mean" for those without such a token, as T5.
    dropout : float in [0, 1), default=None
        Dropout in the backbone and in front of a head that is trained. None keeps what the
        checkpoint states.
    tuning : {"auto", "full", "contrastive", "lora", "bias", "prompt", "head"}, default="auto"
        What is trained, and by what.

        - "full": all weights of backbone and head; of the embeddings, those of tokens that the
          training texts have.
        - "contrastive": the backbone by pairs of texts, whose vectors are drawn together where
          they share a class and apart where they do not; the head is a logistic regression on
          these vectors [7]_.
        - "lora": the head, and low-rank additions to every linear layer of the backbone, which
          become part of these layers when training ends [8]_. Needs the extra `peft`.
        - "bias": the head and the biases of the backbone [9]_.
        - "prompt": the head, and `n_prompt_tokens` vectors in front of every text; the backbone
          stays as it is [10]_.
        - "head": the head alone. The texts go through the backbone once, and in a search once a
          fold: candidates that differ in the head's training cost next to nothing. Only
          ``head="attention"`` needs the tokens' hidden states anew in each epoch.
        - "auto": "contrastive" where rows are few: below 300, of at most 10 classes, with at least
          8 rows a class on the mean, the largest class left aside; else "full". It is "full" too in
          `partial_fit` and where training goes on from an earlier model, `head`, `head_init`,
          `head_learning_rate`, `loss` or `label_smoothing` asks for a head that is trained,
          `batch_size` is below 8, `schedule` is "plateau", or `callbacks` want to see the usual
          training. In a search, where these or the number of rows differ, choose one.
    freeze_layers : int, default=0
        Lowest layers of the backbone that are not trained, nor the embeddings below them.
    lora_rank : int, default=8
        Rank of the additions of LoRA.
    lora_alpha : float, default=16.0
        Additions of LoRA are scaled by `lora_alpha` / `lora_rank`.
    lora_dropout : float in [0, 1), default=0.0
        Dropout in front of the additions of LoRA.
    n_prompt_tokens : int, default=20
        Vectors in front of each text in prompt tuning. They start as the embeddings of tokens
        that occur in the training texts, and take as many positions from `max_length` where the
        model's are limited.
    head : {"linear", "mlp", "attention"} or callable, default="linear"
        From a text's vector to a logit for each class. "mlp" adds a hidden layer, which starts at
        zero, so that the head starts as the linear one. "attention" is linear too, on a mean of
        the tokens' hidden states whose weights are learnt [11]_, in place of `pooling`. A callable
        ``head(n_features, n_classes)`` returns a ``torch.nn.Module`` that turns vectors of shape
        (n, n_features) into logits of shape (n, n_classes): ``torch.nn.Linear``, for example.
    head_init : {"auto", "logistic", "random"}, default="auto"
        Where the head starts: from a logistic regression on the vectors of the pretrained
        backbone, its L2 penalty chosen on held-out parts of the training rows [3]_, or from
        small random numbers. "auto" is "logistic"; a head of your own starts as you make it.
        `partial_fit` starts from random numbers always, because the rows of its first call need
        not show every class.
    loss : {"cross_entropy", "focal", "squared_error"} or callable, default="cross_entropy"
        What training minimises, weighted by row. "focal" counts sure answers less [12]_;
        "squared_error" is that of the probabilities [13]_, which forgives wrong labels more. A
        callable ``loss(logits, codes)`` takes tensors of shape (n, n_classes) and (n,) and returns
        one loss for each row, of shape (n,). Probabilities are the softmax of the logits in any
        case, and held-out rows are judged by `scoring`.
    optimizer : {"adamw", "sgd", "adafactor"} or callable, default="adamw"
        "sgd" has a momentum of 0.9 (Nesterov's); "adafactor" needs less memory [14]_. A class of
        ``torch.optim``, or what is called like one: ``optimizer(groups, lr=..., **params)``.
    optimizer_params : dict, default=None
        Further arguments of the optimiser, such as ``{"betas": (0.9, 0.98)}``.
    schedule : {"linear", "cosine", "constant", "plateau"}, default="linear"
        How the learning rate goes on after `warmup`: falls to zero at `max_epochs`, in a line or as
        half a cosine; stays; or is halved after each epoch that does not improve the score of the
        held-out rows (and stays where nothing is held out, as in `partial_fit`, or in going on with
        few rows).
    learning_rate : float or "auto", default="auto"
        Peak learning rate of the backbone. "auto" is 7.5e-5 for a model of width 384 and
        falls with the square of the width (2e-5 for BERT-base [2]_), at most 5e-4; times 20
        with LoRA, 50 for biases, 100 for prompts; times 100 for SGD and 20 for Adafactor.
    head_learning_rate : float or "auto", default="auto"
        Peak learning rate of the head. "auto" is forty times that of a backbone that is trained
        as a whole.
    layer_decay : float in (0, 1], default=1.0
        Each layer of the backbone learns at `layer_decay` times the rate of the one above it,
        embeddings slowest. 1 treats all alike.
    weight_decay : float, default=0.01
        Weight decay, decoupled with AdamW [1]_, as the optimiser has it with others; biases,
        norms and prompts are not decayed.
    warmup : float in [0, 1], default=0.1
        Share of the optimiser steps during which the learning rate rises linearly to its
        peak; `schedule` says what comes after.
    label_smoothing : float in [0, 1) or "auto", default="auto"
        Share of each training label that is spread evenly over all classes [17]_. "auto" is 0.1
        where a head is trained by the cross-entropy; other losses and contrastive tuning have no
        use for it. Held-out rows are judged by their labels as they are.
    max_grad_norm : float or None, default=1.0
        Gradients with a larger Euclidean norm are scaled down to it. None does not clip.
    batch_size : int or "auto", default="auto"
        Texts per optimiser step. Steps that hold too many tokens are computed in parts, with
        the same gradient. "auto" is 8 below 200 training rows, 16 below 2,000, else 32; with
        contrastive tuning, whose pairs are those of a step, 16 below 200 rows, else 32.
    gradient_checkpointing : bool, default=False
        Keep only the input of each layer while training and compute the rest again for the
        gradient [6]_: the same result with a fraction of the memory, in about a third more time.
    compile : bool, default=False
        Let torch compile the backbone for training. Takes a minute first, and a compiler that
        torch can use; worth a try for long trainings on a GPU. On a CPU it brought nothing.
    max_epochs : int or "auto", default="auto"
        Most passes over the training texts. "auto" is as many as show the model 3,000 texts: 10 up
        to 300 training rows, 5 for 600, 3 from 1,000 on; and up to 20 below 89 rows, for 120 steps.
        With contrastive tuning, half as many as each text has texts of other classes, at most 20,
        3,000 texts or 500,000 tokens; of long texts 3 epochs all the same, where the other limits
        allow as many.
    early_stopping : bool or "auto", default="auto"
        Score held-out rows before the first and after each epoch, stop when the score stalls, and
        go back to the weights that scored best; with ``scoring="loss"``, a training that ran to its
        end is given up for an earlier epoch only if that is better by more than one standard error
        [5]_. If False, all rows train for `max_epochs`; rows passed as `X_val` are then scored and
        calibrated on only. "auto" is True, but where rows are few (below 300, or 20 per class up to
        3,000; of uneven classes it is the rows beside the largest that count: 60 of 600 are as few
        as 120 even ones) a cross-validation of two folds finds out first whether training helps at
        all, and the temperature; then all rows train for `max_epochs`, or not at all where it does
        not help. With `callbacks`, a scorer of your own or ``schedule="plateau"``, which want to
        see one training, a part is held out all the same; going on from an earlier fit with fewer
        than 300 rows, nothing is.
    validation_fraction : float in [0, 1), default=0.1
        Share of the rows to hold out for early stopping: shuffled, stratified, at least one row; a
        class with a single row stays in training. Copies of a row, with the same label and, case
        and spaces aside, the same text, stay together. With 0 there is no early stopping and no
        cross-validation. Unused when `X_val` is passed.
    n_iter_no_change : int, default=10
        Epochs in a row without improvement after which training stops. After a cross-validation of
        few rows all epochs run, or none.
    tol : float, default=0.0
        Improvements of at most `tol` do not postpone stopping; the weights kept are still
        those of the best score.
    bag_of_words : bool, default=True
        Have the counts of the tokens read of a text, which see terms of your own field that no
        pretraining saw, beside the Transformer: a logistic regression on TF-IDF weights. Its
        logits are added to the Transformer's [16]_ if a tenth of them lowers the loss on the
        held-out rows by more than its standard error; these also say how many times, by that loss
        whatever `scoring` is. Epochs are judged without it.
        A `fit` that goes on training has one of its own rows. Without rows to validate on there is
        none or, in a call that goes on training, the one that there was.
    calibrate : bool, default=True
        Divide the logits by the temperature that suits the held-out rows best [4]_, so that
        `predict_proba` neither promises too much nor too little. Dividing changes no label.
        Without rows to validate on the temperature is 1 or, in a call that goes on training,
        what it was.
    scoring : "loss", str or callable, default="loss"
        How the held-out rows are scored: by their weighted cross-entropy, a scorer name of
        scikit-learn, or a callable ``scorer(estimator, X, y)``; greater is better. Scorers
        that take `sample_weight` are passed the weights of the held-out rows, or
        `sample_weight_val`, if there are any.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class in the loss, as in ``LogisticRegression``; multiplied with
        `sample_weight`. `partial_fit`, which never sees all rows, takes no "balanced".
    device : str or torch.device, default="auto"
        Where to train and predict. "auto" takes CUDA, then MPS, then the CPU.
    precision : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Number format of the forward and backward pass while training; weights stay float32. A
        step whose loss or gradient is not finite is made once more in float32.
        "auto" takes bfloat16 on GPUs and CPUs that have instructions for it, float16 on other
        CUDA GPUs, float32 elsewhere.
    predict_precision : {"auto", "float32", "bfloat16", "float16"}, default="float32"
        Number format of the forward pass in predictions, those for held-out rows included (a
        cross-validation answers in `precision`); may be changed after `fit`. Below float32
        predictions are quicker on hardware that has instructions for it ("auto" looks), and
        probabilities differ in the third digit, also with the texts that happen to be answered
        together.
    store_dtype : {"float32", "float16", "bfloat16"}, default="float32"
        Number format of the weights in pickles and saved folders; may be changed after `fit`.
        Below float32 they take half the room, and what is loaded differs a little from what was
        trained.
    callbacks : list of skorch.callbacks.Callback, default=None
        Called while training, after the estimator's own. They see a skorch net, whose table of
        embeddings has only the rows of tokens that the training texts have. A
        ``skorch.callbacks.LRScheduler`` replaces the built-in schedule and `warmup`.
    checkpoint_dir : str or path-like, default=None
        Folder in which `fit` keeps what it takes to go on after having been killed: called again
        with the same data and parameters, it ends with the weights of a fit that was not
        interrupted. A snapshot is taken after each epoch and, within, every minute; the last one
        stays, up to four times as large as the model, until `fit` has succeeded. Other data,
        parameters or versions are refused. Each fit needs a folder of its own; the fits of a
        search, a cross-validation or an ensemble make theirs in this one. `callbacks`, whose state
        cannot be kept, are refused; `partial_fit` takes no snapshots.
    warm_start : bool, default=False
        Let `fit` go on from the model of the previous call, with a new schedule, instead of from
        the pretrained one. The classes, `model`, `pooling`, `dropout` and `head` must be the same,
        and `n_prompt_tokens` once there is a prompt; `tuning` may change. Where rows, their order,
        `validation_fraction` and which weights are 0 are those of the first fit, the same rows are
        held out; where an earlier fit trained on all of them, "auto" holds out none. Other rows
        that the model knows are not noticed, and judge too kindly: pass `X_val` and `y_val` then.
    random_state : int, RandomState instance or None, default=None
        Decides the head's first weights, the held-out rows, the order of the batches and
        dropout. The same int gives bit-identical results on the same machine's CPU. None takes a
        new seed from the operating system each time. Global random states are left as they
        were; for that, fits in threads of one process take turns.
    verbose : int or bool, default=1
        If positive, shows a bar per epoch in terminals and notebooks; never in a fit that is
        one of several (in a search, a cross-validation or an ensemble), in worker processes,
        in threads other than the main one, or when standard error is not a terminal. 0 shows
        nothing.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    model_ : torch.nn.Module
        The fine-tuned model: `backbone`, pooling and `head`, and the bag of `words` or None, in
        evaluation mode.
    tokenizer_ : transformers.PreTrainedTokenizerBase
        Turns texts into token ids.
    device_ : str
        Where the model is.
    precision_ : str
        Number format that training used.
    learning_rate_ : float
        Peak learning rate of the backbone that training used.
    head_learning_rate_ : float or None
        Peak learning rate of the head that training used; None with contrastive tuning.
    tuning_ : str
        How the model was trained: `tuning`, with "auto" resolved.
    n_trainable_ : int
        How many weights the optimiser had; of embeddings only those of tokens that the training
        texts have.
    batch_size_ : int
        Texts per optimiser step that training used.
    max_epochs_ : int
        Epochs that the schedule was made for.
    early_stopping_ : bool
        Whether held-out rows decided which weights to keep.
    temperature_ : float
        What logits are divided by; above 1 where training made the model too sure of itself.
    bag_of_words_weight_ : float
        How many times the logits of the bag of words are added; 0 where they do not help.
    truncation_report_ : dict
        What `max_length` cut off the training texts: `n_texts`, `n_cut`, `share_cut`,
        `share_of_tokens_lost`, `length_for_95_percent` (the `max_length` that keeps 95 % of the
        texts whole) and `longest`, in tokens.
    max_length_ : int
        Longest input in tokens that the model gets.
    pooling_ : str
        Pooling that is used.
    seed_ : int
        The seed of the last call: pass it as `random_state` to repeat a `fit`.
    n_iter_ : int
        Epochs run, over all calls when training was continued.
    best_epoch_ : int
        Epoch, counted from 1, whose weights the model has: the one chosen by
        early stopping, else the last. 0 if no epoch was better than the start.
    best_score_ : float or None
        Validation score of the model as it is, its bag of words included; minus the validation loss
        with ``scoring="loss"``. None without validation rows.
    history_ : list of dict
        One dict per epoch, ``history_[i]`` for epoch i: `epoch`, `train_loss`, `learning_rate` (at
        the end of the epoch, of the lowest layer that is trained), `seconds` and, of these,
        `train_seconds`; `examples_per_second` and `tokens_per_second` (of training, without
        padding); with validation rows also `valid_loss` (calibrated), `valid_score`, `temperature`
        and `valid_seconds`. `train_loss` is what training minimised, so it counts
        `label_smoothing`, which `valid_loss` does not; with contrastive tuning it is the loss of
        the pairs, and `head_seconds` are those of the head's fit. Epoch 0 is the start, with
        `load_seconds`, `tokenise_seconds`, `bag_of_words_seconds`, `n_folds` and
        `cross_fit_seconds` (if there was a cross-validation: then the first and the last row have
        its scores, the others none) and, for a head from a logistic regression, `head_seconds`, its
        `penalty` and, but for contrastive tuning and a loss of your own, its `train_loss`. Scores
        and temperatures are those of the Transformer alone.

    See Also
    --------
    sklearn.linear_model.LogisticRegression : Behind a ``TfidfVectorizer``, the usual baseline.
    sklearn.ensemble.HistGradientBoostingClassifier : The same words for early stopping.

    Notes
    -----
    Training uses gradient clipping, mixed precision and batches of similar length. `fit`
    changes the estimator only when it succeeds: after an error or Ctrl-C it is what it was before.

    References
    ----------
    .. [1] Loshchilov and Hutter (2019), "Decoupled Weight Decay Regularization", ICLR.

    .. [2] Devlin et al. (2019), "BERT: Pre-training of Deep Bidirectional Transformers for
       Language Understanding", NAACL.

    .. [3] Kumar et al. (2022), "Fine-Tuning can Distort Pretrained Features and Underperform
       Out-of-Distribution", ICLR.

    .. [4] Guo et al. (2017), "On Calibration of Modern Neural Networks", ICML.

    .. [5] Breiman et al. (1984), "Classification and Regression Trees", Wadsworth.

    .. [6] Chen et al. (2016), "Training Deep Nets with Sublinear Memory Cost".

    .. [7] Tunstall et al. (2022), "Efficient Few-Shot Learning Without Prompts" (SetFit).

    .. [8] Hu et al. (2022), "LoRA: Low-Rank Adaptation of Large Language Models", ICLR.

    .. [9] Ben Zaken et al. (2022), "BitFit: Simple Parameter-efficient Fine-tuning for
       Transformer-based Masked Language-models", ACL.

    .. [10] Lester et al. (2021), "The Power of Scale for Parameter-Efficient Prompt Tuning",
       EMNLP.

    .. [11] Yang et al. (2016), "Hierarchical Attention Networks for Document Classification",
       NAACL.

    .. [12] Lin et al. (2017), "Focal Loss for Dense Object Detection", ICCV.

    .. [13] Brier (1950), "Verification of Forecasts Expressed in Terms of Probability", Monthly
       Weather Review.

    .. [14] Shazeer and Stern (2018), "Adafactor: Adaptive Learning Rates with Sublinear Memory
       Cost", ICML.

    .. [15] Sun et al. (2019), "How to Fine-Tune BERT for Text Classification?", CCL.

    .. [16] Cheng et al. (2016), "Wide & Deep Learning for Recommender Systems", DLRS.

    .. [17] Szegedy et al. (2016), "Rethinking the Inception Architecture for Computer Vision",
       CVPR.

    Examples
    --------
    >>> from sklearn_transformers import TransformerTextClassifier
    >>> texts = ["good", "great", "fine", "bad", "awful", "poor"] * 4
    >>> labels = ["yes", "yes", "yes", "no", "no", "no"] * 4
    >>> clf = TransformerTextClassifier(max_epochs=5, random_state=0).fit(texts, labels)
    >>> clf.predict(["great", "awful"])
    array(['yes', 'no'], dtype='<U3')
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "model": [str, os.PathLike],
        "max_length": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "truncation_side": [StrOptions({"middle", "right", "left"})],
        "pooling": [StrOptions({"auto", "cls", "mean", "max", "last"})],
        "dropout": [Interval(Real, 0, 1, closed="left"), None],
        "tuning": [StrOptions({"auto", "full", "contrastive", "lora", "bias", "prompt", "head"})],
        "freeze_layers": [Interval(Integral, 0, None, closed="left")],
        "lora_rank": [Interval(Integral, 1, None, closed="left")],
        "lora_alpha": [Interval(Real, 0, None, closed="neither")],
        "lora_dropout": [Interval(Real, 0, 1, closed="left")],
        "n_prompt_tokens": [Interval(Integral, 1, None, closed="left")],
        "head": [StrOptions({"linear", "mlp", "attention"}), callable],
        "head_init": [StrOptions({"auto", "logistic", "random"})],
        "loss": [StrOptions({"cross_entropy", "focal", "squared_error"}), callable],
        "optimizer": [StrOptions({"adamw", "sgd", "adafactor"}), callable],
        "optimizer_params": [dict, None],
        "schedule": [StrOptions({"linear", "cosine", "constant", "plateau"})],
        "learning_rate": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "head_learning_rate": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "layer_decay": [Interval(Real, 0, 1, closed="right")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "warmup": [Interval(Real, 0, 1, closed="both")],
        "label_smoothing": [Interval(Real, 0, 1, closed="left"), StrOptions({"auto"})],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "gradient_checkpointing": ["boolean"],
        "compile": ["boolean"],
        "max_epochs": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean", StrOptions({"auto"})],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "bag_of_words": ["boolean"],
        "calibrate": ["boolean"],
        "scoring": [StrOptions({"loss", *get_scorer_names()}), callable],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "device": "no_validation",  # torch knows which devices there are: see resolve_device
        "precision": [StrOptions({"auto", "float32", "bfloat16", "float16"})],
        "predict_precision": [StrOptions({"auto", "float32", "bfloat16", "float16"})],
        "store_dtype": [StrOptions({"float32", "float16", "bfloat16"})],
        "callbacks": [list, tuple, None],
        "checkpoint_dir": [str, os.PathLike, None],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model: str | os.PathLike[str] = "sentence-transformers/all-MiniLM-L6-v2",
        *,
        max_length: int | str = "auto",
        truncation_side: str = "middle",
        pooling: str = "auto",
        dropout: float | None = None,
        tuning: str = "auto",
        freeze_layers: int = 0,
        lora_rank: int = 8,
        lora_alpha: float = 16.0,
        lora_dropout: float = 0.0,
        n_prompt_tokens: int = 20,
        head: Any = "linear",
        head_init: str = "auto",
        loss: Any = "cross_entropy",
        optimizer: Any = "adamw",
        optimizer_params: dict[str, Any] | None = None,
        schedule: str = "linear",
        learning_rate: float | str = "auto",
        head_learning_rate: float | str = "auto",
        layer_decay: float = 1.0,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
        label_smoothing: float | str = "auto",
        max_grad_norm: float | None = 1.0,
        batch_size: int | str = "auto",
        gradient_checkpointing: bool = False,
        compile: bool = False,  # noqa: A002  (torch's word for it)
        max_epochs: int | str = "auto",
        early_stopping: bool | str = "auto",
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 0.0,
        bag_of_words: bool = True,
        calibrate: bool = True,
        scoring: Any = "loss",
        class_weight: Any = None,
        device: Any = "auto",
        precision: str = "auto",
        predict_precision: str = "float32",
        store_dtype: str = "float32",
        callbacks: Any = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 1,
    ) -> None:
        self.model = model
        self.max_length = max_length
        self.truncation_side = truncation_side
        self.pooling = pooling
        self.dropout = dropout
        self.tuning = tuning
        self.freeze_layers = freeze_layers
        self.lora_rank = lora_rank
        self.lora_alpha = lora_alpha
        self.lora_dropout = lora_dropout
        self.n_prompt_tokens = n_prompt_tokens
        self.head = head
        self.head_init = head_init
        self.loss = loss
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.schedule = schedule
        self.learning_rate = learning_rate
        self.head_learning_rate = head_learning_rate
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.label_smoothing = label_smoothing
        self.max_grad_norm = max_grad_norm
        self.batch_size = batch_size
        self.gradient_checkpointing = gradient_checkpointing
        self.compile = compile
        self.max_epochs = max_epochs
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.bag_of_words = bag_of_words
        self.calibrate = calibrate
        self.scoring = scoring
        self.class_weight = class_weight
        self.device = device
        self.precision = precision
        self.predict_precision = predict_precision
        self.store_dtype = store_dtype
        self.callbacks = callbacks
        self.checkpoint_dir = checkpoint_dir
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Fine-tune the model on texts and labels.

        Parameters
        ----------
        X : sequence of str, or array-like of shape (n_samples,) or (n_samples, 1)
            One text per sample: list, tuple, array, Series, or DataFrame with one column.
        y : array-like of shape (n_samples,)
            The labels: str, int, bool, or float with integer values.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row in the loss; a row of weight 0 is as good as absent.
        X_val : like `X`, default=None
            Texts to validate and calibrate on, instead of held-out rows of `X`. In a
            cross-validation, scikit-learn cuts arrays as long as `X` into folds: another length
            is left whole.
        y_val : array-like of shape (n_val,), default=None
            Their labels.
        sample_weight_val : array-like of shape (n_val,), default=None
            Their weights in the validation loss, and in `scoring` where the scorer takes them.

        Returns
        -------
        self : TransformerTextClassifier
            The fitted estimator.

        Raises
        ------
        InvalidTextError
            When `X` or `X_val` holds anything but texts.
        InvalidParameterError
            When a parameter is out of range.
        ValueError
            When labels or weights are unusable, lengths differ, parameters contradict each
            other, or `checkpoint_dir` has the unfinished training of another fit.
        TypeError
            When labels or weights are sparse, or of a type that cannot be used.
        RuntimeError
            When another fit is using `checkpoint_dir`.
        OSError
            When a snapshot cannot be written.
        PretrainedModelError
            When the pretrained model cannot be had.
        TrainingDivergedError
            When a loss, its gradient or the model's answers become infinite or not a number.
        ImportError
            When a package of an extra is missing.

        Warns
        -----
        TextDataWarning
            When something is wrong with the data.
        """
        from sklearn_transformers._fitting import fine_tune
        from sklearn_transformers._targets import ClassCodec

        proceed = self.warm_start and self._is_fitted()
        codec = None
        if proceed:
            codec = ClassCodec.learn(y)
            if not np.array_equal(codec.classes, self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the "
                    f"previous call to fit. Previously got {self.classes_.tolist()}, `y` has "
                    f"{codec.classes.tolist()}."
                )
        n_epochs = None if self.max_epochs == "auto" else int(self.max_epochs)
        task = FitTask.of_fit(self, X, y, sample_weight, n_epochs)
        fitted = fine_tune(
            self,
            X,
            y,
            sample_weight,
            X_val=X_val,
            y_val=y_val,
            sample_weight_val=sample_weight_val,
            codec=codec,
            proceed=proceed,
            task=task,
        )
        task.end(fitted)
        self.__dict__.update(fitted)
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train one epoch on these rows, going on from the current model if there is one.

        There is no validation and no early stopping; the learning rate warms up and decays
        within the call.

        Parameters
        ----------
        X : sequence of str, or array-like of shape (n_samples,) or (n_samples, 1)
            One text per sample.
        y : array-like of shape (n_samples,)
            The labels.
        classes : array-like of shape (n_classes,), default=None
            All labels that will ever occur. Required in the first call on an unfitted
            estimator; may be left out later.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row beside the others of this call, as in `fit`: multiplying all by a
            number changes nothing. So with `class_weight`, where a call has rows of one class
            only. To let a call count less, lower `learning_rate`.

        Returns
        -------
        self : TransformerTextClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            When `classes` is missing in the first call or differs from an earlier one, or `y`
            holds other labels; and all that `fit` raises.
        """
        from sklearn_transformers._fitting import fine_tune
        from sklearn_transformers._targets import ClassCodec

        proceed = self._is_fitted()
        if proceed:  # fit_context leaves it out then, for the sake of speed
            self._validate_params()
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' is not supported by partial_fit, which never sees all "
                "rows. Pass the weights as a dict, for example from "
                "sklearn.utils.class_weight.compute_class_weight, and rows of several classes in "
                "each call: weights count beside those of the same call."
            )
        if classes is None and not proceed:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        codec = ClassCodec(self.classes_) if proceed else ClassCodec.learn(classes, name="classes")
        given = codec.classes if classes is None else ClassCodec.read(classes, name="classes")
        if not np.array_equal(np.unique(given), codec.classes):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: "
                f"{codec.classes!r}"
            )
        fitted = fine_tune(self, X, y, sample_weight, codec=codec, proceed=proceed, one_epoch=True)
        self.__dict__.update(fitted)
        return self

    def add_classes(self, classes: Any) -> Self:
        """Make room for labels that have turned up since the model was fitted.

        The head answers a new class as it answers the old ones on average, so that no text
        changes its label before training goes on: by `partial_fit`, or by `fit` with
        `warm_start`. Show it old rows too, or it forgets the old classes.

        Parameters
        ----------
        classes : array-like of shape (n_new_classes,)
            The new labels, of the same kind as those in `classes_`.

        Returns
        -------
        self : TransformerTextClassifier
            The fitted estimator, `classes_` with the new labels in their sorted places.

        Raises
        ------
        ValueError
            When a label is known already or of another kind, or the head is one of your own,
            which only you know how to widen.
        """
        check_is_fitted(self)
        from sklearn_transformers._device import own_grad_mode
        from sklearn_transformers._start import widened

        with own_grad_mode(self.device_):
            self.__dict__.update(widened(self, classes))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict the label of each text.

        Parameters
        ----------
        X : sequence of str, or array-like of shape (n_samples,) or (n_samples, 1)
            One text per sample.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            The most probable class of each text.

        Raises
        ------
        InvalidTextError
            When `X` holds anything but texts.
        FloatingPointError
            When the model's answer to a text is infinite or not a number.
        """
        logits = self._logits(X)
        return np.asarray(self.classes_[logits.argmax(axis=1)])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict the probability of each class.

        Parameters
        ----------
        X : sequence of str, or array-like of shape (n_samples,) or (n_samples, 1)
            One text per sample.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes), float64
            Columns in the order of `classes_`; rows sum to 1.
        """
        from sklearn_transformers._targets import ClassCodec

        return ClassCodec.probabilities(self._logits(X), self.temperature_)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Predict the logarithm of the probability of each class.

        Parameters
        ----------
        X : sequence of str, or array-like of shape (n_samples,) or (n_samples, 1)
            One text per sample.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes), float64
            Columns in the order of `classes_`; finite even where the probability is 0.
        """
        from sklearn_transformers._targets import ClassCodec

        return ClassCodec.log_probabilities(self._logits(X), self.temperature_)

    def decision_function(self, X: Any) -> np.ndarray:
        """Compute the confidence in each class.

        Parameters
        ----------
        X : sequence of str, or array-like of shape (n_samples,) or (n_samples, 1)
            One text per sample.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes), float64
            For two classes the log-odds of ``classes_[1]``, positive where it is predicted;
            otherwise the logits, unnormalised; both after division by `temperature_`.
        """
        from sklearn_transformers._targets import ClassCodec

        return ClassCodec.decisions(self._logits(X), self.temperature_)

    def transform(self, X: Any) -> np.ndarray:
        """Turn texts into the vectors that the fine-tuned head sees.

        Parameters
        ----------
        X : sequence of str, or array-like of shape (n_samples,) or (n_samples, 1)
            One text per sample.

        Returns
        -------
        vectors : ndarray of shape (n_samples, hidden_size), float32
            Pooled hidden states of the fine-tuned backbone.
        """
        return self._forward(X, "embed")

    def save(self, path: str | os.PathLike[str], *, push_to_hub: str | None = None) -> None:
        """Write the fitted classifier to a folder that holds no code.

        Weights as safetensors, everything else as text, with a digest of each file and a model
        card. The folder appears whole or not at all; one that was saved before is replaced, unless
        it has got other files. `checkpoint_dir`, a place on this machine, is not kept.

        With a linear head, no bag of words (`bag_of_words_weight_` is 0), no prompt and, for BERT
        and its kin, the pooling "cls" or (not in float16) "mean", it is also a checkpoint that
        ``transformers.AutoModelForSequenceClassification`` and the pipeline "text-classification"
        read, with the same logits (after division by `temperature_`) and label names. They cannot
        leave out the middle of a long text: then they cut its end.

        Parameters
        ----------
        path : str or path-like
            Folder to write.
        push_to_hub : str, default=None
            Name of a repository on the Hugging Face Hub, ``"user/name"``, to upload the folder
            to; it is created, private, if there is none. Needs a token, as
            ``huggingface_hub.login`` stores it.

        Raises
        ------
        ValueError
            When the head is code of your own, a label is no str, int, float or bool, a parameter
            is out of range, or `store_dtype` cannot hold a weight.
        FileExistsError
            When `path` is there and holds something else.
        OSError
            When it cannot be written; then what was there is there still.

        Warns
        -----
        UserWarning
            When a parameter is code of your own and left out, or a bag of words keeps transformers
            from reading the folder.
        """
        check_is_fitted(self)
        from sklearn_transformers._saved import save_estimator, upload

        self._validate_params()  # what was changed since `fit` would not be read again
        save_estimator(self, path)
        if push_to_hub is not None:
            upload(path, push_to_hub)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: Any = None) -> Self:
        """Read a classifier from a folder that `save` wrote.

        No code in the folder is run, and nothing but the listed files is read: it may come from
        strangers. Digests find damage, not forgery: whoever forges a folder can make it answer
        what they like, and a tokenizer made to do so can use up time and memory.

        Parameters
        ----------
        path : str or path-like
            The folder.
        device : str or torch.device, default=None
            Where to predict. None takes the device that it was fitted on, or the best one that
            this machine has; "auto" the best one.

        Returns
        -------
        classifier : TransformerTextClassifier
            Fitted.

        Raises
        ------
        SavedModelError
            When there is no such folder, or it is damaged, of a newer format, or not what it
            claims to be.
        ValueError
            When `device` is none that torch knows, or not there.
        """
        from sklearn_transformers._saved import load_estimator

        return load_estimator(cls, path, device)

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike[str], **parameters: Any) -> Self:
        """Take over a sequence classifier that was published fine-tuned, without training.

        Its logits are compared with those of transformers on a few texts. `fit` would start anew
        from its backbone; with ``warm_start=True`` it goes on, as `partial_fit` does.

        Parameters
        ----------
        model : str or path-like
            Folder, or name on the Hugging Face Hub, of a checkpoint for
            ``transformers.AutoModelForSequenceClassification``.
        **parameters : dict
            Further parameters of the constructor, but for `pooling` and `head`, which the
            checkpoint has settled. Unless given, `truncation_side` is what the checkpoint's
            tokenizer says, and `max_length` 512, also where the model could read more.

        Returns
        -------
        classifier : TransformerTextClassifier
            Fitted: `classes_` are the checkpoint's label names, sorted. `history_` has the loading
            only; attributes that tell of a training are None, 0, False or empty, but `tuning_` is
            "full", `precision_` "float32" and `temperature_` 1.

        Raises
        ------
        PretrainedModelError
            When the model cannot be had, classifies no single labels, or has a head that this
            package does not know.
        ValueError
            When a parameter is out of range, or settled already.
        """
        from sklearn_transformers._published import adopt

        settled = sorted({"pooling", "head"} & set(parameters))
        if settled:
            raise ValueError(
                f"{', '.join(settled)} cannot be passed to from_pretrained: the checkpoint has "
                "them already. To fine-tune it in another form, use fit."
            )
        classifier = cls(model, **parameters)
        classifier._validate_params()
        classifier.__dict__.update(adopt(classifier, parameters.get("truncation_side")))
        classifier.truncation_side = classifier._padding["cut"]
        return classifier

    def export_onnx(self, path: str | os.PathLike[str], int8: bool = False) -> None:
        """Write a folder for `OnnxTextClassifier`, which answers without torch.

        Needs the extra `onnx`. The folder appears only when all of it is on the disk; one that
        was exported before is replaced.

        Parameters
        ----------
        path : str or path-like
            The folder.
        int8 : bool, default=False
            Store matrices and embeddings in 8 bits instead of 32: about a quarter of the size,
            and quicker. Probabilities change a little, and now and then a label.

        Raises
        ------
        ImportError
            When a package of the extra is missing.
        ValueError
            When the model cannot be exported: its tokenizer is in Python, a label is no str, int,
            float or bool, or the weights take more than 2 GiB.
        RuntimeError
            When torch cannot export this kind of model.
        FileExistsError
            When `path` holds something else.
        """
        check_is_fitted(self)
        from sklearn_transformers._folder import write_folder
        from sklearn_transformers._onnx_export import export

        record, files = export(self, int8)
        write_folder(path, "onnx", record, files)

    def _logits(self, X: Any) -> np.ndarray:
        """Logits of shape (n_samples, n_classes), float32."""
        known_for, known = self.__dict__.get("_known_logits", (None, None))
        if known is not None and X is known_for:
            return np.asarray(known)
        return self._forward(X, "forward")

    def _forward(self, X: Any, method: str) -> np.ndarray:
        """Send texts through a method of the model, in the caller's order."""
        check_is_fitted(self)
        from sklearn_transformers._batching import Padding
        from sklearn_transformers._device import resolve_precision
        from sklearn_transformers._inference import answer
        from sklearn_transformers._targets import check_finite
        from sklearn_transformers._vectors import reader

        self._check_again("predict_precision")
        padding = Padding(**self._padding)
        precision = resolve_precision(self.predict_precision, self.device_)
        is_frozen = self.tuning_ == "head"
        read = reader(self.model_, method, padding, self.device_, precision, is_frozen)
        outputs = answer(read, check_texts(X), self.tokenizer_, padding)
        check_finite(outputs, precision)
        return outputs

    def _check_again(self, name: str) -> None:
        """Look at a parameter that may have been changed since `fit` looked at it."""
        validate_parameter_constraints(
            {name: self._parameter_constraints[name]},
            {name: getattr(self, name)},
            type(self).__name__,
        )

    def _is_fitted(self) -> bool:
        return "model_" in self.__dict__

    def __sklearn_is_fitted__(self) -> bool:
        return self._is_fitted()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __copy__(self) -> Self:
        """Shallow, as for any object: not by way of `__getstate__`, which packs the weights."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy in full precision, whatever `store_dtype` says of files."""
        twin = object.__new__(type(self))
        twin.__setstate__(copy.deepcopy(self._state("float32"), memo))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        if self._is_fitted():
            self._check_again("store_dtype")
        return self._state(self.store_dtype)

    def _state(self, store_dtype: str) -> dict[str, Any]:
        """What a pickle holds."""
        state = dict(super().__getstate__())
        # A path of this system could not be read back on another, nor a device by another torch.
        for name in ("model", "checkpoint_dir"):
            if isinstance(state[name], os.PathLike):
                state[name] = os.fspath(state[name])
        if type(state["device"]).__module__ == "torch":
            state["device"] = str(state["device"])
        if self._is_fitted():
            from sklearn_transformers._persistence import pack

            state["model_"] = pack(state["model_"], state.pop("tokenizer_"), store_dtype)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Parameters that are younger than the pickle have their defaults, or what was done before.
        younger: dict[str, Any] = {}
        for kind in reversed(type(self).__mro__):  # a subclass may take fewer
            if "__init__" in vars(kind):
                parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
                younger |= {p.name: p.default for p in parameters if p.default is not p.empty}
        younger["truncation_side"] = "right"
        state = younger | state
        if "model_" in state:
            state = {"bag_of_words_weight_": 0.0} | state
            from sklearn_transformers._persistence import revive

            state = revive(state)
        super().__setstate__(state)
