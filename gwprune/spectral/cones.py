"""Statistical dimension of the cone that a sublevel set spans from a pruned network: where the transition really is.

A random subspace of codimension c through ``w - center`` meets the ellipsoid ``1/2 (x - w)^T |H| (x - w) <= eps`` as
long as c is below the statistical dimension of the cone of directions that hit it (Amelunxen, Lotz, McCoy, Tropp 2014,
Living on the edge). :mod:`.projection` computes it as the mean squared length of projections. In the mean, up to
about one weight, it is the trace

    delta = tr (I + t|H|)^-1   with t > 0 such that   center^T |H| (I + t|H|)^-1 center = 2 eps,

and all of D when there is no such t, because the pruned network lies inside the ellipsoid: the noise of a projection
moves its multiplier only to second order. So delta has the form of the width, with t in place of ``R^2 / (2 eps)``.
With ``I(t) = center^T (I + t|H|)^-1 center / R^2`` the equation reads ``t = (1 - I(t)) R^2 / (2 eps)``. Hence delta is
never below the width, and one Lanczos run from the centre and the width's probes are all it takes.

For a further pruning method of the same network one short run will do, as :class:`.Cones` has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.optimize import brentq

from .crossings import crossing
from .lanczos import Jacobi, Lanczos, as_product
from .problem import Problem
from .spectrum import Estimate, ProbeSpectrum

__all__ = ["Cones", "cone_threshold"]


@dataclass(frozen=True)
class _Likened:
    """A short run from one method's removed vector, valued by a long one from another's; its bounds are its own.

    A few steps leave an interval open in which ``1 - I(t)`` lies; it is small, and so the interval is one of its
    logarithm. The truth of both methods lies at about the same fraction of it, and the long run tells that of its own.

    Attributes:
        own: the short run.
        long: the other's.
    """

    own: ProbeSpectrum
    long: ProbeSpectrum

    @property
    def jacobi(self) -> Jacobi:
        return self.own.jacobi

    @cached_property
    def _cut(self) -> ProbeSpectrum:
        """The long run, as it was after so few steps."""
        steps = min(self.own.jacobi.steps, self.long.jacobi.steps)
        return replace(self.long, jacobi=self.long.jacobi.truncated(steps))

    def integrals(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(value, lower, upper), see :meth:`.ProbeSpectrum.integrals`."""

        def rest(integral: np.ndarray) -> np.ndarray:
            return np.log(np.maximum(1 - integral, np.finfo(float).eps))

        _, lower, upper = self.own.integrals(function)
        _, below, above = map(rest, self._cut.integrals(function))
        span = np.maximum(below - above, np.finfo(float).eps)
        share = np.clip((below - rest(self.long.integrals(function)[0])) / span, 0, 1)
        value = 1 - np.exp((1 - share) * rest(lower) + share * rest(upper))
        return np.clip(value, lower, upper), lower, upper


