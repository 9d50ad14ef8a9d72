"""What runs an exported graph."""

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sklearn_transformers._compat import import_optional

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["INPUTS", "check_signature", "new_session"]

INPUTS = {"input_ids": "tensor(int64)", "attention_mask": "tensor(int64)"}


def new_session(graph: bytes, n_threads: int | None) -> "InferenceSession":
    """Get a graph ready, for so many threads; None takes one for each physical core."""
    ort = import_optional("onnxruntime", "OnnxTextClassifier", "onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(n_threads or 0)
    options.log_severity_level = 4  # what goes wrong is raised
    with TemporaryDirectory() as nothing:  # a graph may name files to read weights from
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", nothing
        )
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def check_signature(session: "InferenceSession", n_classes: int) -> None:
    """Refuse a model whose inputs or outputs are not those of a classifier of texts."""
    inputs = {node.name: node.type for node in session.get_inputs()}
    ranks = [len(node.shape) for node in session.get_inputs()]
    outputs = [(node.type, list(node.shape)[1:]) for node in session.get_outputs()]
    if inputs != INPUTS or ranks != [2, 2] or outputs != [("tensor(float)", [n_classes])]:
        raise ValueError(
            f"the model takes {inputs} and returns {outputs}; {n_classes} classes need "
            f"{INPUTS} and one output of as many columns"
        )
