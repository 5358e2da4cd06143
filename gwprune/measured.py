"""How far a network of one's own can be pruned, measured: its loss, and the limit at which the loss breaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from .curvature.checks import check_loss, explained
from .names import whole_number
from .network.accuracy import check_classes, mean_accuracy
from .network.losses import BatchLoss, accuracy_drop, allowed_rise, check_epsilon, mean_loss
from .network.matrices import Choice
from .network.modes import check_network, moved, weights_kept
from .network.prunable import PrunableSet
from .network.samples import Samples, mini_batch_size, read_samples
from .pruning import mask, method_of, rank
from .tables.thresholds import Criterion, empirical_threshold, search
from .training.evaluation import pruned

__all__ = ["Measurement", "PrunedLoss", "measure_loss", "measure_threshold"]

# Beside the bisected points: they show a loss that breaks, and recovers, below where bisection looks.
_LOOK = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class Measurement:
    """Result of :func:`measure_threshold`. Sparsities, and losses in units of the loss.

    Attributes:
        threshold: the largest measured sparsity up to which no measured loss exceeds the dense one by more than
            epsilon; its lower end.
        lower: lower end of the bracket; 0 when the dense network alone is within epsilon.
        upper: upper end, the first measured sparsity beyond epsilon; 1 when there is none.
        epsilon: loss tolerance; of a drop of accuracy, by how much the loss has risen at the threshold.
        dense_loss: of the network as it was given.
        evaluations: passes over all samples.
        method: pruning method.
        losses: sparsity -> measured loss, in rising order.
        accuracies: the same of the accuracy in percent, where a drop of it was asked for.
        accuracy_drop: in percentage points, where it was asked for.
    """

    threshold: float
    lower: float
    upper: float
    epsilon: float
    dense_loss: float
    evaluations: int
    method: str
    losses: Mapping[float, float] = field(repr=False)
    accuracies: Mapping[float, float] = field(default_factory=dict, repr=False)
    accuracy_drop: float | None = None

    def __str__(self) -> str:
        limit = ("epsilon", f"{self.epsilon:.4g}, above the dense loss {self.dense_loss:.6g}")
        if self.accuracy_drop is not None:
            limit = ("accuracy", f"{self.accuracies[0.0]:.2f}% dense, at most {self.accuracy_drop:g} points less")
        lines = [
            ("measured", f"{self.threshold:.4f} [{self.lower:.4f}, {self.upper:.4f}]"),
            limit,
            ("method", f"{self.method}, one-shot, {self.evaluations} passes over the data"),
        ]
        return "\n".join(f"{name:<10} {text}" for name, text in lines)


class PrunedLoss:
    """The loss of a network as a function of the sparsity to which it is pruned in one shot.

    A call prunes, evaluates and gives the weights back, also after an error or an interrupt.

    Args:
        model: any module; evaluated in eval mode.
        loss: of a batch; it need not be differentiable.
        data: see :func:`gwprune.measure_threshold`.
        samples: number of samples to draw by ``seed``; None: all.
        method: a one-shot pruning method.
        batch_size: samples per pass; by default those of the DataLoader, else 128.
        device: where to compute (the model is moved); by default where it is.
        prunable: which weights, see :class:`gwprune.PrunableSet`.
        seed: of the method and of the samples that are drawn.

    Attributes:
        prunable: the weights.
        evaluations: passes over all samples so far.

    Raises:
        ValueError: for an unknown method, one that prunes and trains in turn, or one that needs what is not given.
        FloatingPointError: for a method whose scores are not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: BatchLoss,
        data: Any,
        *,
        samples: int | None = None,
        method: str = "magnitude",
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        prunable: Choice | PrunableSet | None = None,
        seed: int = 0,
    ):
        entry = method_of(method)
        self.batch_size, self.data = _read(model, loss, data, samples, batch_size, device, seed)
        self.model, self.loss, self.prunable = model, loss, PrunableSet(model, prunable)
        self.prunable.check_values()
        self.evaluations = 0
        given = {"model": model, "data": _pair(method, self.data), "loss_fn": loss.loss_fn} if entry.needs else {}
        if entry.depends_on_sparsity:
            self._kept = lambda sparsity: mask(method, self.prunable, seed, sparsity, **given)
        else:
            self._kept = rank(method, self.prunable, seed, **given).mask

    def removed(self, sparsity: float) -> Tensor:
        """The removed vector (D,) of a sparsity: the weights that go, 0 elsewhere."""
        weights = self.prunable.flatten()
        return weights.masked_fill(self._kept(sparsity).to(weights.device), 0)

    def dense(self) -> float:
        """Loss of the network as it is."""
        self.evaluations += 1
        return _mean_loss(self.model, self.loss, self.data, self.batch_size)

    def __call__(self, sparsity: float) -> float:
        with pruned(self.prunable, self._kept(sparsity)):
            return self.dense()

    def with_accuracy(self, sparsity: float) -> dict[str, float]:
        """``loss`` and ``accuracy`` (percent), of a classifier."""
        self.evaluations += 1
        with pruned(self.prunable, self._kept(sparsity)), explained():
            found = mean_accuracy(self.model, self.loss, self.data, self.batch_size)
        return dict(zip(("loss", "accuracy"), found, strict=True))


