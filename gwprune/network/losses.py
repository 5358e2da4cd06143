"""The loss of a network over its samples: of a batch, its mean and gradient, and how much it varies between batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .modes import differentiable, eval_mode, frozen
from .prunable import PrunableSet
from .samples import LABELS, Batch, Samples, call, count_samples, leaves

__all__ = [
    "BatchDeviation", "BatchLoss", "accuracy_drop", "allowed_rise", "batch_deviation", "check_epsilon", "entry",
    "mean_gradient", "mean_loss",
]  # fmt: skip


@dataclass(frozen=True)
class BatchLoss:
    """How a batch becomes a loss.

    With ``loss_fn``, the loss is ``loss_fn(output, target)``. Of a pair (input, target), the network is given the input
    (a tuple over its arguments, a dict over their names); of a dict, all but ``labels``, which are the target. Where
    the output has ``logits``, these are the output. Without ``loss_fn``, the network is given all of a dict, and its
    output's ``loss`` is the loss.

    Attributes:
        loss_fn: the mean over the samples (or over what ``weight`` counts) that it is given; None: see above.
        forward: ``forward(model, batch)`` in place of all this: returns (output, target), or without ``loss_fn`` the
            loss itself or an output that has one.
        weight: ``weight(target)``, the weight of a batch in the mean over batches, such as the number of targets that
            are not ignored; with ``forward``, ``weight(batch)``. None: the number of samples.
    """

    loss_fn: Callable[[Any, Any], Tensor] | None
    forward: Callable[[nn.Module, Batch], Any] | None = None
    weight: Callable[[Any], Any] | None = None

    def __post_init__(self):
        for name, least in (("loss_fn", True), ("forward", False), ("weight", False)):
            value = getattr(self, name)
            if value is not None and not callable(value):
                kind = f"{type(value).__name__} {value!r}" if isinstance(value, str) else type(value).__name__
                order = "; the order is model, loss_fn, data" if least else ""
                raise TypeError(f"{name} must be a function or None, got {kind}{order}")
            if isinstance(value, type):
                raise TypeError(f"{name} is the class {value.__name__}; give an object of it, {value.__name__}()")

    def run(self, model: nn.Module, batch: Batch) -> tuple[Any, Any]:
        """(output, target) of a batch; without ``loss_fn`` the target is None.

        Raises:
            TypeError: when ``forward`` returns something else.
            ValueError: for a dict without labels.
        """
        if self.forward is not None:
            output = self.forward(model, batch)
            if self.loss_fn is None:
                return output, None
            if not (isinstance(output, tuple) and len(output) == 2):
                raise TypeError(
                    f"forward must return (output, target), which loss_fn takes, got {type(output).__name__}; with"
                    " loss_fn=None it returns the loss"
                )
            output, target = output
        elif isinstance(batch, dict):
            if self.loss_fn is None:
                return call(model, batch), None
            target = self._target(batch)
            output = call(model, {key: value for key, value in batch.items() if key != LABELS})
        elif self.loss_fn is None:
            raise TypeError(
                "loss_fn=None takes the loss from the network's output, which needs data as dicts with the labels, or"
                " forward=; for (input, target) give a loss_fn"
            )
        else:
            output, target = call(model, batch[0]), batch[1]
        logits = entry(output, "logits")
        return (output if logits is None else logits), target

    @staticmethod
    def _target(batch: Batch) -> Any:
        if isinstance(batch, dict):
            if LABELS not in batch:
                raise ValueError(
                    f"a batch with the keys {', '.join(map(str, batch))} has no {LABELS!r}, which loss_fn takes as the"
                    " target; name them so, or say what the target is with forward="
                )
            return batch[LABELS]
        return batch[1]

    def of(self, output: Any, target: Any) -> Tensor:
        """The loss of what :meth:`run` has returned.

        Raises:
            TypeError: for a loss that is no tensor, an output that has none, or one that ``loss_fn`` cannot take.
            ValueError: for a loss that is more than one number.
        """
        if self.loss_fn is not None:
            try:
                loss = self.loss_fn(output, target)
            except (TypeError, AttributeError) as error:
                if isinstance(output, Tensor):
                    if "positional argument" not in str(error):
                        raise
                    raise TypeError(f"loss_fn is called as loss_fn(output, target): {error}") from error
                raise TypeError(
                    f"loss_fn cannot take the network's output, {type(output).__name__} ({error}); choose the tensor"
                    " with forward=, as in lambda model, batch: (model(batch[0])[0], batch[1])"
                ) from error
        else:
            loss = output if isinstance(output, Tensor) else entry(output, "loss")
            if loss is None:
                raise TypeError(
                    f"loss_fn=None takes the loss from the network's output, and {type(output).__name__} has no 'loss'"
                    " (the labels must be among the data); give a loss_fn, or forward="
                )
        if not isinstance(loss, Tensor):
            raise TypeError(f"the loss must be a tensor that autograd can follow, got {type(loss).__name__}")
        if loss.is_complex():
            raise TypeError(f"the loss must be a real number, got {loss.dtype}; take its real part or its abs()")
        if loss.numel() != 1 and self.loss_fn is None:
            raise ValueError(
                f"loss_fn=None takes the network's output as the loss, and that has shape {tuple(loss.shape)}; give a"
                " loss_fn, or a network whose output has the loss, as 'loss'"
            )
        if loss.numel() != 1:
            raise ValueError(
                f"the loss must be one number, the mean over the samples, got shape {tuple(loss.shape)}; use"
                " reduction='mean'"
            )
        return loss.reshape(())

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a batch."""
        return self.of(*self.run(model, batch))

    def head(self, output: Any) -> Tensor:
        """The tensor in which the Gauss-Newton matrix takes the loss's second derivative.

        Raises:
            TypeError: when the output is none and has none.
        """
        logits = output if self.loss_fn is not None else entry(output, "logits")
        if not isinstance(logits, Tensor):
            what = "an output with logits" if self.loss_fn is None else "one tensor as output"
            raise TypeError(
                f"the GGN needs a network with {what}, got {type(output).__name__}; choose the tensor with forward=, or"
                " use operator='hessian'"
            )
        return logits

    def shares(self, samples: Samples, batch_size: int) -> list[tuple[tuple[int, slice], float]]:
        """(place, share in the mean) of every batch; those that count nothing are left out: their loss is 0 / 0.

        Raises:
            ValueError: when none counts.
        """
        weights = [(place, self.weight_of(samples.stored(place))) for place in samples.places(batch_size)]
        total = sum(weight for _, weight in weights)
        if not total > 0:
            raise ValueError("weight= gives 0 for every batch, so that no sample counts")
        return [(place, weight / total) for place, weight in weights if weight > 0]

    def weight_of(self, batch: Batch) -> float:
        """Weight of a batch in the mean over batches.

        Raises:
            ValueError: for one that is negative or not finite, or when nothing tells the number of samples.
        """
        if self.weight is None:
            return count_samples(batch)
        given = self.weight(batch if self.forward is not None else self._target(batch))
        try:
            value = float(given)
        except (TypeError, ValueError, RuntimeError) as error:
            shape = f" of shape {tuple(given.shape)}" if isinstance(given, Tensor) else ""
            raise ValueError(
                f"weight must give one number for a batch, got {type(given).__name__}{shape}; add it up, as in"
                " weight=lambda target: (target != -100).sum()"
            ) from error
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"weight must give a number of at least 0, got {value}")
        return value


