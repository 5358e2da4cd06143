"""The plain baseline: where does the local quadratic model of the loss reach the tolerance?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .crossings import first_rise
from .lanczos import as_product
from .problem import Problem
from .spectrum import Estimate

__all__ = ["quadratic_threshold"]

_RESOLUTION = 1e-4  # of the bracket, in sparsity, when no tolerance is asked for


class _Model:
    """The quadratic model of the rise along the removal of the weights, from one product at each point asked for.

    A product ``H Delta(c)`` tells more than the rise at c: the coupling of Delta(c) to every weight that goes later or
    went before. Between two points only the coupling among the weights that go in between is unknown, of which the sum
    is known. So few products find a crossing. Sums over the weights are kept at every quarter of the resolution.
    """

    def __init__(self, problem: Problem, resolution: float):
        self.problem, size = problem, problem.dimension
        self._product, self._gradient = as_product(problem.operator), problem.gradient.double()
        even = np.arange(0, size, max(1, int(resolution * size / 4)))
        halving = size - (size * 2.0 ** -np.linspace(0, 40, 1281)).astype(int)
        # Where the sums are known, in removed weights.
        self._edges = np.unique(np.concatenate([even, halving, [0, size]]))
        edges = torch.from_numpy(self._edges[1:]).to(problem.ranks.device)
        self._bins = torch.bucketize(problem.ranks.long(), edges, right=True)
        self._squares = problem.norms[self._edges] ** 2
        self._lengths, self._linear = self._sums(problem.weights.sign()), self._sums(self._gradient)
        # Removed weights -> rise of the data loss, and the sums of the weights times the product.
        self._known = {0: (0.0, np.zeros(len(self._edges)))}

    @property
    def products(self) -> int:
        """So far."""
        return len(self._known) - 1

    def _sums(self, values: Tensor) -> np.ndarray:
        """Of the weights times ``values`` (D,), over those that are removed up to each edge."""
        terms = self.problem.weights.double() * values.double()
        counted = torch.bincount(self._bins, terms, minlength=len(self._edges) - 1)
        return np.concatenate([[0.0], np.cumsum(counted.cpu().numpy())])

    def _data(self, count: int) -> tuple[float, np.ndarray]:
        if count not in self._known:
            removed = self.problem.removed(count)
            curved = self._product(removed)
            rise = torch.dot(curved.double() / 2 - self._gradient, removed.double())
            self._known[count] = float(rise), self._sums(curved)
        return self._known[count]

    def rise(self, count: int, l1: float) -> float:
        """Of the data loss and ``l1`` times the sum of |w|, after removal of ``count`` weights."""
        penalty = l1 * float(self.problem.removed(count).double().abs().sum()) if l1 else 0.0
        return self._data(count)[0] - penalty

    def guess(self, low: int, high: int, epsilon: float, l1: float) -> float:
        """Where the rise reaches ``epsilon`` between two counts at which it is known."""
        inner = self._edges[(self._edges > low) & (self._edges < high)]
        counts = np.concatenate([[low], inner, [high]])

        def since(sums: np.ndarray) -> np.ndarray:
            own = np.interp(counts, self._edges, sums)
            return own - own[0]

        (first, before), (_, after) = self._data(low), self._data(high)
        share, coupled = since(self._squares), since(after - before)
        share = share / share[-1] if share[-1] > 0 else np.linspace(0, 1, len(counts))
        # Half of what it would be if all weights in between coupled alike; nothing, if they did not at all.
        among = 0.5 * share * (1 - share) * coupled[-1]
        rises = first + since(before - self._linear) + (coupled - among) / 2
        rises -= l1 * np.interp(counts, self._edges, self._lengths)
        place = int(np.argmax(rises >= epsilon))
        if place == 0:
            return (low + high) / 2
        return float(np.interp(epsilon, rises[place - 1 : place + 1], counts[place - 1 : place + 1]))


def quadratic_threshold(problem: Problem, epsilon: float, criterion: str = "loss_tolerance") -> Estimate:
    """Predictor ``quadratic``: first sparsity at which the quadratic model of the rise reaches ``epsilon``.

    The rise of the data loss is ``-g^T Delta + 1/2 Delta^T H Delta``. Its gradient g is not zero at an l1-trained
    optimum: it balances the penalty. The objective rises by that and the exact change of its penalty,
    ``-l1 ||Delta||_1``; at rest, where ``g = -l1 sign(w)`` on every weight that is not zero, only the curvature is
    left.

    Args:
        problem: with its operator and gradient; for the objective also its l1. Its tolerance is the width of the final
            bracket. A product serves every criterion and epsilon.
        epsilon: loss tolerance, nats.
        criterion: ``"loss_tolerance"``, the data loss, or ``"objective_tolerance"``, the data loss plus the penalty.

    Returns:
        The bracket and its middle. There is no randomness, so the standard error is 0.

    Raises:
        ValueError: for an ``epsilon`` that is not positive.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    resolution = problem.tolerance or _RESOLUTION
    if "model" not in problem.cache:
        problem.cache["model"] = _Model(problem, resolution)
    model, before = problem.cache["model"], problem.cache["model"].products
    l1 = problem.l1 if criterion == "objective_tolerance" else 0.0
    lower, upper, _ = first_rise(
        lambda count: model.rise(count, l1),
        problem.dimension,
        epsilon,
        resolution,
        lambda low, high: model.guess(low, high, epsilon, l1),
    )
    return Estimate((lower + upper) / 2, lower, upper, products=model.products - before)
