"""The squared Gaussian width of a sublevel set, and the predictors ``width`` and ``trace_bound`` from it."""

from __future__ import annotations

from typing import Any

from ..names import whole_number
from .lanczos import check_symmetric
from .probes import known_spectrum
from .problem import Problem
from .spectrum import Estimate

__all__ = ["squared_width", "trace_bound", "width_threshold"]


def squared_width(
    operator: Any, pruned_norm: float, epsilon: float, *, steps: int = 128, probes: int = 1, seed: int = 0
) -> tuple[float, float, float]:
    """Normalised squared Gaussian width ``1/D tr[2 eps / (2 eps + R^2 |A|)]`` of a symmetric matrix.

    Args:
        operator: A; anything with ``shape`` (D, D) and ``@``: a curvature operator, scipy LinearOperator, dense array.
        pruned_norm: R, not negative.
        epsilon: loss tolerance, positive.
        steps: Lanczos steps per probe. From the number of rows on that are not exactly zero (up to 3,000) the value
            is exact: the dense matrix then costs no more.
        probes: number of Rademacher probes.
        seed: of the probes.

    Returns:
        (value, lower, upper) in [0, 1]; the interval combines the bounds of the quadrature with the 95% confidence of
        the probes.

    Raises:
        TypeError: for an operator without ``shape`` or ``@``.
        ValueError: for an operator that is not square or not symmetric, a negative R, or an epsilon, steps or probes
            that are not positive.
    """
    for name, value in (("pruned_norm", pruned_norm), ("epsilon", epsilon)):
        if value is None or isinstance(value, str):
            raise TypeError(f"{name} must be a number, got {value!r}")
    if not pruned_norm >= 0:
        raise ValueError(f"pruned_norm must not be negative, got {pruned_norm}")
    steps, probes = whole_number("steps", steps, 1), whole_number("probes", probes, 1)
    check_symmetric(operator, seed)
    spectrum = known_spectrum(operator, steps=steps, probes=range(probes), seed=seed)
    estimate = spectrum.width(pruned_norm, epsilon)
    return float(estimate.value), float(estimate.lower), float(estimate.upper)


def width_threshold(problem: Problem, epsilon: float) -> Estimate:
    """Predictor ``width``, see :meth:`.Spectrum.width_threshold`."""
    return problem.spectrum.width_threshold(problem.norms, epsilon)


def trace_bound(problem: Problem, epsilon: float) -> Estimate:
    """Predictor ``trace_bound``, see :meth:`.Spectrum.trace_bound`."""
    return problem.spectrum.trace_bound(problem.norms, epsilon)
