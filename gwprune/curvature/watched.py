"""Products shown as they are made: what they will take, and a bar."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

__all__ = ["watched"]

logger = logging.getLogger("gwprune")


class _Watched:
    """The operator, with a bar that counts its products."""

    def __init__(self, operator: Any, bar: tqdm):
        self._operator, self._bar = operator, bar

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operator, name)

    def __matmul__(self, other: Tensor | np.ndarray) -> Tensor | np.ndarray:
        product = self._operator @ other
        self._bar.update(1 if other.ndim == 1 else other.shape[1])
        return product

    def remain(self, products: int) -> None:
        """Say how many products there still are, now that it is known."""
        self._bar.total = self._bar.n + products
        self._bar.refresh()


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.2g} s"


def _announcement(operator: Any, products: int | None, basis: int) -> str:
    dimension, dtype = operator.shape[0], operator.dtype
    if not operator.seconds:
        operator @ torch.ones(dimension, dtype=dtype, device=operator.device)
    size = torch.empty((), dtype=dtype).element_size()
    text = (
        f"{operator.operator} on {dimension:,} prunable weights and {operator.samples:,} samples, batches of"
        f" {operator.batch_size:,}: a product takes about {_time(operator.seconds)}, the graphs"
        f" {_size(operator.graph_bytes)}"
    )
    if basis:
        text += f", the basis up to {_size(basis * dimension * size)}"
    if products:
        text += f"; up to {products} products, about {_time(products * operator.seconds)}"
    return text


@contextmanager
def watched(
    operator: Any, recorded: Any, progress: bool | None, *, title: str, products: int | None, basis: int = 0
) -> Iterator[Any]:
    """The same operator; says before what its products will take, and shows a bar of them meanwhile.

    What is said also goes to the log, at level INFO.

    Args:
        operator: with the attributes of :class:`.CurvatureOperator`; one product of it is timed if none was.
        recorded: the same operator, or what stands before it.
        progress: whether to show it on standard error; None: if that is a terminal.
        title: of the bar.
        products: how many there will be at most; None: it is not known.
        basis: number of vectors (D,) that are kept.
    """
    with tqdm(total=products, desc=title, unit=" products", disable=None if progress is None else not progress) as bar:
        if not bar.disable or logger.isEnabledFor(logging.INFO):
            text = _announcement(operator, products, basis)
            logger.info(text)
            if not bar.disable:
                bar.write(f"gwprune: {text}", file=sys.stderr)
        yield _Watched(recorded, bar)