def entry(output: Any, name: str) -> Any:
    """What models of libraries call so in their output: an attribute or a key."""
    if isinstance(output, Tensor):
        return None
    return output.get(name) if isinstance(output, dict) else getattr(output, name, None)


def mean_gradient(
    model: nn.Module,
    loss: BatchLoss,
    batches: Iterable[tuple[Batch, float]],
    prunable: PrunableSet,
    dtype: torch.dtype,
) -> Tensor:
    """Gradient of the mean loss over all samples with respect to the prunable weights.

    Args:
        model: the network, in the mode in which it shall be differentiated.
        loss: of a batch.
        batches: (batch, its share of all samples), each batch once.
        prunable: the weights, D in all.
        dtype: of the sum over batches.

    Returns:
        Vector (D,) in units of the loss per unit of weight.
    """
    total = torch.zeros(prunable.dimension, dtype=dtype, device=prunable.parameters[0].device)
    with differentiable(model, prunable):
        for batch, share in batches:
            gradient = torch.autograd.grad(loss(model, batch), prunable.parameters, materialize_grads=True)
            total.add_(prunable.flatten(gradient), alpha=share)
    return total


def mean_loss(model: nn.Module, loss: BatchLoss, samples: Samples, batch_size: int) -> float:
    """The mean loss over all samples, in eval mode; what a pass changes comes back.

    Args:
        model: the network.
        loss: of a batch.
        samples: all of them.
        batch_size: samples per pass.
    """
    shares = loss.shares(samples, batch_size)
    with eval_mode(model), frozen(model):
        return sum(share * float(loss(model, samples.batch(place)).detach()) for place, share in shares)


@dataclass(frozen=True)
class BatchDeviation:
    """Standard deviation of the loss between mini-batches, in units of the loss.

    Attributes:
        value: the deviation (with n - 1); 0 for fewer than two batches, which have none.
        standard_error: of the deviation.
        batches: number of whole batches that it comes from, n.
    """

    value: float
    standard_error: float
    batches: int

    FEW = 16  # batches; the deviation of fewer is known to a fifth at best

    @classmethod
    def of(cls, losses: Tensor) -> BatchDeviation:
        """Of the mean losses of whole batches, (n,).

        The standard error is that of normal numbers, ``s / sqrt(2 (n - 1))``, or where their fourth moment makes more
        of it ``sqrt((m4 - s^4 (n - 3) / (n - 1)) / n) / (2 s)``.
        """
        losses = losses.double().cpu()
        count = len(losses)
        if count < 2:
            return cls(0.0, math.inf, count)
        s = float(losses.std())
        fourth = float((losses - losses.mean()).pow(4).mean())
        heavy = math.sqrt(max(0.0, fourth - s**4 * (count - 3) / (count - 1)) / count) / (2 * s) if s else 0.0
        return cls(s, max(s / math.sqrt(2 * (count - 1)), heavy), count)


