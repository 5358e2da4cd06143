"""The baselines of the fine-tuned limit: the quadratic model of the loss, made least over the kept weights.

With the removed weights fixed at 0 the kept ones may still move. The model of the rise of the data loss is
``q(d) = g^T d + 1/2 d^T A d``, with ``d = -w`` on the removed weights and free on the others. Hassibi and Stork (1992,
Second order derivatives for network pruning: Optimal Brain Surgeon) remove one weight at a time by it; here a whole
mask goes at once, and conjugate gradients (Hestenes and Stiefel 1952) find the kept part.

A must be positive semi-definite, as the Gauss-Newton operator: where the curvature is negative the model has no least
value.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .crossings import first_rise
from .lanczos import as_product
from .problem import Problem
from .spectrum import Estimate

__all__ = ["KeptModel", "surgeon_step_threshold", "surgeon_threshold"]

_RESOLUTION = 1e-4  # of the bracket, in sparsity, when no tolerance is asked for
_STEPS = 200  # most conjugate-gradient steps of one mask
_WINDOW = 10  # steps over which the model must fall ...
_SHARE = 0.01  # ... by more than this share of epsilon to go on
_ROUNDINGS = 32  # of a product, in units of its machine epsilon


class KeptModel:
    """The model of the rise on the weights that a mask keeps.

    Attributes:
        problem: with its operator and gradient.
        products: operator-vector products so far.
    """

    def __init__(self, problem: Problem):
        self.problem, self.products = problem, 0
        self._multiply, self._gradient = as_product(problem.operator), problem.gradient.double()
        self._epsilon = torch.finfo(problem.weights.dtype).eps

    def _product(self, vector: Tensor) -> Tensor:
        self.products += 1
        return self._multiply(vector.to(self.problem.weights.dtype)).double()

    def least(
        self, count: int, settled: float, enough: float = -math.inf, start: Tensor | None = None
    ) -> tuple[float, Tensor]:
        """The least value of the model after removal of the ``count`` weights of lowest rank.

        Conjugate gradients end when ten steps lower the value by less than ``settled``, when the residual is lost in
        rounding, or after 200 steps: what they have reached is an upper bound of the least value.

        Args:
            count: of removed weights.
            settled: nats.
            enough: a value, in nats, below which a lower one is of no interest.
            start: (D,) float64, a step for another mask; by default the kept weights start where they are.

        Returns:
            The value, in nats, and its step d (D,) in float64.

        Raises:
            ValueError: for an operator with a negative eigenvalue, where one is met.
        """
        gradient, kept = self._gradient, self.problem.ranks >= count
        step = torch.where(kept, 0.0 if start is None else start, -self.problem.weights.double())
        curved = self._product(step)
        # The largest eigenvalue seen tells which curvature is but rounding.
        largest = _ratio(curved.norm(), step.norm())
        lost = _ROUNDINGS * self._epsilon * float(gradient.norm() + curved.norm())
        residual = torch.where(kept, -gradient - curved, 0)
        direction, squares = residual, float(residual @ residual)
        values = [float(step @ (gradient + curved / 2))]
        while values[-1] >= enough and squares > lost**2 and len(values) <= _STEPS:
            if len(values) > _WINDOW and values[-1 - _WINDOW] - values[-1] < settled:
                break
            image = self._product(direction)
            curvature, size = float(direction @ image), float(direction @ direction)
            largest = max(largest, _ratio(image.norm(), direction.norm()))
            if curvature < -100 * self._epsilon * largest * size:
                raise ValueError(
                    "the model has no least value: the operator has a negative eigenvalue, and a positive semi-definite"
                    " one is needed, such as ggn"
                )
            if curvature <= self._epsilon * largest * size:
                break
            length = squares / curvature
            step, curved = step + length * direction, curved + length * image
            residual = torch.where(kept, -gradient - curved, 0)
            before, squares = squares, float(residual @ residual)
            direction = residual + squares / before * direction
            values.append(float(step @ (gradient + curved / 2)))
        return values[-1], step


def _ratio(over: Tensor, under: Tensor) -> float:
    return float(over / under) if under > 0 else 0.0


def _check(epsilon: float) -> None:
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")


def surgeon_threshold(problem: Problem, epsilon: float) -> Estimate:
    """Predictor ``surgeon``: the largest sparsity at which the model, least over the kept weights, is below epsilon.

    Its least value grows with the mask, so there is one crossing. At the lower end of the bracket a step was found; at
    the upper end conjugate gradients gave up.

    Args:
        problem: with its operator, which must be positive semi-definite, and gradient. Its tolerance is the width of
            the final bracket.
        epsilon: loss tolerance, nats.

    Returns:
        The bracket and its middle. There is no randomness, so the standard error is 0.

    Raises:
        ValueError: for an ``epsilon`` that is not positive, or an operator with a negative eigenvalue.
    """
    _check(epsilon)
    model, step = KeptModel(problem), None

    def rise(count: int) -> float:
        nonlocal step  # a near mask has a near step
        value, step = model.least(count, _SHARE * epsilon, epsilon, step)
        return value

    lower, upper, _ = first_rise(rise, problem.dimension, epsilon, problem.tolerance or _RESOLUTION)
    return Estimate((lower + upper) / 2, lower, upper, products=model.products)


def surgeon_step_threshold(problem: Problem, epsilon: float) -> Estimate:
    """Predictor ``surgeon_step``: the first sparsity at which the loss measured after that step has risen by epsilon.

    The loss is that of the network with the removed weights at 0 and the kept ones moved by the step. Of the many
    steps with about the least value it is the one that conjugate gradients reach from kept weights that stay: another
    start reaches another one, whose loss differs.

    Args:
        problem: with its operator, gradient and loss. Its tolerance is the width of the final bracket.
        epsilon: loss tolerance, nats.

    Returns:
        The bracket and its middle. There is no randomness, so the standard error is 0.

    Raises:
        ValueError: for an ``epsilon`` that is not positive, or an operator with a negative eigenvalue.
    """
    _check(epsilon)
    model, weights = KeptModel(problem), problem.weights
    dense = problem.loss(weights)

    def rise(count: int) -> float:
        _, step = model.least(count, _SHARE * epsilon)
        value = problem.loss((weights.double() + step).to(weights.dtype)) - dense
        return math.inf if math.isnan(value) else value

    lower, upper, _ = first_rise(rise, problem.dimension, epsilon, problem.tolerance or _RESOLUTION)
    return Estimate((lower + upper) / 2, lower, upper, products=model.products)
