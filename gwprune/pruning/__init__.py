"""Pruning methods as rankings of the prunable weights, and exact nested masks from a ranking."""

from .rankings import Ranking, rank, removed_count
from .scores import METHODS, names

__all__ = ["METHODS", "Ranking", "names", "rank", "removed_count"]