def _read(
    model: nn.Module,
    loss: BatchLoss,
    data: Any,
    samples: int | None,
    batch_size: int | None,
    device: torch.device | str | None,
    seed: int,
) -> tuple[int, Samples]:
    """Samples per pass, and all samples; the network is on its device."""
    check_network(model)
    seed = whole_number("seed", seed, 0)
    if batch_size is not None:
        batch_size = whole_number("batch_size", batch_size, 1)
    moved(model, device)
    first = next(model.parameters(), torch.empty(0))
    form: dict[str, Any] = {
        "dtype": first.dtype,
        "samples": samples,
        "seed": seed,
        "any_form": loss.forward is not None,
    }
    return batch_size or mini_batch_size(data), read_samples(data, first.device, **form)


def _mean_loss(model: nn.Module, loss: BatchLoss, samples: Samples, batch_size: int) -> float:
    with explained():
        return mean_loss(model, loss, samples, batch_size)


def _pair(method: str, samples: Samples) -> tuple[Any, Any]:
    """(input, target) for a method that looks at samples."""
    if len(samples.parts) > 1 or not (isinstance(samples.parts[0], tuple) and len(samples.parts[0]) == 2):
        raise ValueError(f"method {method} needs data that are one (input, target)")
    return samples.parts[0]


def measure_loss(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor] | None,
    data: Any,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    weight: Callable[[Any], Any] | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    checks: bool = True,
    seed: int = 0,
) -> float:
    """Mean loss of a network as it is, dense or pruned, in eval mode.

    Args:
        model: any module; left as it was.
        loss_fn: as for :func:`gwprune.predict_threshold`, as the next four.
        data: see there.
        forward: see there.
        weight: see there.
        samples: see there.
        batch_size: samples per pass; by default those of the DataLoader, else 128.
        device: where to compute (the model is moved); by default where it is.
        checks: whether to refuse a loss that is random or no mean over samples.
        seed: of the samples that are drawn.

    Returns:
        The mean over all samples, in units of the loss.

    Raises:
        NotDeterministicError: for a network that is random in eval mode.
        CurvatureError: for a loss that is no mean over samples.
    """
    loss = BatchLoss(loss_fn, forward, weight)
    size, read = _read(model, loss, data, samples, batch_size, device, seed)
    if checks:
        with explained():
            check_loss(model, loss, read)
    return _mean_loss(model, loss, read, size)


