"""Pruning methods as rankings of the prunable weights, and exact nested masks from a ranking.

A method is one function below a line ``@register(...)`` in a module that is imported here.
"""

from .registry import METHODS, Method, Subject, names, register  # isort: skip
from .rankings import Ranking, keep_highest, mask, rank, removed_count  # isort: skip

# In the order in which names() lists the methods.
from . import scores, layer_ratios, sensitivity, fisher, synaptic_flow, iterative  # noqa: F401  # isort: skip
from .controls import CONTROLS, layerwise_shuffle, reinitialise, without_control
from .gem_miner import GemSearch, gem_epoch, start_gem_search
from .iterative import Epochs, Level
from .schedules import gmp_sparsity, imp_sparsities

__all__ = [
    "CONTROLS",
    "METHODS",
    "Epochs",
    "GemSearch",
    "Level",
    "Method",
    "Ranking",
    "Subject",
    "gem_epoch",
    "gmp_sparsity",
    "imp_sparsities",
    "keep_highest",
    "layerwise_shuffle",
    "mask",
    "names",
    "rank",
    "register",
    "reinitialise",
    "removed_count",
    "start_gem_search",
    "without_control",
]
