"""What a figure was measured on; of packages it needs torch alone, for peers may lack others."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = (
    "torch",
    "transformers",
    "scikit-learn",
    "skorch",
    "sentence-transformers",
    "setfit",
    "numpy",
    "joblib",
    "fastapi",
    "uvicorn",
)


def machine():
    """Processor, cores, GPU, and the versions of what is installed of `LIBRARIES`."""
    import torch

    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **found,
    }


def cpu():
    """The processor's name, which Python does not know on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