def measure_threshold(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor] | None,
    data: Any,
    epsilon: str | float = "batch_std",
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    weight: Callable[[Any], Any] | None = None,
    samples: int | None = None,
    method: str = "magnitude",
    resolution: float = 0.001,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    prunable: Choice | PrunableSet | None = None,
    checks: bool = True,
    seed: int = 0,
) -> Measurement:
    """Measure how sparse one-shot pruning can make ``model`` before its loss rises by more than ``epsilon``.

    The limit is bisected, and looked for at eight sparsities besides, since a loss may break and recover. At the
    resolution of 0.001 that takes at most 27 passes over the data, one more for ``"batch_std"``.

    Args:
        model: any module; used in eval mode and left as it was, also after an error or an interrupt.
        loss_fn: as for :func:`gwprune.predict_threshold`, as the next five; it need not be differentiable.
        data: see there.
        epsilon: see there; ``"accuracy: 1"`` is a limit of the accuracy itself here, of so many percentage points less.
        forward: see there.
        weight: see there.
        samples: see there.
        method: a one-shot pruning method, see `gwprune.pruning.METHODS`, or ``module:function``; one that looks at
            data is given all of ``data`` and ``loss_fn``.
        resolution: widest bracket that is left, in sparsity; at least 0.000001.
        batch_size: samples per pass; by default those of the DataLoader, else 128.
        device: where to compute (the model is moved); by default where it is.
        prunable: which weights, see :class:`gwprune.PrunableSet`.
        checks: whether to refuse a loss that is random or no mean over samples.
        seed: of the method and of the samples that are drawn.

    Raises:
        ValueError: for an epsilon or resolution that is not allowed, an unknown method or one that is not one-shot, a
            network without prunable weights, or ``"batch_std"`` with fewer than two whole batches. CurvatureError,
            which is one, for a loss that is no mean over samples.
        NotDeterministicError: for a network that is random in eval mode.
        FloatingPointError: when the loss of the dense network is not finite.

    Example: without the weights of S the loss is the sum of their squares, and 0.1^2 + 0.2^2 < 0.06.

        >>> import torch
        >>> net = torch.nn.Linear(4, 1, bias=False)
        >>> net.weight.data = torch.tensor([[0.1, 0.2, 0.4, 0.8]])
        >>> data = (2 * torch.eye(4), 2 * net.weight.detach().t())
        >>> m = measure_threshold(net, torch.nn.functional.mse_loss, data, epsilon=0.06)
        >>> m.lower, round(m.upper, 2), net.weight.count_nonzero().item()
        (0.5, 0.5, 4)
    """
    check_epsilon(epsilon)
    drop = accuracy_drop(epsilon)
    if not (isinstance(resolution, Real) and 1e-6 <= resolution < 1):
        raise ValueError(f"resolution must be at least 0.000001 and below 1, got {resolution!r}")
    batch_loss = BatchLoss(loss_fn, forward, weight)
    given: dict[str, Any] = {
        "method": method,
        "batch_size": batch_size,
        "device": device,
        "prunable": prunable,
        "seed": seed,
    }
    loss = PrunedLoss(model, batch_loss, data, samples=samples, **given)
    # A second interrupt, while the first one's weights are written back, finds them here.
    with weights_kept(loss.prunable):
        dense = loss.dense()
        if not math.isfinite(dense):
            bad = next(loss.data.not_finite(), None)
            why = f"; {bad.text}" if bad else ""
            raise FloatingPointError(f"the loss of the dense network is {dense}: there is no limit to measure{why}")
        if checks:
            check_loss(model, batch_loss, loss.data)
        unpruned = {"loss": dense}
        if drop is not None:
            check_classes(model, batch_loss, loss.data, loss.prunable)
            unpruned = loss.with_accuracy(0.0)
            limit = unpruned["accuracy"] - drop
            # Shares of as many targets may differ from it by their rounding.
            criterion = Criterion("accuracy_drop", "", "data", "accuracy", -1, limit - 1e-9, drop)
        else:
            allowed, _ = allowed_rise(epsilon, model, batch_loss, loss.data, mini_batch_size(data), loss.batch_size)
            criterion = Criterion("loss_tolerance", "", "data", "loss", 1, dense + allowed, allowed)

        def measure(sparsities: Sequence[float]) -> Iterator[dict[str, dict[str, float]]]:
            for sparsity in sparsities:
                if not sparsity:
                    yield {"data": unpruned}
                else:
                    yield {"data": {"loss": loss(sparsity)} if drop is None else loss.with_accuracy(sparsity)}

        grid = search([criterion], _LOOK, measure, resolution)
    bracket = empirical_threshold(grid, criterion)
    losses = {sparsity: values["data"]["loss"] for sparsity, values in grid.items()}
    accuracies = {} if drop is None else {sparsity: values["data"]["accuracy"] for sparsity, values in grid.items()}
    return Measurement(
        bracket.lower, bracket.lower, bracket.upper,
        epsilon=allowed if drop is None else losses[bracket.lower] - dense, dense_loss=dense,
        evaluations=loss.evaluations, method=method, losses=losses, accuracies=accuracies, accuracy_drop=drop,
    )  # fmt: skip
