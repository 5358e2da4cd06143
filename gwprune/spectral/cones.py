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
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from .lanczos import Jacobi, Lanczos, as_product, operator_device, operator_dtype
from .projection import check_positive
from .width import Estimate, ProbeSpectrum, Spectrum, crossing, probe_spectra

__all__ = ["ConeThreshold", "Cones", "cone_threshold"]


@dataclass(frozen=True)
class ConeThreshold:
    """Sparsity at which the statistical dimension meets the sparsity, its interval, and what it took.

    ``standard_error`` is that of the dimension there over random probes: the threshold's is no larger. ``products``
    counts the operator-vector products that this threshold took beyond those of the spectrum and of thresholds found
    before.
    """

    value: float
    lower: float
    upper: float
    standard_error: float
    products: int


class Cones:
    """The cones under which the sublevel sets are seen from a network pruned ever further.

    One Lanczos run from each removed vector that is asked for serves every tolerance.

    Of an indefinite operator |A| is meant: the runs approximate it by the absolute Ritz values, slowly, as |x| has a
    kink at 0. The intervals hold nevertheless; those of a semi-definite operator are far tighter.

    Args:
        operator: ``shape`` (D, D) and ``@``.  weights: (D,).  ranks: (D,), the order of removal.
        spectrum: of ``operator``, from :func:`gwprune.spectral.width.probe_spectra`.
        steps: most Lanczos steps from a removed vector; a run ends earlier when it knows its dimension within a
            quarter of the resolution, or learns less than that from eight steps.
        resolution: of thresholds, in sparsity, and a tenth of the remaining fraction where that is less.
        reorthogonalize, storage: of the basis, ``steps`` x D numbers during a run, see
            :class:`gwprune.spectral.lanczos.Lanczos`; without it O(D) memory.

    Raises:
        ValueError: for weights, ranks or a spectrum of another size, steps below 1, a resolution outside (0, 1).
    """

    def __init__(
        self,
        operator: Any,
        weights: Tensor | np.ndarray,
        ranks: Tensor | np.ndarray,
        spectrum: Spectrum,
        *,
        steps: int = 64,
        resolution: float = 1e-4,
        reorthogonalize: bool = True,
        storage: str = "device",
    ):
        self._product, self.dimension = as_product(operator), operator.shape[0]
        device, dtype = operator_device(operator), operator_dtype(operator)
        self._weights = torch.as_tensor(weights).to(device, dtype)
        self._ranks = torch.as_tensor(ranks).to(device)
        for name, vector in (("weights", self._weights), ("ranks", self._ranks)):
            if vector.shape != (self.dimension,):
                raise ValueError(f"{name} must have shape ({self.dimension},), got {tuple(vector.shape)}")
        if spectrum.dimension != self.dimension:
            raise ValueError(f"the spectrum is of order {spectrum.dimension}, the operator of order {self.dimension}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if not 0 < resolution < 1:
            raise ValueError(f"resolution must be in (0, 1), got {resolution}")
        self.spectrum, self.steps, self.resolution = spectrum, steps, resolution
        self._basis = {"reorthogonalize": reorthogonalize, "storage": storage}
        self.products = 0
        squares = torch.zeros(self.dimension, dtype=torch.float64)
        squares[self._ranks.cpu().long()] = self._weights.cpu().double() ** 2
        self._norms = np.sqrt(np.concatenate([[0.0], np.cumsum(squares.numpy())]))
        # The run of each count, and the tolerances that it is long enough for; None stands for all of them.
        self._runs: dict[int, tuple[ProbeSpectrum, set[float | None]]] = {}

    def dimension_at(self, count: int, epsilon: float) -> Estimate:
        """Statistical dimension, per D, of the cone seen after removal of the ``count`` weights of lowest rank."""
        return self._dimension(self._run(count, epsilon), self._norms[count], epsilon)

    def _tolerance(self, count: int) -> float:
        """In weights, at a threshold of ``count``."""
        return max(1.0, min(self.resolution * self.dimension, 0.1 * (self.dimension - count)))

    def _multiplier(self, run: ProbeSpectrum, norm: float, epsilon: float, part: int) -> float:
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

    def _dimension(self, run: ProbeSpectrum, norm: float, epsilon: float) -> Estimate:
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
        norm, tolerance = self._norms[count], self._tolerance(count) / self.dimension / 4
        known = self.spectrum.probes[0]

        def measure(jacobi: Jacobi) -> ProbeSpectrum:
            return replace(known, jacobi=jacobi, active=self.dimension)

        def ends_of(run: ProbeSpectrum) -> np.ndarray:
            roots = np.sqrt([self._multiplier(run, norm, epsilon, part) for part in (1, 2)])
            return self.spectrum.width(roots, 0.5).value

        if norm == 0:
            return measure(Jacobi(np.zeros(1), np.zeros(1)))
        run, served = self._runs.get(count, (None, set()))
        if run is not None and (served & {None, epsilon} or np.ptp(ends_of(run)) <= tolerance):
            return run
        zero = torch.zeros((), dtype=self._weights.dtype, device=self._weights.device)
        lanczos = Lanczos(torch.where(self._ranks < count, self._weights, zero), self.steps, **self._basis)
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

    def _predicted(self, run: ProbeSpectrum, epsilon: float, part: int = 0) -> int:
        """Count at the crossing (of the value, lower or upper end) if every removed vector had this run's direction."""

        def curve(count: int) -> float:
            width = self.spectrum.width(np.sqrt(self._multiplier(run, self._norms[count], epsilon, part)), 0.5)
            return float((width.value, width.lower, width.upper)[part])

        return round(crossing(curve, self.dimension) * self.dimension)

    def threshold(self, epsilon: float) -> ConeThreshold:
        """``sup {s : delta(s) >= s}``, delta per D; where delta does not fall throughout, one of its crossings.

        Each run predicts the crossing by scaling its removed vector to other lengths R(s), and the next one starts
        there. The search ends when a prediction is as near as the resolution asks, or as a twentieth of what the
        quadrature leaves open: a longer one would follow its noise.

        As delta falls, the crossing of a bound of delta lies between s and that bound at s, for every s that was run,
        and that of the lower bound not below the width's. The bounds are those of the quadrature, widened by 1.96
        standard errors over the probes. Where they are far apart, one more run each is made where they should cross.

        Raises:
            ValueError: for an ``epsilon`` that is not positive.
        """
        check_positive(epsilon, self.steps)
        size, before = self.dimension, self.products
        width = self.spectrum.width_threshold(lambda count: self._norms[count], epsilon)
        # delta >= s is known up to low, delta < s at high; full sparsity may still hold.
        low, high = round(float(width.value) * size), size + 1
        error = float(width.standard_error)
        guess = (low + high) // 2
        predicted = {count: self._predicted(run, epsilon) for count, (run, _) in self._runs.items()}
        if predicted:
            guess = predicted[min(predicted, key=lambda count: abs(predicted[count] - count))]
        evaluations = 0
        while high - low > 1:
            # Predictions that creep towards the crossing from one side take turns with bisection.
            count = min(max(guess, low + 1), high - 1) if evaluations % 4 < 3 else (low + high) // 2
            run, evaluations = self._run(count, epsilon), evaluations + 1
            found = self._dimension(run, self._norms[count], epsilon)
            error = float(found.standard_error)
            low, high = (count, high) if found.value >= count / size else (low, count)
            guess = min(max(self._predicted(run, epsilon), low), high - 1)
            open_part = found.upper - found.lower - self.spectrum.chance_width(error)
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
        return ConeThreshold(value, lower, upper, error, self.products - before)

    def _interval(self, epsilon: float, value: float, lower: float) -> tuple[float, float]:
        """Interval of the crossing, around ``value``, from all runs and a ``lower`` end that is known already."""
        upper = 1.0
        for count, (run, _) in self._runs.items():
            found, sparsity = self._dimension(run, self._norms[count], epsilon), count / self.dimension
            lower, upper = max(lower, min(sparsity, found.lower)), min(upper, max(sparsity, found.upper))
        return min(lower, value), max(upper, value)


def cone_threshold(
    operator: Any,
    weights: Tensor | np.ndarray,
    ranks: Tensor | np.ndarray,
    epsilon: float,
    *,
    steps: int = 128,
    cone_steps: int = 64,
    probes: int = 1,
    seed: int = 0,
    resolution: float = 1e-4,
    reorthogonalize: bool = True,
    storage: str = "device",
) -> ConeThreshold:
    """Sparsity at which the statistical dimension of the cone at the removed vector meets the sparsity.

    Args:
        operator: symmetric, ``shape`` (D, D) and ``@``; of an indefinite one |A| is meant, see :class:`Cones`.
        weights: (D,).  ranks: (D,), the order of removal.
        epsilon: loss tolerance, positive.
        steps: Lanczos steps per probe.  probes: Rademacher probes.  seed: of the probes.
        cone_steps, resolution, reorthogonalize, storage: see :class:`Cones`, which also takes several tolerances and a
            spectrum that is known already; ``products`` counts those of the spectrum here.

    Raises:
        ValueError: for weights or ranks of another size, a resolution outside (0, 1), or an epsilon, steps or probes
            that are not positive.
    """
    check_positive(epsilon, steps)
    if probes < 1:
        raise ValueError(f"probes must be at least 1, got {probes}")
    basis = {"reorthogonalize": reorthogonalize, "storage": storage}
    semidefinite = getattr(operator, "operator", "") == "ggn"
    spectrum = probe_spectra(operator, steps=steps, probes=range(probes), seed=seed, semidefinite=semidefinite, **basis)
    cones = Cones(operator, weights, ranks, spectrum, steps=cone_steps, resolution=resolution, **basis)
    found = cones.threshold(epsilon)
    spent = 1 + sum(probe.jacobi.steps for probe in spectrum.probes)
    return replace(found, products=found.products + spent)
