"""gwprune: predict how sparse a trained network can be pruned, before pruning it, and prune it to check."""

from importlib import import_module, metadata
from typing import Any

_EXPORTS = {
    "curvature_operator": "curvature.operator",
    "predict_threshold": "predict",
    "Prediction": "predict",
    "PrunableSet": "network.prunable",
    "squared_width": "spectral.width",
    "statistical_dimension": "spectral.projection",
}

__all__ = ["__version__", *_EXPORTS]

try:
    __version__ = metadata.version("gwprune")
except metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0"


# Reading a table or a configuration must not cost an import of torch.
def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
