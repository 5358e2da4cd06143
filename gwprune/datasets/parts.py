"""What a loader hands over: labels at once, images on demand, so that only the chosen ones are decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import DataError

__all__ = ["Loaded", "Part", "array_part", "checked_labels"]


@dataclass(frozen=True)
class Part:
    """The training or the test part of a data set.

    Attributes:
        labels: int64 array (N,).
        fetch: indices (M,) -> uint8 tensor (M, C, H, W).
    """

    labels: np.ndarray
    fetch: Callable[[np.ndarray], Tensor]


@dataclass(frozen=True)
class Loaded:
    """A data set as its loader found it; ``test`` is None when there is no test part of its own."""

    train: Part
    test: Part | None
    class_names: list[str]


def array_part(images: np.ndarray, labels: np.ndarray) -> Part:
    """A part held in memory: uint8 images (N, C, H, W) of any strides, integer labels (N,)."""

    def fetch(indices: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(images[indices]))

    return Part(labels.astype(np.int64), fetch)


def checked_labels(labels: np.ndarray, classes: int, path: Path) -> np.ndarray:
    """Return ``labels``.

    Raises:
        DataError: naming ``path``, when a label is outside 0..classes-1.
    """
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(
            f"{path}: labels run from {int(labels.min())} to {int(labels.max())}, expected 0 to {classes - 1}"
        )
    return labels
