"""Pruning methods of a user's own, for tests that name them ``tests.unit.helpers_methods:NAME``."""

from __future__ import annotations

from torch import Tensor

from gwprune.pruning import Subject


def smallest_2(subject: Subject) -> Tensor:
    """Like `magnitude`, in squares; the digit in its name is allowed."""
    return subject.prunable.flatten().square()
