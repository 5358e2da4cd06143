"""Pruning methods as rankings of the prunable weights, and exact nested masks from a ranking.

A new method is one function and one line in `registry`, which needs no torch; a method of a user's own is named
``module:function``. Read first: `registry`, then `rankings`.
"""

from ..names import lazy
from .registry import CONTROLS, METHODS, Method, declare, method_name, method_of, method_token, names, without_control

_EXPORTS = {
    "Epochs": "iterative",
    "GemSearch": "gem_miner",
    "Level": "iterative",
    "Ranking": "rankings",
    "Subject": "subject",
    "gem_epoch": "gem_miner",
    "gmp_sparsity": "schedules",
    "imp_sparsities": "schedules",
    "keep_highest": "rankings",
    "layerwise_shuffle": "controls",
    "mask": "rankings",
    "rank": "rankings",
    "reinitialise": "controls",
    "removed_count": "rankings",
    "start_gem_search": "gem_miner",
}

__all__ = [
    "CONTROLS",
    "METHODS",
    "Method",
    "declare",
    "method_name",
    "method_of",
    "method_token",
    "names",
    "without_control",
    *_EXPORTS,
]

__getattr__ = lazy(__name__, _EXPORTS)