def batch_deviation(model: nn.Module, loss: BatchLoss, batches: Iterable[Batch], batch_size: int) -> BatchDeviation:
    """Deviation of the loss between mini-batches: the tolerance of epsilon rule ``batch_std``.

    This is the standard deviation (with n - 1) of the mean losses of consecutive mini-batches of ``batch_size`` samples
    in stored order, over all training samples at hand, with the network in eval mode. A last batch that is shorter is
    left out, since its mean varies more. Zhang et al. 2024 (arXiv 2306.05857) take the deviation at the training batch
    size. `gwprune.predict_threshold` and the workflow both take it from here.

    Args:
        model: the network; its modes are restored.
        loss: of a batch.
        batches: of ``batch_size`` samples each, the last of at most as many.
        batch_size: samples of a whole batch.
    """
    losses = []
    with eval_mode(model), frozen(model):
        for batch in batches:
            # An object of the caller's, which does not tell its samples, is a batch as it is.
            whole = not any(leaves(batch)) or count_samples(batch) == batch_size
            if whole and (loss.weight is None or loss.weight_of(batch)):
                losses.append(loss(model, batch).detach().double())
    return BatchDeviation.of(torch.stack(losses) if losses else torch.empty(0))


def check_epsilon(epsilon: str | float) -> float:
    """Refuse an epsilon that :func:`allowed_rise` knows nothing of, before anything is computed.

    Returns:
        The number that it is or holds; of ``"batch_std"``, which holds none, 1.

    Raises:
        ValueError: naming it and what is allowed.
    """
    try:
        if isinstance(epsilon, bool):
            number = math.nan
        elif not isinstance(epsilon, str):
            number = float(epsilon)
        elif epsilon == "batch_std":
            number = 1.0
        elif accuracy_drop(epsilon) is not None:
            number = accuracy_drop(epsilon)
        else:
            number = float(epsilon[:-1]) / 100 if epsilon.endswith("%") else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(
            "epsilon must be 'batch_std', a positive number, percent of the loss as '5%' or a drop of accuracy, in"
            f" percentage points, as 'accuracy: 1', got {epsilon!r}"
        )
    return number


def accuracy_drop(epsilon: str | float) -> float | None:
    """The percentage points of ``"accuracy: 1.0"``; None of another epsilon.

    Raises:
        ValueError: for no number between 0 and 100.
    """
    kind, colon, text = epsilon.partition(":") if isinstance(epsilon, str) else ("", "", "")
    if not colon or kind.strip() != "accuracy":
        return None
    drop = float(text)
    if not 0 < drop < 100:
        raise ValueError(f"a drop of accuracy is between 0 and 100 percentage points, got {epsilon!r}")
    return drop


def allowed_rise(
    epsilon: str | float, model: nn.Module, loss: BatchLoss, samples: Samples, mini_batch: int, batch_size: int
) -> tuple[float, float]:
    """Epsilon in units of the loss, and its standard error.

    Args:
        epsilon: a positive number; ``"5%"``, of the mean loss; or ``"batch_std"``, see :func:`batch_deviation`.
        model: the network.
        loss: of a batch.
        samples: all of them.
        mini_batch: samples of a mini-batch, whose losses deviate.
        batch_size: samples per pass, for the mean loss.

    Raises:
        ValueError: for another epsilon, a mean loss that is not positive, or ``"batch_std"`` with fewer than two whole
            batches or batches of equal loss.
    """
    number = check_epsilon(epsilon)
    if not isinstance(epsilon, str):
        return number, 0.0
    if epsilon != "batch_std":
        dense = mean_loss(model, loss, samples, batch_size)
        if not dense > 0:
            raise ValueError(f"epsilon={epsilon!r} needs a positive loss of the dense network, got {dense:.6g}")
        return number * dense, 0.0
    found = batch_deviation(model, loss, samples.batches(mini_batch), mini_batch)
    if found.batches < 2:
        raise ValueError(
            f"epsilon='batch_std' needs at least {2 * mini_batch} samples (two batches of {mini_batch}), got"
            f" {len(samples)}; give a number, or percent of the loss as '5%'"
        )
    if not 0 < found.value < math.inf:
        raise ValueError(f"epsilon='batch_std' is {found.value}, which is not a positive number; give a number")
    if found.batches < BatchDeviation.FEW:
        warnings.warn(
            f"epsilon='batch_std' comes from {found.batches} batches of {mini_batch} samples alone: {found.value:.3g}"
            f" with a standard error of {found.standard_error:.1g}; give more samples, a DataLoader with the training's"
            " batch size, a number, or percent of the loss as '5%'",
            stacklevel=3,
        )
    return found.value, found.standard_error
