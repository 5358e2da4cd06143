"""Statistical dimension of the cone that a sublevel set spans from a pruned network: where the transition really is.

A random subspace of codimension c through ``w - center`` meets the ellipsoid ``1/2 (x - w)^T |H| (x - w) <= eps`` as
long as c is below the statistical dimension of the cone of directions that hit it (Amelunxen, Lotz, McCoy, Tropp 2014,
Living on the edge). With ``h = |H| center`` and ``kappa = center^T h - 2 eps`` the cone is
``{x : x^T h >= sqrt(kappa x^T |H| x)}``.

Its projection. Put ``Q = kappa |H| - h h^T`` and ``phi(mu) = g^T (I + mu Q)^-1 g``. A point of the cone's boundary is
the projection of g exactly if it is ``(I + mu Q)^-1 g`` for a stationary point mu >= 0 of phi, and phi there is its
squared length. Q has one negative eigenvalue, so phi has one pole: below it phi is convex and its minimum belongs to
one of g and -g, above it phi rises from minus infinity and its supremum belongs to the other. By Sherman and Morrison

    phi(mu) = a(t) + mu b(t)^2 / (1 - mu d(t)),   t = mu kappa,
    a = g^T (I + t|H|)^-1 g,   b = h^T (I + t|H|)^-1 g,   d = h^T (I + t|H|)^-1 h,

so one Lanczos run from the centre (for b and d) and one from each g (for a, whatever the centre) are all it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

from .lanczos import Jacobi, Lanczos, as_product, lanczos, operator_device, operator_dtype
from .quadrature import gauss, ritz

__all__ = ["GaussianProbes", "statistical_dimension"]

# Distances of log(mu) from the pole at which phi is looked at: it may turn close to the pole, and is flat far away.
_DISTANCES = np.geomspace(1e-6, 14 * np.log(10), 81)


@dataclass(frozen=True)
class GaussianProbes:
    """Directions of equal length sqrt(D), as rows of ``vectors`` (probes, D), and the Lanczos run of each."""

    vectors: Tensor
    runs: list[Jacobi]

    @classmethod
    def draw(cls, operator: Any, *, steps: int, probes: int, seed: int) -> GaussianProbes:
        """Seeded Gaussian directions of fixed length: the projection is homogeneous, a random length only noise."""
        if probes < 1:
            raise ValueError(f"probes must be at least 1, got {probes}")
        dimension, dtype = operator.shape[0], operator_dtype(operator)
        generator = torch.Generator().manual_seed(seed)
        vectors = torch.randn(probes, dimension, generator=generator, dtype=torch.float64)
        vectors *= np.sqrt(dimension) / vectors.norm(dim=1, keepdim=True)
        vectors = vectors.to(operator_device(operator), dtype)
        # One after another: each keeps a basis of steps x D numbers.
        return cls(vectors, [lanczos(operator, [vector], steps)[0] for vector in vectors])


def _centre_run(operator: Any, center: Tensor, vectors: Tensor, steps: int) -> tuple[Jacobi, np.ndarray, float]:
    """Lanczos from the centre; also its basis times the probes (probes, m), without keeping the basis."""
    product = as_product(operator)
    run = Lanczos(center, steps)
    dots = []
    while not run.done:
        dots.append((vectors @ run.vector).double().cpu().numpy())
        run.absorb(product(run.vector))
    return run.result(), np.stack(dots, axis=1), run.norm


def cone_dimension(operator: Any, center: Tensor, epsilon: float, probes: GaussianProbes, steps: int) -> np.ndarray:
    """Squared length of the projection on the cone, per D and probe, averaged over g and -g; shape (probes,)."""
    dimension = operator.shape[0]
    jacobi, dots, norm = _centre_run(operator, center, probes.vectors, steps)
    nodes, basis = ritz(jacobi)
    sizes, centre = np.abs(nodes), norm * basis[0]
    pulled = dots @ basis  # the probes in the Ritz basis
    kappa = float(centre**2 @ sizes) - 2 * epsilon
    if kappa <= 0:
        return np.ones(len(probes.vectors))
    squares = (centre * sizes) ** 2

    def pole_gap(log_mu: float) -> float:
        mu = np.exp(log_mu)
        return mu * float(squares @ (1 / (1 + mu * kappa * sizes))) - 1

    # 1 = mu d(mu kappa): below it for mu = 1 / (2 d(0)), above it in the limit, which is center^T h / kappa > 1.
    low = high = -np.log(2 * squares.sum())
    while pole_gap(high) <= 0 and high < low + 700:
        high += np.log(10)
    pole = brentq(pole_gap, low, high, xtol=1e-14)
    lengths = []
    for row, run in zip(pulled, probes.runs, strict=True):
        rule = gauss(run)
        weights, spread = rule.weights * dimension, np.abs(rule.nodes)
        cross = row * centre * sizes

        def phi(log_mu: float, weights=weights, spread=spread, cross=cross) -> float:
            mu = np.exp(log_mu)
            inverse = 1 / (1 + mu * kappa * sizes)
            a = float(weights @ (1 / (1 + mu * kappa * spread)))
            return a + mu * float(cross @ inverse) ** 2 / (1 - mu * float(squares @ inverse))

        below = _extremum(phi, pole - _DISTANCES, 1.0)
        above = _extremum(phi, pole + _DISTANCES, -1.0)
        lengths.append((np.clip(below, 0, dimension) + np.clip(above, 0, dimension)) / 2)
    return np.array(lengths) / dimension


def _extremum(phi: Callable[[float], float], grid: np.ndarray, sign: float) -> float:
    """Minimum (sign 1) or supremum (-1) of phi near the best point of a grid."""
    values = np.array([sign * phi(x) for x in grid])
    best = int(np.argmin(values))
    bounds = sorted((grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]))
    found = minimize_scalar(lambda x: sign * phi(x), bounds=bounds, method="bounded", options={"xatol": 1e-9})
    return sign * min(float(found.fun), float(values[best]))


def statistical_dimension(
    operator: Any,
    center: Tensor | np.ndarray | Sequence[float],
    epsilon: float,
    *,
    steps: int = 128,
    probes: int = 16,
    seed: int = 0,
) -> tuple[float, float]:
    """Normalised statistical dimension of the cone under which the sublevel set is seen from distance ``center``.

    Args:
        operator: symmetric, ``shape`` (D, D) and ``@``; of an indefinite one |A| is meant.
        center: (D,), from the pruned network to the dense one: the removed vector.
        epsilon: loss tolerance, positive.
        steps: Lanczos steps per run.  probes: Gaussian directions.  seed: of the directions.

    Returns:
        (value, standard_error), both per D; (1.0, 0.0) when the pruned network lies inside the sublevel set.

    Raises:
        ValueError: for a centre of another size, or an epsilon, steps or probes that are not positive.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    vector = torch.as_tensor(np.asarray(center) if not isinstance(center, Tensor) else center)
    vector = vector.to(operator_device(operator), operator_dtype(operator))
    if vector.shape != (operator.shape[0],):
        raise ValueError(f"center must have shape ({operator.shape[0]},), got {tuple(vector.shape)}")
    if not bool((vector != 0).any()):
        return 1.0, 0.0
    drawn = GaussianProbes.draw(operator, steps=steps, probes=probes, seed=seed)
    values = cone_dimension(operator, vector, epsilon, drawn, steps)
    error = float(values.std(ddof=1) / np.sqrt(probes)) if probes > 1 else 0.0
    return float(values.mean()), error
