"""Loss and accuracy of a network, dense or pruned in place, without copying it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..datasets import DeviceSplit
from ..network.modes import eval_mode, weights_kept
from ..network.prunable import PrunableSet

__all__ = ["Evaluation", "evaluate", "l1_norm", "pruned"]

_BATCH = 2048


@dataclass(frozen=True)
class Evaluation:
    """Mean data loss (nats), top-1 and top-5 accuracy (percent) on one split."""

    loss: float
    accuracy: float
    top5_accuracy: float


@torch.no_grad()
def evaluate(model: nn.Module, split: DeviceSplit, batch_size: int = _BATCH) -> Evaluation:
    """Mean cross-entropy and accuracies of ``model`` on ``split``, in eval mode; the losses are summed in float64."""
    loss = torch.zeros((), dtype=torch.float64, device=split.device if split.device.type != "mps" else "cpu")
    first, five = torch.zeros((2,), dtype=torch.int64, device=split.device)
    with eval_mode(model):
        for inputs, labels in split.batches(batch_size):
            output = model(inputs)
            loss += functional.cross_entropy(output, labels, reduction="sum").double()
            first += (output.argmax(1) == labels).sum()
            # A NaN output is never among the five highest.
            five += ((~(output <= output.gather(1, labels[:, None]))).sum(1) < 5).sum()
    return Evaluation(float(loss) / len(split), *(100.0 * int(count) / len(split) for count in (first, five)))


def l1_norm(prunable: PrunableSet) -> float:
    """Sum of |w| over the prunable weights, in float64."""
    return float(sum(weight.detach().abs().sum(dtype=torch.float64) for weight in prunable.parameters))


@contextmanager
def pruned(prunable: PrunableSet, kept: Tensor) -> Iterator[None]:
    """The network under a mask while the block runs; its dense weights come back afterwards, bit for bit.

    Args:
        prunable: weights that are pruned in place.
        kept: boolean mask (D,), False at the weights that are set to 0.

    Raises:
        ValueError: when the mask is of a network of another size.
    """
    if kept.shape != (prunable.dimension,):
        raise ValueError(f"a mask of {kept.numel()} weights does not fit {prunable}")
    with weights_kept(prunable) as dense:
        prunable.assign(torch.where(kept.to(dense.device), dense, 0.0))
        yield
