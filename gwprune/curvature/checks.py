"""Checks before a curvature is used: what would give a wrong number is refused, with what to do about it.

They look at a few samples, spread over the data. Together they cost less than six products on these. What rounding
does to a product is measured on more of them, at less than two products on all.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..network.losses import BatchLoss
from ..network.modes import differentiable, eval_mode, frozen
from ..network.prunable import PrunableSet
from ..network.samples import Batch, Samples, count_samples, divisible, map_tensors, take
from ..spectral.spectrum import ROUNDINGS
from ..streams import stream
from .graphs import GaussNewtonGraph, HessianGraph
from .tape import Tape

if TYPE_CHECKING:
    from .operator import CurvatureOperator

__all__ = ["CHECKS", "CurvatureError", "NotDeterministicError", "check_curvature", "check_loss", "explained"]

# In the order in which they are made.
CHECKS = ("finite", "deterministic", "mean over samples", "finite differences", "not zero")

_SAMPLES = 32
_OFF = "checks=False switches this check off"
# Steps of the finite differences, in units of the weights' norm. The smallest crosses no kink of a ReLU; the larger
# ones are for networks that compute in float32 although their weights are float64, as many of transformers do.
_STEPS = (1e-8, 1e-6, 1e-5, 1e-4, 1e-3)
_OWN_STEPS = (3e-4, 1e-3, 1e-2)  # in float32; a mixture of experts takes others after larger ones
_TOLERANCE, _OWN_TOLERANCE = 1e-3, 0.1
# Rounding of such networks, as the smallest step shows it, excuses a product so far.
_EXCUSED = 1e-2
_MEAN_TOLERANCE = 1e-4
# The error of single precision is that of a few badly conditioned samples: a well-fitted one has a residual near 0,
# of which few digits are left. So it is measured on many.
_ROUNDING_SAMPLES = 512
# No rounding seen was as large, in machine epsilons. Beyond it, the two precisions stand on different sides of kinks:
# where l1 has emptied a filter, its values differ in the last digits alone, and of these a maximum takes the largest.
# They are two matrices then, and the bounds are of the one at hand.
_KINKS = 2000


class NotDeterministicError(RuntimeError):
    """The network does not compute the same function twice, so it has no well-defined curvature operator."""


class CurvatureError(ValueError):
    """A product with the curvature would be wrong or mean nothing."""


@dataclass
class _Trial:
    """A network and a few samples.

    Attributes:
        model: in eval mode.
        batch_loss: of a batch.
        batch: the samples.
        prunable: the weights; None where nothing is differentiated.
        operator: ``"hessian"`` or ``"ggn"``.
    """

    model: nn.Module
    batch_loss: BatchLoss
    batch: Batch
    prunable: PrunableSet | None
    operator: str

    def loss(self, batch: Batch = None) -> float:
        """Of the samples, or of others."""
        given = map_tensors(torch.clone, self.batch if batch is None else batch)  # a network may change it in place
        with Tape(()):  # gradients may be on: a forward pass may differentiate
            return float(self.batch_loss(self.model, given).detach())

    def product(self, vector: Tensor) -> Tensor:
        """Product of the curvature with ``vector``, as the operator computes it."""
        graph = self._graph()
        return self.prunable.flatten(graph.product(self.prunable.parameters, self.prunable.unflatten(vector), False))

    def _graph(self) -> HessianGraph | GaussNewtonGraph:
        kind = {"hessian": HessianGraph, "ggn": GaussNewtonGraph}[self.operator]
        parameters = self.prunable.parameters
        return kind.build(Tape(parameters), self.model, self.batch_loss, self.batch, parameters)

    def _slope(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradient of the loss, the loss, and the output if it is a tensor; all without a graph."""
        with Tape(self.prunable.parameters):
            output, target = self.batch_loss.run(self.model, self.batch)
            loss = self.batch_loss.of(output, target)
        gradient = torch.autograd.grad(loss, self.prunable.parameters, materialize_grads=True, allow_unused=True)
        return (
            self.prunable.flatten(gradient),
            loss.detach(),
            self.batch_loss.head(output).detach() if self.operator == "ggn" else None,
        )

    def _output_curvature(self, target: Any, middle: Tensor, tangent: Tensor) -> Tensor:
        """Twice the product of the loss's second derivative in the output with ``tangent``, by differences."""
        if self.batch_loss.loss_fn is None:  # the network has no loss of other outputs
            graph = self._graph()
            return 2 * torch.autograd.grad(graph.head_gradient, graph.head, tangent, materialize_grads=True)[0]
        ends = [(middle + sign * tangent).requires_grad_() for sign in (1, -1)]
        upper, lower = (torch.autograd.grad(self.batch_loss.of(end, target), end)[0] for end in ends)
        return upper - lower

    def differences(self, vector: Tensor, step: float) -> tuple[Tensor, float, float, Tensor, float]:
        """Central differences along ``vector``.

        Args:
            vector: (D,).
            step: how far to go, in units of it.

        Returns:
            The product with the curvature; the derivative of the loss, by differences and as autograd has it; the
            gradient; and the machine epsilon of the loss. The weights come back.
        """
        weights, found = self.prunable.flatten(), []
        try:
            for sign in (1, -1):
                self.prunable.assign(weights + sign * step * vector)
                found.append(self._slope())
        finally:
            self.prunable.assign(weights)
        (upper, high, out_high), (lower, low, out_low) = found
        gradient = (upper + lower) / 2
        slope, derivative = (float(high) - float(low)) / (2 * step), float(gradient @ vector)
        eps = float(torch.finfo(high.dtype).eps)
        if self.operator == "hessian":
            return (upper - lower) / (2 * step), slope, derivative, gradient, eps
        # J^T (d2 l) J v: both derivatives of functions by differences, the transpose by one backward pass.
        tangent = (out_high - out_low) / 2
        middle = (out_high + out_low) / 2
        with Tape(self.prunable.parameters):
            output, target = self.batch_loss.run(self.model, self.batch)
        output = self.batch_loss.head(output)
        cotangent = self._output_curvature(target, middle, tangent) / (2 * step)
        product = torch.autograd.grad(
            output, self.prunable.parameters, cotangent, materialize_grads=True, allow_unused=True
        )
        return self.prunable.flatten(product), slope, derivative, gradient, eps

    def double(self) -> _Trial | None:
        """A copy in float64; None for a network or loss that cannot be copied so."""
        try:
            # One copy of both, so that a loss that reads the network reads the copy.
            model, loss = copy.deepcopy((self.model, self.batch_loss))
            for module in (model, loss.loss_fn):
                if isinstance(module, nn.Module):
                    module.double()
            return _Trial(model, loss, _doubled(self.batch), PrunableSet(model, self.prunable), self.operator)
        except Exception:  # whatever a network of the caller's holds may refuse to be copied  # noqa: BLE001
            return None


