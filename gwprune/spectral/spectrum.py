"""What random probes tell of a symmetric matrix: integrals over its spectrum with certified intervals, and thresholds.

The width curve is ``omega = 1/D tr f(H)``, ``f(lambda) = 2 eps / (2 eps + R^2 |lambda|)`` (Zhang et al. 2024, arXiv
2306.05857). As a function of ``mu = lambda^2`` f is a Stieltjes function, a mixture of ``1 / (t + mu)``, and so
operator convex: the two rules of :func:`gwprune.spectral.quadrature.squared` enclose it, for an indefinite H too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .crossings import crossing
from .lanczos import Jacobi
from .quadrature import Rule, gauss, radau, squared

__all__ = ["CONFIDENCE", "ROUNDINGS", "Estimate", "ProbeSpectrum", "Spectrum"]

CONFIDENCE = 0.95
# Relative error of a product in units of its machine epsilon, where it was not measured: 8 to 11 were seen on FC5.
ROUNDINGS = 32.0
_QUANTILE = 1.959963984540054  # of the normal distribution, two-sided at CONFIDENCE
# The estimate is extrapolated from runs cut short to these fractions of the steps (docs/intervals.md).
_FRACTIONS = np.linspace(2 / 3, 1, 5)
_FEWEST_STEPS = 8


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; numbers, or arrays of one shape for a whole curve.

    Attributes:
        value: the estimate.
        lower: lower end of the interval. What quadrature leaves open is widened by the spread over probes at 95%
            confidence; an estimate without probes has a bracket.
        upper: its upper end.
        standard_error: of the value over random probes; 0 without probes.
        products: operator-vector products that the estimate took beyond those of the probes and of earlier estimates.
    """

    value: np.ndarray | float
    lower: np.ndarray | float
    upper: np.ndarray | float
    standard_error: np.ndarray | float = 0.0
    products: int = 0


