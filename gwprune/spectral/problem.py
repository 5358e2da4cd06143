"""What a predictor is computed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .spectrum import Spectrum

__all__ = ["Problem"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The weights of a network, the order of their removal, and what is known of the curvature of its loss.

    Attributes:
        weights: (D,), in the dtype of the operator and on its device.
        ranks: (D,), 0 for the weight that is removed first; on the same device.
        norms: (D + 1,) float64, the pruned norm R after removal of 0, 1, ..., D weights.
        operator: the curvature; anything with ``shape`` (D, D) and ``@``.
        gradient: (D,), of the data loss.
        loss: the data loss, in nats, as a function of all weights (D,).
        l1: coefficient of the penalty in the objective, per unit of ``|w|``.
        spectrum: of the operator.
        tolerance: width of the interval, in sparsity, that is asked for; None: as narrow as the predictor makes it.
        steps: most Lanczos steps from one removed vector.
        reorthogonalize: whether these keep and use their basis, see :class:`.Lanczos`.
        storage: where the basis lies, see :class:`.Lanczos`.
        first: the same network in the order of another method, for which each prediction was made before: what was
            computed for it may serve here. None: there is none.
        cache: what a predictor keeps from one epsilon or criterion to the next; empty in every new problem.

    Raises:
        ValueError: for parts of different sizes.
    """

    weights: Tensor
    ranks: Tensor
    norms: np.ndarray
    operator: Any = None
    gradient: Tensor | None = None
    loss: Callable[[Tensor], float] | None = None
    l1: float = 0.0
    spectrum: Spectrum | None = None
    tolerance: float | None = None
    steps: int = 64
    reorthogonalize: bool = True
    storage: str = "device"
    first: Problem | None = field(default=None, repr=False, compare=False)
    cache: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self):
        size = self.dimension
        shapes = {"ranks": (size,), "norms": (size + 1,), "operator": (size, size), "gradient": (size,)}
        for name, expected in shapes.items():
            part = getattr(self, name)
            if part is not None and tuple(part.shape) != expected:
                raise ValueError(f"{name} must have shape {expected}, got {tuple(part.shape)}")
        if self.spectrum is not None and self.spectrum.dimension != size:
            raise ValueError(f"the spectrum is of order {self.spectrum.dimension}, the network has {size} weights")

    @property
    def dimension(self) -> int:
        """D, the number of weights."""
        return len(self.weights)

    def removed(self, count: int) -> Tensor:
        """The removed vector (D,) of the ``count`` weights of lowest rank: the weights there, 0 elsewhere."""
        zero = torch.zeros((), dtype=self.weights.dtype, device=self.weights.device)
        return torch.where(self.ranks < count, self.weights, zero)