def _doubled(batch: Batch) -> Batch:
    return map_tensors(lambda value: value.double() if value.is_floating_point() else value, batch)


@contextmanager
def explained() -> Iterator[None]:
    """Raise, in place of some of PyTorch's own errors, what to do about them."""
    try:
        yield
    except (RuntimeError, IndexError) as error:
        clearer = _clearer(error)
        if clearer is None:
            raise
        raise clearer from error


def _clearer(error: Exception) -> Exception | None:
    text = str(error).split("\n")[0]
    kernel = re.search(r"derivative for '?(?:aten::)?_?(\w+?)(_backward\w*)?'? is not implemented", text)
    if kernel:
        same = " (it is relu6(x + 3) / 6)" if kernel[1] == "hardsigmoid" else ""
        return CurvatureError(
            f"the network or its loss uses {kernel[1]}, which PyTorch differentiates once and not twice, as a product"
            f" with the curvature needs; write it with other operations{same}, or take another in its place"
        )
    if re.search(r"same dtype|type .* should be the same|expected scalar type", text):
        return ValueError(
            f"the data do not have the dtype of the weights ({text}); convert one of them, as by"
            " inputs.float(), or both, as by model.float() too"
        )
    if "nference tensor" in text:
        return ValueError(
            "what torch.inference_mode() makes cannot be differentiated: leave it around this call, clone() data that"
            " were made in it, and load weights that were into a network that was not"
        )
    if "Cannot copy out of meta tensor" in text:
        return ValueError("the data are on the meta device, where tensors have shapes but no values; load them first")
    if "NestedTensorImpl" in text:
        return ValueError(
            "the data are nested tensors, which cannot be divided into batches: pad them to one length, or give a"
            " DataLoader of batches"
        )
    if "SparseCPU" in text or "SparseCUDA" in text:
        return ValueError("the data are sparse tensors, which cannot be divided into batches: take to_dense()")
    if "SparseTensorImpl" in text:
        return ValueError(
            "the gradient of a prunable weight is sparse, as that of nn.Embedding(sparse=True) is: use sparse=False, or"
            " choose other weights with prunable="
        )
    if re.search(r"shapes cannot be multiplied|to have \d+ channels", text):
        return ValueError(f"the data do not fit the network: its layers take another number of features ({text})")
    outside = re.search(r"Target (-?\d+) is out of bounds", text)
    if outside:
        return ValueError(
            f"the targets of the data hold class {outside[1]}, which the network's output does not have: classes count"
            " from 0; ignore_index= of the loss leaves one out"
        )
    if re.search(r"result type \w+ can't be cast to the desired output type", text):
        return ValueError(
            f"loss_fn cannot take the dtype of the targets ({text}); binary_cross_entropy and mse_loss take floating"
            " point numbers, as targets.float()"
        )
    if re.search(r"expected target dtype|target tensor expected|Expected floating point type for target", text):
        return ValueError(
            f"loss_fn cannot take the targets of the data ({text}); cross_entropy takes classes of shape (samples,) as"
            " int64, or probabilities of the output's shape and dtype"
        )
    if "Expected target size" in text:
        return ValueError(
            f"cross_entropy takes classes along axis 1 ({text}); of a language model's output (samples, words,"
            " vocabulary) use lambda output, target: cross_entropy(output.flatten(0, 1), target.flatten())"
        )
    return None


