"""The accuracy of a classifier on its samples, and the rise of the loss that a drop of it amounts to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .losses import BatchLoss, entry
from .modes import differentiable, eval_mode, frozen
from .prunable import PrunableSet
from .samples import LABELS, Batch, Samples

__all__ = ["check_classes", "mean_accuracy", "rise_at_drop"]

_SAMPLES = 32
_HALVINGS = 12
_INSTEAD = "give epsilon as a rise of the loss: a number, '5%' or 'batch_std'"


class _Labelled(NamedTuple):
    """What the network makes of a batch.

    Attributes:
        output: as ``loss.run`` gives it.
        target: as ``loss.run`` gives it.
        logits: in the output.
        axis: of their classes; the others are those of ``classes``.
        classes: whole numbers, the labels.
    """

    output: Any
    target: Any
    logits: Tensor
    axis: int
    classes: Tensor

    @property
    def counted(self) -> Tensor:
        """Which labels are classes; -100 is none."""
        return (self.classes >= 0) & (self.classes < self.logits.shape[self.axis])


def _labelled(loss: BatchLoss, model: nn.Module, batch: Batch) -> _Labelled:
    output, target = loss.run(model, batch)
    logits, given = output, target
    if loss.loss_fn is None:
        given = batch.get(LABELS) if isinstance(batch, dict) and loss.forward is None else None
        logits = output if isinstance(output, Tensor) else entry(output, "logits")
    if isinstance(logits, Tensor) and isinstance(given, Tensor) and logits.ndim > 1:
        whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
        for axis in (1, logits.ndim - 1):  # of pixels, of words
            others = logits.shape[:axis] + logits.shape[axis + 1 :]
            if whole and others == given.shape and logits.shape[axis] > 1:
                return _Labelled(output, target, logits, axis, given)
    raise ValueError(
        "epsilon as a drop of accuracy needs a classifier, with an output of shape (samples, classes) and whole numbers"
        f" of shape (samples,) as targets; here they are {_shape(logits)} and {_shape(given)}; {_INSTEAD}"
    )


def _shape(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def check_classes(model: nn.Module, loss: BatchLoss, samples: Samples, prunable: PrunableSet) -> None:
    """Refuse samples of which there is no accuracy, or not the one that the loss is of.

    A loss of classes falls with the output of the target's class. One that shifts its labels, as that of a language
    model, or reads another axis falls with other outputs; one that ignores a class does not change with some.

    Args:
        model: the network.
        loss: of a batch.
        samples: all of them; a few are looked at.
        prunable: the weights.

    Raises:
        ValueError: with what to do instead.
    """
    with eval_mode(model), differentiable(model, prunable):
        batch = samples.some(_SAMPLES, spread=True)
        found = _labelled(loss, model, batch)
        value = loss.of(found.output, found.target)
        if not (value.requires_grad and found.logits.requires_grad):  # such as the share of errors
            return
        (slope,) = torch.autograd.grad(value, found.logits, materialize_grads=True, allow_unused=True)
    felt = (slope != 0).any(found.axis)
    counted = found.counted & felt
    drawn = int(((slope.argmin(found.axis) == found.classes) & counted).sum())
    if drawn < int(counted.sum()) / 2 or not bool(slope.any()):
        raise ValueError(
            f"epsilon as a drop of accuracy: the loss draws {drawn} of {int(counted.sum())} outputs to the class in the"
            " targets, so that it is of others (labels that are shifted inside the network, another axis): give a"
            f" loss_fn of output and target as they are held against each other; or {_INSTEAD}"
        )
    # Of an output that is right by far, too, a slope may vanish; of others none does that the loss looks at.
    ignored = int((found.counted & ~felt & (found.logits.argmax(found.axis) != found.classes)).sum())
    if ignored:
        raise ValueError(
            f"epsilon as a drop of accuracy: the loss leaves out {ignored} of {int(found.counted.sum())} targets that"
            " are classes of the output, as with ignore_index=0, and the accuracy would count them: mark these targets"
            f" -100; or {_INSTEAD}"
        )


def mean_accuracy(model: nn.Module, loss: BatchLoss, samples: Samples, batch_size: int) -> tuple[float, float]:
    """The mean loss and the accuracy over all samples in one pass, in eval mode.

    Args:
        model: the network.
        loss: of a batch.
        samples: all of them.
        batch_size: samples per pass.

    Returns:
        Loss; share of the targets whose class has the largest output, in percent.

    Raises:
        ValueError: for outputs or targets that have no classes.
    """
    return _tally(lambda batch: _labelled(loss, model, batch), model, loss, samples, batch_size)


def _tally(
    outputs: Callable[[Batch], _Labelled],
    model: nn.Module,
    loss: BatchLoss,
    samples: Samples,
    batch_size: int,
) -> tuple[float, float]:
    mean, right, counted = 0.0, 0, 0
    with eval_mode(model), frozen(model):
        for place, share in loss.shares(samples, batch_size):
            found = outputs(samples.batch(place))
            mean += share * float(loss.of(found.output, found.target).detach())
            most, largest = found.logits.max(found.axis)
            # NaN is the largest of all, and so the first class would be right.
            right += int(((largest == found.classes) & found.counted & ~most.isnan()).sum())
            counted += int(found.counted.sum())
    if not counted:
        raise ValueError(f"epsilon as a drop of accuracy: no target is a class of the output; {_INSTEAD}")
    return mean, 100 * right / counted


def rise_at_drop(
    model: nn.Module,
    loss: BatchLoss,
    samples: Samples,
    batch_size: int,
    prunable: PrunableSet,
    removed: Callable[[float], Tensor],
    drop: float,
) -> float:
    """The rise of the mean loss at which the linearised network has lost so much accuracy, as it is pruned.

    Accuracy has no curvature, so a prediction needs a loss in its place. Outputs are linearised in the weights about
    the dense network, ``f(w) - J removed(s)``, by central differences: no pruned network is looked at. The sparsity at
    which their accuracy has fallen by ``drop`` is bisected, and the rise of their loss there is the answer.

    Args:
        model: the network; its weights come back.
        loss: of a batch.
        samples: all of them.
        batch_size: samples per pass; there are 28 passes.
        prunable: the weights.
        removed: sparsity -> removed vector (D,).
        drop: percentage points.

    Returns:
        In units of the loss.

    Raises:
        ValueError: where there is no accuracy, or its loss does not rise there.
    """
    if loss.loss_fn is None:
        raise ValueError(
            "epsilon as a drop of accuracy needs a loss_fn of output and labels, such as cross_entropy, in place of the"
            f" network's own loss; or {_INSTEAD}"
        )
    check_classes(model, loss, samples, prunable)
    weights = prunable.flatten()
    step = torch.finfo(weights.dtype).eps ** (1 / 3)

    def at(sparsity: float) -> tuple[float, float]:
        moved = step * removed(sparsity)

        def outputs(batch: Batch) -> _Labelled:
            prunable.assign(weights + moved)
            above = _labelled(loss, model, batch).logits
            prunable.assign(weights - moved)
            found = _labelled(loss, model, batch)
            linear = (above + found.logits) / 2 + (found.logits - above) / (2 * step)
            return found._replace(output=linear, logits=linear)

        return _tally(outputs, model, loss, samples, batch_size)

    try:
        (dense, accuracy), (high, lowest) = at(0.0), at(1.0)
        if accuracy - lowest < drop:
            raise ValueError(
                f"epsilon as a drop of accuracy: the linearised network loses {accuracy - lowest:.3g} of its"
                f" {accuracy:.4g}% without all its weights, not {drop:g} points; {_INSTEAD}"
            )
        low, ends = dense, (0.0, 1.0)
        for _ in range(_HALVINGS):
            middle = sum(ends) / 2
            value, found = at(middle)
            if accuracy - found < drop:
                low, ends = value, (middle, ends[1])
            else:
                high, ends = value, (ends[0], middle)
    finally:
        prunable.assign(weights)
    rise = (low + high) / 2 - dense
    if not rise > 0:
        raise ValueError(
            f"epsilon as a drop of accuracy: where the linearised network loses {drop:g} points its loss does not rise"
            f" ({rise:.3g}), so that the network is far from a minimum of the loss; {_INSTEAD}"
        )
    return rise
