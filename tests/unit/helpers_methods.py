"""Pruning methods of a user's own, for tests that name them ``tests.unit.helpers_methods:NAME``."""

from __future__ import annotations

from torch import Tensor

from gwprune.pruning import Subject, declare
from gwprune.pruning.iterative import Epochs, Level


def smallest_2(subject: Subject) -> Tensor:
    """Like `magnitude`, in squares; the digit in its name is allowed."""
    return subject.prunable.flatten().square()


@declare(when="iterative")
def halves(target: float, epochs: Epochs, start: str = "before") -> list[Level]:
    """Prune the trained network to half of the target, train an epoch, prune the rest, train another one."""
    return [Level(target / 2, 0, 1, 2, start, "trained"), Level(target, 1, 2, 2, start)]