def check_curvature(operator: CurvatureOperator) -> tuple[tuple[str, ...], float]:
    """Make all checks.

    Args:
        operator: of the network whose curvature is wanted.

    Returns:
        Their names, ``CHECKS``, without "mean over samples" for a batch that cannot be divided; and the error of a
        product that bounds should allow for, in machine epsilons: twice what float64 shows on a quarter of the samples
        (32 to 512 of them), or, where float64 takes other sides at kinks, what products with a vector and its two
        halves show; at least ``ROUNDINGS``, which also stands where the network computes in float64 or cannot be
        copied so.

    Raises:
        FloatingPointError: when a product is not finite.
        NotDeterministicError: when two products with one vector differ.
        CurvatureError: for a loss that is no mean over samples, a product that autograd gets wrong, or a matrix that
            is exactly zero.
    """
    trial = _Trial(operator.model, operator.batch_loss, _few(operator), operator.prunable, operator.operator)
    vector = torch.randn(operator.shape[0], generator=stream(0, "checks"))
    vector = vector.to(operator.device, operator.dtype)
    relative = vector * _sizes(operator.prunable)
    with differentiable(operator.model, operator.prunable):
        product = trial.product(relative)
        again = trial.product(relative)
    _check_finite(operator, product)
    _check_determinism(product, again)
    with differentiable(operator.model, operator.prunable):
        divided = _check_mean(trial, operator.samples)
        double = _check_differences(trial, relative, product)
    # A few samples may lie where the loss is flat although others do not.
    if not product.any() and not (operator @ vector).any():
        raise CurvatureError(_zero_message(operator.operator))
    passed = tuple(name for name in CHECKS if divided or name != "mean over samples")
    return passed, ROUNDINGS if double is None else _roundings(operator, trial, double, vector)


