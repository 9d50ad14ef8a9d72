"""A fitted classifier -> what answers without torch: a graph, a tokenizer's core and a record."""

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._batching import Budget, Padding, pad
from sklearn_transformers._checkpoint import neutral_id
from sklearn_transformers._compat import import_optional
from sklearn_transformers._encoded import EncodedTexts
from sklearn_transformers._model import TextClassifier
from sklearn_transformers._onnx_tokens import CoreTokenizer, id_lists
from sklearn_transformers._probes import PROBES
from sklearn_transformers._process import quiet
from sklearn_transformers._targets import ClassCodec
from sklearn_transformers._tokenization import encode

__all__ = ["export"]

LIBRARIES = ("sklearn-transformers", "torch", "transformers", "tokenizers", "onnx", "onnxruntime")

# What one protobuf message can hold, less a little for the graph around the weights.
MOST_BYTES = 2**31 - 2**24

# Entries of a weight that share a scale in int8, and how their products are computed: in int8,
# each row of the activations scaled by itself, so that a text's answer does not depend on the
# texts beside it.
BLOCK_SIZE, INT8_PRODUCTS = 32, 4

# Logits on the probes may differ by this share of the largest.
TOLERANCE = 1e-3


def export(estimator: Any, int8: bool) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Turn a fitted classifier into the record and the files of a folder.

    Raises
    ------
    ImportError
        When a package of the extra `onnx` is missing.
    ValueError
        When the tokenizer, the labels or the size of the model keep it from being exported.
    RuntimeError
        When torch cannot export the model, or the exported one answers otherwise.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_optional(package, "export_onnx", "onnx")
    padding = Padding(**estimator._padding)
    tokenizer = estimator.tokenizer_
    settings: dict[str, Any] = {
        "max_length": padding.longest,
        "splits_specials": bool(getattr(tokenizer, "split_special_tokens", False)),
        "neutral_id": neutral_id(tokenizer),
    }
    core = _core(tokenizer)
    probes = encode(tokenizer, list(PROBES), padding.longest, padding.cut)
    golden_ids = id_lists(probes)
    if id_lists(CoreTokenizer(core, padding.cut, **settings).encode(list(PROBES))) != golden_ids:
        raise ValueError(
            f"{type(tokenizer).__name__} does more than its core, which alone would be exported: "
            "the two split texts differently."
        )
    record = {
        "classes": ClassCodec(estimator.classes_).record(),
        "temperature": float(estimator.temperature_),
        "padding": estimator._padding,
        "tokenizer": settings,
        "golden_ids": dict(zip(PROBES, golden_ids, strict=True)),
        "int8": int8,
        "versions": {library: version(library) for library in LIBRARIES},
    }
    model = copy.deepcopy(estimator.model_).cpu().float().eval()
    graph = _graph(model)
    _compare(model, graph, probes, padding)
    content = _in_int8(graph) if int8 else graph.SerializeToString()
    return record, {"model.onnx": content, "tokenizer.json": core.encode()}


def _core(tokenizer: Tokenizer) -> str:
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} is a tokenizer in Python. Only fast tokenizers, whose "
            "core the library tokenizers can run by itself, can be exported."
        )
    return str(tokenizer.backend_tokenizer.to_str())


def _graph(model: TextClassifier) -> Any:
    """The model as an ONNX graph (`onnx.ModelProto`) for any number of texts of any length."""
    n_bytes = sum(weight.numel() * 4 for weight in model.state_dict().values())
    if n_bytes > MOST_BYTES:
        raise ValueError(
            f"The model's weights take {n_bytes / 2**30:.1f} GiB, but one ONNX file can hold no "
            "more than 2 GiB. Models of that size cannot be exported."
        )
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    # Two texts of unequal length, so that nothing is taken for a constant.
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    with _silent(), torch.no_grad():
        try:
            program: Any = torch.onnx.export(
                model,
                (torch.zeros_like(mask), mask),
                dynamo=True,
                dynamic_shapes=(any_size, any_size),
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                verbose=False,
            )
        except Exception as error:  # the exporter's errors have no class in common but this one
            raise RuntimeError(
                f"torch cannot export {type(model.backbone).__name__} with this head to ONNX: "
                f"{_cause(error)}"
            ) from error
    graph = program.model_proto
    for node in graph.graph.node:
        node.ClearField("metadata_props")  # where in which file of this machine it was traced
    return graph


def _compare(model: TextClassifier, graph: Any, probes: EncodedTexts, padding: Padding) -> None:
    """Check that the graph answers as the model: what Python decides is fixed in the graph."""
    session = import_optional("onnxruntime", "export_onnx", "onnx").InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for start in range(len(probes)):
        rows = np.arange(start, min(start + 3, len(probes)) if padding.masked else start + 1)
        input_ids, mask = pad(probes, rows, padding, Budget.on("cpu"))
        with torch.inference_mode():
            expected = model(torch.from_numpy(input_ids), torch.from_numpy(mask)).numpy()
        (found,) = session.run(None, {"input_ids": input_ids, "attention_mask": mask})
        if np.abs(found - expected).max() > TOLERANCE * max(1.0, np.abs(expected).max()):
            raise RuntimeError(
                f"The exported {type(model.backbone).__name__} answers otherwise than the model. "
                "A head that decides something in Python can be the reason."
            )


def _in_int8(graph: Any) -> bytes:
    """The graph with matrices and tables of embeddings in int8, a quarter of the size."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with _silent(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        quantize_dynamic(graph, file, op_types_to_quantize=["Gather"], weight_type=QuantType.QInt8)
        quantizer = MatMulNBitsQuantizer(
            str(file),
            bits=8,
            block_size=BLOCK_SIZE,
            is_symmetric=True,
            accuracy_level=INT8_PRODUCTS,
        )
        quantizer.process()
        return bytes(quantizer.model.model.SerializeToString())


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


@contextmanager
def _silent() -> Iterator[None]:
    """Keep to ourselves what exporter and quantiser tell and warn of; errors are raised."""
    level = logging.root.manager.disable
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(level)