@dataclass(frozen=True)
class ProbeSpectrum:
    """What one Rademacher probe tells of a symmetric matrix; or all of its eigenvalues, which tell everything.

    Attributes:
        jacobi: coefficients of the Lanczos run from the probe; beside eigenvalues, those of one step from the sum of
            the eigenvectors, which tells the size of a product.
        dimension: order of the matrix.
        active: number of rows that are not exactly zero. The probe lives on these coordinates; every other one is
            known to have the eigenvalue 0.
        semidefinite: whether the matrix is known to have no negative eigenvalue (the Gauss-Newton operator). The rules
            of the matrix itself are bounds then, too.
        precision: machine epsilon of the products.
        roundings: relative error of a product, in units of ``precision``, that the bounds allow for.
        eigenvalues: (active,), those of the rows that are not exactly zero; None: a probe.
    """

    jacobi: Jacobi
    dimension: int
    active: int
    semidefinite: bool = False
    precision: float = np.finfo(float).eps
    roundings: float = ROUNDINGS
    eigenvalues: np.ndarray | None = None

    @property
    def steps(self) -> int:
        """Operator-vector products behind it."""
        return self.jacobi.steps if self.eigenvalues is None else self.active

    @property
    def rounding(self) -> float:
        """By how much rounding may shift |lambda| as integrals see it.

        Products are taken to be those of A + E with ``||E v|| <= delta = roundings precision ||A v||`` for the probe
        v. As
        ``|v^T (t + (A+E)^2)^-1 v - v^T (t + A^2)^-1 v|`` is at most ``delta / sqrt(t)`` times the larger of the two,
        an integral of f moves by about ``f(|lambda|) - f(|lambda| + x)``, ``x = 2/pi delta (1 + log(1 + ||A|| /
        delta))``, at each lambda: |A| is no smooth function of A, hence the logarithm. Without the absolute value, for
        a semi-definite A, f is a resolvent and x is delta.
        """
        error = self.roundings * self.precision
        delta = error * np.hypot(self.jacobi.alpha[0], self.jacobi.beta[0])
        if self.semidefinite:
            return float(delta)
        # ||A|| is at most the Frobenius norm, which the probe estimates as sqrt(n) ||A v||.
        return float(2 / np.pi * delta * (1 + np.log1p(np.sqrt(self.active) / error)))

    @cached_property
    def rules(self) -> dict[str, Rule]:
        """``gauss``, ``radau`` (of the matrix), ``squared_lower``, ``squared_upper`` (nodes |lambda|).

        They are all the same, and exact, where the eigenvalues are known.
        """
        if self.eigenvalues is not None:
            known = Rule(self.eigenvalues, np.full(self.active, 1 / self.active))
            sizes = Rule(np.abs(known.nodes), known.weights)
            return {"gauss": known, "radau": known, "squared_lower": sizes, "squared_upper": sizes}
        rules = {"gauss": gauss(self.jacobi), "radau": radau(self.jacobi)}
        rules["squared_lower"], rules["squared_upper"] = squared(self.jacobi)
        return rules

    def full_rule(self, name: str) -> Rule:
        """Rule ``name`` of the whole matrix: the exact-zero rows are one more node, 0."""
        rule, share = self.rules[name], self.active / self.dimension
        if self.active == self.dimension:
            return rule
        return Rule(np.append(rule.nodes, 0.0), np.append(rule.weights * share, 1.0 - share))

    def _bounds(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """What the coefficients leave open of ``v^T function(|A|) v / dimension``, but for rounding."""

        def integral(name: str) -> np.ndarray:
            rule = self.full_rule(name)
            return function(np.abs(rule.nodes)) @ rule.weights

        lower, upper = integral("squared_lower"), integral("squared_upper")
        if self.semidefinite or self.jacobi.exact:
            gauss_value = integral("gauss")
            lower = np.maximum(lower, gauss_value)
            upper = gauss_value if self.jacobi.exact else np.minimum(upper, integral("radau"))
        return lower, np.maximum(upper, lower)

    @cached_property
    def _earlier(self) -> tuple[ProbeSpectrum, ...]:
        """The run cut short; nothing where there is nothing to extrapolate, or too few steps to do so."""
        steps = self.jacobi.steps
        if self.jacobi.exact or steps < _FEWEST_STEPS:
            return ()
        return tuple(replace(self, jacobi=self.jacobi.truncated(round(part * steps))) for part in _FRACTIONS[:-1])

    def integrals(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(value, lower, upper) of ``v^T function(|A|) v / dimension`` for a Stieltjes ``function`` of |A|^2.

        The value is no rule of its own (the plain Gauss rule jumps from step to step). While the interval closes, the
        integral stays at about one fraction of it. So the middle of the interval is fitted as a straight line in its
        length, over the run and the same run cut short, and followed to length 0; at most to a quarter of the interval
        from the middle, and where it is longer than 0.3 not at all.

        Args:
            function: maps m nodes |lambda| (m,) to values (..., m).

        Returns:
            Three arrays of shape (...).
        """
        lower, upper = self._bounds(function)
        value = (lower + upper) / 2
        if self._earlier:
            pairs = [*(run._bounds(function) for run in self._earlier), (lower, upper)]
            middles = np.array([(below + above) / 2 for below, above in pairs])
            gaps = np.array([above - below for below, above in pairs])
            spread = gaps - gaps.mean(axis=0)
            square = np.maximum((spread**2).sum(axis=0), np.finfo(float).tiny)
            most = np.clip(10 * (0.3 - gaps[-1]), 0, 1) / 4
            value = value - np.clip((spread * middles).sum(axis=0) / square, -most, most) * gaps[-1]
        # The zero rows are known exactly; under the upper rule the most mass lies where f is steepest.
        rule, share = self.rules["squared_upper"], self.active / self.dimension
        slack = (function(rule.nodes) - function(rule.nodes + self.rounding)) @ rule.weights * share
        highest = function(np.zeros(1))[..., 0]
        return value, np.clip(lower - slack, 0.0, lower), np.clip(upper + slack, upper, highest)


@dataclass(frozen=True)
class Spectrum:
    """All probes of one operator; the source of every estimate.

    Attributes:
        probes: at least one.

    Raises:
        ValueError: for no probes, or probes of different matrices.
    """

    probes: tuple[ProbeSpectrum, ...]

    def __post_init__(self):
        kinds = {(own.dimension, own.active, own.semidefinite, own.eigenvalues is None) for own in self.probes}
        if len(kinds) != 1:
            raise ValueError("a spectrum needs at least one probe, all of the same matrix")

    @property
    def dimension(self) -> int:
        return self.probes[0].dimension

    @property
    def active(self) -> int:
        return self.probes[0].active

    @property
    def steps(self) -> int:
        """Operator-vector products behind a probe, the longest run's."""
        return max(probe.steps for probe in self.probes)

    @property
    def exact(self) -> bool:
        """Whether all eigenvalues are known, so that nothing is left to chance."""
        return self.probes[0].eigenvalues is not None

    @property
    def random_probes(self) -> int:
        """How many probes were drawn; 0 where all eigenvalues are known."""
        return 0 if self.exact else len(self.probes)

    def _estimate(self, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """Trace per dimension of a ``function`` of |lambda| with values in [0, 1]."""
        parts = [probe.integrals(function) for probe in self.probes]
        value, lower, upper = (np.clip(np.mean([part[i] for part in parts], axis=0), 0.0, 1.0) for i in range(3))
        error = self._standard_error(function)
        spread = _QUANTILE * error
        return Estimate(value, np.clip(lower - spread, 0.0, value), np.clip(upper + spread, value, 1.0), error)

    def _standard_error(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Standard error of the trace per dimension, from the quadrature itself, so for a single probe too.

        A Rademacher probe has variance ``2 sum_{i != j} F_ij^2 <= 2 ||F - c I||_F^2`` for every c; the best c makes
        it ``2 n Var(F's eigenvalues)`` with n active coordinates (Hutchinson 1990 gives the equality).
        """
        if self.exact:
            return np.zeros(function(np.zeros(1)).shape[:-1])
        variances = []
        for probe in self.probes:
            rule = probe.rules["gauss"]
            # Every node stands for one eigenvalue at least: a probe that happens to miss the few large ones must not
            # underestimate its own variance.
            weights = np.maximum(rule.weights, 1 / max(self.active, 1))
            weights = weights / weights.sum()
            values = function(np.abs(rule.nodes))
            deviations = values - (values @ weights)[..., None]
            variances.append(deviations**2 @ weights)
        return np.sqrt(2 * self.active * np.mean(variances, axis=0) / len(self.probes)) / self.dimension

    @staticmethod
    def chance_width(standard_error: float) -> float:
        """Width of the part of an interval that is due to the choice of probes."""
        return 2 * _QUANTILE * standard_error

    def width(self, pruned_norm: np.ndarray | float, epsilon: float) -> Estimate:
        """Width ``omega``, normalised by D.

        Args:
            pruned_norm: R, of any shape.
            epsilon: loss tolerance.

        Returns:
            Values in [0, 1] of the shape of ``pruned_norm``.

        Raises:
            ValueError: for an ``epsilon`` that is not positive.
        """
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        squares = np.asarray(pruned_norm, dtype=float)[..., None] ** 2
        return self._estimate(lambda size: 2 * epsilon / (2 * epsilon + squares * size))

    def mean_curvature(self) -> Estimate:
        """``tr |H| / D``. The square root is operator concave: the rules bound from the other sides."""
        parts = []
        for probe in self.probes:
            below, above = (
                float(rule.nodes @ rule.weights)
                for rule in (probe.full_rule("squared_upper"), probe.full_rule("squared_lower"))
            )
            share = probe.active / probe.dimension
            if probe.semidefinite:  # v^T |A| v is v^T A v, the first coefficient
                below = above = float(probe.jacobi.alpha[0]) * share
            below, above = below - probe.rounding * share, above + probe.rounding * share
            parts.append(((below + above) / 2, below, above))
        value, lower, upper = (float(np.mean([part[i] for part in parts])) for i in range(3))
        error = float(self._standard_error(lambda size: size))
        spread = _QUANTILE * error
        return Estimate(value, min(max(lower - spread, 0.0), value), max(upper + spread, value), error)

    def width_threshold(self, norms: np.ndarray, epsilon: float) -> Estimate:
        """Predicted threshold: the sparsity at which the width curve meets the diagonal, with its interval.

        Args:
            norms: (D + 1,), the pruned norm R after removal of 0, 1, ..., D weights.
            epsilon: loss tolerance, positive.
        """

        def curve(part: str) -> Callable[[int], float]:
            return lambda count: float(getattr(self.width(norms[count], epsilon), part))

        value, lower, upper = (crossing(curve(part), self.dimension) for part in ("value", "lower", "upper"))
        # The error of the crossing is that of the curve there: the diagonal's slope 1 only makes it smaller.
        error = float(self.width(norms[round(value * self.dimension)], epsilon).standard_error)
        return Estimate(value, lower, upper, error)

    def trace_bound(self, norms: np.ndarray, epsilon: float) -> Estimate:
        """Threshold by Jensen's inequality from ``tr|H|`` alone.

        f is convex in |lambda|, so ``omega >= f(tr|H|/D)``: the result never exceeds the width's threshold.

        Args:
            norms: (D + 1,), the pruned norm R after removal of 0, 1, ..., D weights.
            epsilon: loss tolerance, positive.
        """
        mean = self.mean_curvature()

        def threshold(curvature: float) -> float:
            def curve(count: int) -> float:
                return 2 * epsilon / (2 * epsilon + float(norms[count]) ** 2 * curvature)

            return crossing(curve, self.dimension)

        value, lower, upper = (threshold(float(part)) for part in (mean.value, mean.upper, mean.lower))
        middle, error = float(mean.value), float(mean.standard_error)
        spread = threshold(max(middle - error, 0.0)) - threshold(middle + error)
        return Estimate(value, lower, upper, spread / 2)