def check_loss(model: nn.Module, batch_loss: BatchLoss, data: Samples) -> None:
    """The checks that need no derivative: for a loss that is measured.

    Args:
        model: any module.
        batch_loss: of a batch.
        data: all samples.

    Raises:
        NotDeterministicError: when a few samples have another loss each time.
        CurvatureError: for a loss that is no mean over samples.
    """
    trial = _Trial(model, batch_loss, data.some(_SAMPLES, spread=True), None, "")
    if not batch_loss.weight_of(trial.batch):
        return
    with eval_mode(model), frozen(model):
        first, second = trial.loss(), trial.loss()
        if not math.isfinite(first):  # of another cause
            return
        if abs(first - second) > _MEAN_TOLERANCE * max(abs(first), abs(second)):
            raise NotDeterministicError(
                f"the same samples have the loss {first:.6g} and then {second:.6g}: the network is random (active"
                f" dropout, noise) or changes its state; make its forward pass deterministic in eval mode. {_OFF}"
            )
        _check_mean(trial, len(data))


def _sizes(prunable: PrunableSet) -> Tensor:
    """(D,), how far differences move each weight: by its own size, so that they cross no kink.

    A layer or filter that l1 has emptied has weights many digits below the others, and so have the differences between
    its values of which a maximum or a ReLU takes the larger. Tensors that are zero move as the weights do in the mean.
    """
    mean = float(prunable.flatten().abs().mean()) or 1.0
    return prunable.flatten(
        [own.detach().abs() if bool(own.any()) else torch.full_like(own, mean) for own in prunable.parameters]
    )


def _few(operator: CurvatureOperator) -> Batch:
    """Samples that count, spread over the data where they can be divided."""
    few = operator.data.some(_SAMPLES, spread=True)
    return few if operator.batch_loss.weight_of(few) else next(operator.batches())[0]


