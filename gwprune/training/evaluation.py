"""Loss and accuracy of a network, dense or pruned in place, without copying it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..datasets import DeviceSplit
from ..network.prunable import PrunableSet
from ..pruning import Ranking

__all__ = [
    "Evaluation", "Tally", "batch_losses", "eval_mode", "evaluate", "l1_norm", "pruned", "removed_between",
]  # fmt: skip

_BATCH = 2048


@dataclass(frozen=True)
class Evaluation:
    """Mean data loss (nats), top-1 and top-5 accuracy (percent) on one split."""

    loss: float
    accuracy: float
    top5_accuracy: float


class Tally:
    """Sums of an evaluation over batches, on ``device``; the losses in float64."""

    def __init__(self, device: torch.device):
        self._samples = 0
        self._loss = torch.zeros((), dtype=torch.float64, device=device if device.type != "mps" else "cpu")
        self._first, self._five = torch.zeros((2,), dtype=torch.int64, device=device)

    def add(self, output: Tensor, labels: Tensor, logarithms: Tensor | None = None) -> None:
        """Count a batch: ``output`` (N, classes), ``labels`` (N,), and the output's log-softmax where it is known."""
        self._samples += len(labels)
        if logarithms is None:
            loss = functional.cross_entropy(output, labels, reduction="sum")
        else:
            loss = functional.nll_loss(logarithms, labels, reduction="sum")
        self._loss += loss.double()
        self._first += (output.argmax(1) == labels).sum()
        # NaN is never among them
        self._five += ((~(output <= output.gather(1, labels[:, None]))).sum(1) < 5).sum()

    def evaluation(self) -> Evaluation:
        """The means over what was added."""
        shares = (100.0 * int(count) / self._samples for count in (self._first, self._five))
        return Evaluation(float(self._loss) / self._samples, *shares)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The network in eval mode; every module's own mode comes back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def evaluate(model: nn.Module, split: DeviceSplit, batch_size: int = _BATCH) -> Evaluation:
    """Mean cross-entropy and accuracy of ``model`` on ``split``, in eval mode, summed in float64."""
    tally = Tally(split.device)
    with eval_mode(model):
        for inputs, labels in split.batches(batch_size):
            tally.add(model(inputs), labels)
    return tally.evaluation()


@torch.no_grad()
def batch_losses(model: nn.Module, split: DeviceSplit, batch_size: int) -> Tensor:
    """Mean loss of each mini-batch of ``batch_size`` (fixed order, eval mode; a shorter last one is left out)."""
    losses = []
    with eval_mode(model):
        for inputs, labels in split.batches(batch_size):
            if len(labels) == batch_size or not losses:
                losses.append(functional.cross_entropy(model(inputs), labels).double())
    return torch.stack(losses).cpu()


def l1_norm(prunable: PrunableSet) -> float:
    """Sum of |w| over the prunable weights, in float64."""
    return float(sum(weight.detach().abs().sum(dtype=torch.float64) for weight in prunable.parameters))


def removed_between(prunable: PrunableSet, ranking: Ranking, start: int, end: int) -> list[Tensor]:
    """Ascending positions, in each flattened weight, of the weights of ranks ``start`` to ``end - 1``."""
    found = ranking.order[start:end].sort().values.to(prunable.parameters[0].device)
    ends = torch.tensor(prunable.sizes).cumsum(0)
    bounds = torch.searchsorted(found, ends.to(found.device)).tolist()
    offsets = (ends - torch.tensor(prunable.sizes)).tolist()
    return [found[a:b] - offset for a, b, offset in zip([0, *bounds], bounds, offsets, strict=False)]


@contextmanager
def pruned(prunable: PrunableSet, ranking: Ranking, counts: Sequence[int]) -> Iterator[Iterator[int]]:
    """Prune the network in place to each of ``counts`` removed weights in turn; the dense weights come back at the end.

    Raises:
        ValueError: when the ranking belongs to a network of another size.
    """
    if ranking.dimension != prunable.dimension:
        raise ValueError(f"a ranking of {ranking.dimension} weights does not fit {prunable}")
    dense = prunable.flatten()
    ranks = ranking.ranks.to(dense.device)

    def each() -> Iterator[int]:
        done = None
        for count in counts:
            if done is None or count < done:
                prunable.assign(torch.where(ranks >= count, dense, 0.0))
            elif count > done:  # masks are nested: only what they differ by is written
                removed = removed_between(prunable, ranking, done, count)
                for parameter, positions in zip(prunable.parameters, removed, strict=True):
                    parameter.detach()[torch.unravel_index(positions, parameter.shape)] = 0.0
            done = count
            yield count

    try:
        yield each()
    finally:
        prunable.assign(dense)
