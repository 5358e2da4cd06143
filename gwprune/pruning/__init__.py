"""Pruning methods as rankings of the prunable weights, and exact nested masks from a ranking.

A new method is one function and one line in `registry`, which needs no torch; a method of a user's own is named
``module:function``. Read first: `registry`, then `rankings`.
"""

from ..names import lazy

_EXPORTS = {
    "CONTROLS": "registry",
    "METHODS": "registry",
    "Epochs": "iterative",
    "GemSearch": "gem_miner",
    "Level": "iterative",
    "Method": "registry",
    "Ranking": "rankings",
    "Subject": "subject",
    "declare": "registry",
    "gem_epoch": "gem_miner",
    "gmp_sparsity": "schedules",
    "imp_sparsities": "schedules",
    "keep_highest": "rankings",
    "layerwise_shuffle": "controls",
    "mask": "rankings",
    "method_name": "registry",
    "method_of": "registry",
    "method_token": "registry",
    "names": "registry",
    "rank": "rankings",
    "reinitialise": "controls",
    "removed_count": "rankings",
    "start_gem_search": "gem_miner",
    "without_control": "registry",
}

__all__ = list(_EXPORTS)

__getattr__ = lazy(__name__, _EXPORTS)