def _roundings(operator: CurvatureOperator, trial: _Trial, double: _Trial, vector: Tensor) -> float:
    """The allowance of :func:`check_curvature`, from products with ``vector`` in the operator's dtype and float64."""
    batch = operator.data.some(min(max(_SAMPLES, operator.samples // 4), _ROUNDING_SAMPLES), spread=True)
    parts = [batch]
    if divisible(batch):
        count, size = count_samples(batch), max(1, operator.batch_size // 2)
        parts = [take(batch, slice(start, min(start + size, count))) for start in range(0, count, size)]

    def total(run: _Trial, vector: Tensor, as_parts: Callable[[Batch], Batch] = lambda part: part) -> Tensor:
        found = torch.zeros_like(vector, dtype=torch.float64)
        for part in parts:
            weight = operator.batch_loss.weight_of(part)
            if weight:  # the loss of nothing is 0 / 0
                with differentiable(run.model, run.prunable):
                    found.add_(replace(run, batch=as_parts(part)).product(vector), alpha=weight)
        return found

    own = total(trial, vector)
    scale = float(own.norm()) * torch.finfo(operator.dtype).eps
    error = float((own - total(double, vector.double(), _doubled)).norm()) / scale if scale else math.nan
    if error > _KINKS:
        half = vector * (torch.arange(len(vector), device=vector.device) % 2)
        error = float((own - total(trial, half) - total(trial, vector - half)).norm()) / scale
    return max(ROUNDINGS, 2 * error) if math.isfinite(error) else ROUNDINGS


def _check_finite(operator: CurvatureOperator, product: Tensor) -> None:
    vector = torch.ones_like(product)
    for bad in operator.data.not_finite():
        trial = _Trial(
            operator.model, operator.batch_loss, operator.data.batch(bad.place), operator.prunable, operator.operator
        )
        with differentiable(operator.model, operator.prunable):
            # A network may know what to do with it.
            if not (math.isfinite(trial.loss()) and bool(torch.isfinite(trial.product(vector)).all())):
                raise FloatingPointError(bad.text)
    if torch.isfinite(product).all():
        return
    parameters = dict(operator.model.named_parameters())
    for name, value in operator.model.state_dict().items():
        if not isinstance(value, Tensor):
            continue
        for kind, found in (("NaN", torch.isnan), ("infinite numbers", torch.isinf)):
            # A buffer may be a mask that is added to scores.
            if (kind == "NaN" or name in parameters) and bool(found(value).any()):
                raise FloatingPointError(
                    f"{name} of the network holds {kind}, so no product is finite: it has diverged, or its file is"
                    " damaged"
                )
    raise FloatingPointError(
        "a curvature product is not finite, although the data and the weights are: the network or its loss has diverged"
    )


def _check_determinism(product: Tensor, again: Tensor) -> None:
    """Two products on fresh graphs must agree, or the matrix changes under Lanczos' feet."""
    difference = (product - again).norm()
    # CUDA reductions may differ in the last digits; a dropout mask differs at first order.
    if difference > 1e3 * torch.finfo(product.dtype).eps * product.norm():
        raise NotDeterministicError(
            "two products of the same operator and vector differ by"
            f" {(difference / product.norm()).item():.2g} of their norm: the network is random (active"
            " dropout, noise) or changes its state or its input; make its forward pass deterministic in eval mode"
        )


def _check_mean(trial: _Trial, samples_in_all: int) -> bool:
    """The loss of some samples must be the mean of its parts by their weights; whether they could be divided."""
    samples = count_samples(trial.batch) if divisible(trial.batch) else 1
    if samples < 2:
        return False
    whole, divided = trial.loss(), False
    own = (4 * torch.finfo(p.dtype).eps for p in trial.model.parameters() if p.is_floating_point())
    precision = max(_MEAN_TOLERANCE, *own)
    for split in {max(1, samples // 3), max(1, samples * 3 // 4)}:  # one alone may agree by chance
        parts = [take(trial.batch, part) for part in (slice(0, split), slice(split, None))]
        weights = [trial.batch_loss.weight_of(part) for part in parts]
        if not all(weights):  # the loss of nothing is 0 / 0
            continue
        divided = True
        first, second = (trial.loss(part) for part in parts)
        mean = (weights[0] * first + weights[1] * second) / sum(weights)
        if abs(whole - mean) <= precision * max(abs(whole), abs(first), abs(second)):
            continue
        by = f", weighted with {weights[0]:g} and {weights[1]:g}," if trial.batch_loss.weight else ""
        raise CurvatureError(
            f"the loss is no mean over samples: {samples} samples together have the loss {whole:.6g}, and"
            f" {split} and {samples - split} of them apart {first:.6g} and {second:.6g}, of which the mean"
            f"{by} is {mean:.6g}, so that the result would depend on the batch size. Use reduction='mean'; with"
            " ignore_index or class weights, say with weight= how much a batch counts, as in"
            " weight=lambda y: (y != -100).sum() or weight=lambda y: class_weights[y].sum(); let batch normalisation"
            " have running statistics, put the samples along axis 0 (batch_first=True). If the samples belong together,"
            f" as in a contrastive loss, put them into one batch, batch_size={samples_in_all}, and take its loss as it"
            f" is: {_OFF}"
        )
    return divided


def _check_differences(trial: _Trial, vector: Tensor, product: Tensor) -> _Trial | None:
    """The product must be the derivative of the gradient, and the gradient that of the loss.

    Returns the copy in float64, of a network that has another dtype and can be copied so.
    """
    if product.dtype != torch.float64:
        double = trial.double()
        if double is not None:
            try:
                with differentiable(double.model, double.prunable):
                    exact = double.product(vector.double())
                    # A copy may not be the network: its parts may still read the weights of the original.
                    if _gap(product.double(), exact) < max(0.02, 10 * torch.finfo(product.dtype).eps):
                        wrong = _disagreement(double, vector.double(), exact, _STEPS, _TOLERANCE)
                        if wrong:
                            raise CurvatureError(_wrong_message(wrong))
                        return double
            except CurvatureError:
                raise
            except Exception:  # a forward pass may hold to its dtype  # noqa: BLE001
                pass
        if torch.finfo(product.dtype).eps > 1e-6:
            warnings.warn(
                f"products in {product.dtype} could not be checked in float64; model.float() has more digits",
                stacklevel=4,
            )
            return None
        wrong = _disagreement(trial, vector, product, _OWN_STEPS, _OWN_TOLERANCE)
    else:
        wrong = _disagreement(trial, vector, product, _STEPS, _TOLERANCE)
    if wrong:
        raise CurvatureError(_wrong_message(wrong))
    return None


def _gap(first: Tensor, second: Tensor) -> float:
    """Relative to the larger."""
    scale = max(float(first.norm()), float(second.norm()))
    return float((first - second).norm()) / scale if scale else 0.0


def _disagreement(trial: _Trial, vector: Tensor, product: Tensor, steps: tuple[float, ...], tolerance: float) -> str:
    """What differs at every step; empty when nothing does."""
    norm = float(trial.prunable.flatten().norm()) or 1.0
    precision = float(torch.finfo(product.dtype).eps)
    size = float(vector.norm())
    gaps, slopes, first = [], [], math.inf
    for relative in steps:
        step = relative * norm / size
        found, slope, derivative, gradient, eps = trial.differences(vector, step)
        noise = 100 * precision / step
        scale = max(float(product.norm()), float(found.norm()))
        gap = float((product - found).norm())
        # Rounding falls as the step grows, and what is wrong does not.
        excused = min(3 * first * steps[0] / relative, _EXCUSED * scale) if gaps else 0.0
        first = first if gaps else gap
        gaps.append(0.0 if gap <= tolerance * scale + excused + noise * float(gradient.norm()) else gap / scale)
        # Entries of random signs see the gradient with this size.
        expected = float((gradient * vector).norm())
        miss = abs(slope - derivative)
        level = 100 * max(precision, eps) / step * abs(trial.loss())
        close = 0.0 if miss <= 10 * tolerance * expected + level else miss / max(expected, abs(slope))
        # Below this step, a loss in float32 of weights in float64 shows its rounding alone.
        slopes.append(close if relative > eps**0.5 / 10 or relative == steps[-1] else math.inf)
        if not min(gaps) and not min(slopes):
            return ""
    if min(slopes):
        return f"the gradient of autograd is not that of the loss: along a random vector it is {min(slopes):.2g} off"
    return f"a curvature product of autograd is {min(gaps):.2g} off what differences of the gradient give"


def _wrong_message(wrong: str) -> str:
    return (
        f"{wrong} (finite differences on a few samples). Look for detach(), torch.no_grad(), straight-through"
        " estimators or torch.utils.checkpoint with use_reentrant=True in the forward pass, and for"
        " torch.autograd.Function or fused kernels whose backward pass has no derivative; compute these parts with"
        f" plain PyTorch. {_OFF}"
    )


def _zero_message(operator: str) -> str:
    way = (
        "the loss is linear in the network's output, as an absolute value or a hinge is: use operator='hessian', or a"
        " smooth loss such as smooth_l1_loss"
        if operator == "ggn"
        else "the loss is linear in the prunable weights, constant, or cut off from them (detach, torch.no_grad): use a"
        " loss that curves, such as cross_entropy or mse_loss"
    )
    return (
        f"the curvature ({operator}) is exactly zero on all samples, so that no sparsity would seem too high: {way}."
        f" {_OFF}"
    )
