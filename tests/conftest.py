"""Tiny checkpoints with random weights, and toy texts that a tiny model can learn."""

import importlib.util
import os
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from sklearn_transformers import TransformerTextClassifier, clear_cache
from sklearn_transformers._cache import CHECKPOINTS, TOKENS, VECTORS
from sklearn_transformers._encoded import EncodedTexts

# Before MKL is asked for anything: on Intel's processors its sums depend on the number of threads
# unless it is told otherwise, and some tests compare bits. docs/in_scikit_learn.md tells users.
CPU_FILE = Path("/proc/cpuinfo")
CPU = CPU_FILE.read_text(encoding="utf-8") if CPU_FILE.exists() else ""
if "GenuineIntel" in CPU:
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

GOOD = ["good", "great", "fine", "lovely", "superb", "happy", "bright", "sweet"]
BAD = ["bad", "awful", "poor", "nasty", "dreadful", "sad", "dull", "sour"]
PLAIN = ["the", "a", "film", "book", "day", "meal", "song", "was", "is", "very", "quite"]
PLAIN += ["and", "then", "with", "it", "we", "they", "saw", "ate"]

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
# Ten times the usual spread, so that even untrained weights tell texts apart.
SPREAD = {"initializer_range": 0.2}
ARCHITECTURES = ("bert", "distilbert", "roberta", "gpt2")


def load_example(name):
    """The module that an example is."""
    path = Path(__file__).parent.parent / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def topics():
    """Real texts that every installation has, and their 19 classes."""
    return load_example("docstring_topics").load_docstring_topics()


def pytest_configure(config):
    """Processes of pytest-xdist share the cores, as the workers of a search do."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        torch.set_num_threads(max(1, joblib.cpu_count() // worker["workercount"]))


def encoded_texts(*lists):
    """`EncodedTexts` of lists of token ids, in two chunks where there are two."""
    texts = [np.array(ids, np.int32).tobytes() for ids in lists]
    return EncodedTexts.from_chunks([texts[:2], texts[2:]])


def n_texts(input_ids, layout=None, **others):
    """Texts that a backbone is called with; packed ones lie in one row."""
    return len(input_ids if layout is None else layout.mask)


def toy_texts(n_rows, classes=("no", "yes"), seed=0):
    """Texts of 2 to 20 words, most of them noise; the label decides the others."""
    rng = np.random.default_rng(seed)
    vocabularies = [BAD, GOOD, PLAIN[:4]][: len(classes)]
    codes = np.arange(n_rows) % len(classes)
    texts = []
    for code in codes:
        words = [
            *rng.choice(vocabularies[code], rng.integers(1, 4)),
            *rng.choice(PLAIN[4:], rng.integers(1, 17)),
        ]
        texts.append(" ".join(rng.permutation(words)))
    return texts, [classes[code] for code in codes]


def _tokenizer(kind):
    words = GOOD + BAD + PLAIN
    if kind == "gpt2":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        core.train_from_iterator(words * 3, trainer)
        # No pad token, as in the published GPT-2.
        return PreTrainedTokenizerFast(
            tokenizer_object=core,
            bos_token="<|endoftext|>",
            eos_token="<|endoftext|>",
            unk_token="<|endoftext|>",
        )
    first, last = ("<s>", "</s>") if kind == "roberta" else ("[CLS]", "[SEP]")
    # RoBERTa's pad token must be id 1: its positions are counted from there.
    specials = [first, "<pad>" if kind == "roberta" else "[PAD]", last, "[UNK]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate(specials + words + list("bcdefghijklmnopqrs"))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, 0), (last, 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        cls_token=first,
        pad_token=specials[1],
        sep_token=last,
        unk_token="[UNK]",
        mask_token="[MASK]",
    )


def _backbone(kind, tokenizer):
    vocab_size = len(tokenizer)
    if kind == "bert":
        return BertModel(
            BertConfig(
                vocab_size=vocab_size,
                intermediate_size=64,
                max_position_embeddings=300,
                **SIZES,
                **SPREAD,
            )
        )
    if kind == "roberta":
        return RobertaModel(
            RobertaConfig(
                vocab_size=vocab_size,
                intermediate_size=64,
                max_position_embeddings=302,
                pad_token_id=1,
                **SIZES,
                **SPREAD,
            )
        )
    if kind == "distilbert":
        return DistilBertModel(
            DistilBertConfig(
                vocab_size=vocab_size,
                dim=32,
                n_layers=2,
                n_heads=4,
                hidden_dim=64,
                max_position_embeddings=300,
                **SPREAD,
            )
        )
    return GPT2Model(
        GPT2Config(
            vocab_size=vocab_size,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=300,
            bos_token_id=0,
            eos_token_id=0,
            **SPREAD,
        )
    )


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Folder of a tiny random checkpoint for each architecture."""
    folders = {}
    for kind in ARCHITECTURES:
        folders[kind] = str(tmp_path_factory.mktemp("checkpoints") / kind)
        tokenizer = _tokenizer(kind)
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            backbone = _backbone(kind, tokenizer)
        tokenizer.save_pretrained(folders[kind])
        backbone.save_pretrained(folders[kind])
    return folders


@pytest.fixture(autouse=True)
def fresh_cache():
    """No test finds what another left in the process's caches, nor their size changed."""
    clear_cache()
    caches = (CHECKPOINTS, TOKENS, VECTORS)
    before = [cache.max_bytes for cache in caches]
    yield
    for cache, size in zip(caches, before, strict=True):
        cache.max_bytes = size


@pytest.fixture
def make(checkpoints):
    """Make a tiny classifier that trains in about a second."""

    def make(architecture="bert", **parameters):
        defaults = {
            "model": checkpoints[architecture],
            "tuning": "full",
            "head_init": "random",
            "learning_rate": 5e-3,
            "batch_size": 32,
            "max_epochs": 6,
            "early_stopping": True,
            "bag_of_words": False,  # which knows these texts by heart: see test_bag_of_words
            "n_iter_no_change": 3,
            "random_state": 0,
            "device": "cpu",
            "precision": "float32",
            "verbose": 0,
        }
        defaults |= parameters
        rate = defaults["learning_rate"]  # a tiny model bears no head that learns much faster
        if isinstance(rate, float) and rate > 0:
            defaults.setdefault("head_learning_rate", 10 * rate)
        return TransformerTextClassifier(**defaults)

    return make


@pytest.fixture(scope="session")
def binary():
    """200 texts of two classes."""
    return toy_texts(200)


@pytest.fixture(scope="session")
def three_classes():
    """240 texts of three classes."""
    return toy_texts(240, classes=("bad", "good", "plain"))


@pytest.fixture(scope="session")
def fitted(checkpoints, three_classes):
    """A classifier fitted once on three classes; not to be changed."""
    return TransformerTextClassifier(
        checkpoints["bert"],
        tuning="full",
        head_init="random",
        learning_rate=5e-3,
        head_learning_rate=5e-2,
        batch_size=32,
        max_epochs=6,
        early_stopping=True,
        bag_of_words=False,
        random_state=0,
        device="cpu",
        precision="float32",
        verbose=0,
    ).fit(*three_classes)
