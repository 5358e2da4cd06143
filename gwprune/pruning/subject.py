"""What a pruning method looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..network.prunable import PrunableSet
from ..network.samples import as_tensors, batches_of, count_samples

__all__ = ["Subject"]

_DEFAULT_BATCH = 256


@dataclass(frozen=True)
class Subject:
    """What a method looks at: the weights, and for some methods the network and data.

    Attributes:
        prunable: the weights to rank, D in all.
        seed: of every random number that a method draws.
        model: the network that ``prunable`` belongs to.
        data: a pair (inputs, labels) of tensors, a Dataset or a DataLoader of pairs; labels may be None. Held as
            tensors on the network's device.
        input_shape: shape of one input without the batch axis; by default that of ``data``.
        loss_fn: ``loss_fn(output, labels)``, the mean over the samples it is given.
        batch_size: samples per pass; scores do not depend on it beyond rounding. None: a default.

    Raises:
        ValueError: when ``prunable`` belongs to another network, or data has unequal lengths or no samples.
    """

    prunable: PrunableSet
    seed: int
    model: nn.Module | None = None
    data: Any = None
    input_shape: tuple[int, ...] | None = None
    loss_fn: Callable[[Any, Any], Tensor] = functional.cross_entropy
    batch_size: int | None = None

    def __post_init__(self):
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.model is not None:
            own = {id(parameter) for parameter in self.model.parameters()}
            if not own.issuperset(id(weight) for weight in self.prunable.parameters):
                raise ValueError("the prunable set holds the weights of another network than the one given as model")
        if self.data is not None:
            unlabelled = isinstance(self.data, tuple | list) and len(self.data) == 2 and self.data[1] is None
            data = (self.data[0], self.data[0]) if unlabelled else self.data
            inputs, labels = as_tensors(data, self.device)
            object.__setattr__(self, "data", (inputs, None if unlabelled else labels))
            if self.input_shape is None and isinstance(inputs, Tensor):
                object.__setattr__(self, "input_shape", tuple(inputs.shape[1:]))

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where methods compute."""
        return self.prunable.parameters[0].device

    @property
    def samples(self) -> int:
        """Number of samples in ``data``."""
        return count_samples(self.data[0])

    def batches(self, batch_size: int | None = None) -> Iterator[tuple[Any, Any]]:
        """(inputs, labels) in stored order, ``batch_size`` samples at a time; the last may be smaller."""
        return batches_of(self.data, batch_size or self.batch_size or _DEFAULT_BATCH)
