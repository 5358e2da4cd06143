"""The samples behind an operator: whatever a caller holds them in, as tensors on one device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

__all__ = ["Batch", "as_tensors", "batches_of", "call", "count_samples", "take"]

Batch = tuple[Any, Any]


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple | list):
        return tuple(_to(part, device) for part in value)
    raise TypeError(f"inputs and targets must be tensors or tuples of tensors, got {type(value).__name__}")


def count_samples(value: Any) -> int:
    """Number of samples of a tensor, or of a (nested) tuple of tensors with the samples along axis 0."""
    return len(value) if isinstance(value, Tensor) else count_samples(value[0])


def take(value: Any, part: slice) -> Any:
    """The samples ``part`` of a tensor, or of a (nested) tuple of tensors."""
    return value[part] if isinstance(value, Tensor) else tuple(take(item, part) for item in value)


def batches_of(data: Batch, size: int) -> Iterator[Batch]:
    """(input, target) in stored order, ``size`` samples at a time; the last batch may be smaller."""
    for start in range(0, count_samples(data[0]), size):
        yield take(data[0], slice(start, start + size)), take(data[1], slice(start, start + size))


def call(model: nn.Module, inputs: Any) -> Any:
    """The network's output; a tuple of inputs is spread over its arguments."""
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _join(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return torch.cat(list(values))
    return tuple(_join(parts) for parts in zip(*values, strict=True))


def as_tensors(data: Any, device: torch.device) -> Batch:
    """All samples of ``data`` as one (input, target) on ``device``, in the order in which they come once.

    A shuffling loader is read once, so the operator never sees another order.

    Args:
        data: a pair (input, target), a ``Dataset`` of pairs, or a ``DataLoader`` of batches of pairs; an input may be
            a tuple of tensors.
        device: where the tensors shall lie.

    Returns:
        (input, target), with the samples along axis 0.

    Raises:
        TypeError: for data of another kind.
        ValueError: for no samples, or for unequal numbers of inputs and targets.
    """
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=1024)
    if isinstance(data, DataLoader):
        batches = [(_to(x, device), _to(y, device)) for x, y in data]
        if not batches:
            raise ValueError("data holds no samples")
        inputs, targets = (_join(parts) for parts in zip(*batches, strict=True))
    elif isinstance(data, tuple | list) and len(data) == 2:
        inputs, targets = _to(data[0], device), _to(data[1], device)
    else:
        raise TypeError(f"data must be (input, target), a Dataset or a DataLoader, got {type(data).__name__}")
    if count_samples(inputs) != count_samples(targets):
        raise ValueError(f"data has {count_samples(inputs)} inputs but {count_samples(targets)} targets")
    if count_samples(inputs) == 0:
        raise ValueError("data holds no samples")
    return inputs, targets
