"""gwprune: predict how sparse a trained network can be pruned, before pruning it, and prune it to check."""

from importlib import metadata

from .names import lazy

_EXPORTS = {
    "curvature_operator": "curvature.operator",
    "Mask": "pruned",
    "Measurement": "measured",
    "load_mask": "pruned",
    "load_prediction": "predict",
    "measure_loss": "measured",
    "measure_threshold": "measured",
    "predict_threshold": "predict",
    "Prediction": "predict",
    "prune": "pruned",
    "PrunableSet": "network.prunable",
    "save_pruned": "pruned",
    "squared_width": "spectral.width",
    "statistical_dimension": "spectral.projection",
}

__all__ = ["__version__", *_EXPORTS]

try:
    __version__ = metadata.version("gwprune")
except metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0"

__getattr__ = lazy(__name__, _EXPORTS)