class Cones:
    """The cones under which the sublevel sets are seen from a network pruned ever further.

    One Lanczos run from each removed vector that is asked for serves every tolerance.

    Beside the ``first``, the cones of another method on the same network, there is a single run for each tolerance:
    where the first one's direction puts the crossing, and shorter than a tenth of the products of the spectrum. The
    interval is certified by that run alone, and so wider; for the value it is compared with a run of the first, see
    :class:`_Likened`.

    For an indefinite operator, |A| is used. The runs approximate it by the absolute Ritz values. They do so slowly, as
    |x| has a kink at 0. The intervals hold nevertheless; those of a semi-definite operator are far narrower.

    Attributes:
        problem: the weights, with operator and spectrum. A run takes at most ``problem.steps`` Lanczos steps, or as
            many as a spectrum took of which all eigenvalues are known. It ends
            earlier when it knows its dimension within a quarter of the resolution, or learns less than that from eight
            steps.
        resolution: of thresholds, in sparsity; near full sparsity, a tenth of the remaining fraction where that is
            less.
        first: cones of another method, which were asked for the same tolerances before.
        products: operator-vector products so far.

    Raises:
        ValueError: for steps below 1, or a resolution outside (0, 1).
    """

    def __init__(self, problem: Problem, resolution: float = 1e-4, first: Cones | None = None):
        if problem.steps < 1:
            raise ValueError(f"steps must be at least 1, got {problem.steps}")
        if not 0 < resolution < 1:
            raise ValueError(f"resolution must be in (0, 1), got {resolution}")
        self.problem, self.resolution, self.first, self.products = problem, resolution, first, 0
        self.spectrum, self.dimension = problem.spectrum, problem.dimension
        # Where all eigenvalues were asked for, a run may find its own.
        self._steps = max(problem.steps, self.spectrum.steps) if self.spectrum.exact else problem.steps
        if first is not None:
            known = sum(probe.steps for probe in self.spectrum.probes)
            self._steps = max(1, min(self._steps, (known - 1) // 10))
        self._product = as_product(problem.operator)
        # The run of each count, and the tolerances that it is long enough for; None stands for all of them.
        self._runs: dict[int, tuple[ProbeSpectrum, set[float | None]]] = {}

    def dimension_at(self, count: int, epsilon: float) -> Estimate:
        """Statistical dimension, per D, of the cone seen after removal of the ``count`` weights of lowest rank."""
        return self._dimension(self._run(count, epsilon), self.problem.norms[count], epsilon)

    def _tolerance(self, count: int) -> float:
        """In weights, at a threshold of ``count``."""
        return max(1.0, min(self.resolution * self.dimension, 0.1 * (self.dimension - count)))

    def _multiplier(self, run: ProbeSpectrum | _Likened, norm: float, epsilon: float, part: int) -> float:
        """t of the value (0), the lower (1) or the upper end (2) of the dimension: it falls with t."""
        widest = norm**2 / (2 * epsilon)
        largest = float(np.abs(run.jacobi.alpha).max() + 2 * run.jacobi.beta.max())
        # Where 1 - I(t) is lost in rounding the dimension is 1 to nine digits.
        least = 1e-9 / largest if largest > 0 else np.inf

        def excess(log_t: float) -> float:
            t = np.exp(log_t)
            return (1 - float(run.integrals(lambda size: 1 / (1 + t * size))[part])) * widest - t

        if least >= widest or excess(np.log(least)) <= 0:
            return 0.0
        if excess(np.log(widest)) >= 0:
            return widest
        return float(np.exp(brentq(excess, np.log(least), np.log(widest), xtol=1e-9)))

    def _dimension(self, run: ProbeSpectrum | _Likened, norm: float, epsilon: float) -> Estimate:
        roots = [np.sqrt(self._multiplier(run, norm, epsilon, part)) for part in range(3)]
        if not any(roots):  # exactly, where a sum of quadrature weights is 1 but for rounding
            return Estimate(1.0, 1.0, 1.0, 0.0)
        value, lower, upper = (self.spectrum.width(root, 0.5) for root in roots)  # with R^2 / (2 eps) = t
        middle = float(value.value)
        return Estimate(
            middle, min(float(lower.lower), middle), max(float(upper.upper), middle), float(value.standard_error)
        )

    def _run(self, count: int, epsilon: float) -> ProbeSpectrum:
        """Lanczos from the removed vector; that of the cache when it is long enough for this tolerance."""
        norm, tolerance = self.problem.norms[count], self._tolerance(count) / self.dimension / 4

        def measure(jacobi: Jacobi) -> ProbeSpectrum:
            return replace(self.spectrum.probes[0], jacobi=jacobi, active=self.dimension, eigenvalues=None)

        def ends_of(run: ProbeSpectrum) -> np.ndarray:
            roots = np.sqrt([self._multiplier(run, norm, epsilon, part) for part in (1, 2)])
            return np.asarray(self.spectrum.width(roots, 0.5).value)

        if norm == 0:
            return measure(Jacobi(np.zeros(1), np.zeros(1)))
        run, served = self._runs.get(count, (None, set()))
        if run is not None and (served & {None, epsilon} or np.ptp(ends_of(run)) <= tolerance):
            return run
        basis: dict[str, Any] = {"reorthogonalize": self.problem.reorthogonalize, "storage": self.problem.storage}
        lanczos = Lanczos(self.problem.removed(count), self._steps, **basis)
        before = np.full(2, np.nan)
        while not lanczos.done:
            lanczos.absorb(self._product(lanczos.vector))
            self.products += 1
            run = measure(lanczos.result())
            step = len(lanczos.alpha)
            if lanczos.done or not (step in (1, 2, 4) or step % 8 == 0):
                continue
            ends = ends_of(run)
            # What rounding leaves open no further step will close.
            if np.ptp(ends) <= tolerance or (step > 8 and np.abs(ends - before).max() <= tolerance):
                break
            before = ends
        self._runs[count] = run, served | {None if lanczos.done else epsilon}
        return run

    def _predicted(self, run: ProbeSpectrum | _Likened, epsilon: float, part: int = 0) -> int:
        """Count at the crossing (of the value, lower or upper end) if every removed vector had this run's direction."""

        def curve(count: int) -> float:
            width = self.spectrum.width(np.sqrt(self._multiplier(run, self.problem.norms[count], epsilon, part)), 0.5)
            return float((width.value, width.lower, width.upper)[part])

        return round(crossing(curve, self.dimension) * self.dimension)

    def _nearest(self, epsilon: float) -> tuple[ProbeSpectrum | None, int]:
        """The run that predicts a crossing nearest to its own removed vector, and that crossing."""
        best: tuple[ProbeSpectrum | None, int] = None, 0
        least = np.inf
        for count, (run, _) in self._runs.items():
            predicted = self._predicted(run, epsilon)
            if abs(predicted - count) < least:
                best, least = (run, predicted), abs(predicted - count)
        return best

    def _likened(self, long: ProbeSpectrum, epsilon: float) -> Estimate:
        """:meth:`threshold` from one short run and the first method's long one for this tolerance."""
        norms, before = self.problem.norms, self.products
        # Weights that are 0 are no direction.
        start = max(self._predicted(long, epsilon), int(np.flatnonzero(norms)[0]))
        run = _Likened(self._run(start, epsilon), long)
        count = self._predicted(run, epsilon)
        value, width = count / self.dimension, self.spectrum.width_threshold(norms, epsilon)
        lower, upper = self._interval(epsilon, value, float(width.lower))
        error = float(self._dimension(run, norms[count], epsilon).standard_error)
        return Estimate(value, lower, upper, error, self.products - before)

    def threshold(self, epsilon: float) -> Estimate:
        """``sup {s : delta(s) >= s}``, delta per D; where delta does not fall throughout, one of its crossings.

        Each run predicts the crossing by scaling its removed vector to other lengths R(s), and the next one starts
        there. The search ends when a prediction is as near as the resolution asks, or as a twentieth of what the
        quadrature leaves open: a longer one would follow its noise.

        As delta falls, the crossing of a bound of delta lies between s and that bound at s, for every s that was run,
        and that of the lower bound not below the width's. The bounds are those of the quadrature, widened by 1.96
        standard errors over the probes. Where they are far apart, one more run each is made where they should cross.

        Args:
            epsilon: loss tolerance.

        Returns:
            The sparsity. Its standard error is that of the dimension there over random probes: the threshold's is no
            larger.

        Raises:
            ValueError: for an ``epsilon`` that is not positive.
        """
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        long = None if self.first is None else self.first._nearest(epsilon)[0]
        if long is not None and self.problem.norms[-1] > 0:
            return self._likened(long, epsilon)
        size, before = self.dimension, self.products
        width = self.spectrum.width_threshold(self.problem.norms, epsilon)
        # delta >= s is known up to low, delta < s at high; full sparsity may still hold.
        low, high = round(float(width.value) * size), size + 1
        error = float(width.standard_error)
        known, guess = self._nearest(epsilon)
        if known is None:
            guess = (low + high) // 2
        evaluations = 0
        while high - low > 1:
            # Predictions that creep towards the crossing from one side take turns with bisection.
            count = min(max(guess, low + 1), high - 1) if evaluations % 4 < 3 else (low + high) // 2
            run, evaluations = self._run(count, epsilon), evaluations + 1
            delta = self._dimension(run, self.problem.norms[count], epsilon)
            error = float(delta.standard_error)
            low, high = (count, high) if delta.value >= count / size else (low, count)
            guess = min(max(self._predicted(run, epsilon), low), high - 1)
            open_part = delta.upper - delta.lower - self.spectrum.chance_width(error)
            near = max(self._tolerance(guess), 0.05 * open_part * size)
            if abs(guess - count) <= near and near > 1 and guess < size:
                break
        value = (guess if high - low > 1 else low) / size
        for part in (1, 2) if evaluations else ():
            end = self._interval(epsilon, value, float(width.lower))[part - 1]
            guess = self._predicted(run, epsilon, part)
            if abs(guess / size - end) > max(self._tolerance(guess) / size, abs(end - value) / 4):
                self._run(guess, epsilon)
        lower, upper = self._interval(epsilon, value, float(width.lower))
        return Estimate(value, lower, upper, error, self.products - before)

    def _interval(self, epsilon: float, value: float, lower: float) -> tuple[float, float]:
        """Interval of the crossing, around ``value``, from all runs and a ``lower`` end that is known already."""
        upper = 1.0
        for count, (run, _) in self._runs.items():
            delta, sparsity = self._dimension(run, self.problem.norms[count], epsilon), count / self.dimension
            lower, upper = max(lower, min(sparsity, float(delta.lower))), min(upper, max(sparsity, float(delta.upper)))
        return min(lower, value), max(upper, value)


def cone_threshold(problem: Problem, epsilon: float) -> Estimate:
    """Predictor ``statistical_dimension``, see :meth:`Cones.threshold`.

    Args:
        problem: with its operator and spectrum. Its runs serve every further epsilon, and those of its ``first`` it.
        epsilon: loss tolerance, positive.
    """
    if "cones" not in problem.cache:
        first = problem.first
        problem.cache["cones"] = Cones(problem, first=None if first is None else first.cache.get("cones"))
    return problem.cache["cones"].threshold(epsilon)
