"""One call from a network to its predicted threshold: curvature, Lanczos, width and ranking joined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .curvature.operator import OPERATORS, CurvatureOperator, curvature_operator
from .network.samples import count_samples, take
from .pruning import rank, removed_count
from .spectral.cones import Cones
from .spectral.quadratic import quadratic_threshold
from .spectral.width import Estimate, Spectrum, probe_spectra, refine
from .training.evaluation import eval_mode

__all__ = ["PREDICTORS", "Prediction", "predict_threshold"]

PREDICTORS = ("width", "statistical_dimension", "quadratic", "trace_bound")
_CONE_STEPS = 64  # from each removed vector that the statistical dimension is asked for
_DEVIATION_BATCH = 128


@dataclass(frozen=True)
class Prediction:
    """What :func:`predict_threshold` found. Thresholds are sparsities, epsilon is in units of the loss.

    ``lower <= threshold <= upper``; ``standard_error`` is that of the threshold over random probes.
    ``steps`` counts operator-vector products per probe (``quadratic``: in all). ``tolerance_met`` says whether the
    interval became as narrow as asked, or the steps were spent first; None when no tolerance was asked.
    """

    threshold: float
    lower: float
    upper: float
    epsilon: float
    dimension: int
    steps: int
    probes: int
    standard_error: float
    predictor: str
    operator: str
    tolerance_met: bool | None
    _norms: np.ndarray = field(repr=False)
    _spectrum: Spectrum | None = field(repr=False)

    def pruned_norm(self, sparsity: np.ndarray | float) -> np.ndarray:
        """``R(s)``, the norm that global magnitude pruning to sparsity s removes."""
        counts = [removed_count(float(s), self.dimension) for s in np.ravel(sparsity)]
        return self._norms[counts].reshape(np.shape(sparsity))

    def width(self, sparsity: np.ndarray | float) -> Estimate:
        """Width ``omega(s)`` with its interval.

        Raises:
            ValueError: for predictor ``quadratic``, which has no width, or a sparsity outside [0, 1].
        """
        if self._spectrum is None:
            raise ValueError("predictor 'quadratic' computes no width; use 'width'")
        return self._spectrum.width(self.pruned_norm(sparsity), self.epsilon)

    def curve(self, points: int = 81) -> dict[str, np.ndarray]:
        """The width curve on ``points`` sparsities even in log(1 - s): keys as table `width_curves`."""
        sparsity = 1 - np.logspace(0, -4, points)
        width = self.width(sparsity)
        return {
            "sparsity": sparsity,
            "pruned_norm": self.pruned_norm(sparsity),
            "width": width.value,
            "width_lower": width.lower,
            "width_upper": width.upper,
        }


def predict_threshold(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    data: Any,
    *,
    operator: str = "hessian",
    predictor: str = "width",
    epsilon: str | float = "batch_std",
    steps: int = 128,
    probes: int = 1,
    tolerance: float | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    reorthogonalize: bool = True,
    storage: str = "device",
    seed: int = 0,
) -> Prediction:
    """Predict how sparse global magnitude pruning can make ``model`` before its loss rises by ``epsilon``.

    Args:
        model: any module; used in eval mode and left as it was.
        loss_fn: ``loss_fn(output, target)``, mean over samples, twice differentiable.
        data: (input, target), a Dataset or a DataLoader; training samples, without augmentation.
        operator: ``"hessian"`` or ``"ggn"``.
        predictor: ``"width"`` (Zhang et al. 2024), ``"statistical_dimension"`` (of the cone that the sublevel set
            spans: exact for random subspaces; some 200 further products), ``"quadratic"`` (local model of the rise),
            ``"trace_bound"``.
        epsilon: a positive number in units of the loss, or ``"batch_std"``: the standard deviation of the loss over
            mini-batches of 128 samples in the order of ``data``.
        steps: Lanczos steps per probe.  probes: Rademacher probes.  seed: of the probes.
        tolerance: width of the interval, in sparsity, at which to stop: takes steps, and further probes once it is
            chance that keeps the interval open, until ``steps`` products are spent in all.
        batch_size: samples per pass; by default as many as fit the memory budget.
        device: where to compute (the model is moved); by default where it is.
        reorthogonalize: keep ``steps`` x D numbers per probe and orthogonalise; False for very large networks.
        storage: of those numbers: ``"device"``, ``"host"`` memory or ``"disk"``.

    Raises:
        ValueError: for an unknown operator or predictor, an epsilon, steps, probes or tolerance that are not positive,
            a network without prunable weights, or ``"batch_std"`` with fewer than two batches.
        NotDeterministicError: for a network that is random in eval mode.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
        >>> data = (torch.randn(256, 8), torch.randint(3, (256,)))
        >>> p = predict_threshold(net, torch.nn.functional.cross_entropy, data, epsilon=0.05)
        >>> 0 <= p.lower <= p.threshold <= p.upper <= 1
        True
    """
    if operator not in OPERATORS:
        raise ValueError(f"operator must be one of {', '.join(OPERATORS)}, got {operator!r}")
    if predictor not in PREDICTORS:
        raise ValueError(f"predictor must be one of {', '.join(PREDICTORS)}, got {predictor!r}")
    if steps < 1 or probes < 1:
        raise ValueError(f"steps and probes must be at least 1, got {steps} and {probes}")
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, got {tolerance}")
    with eval_mode(model):
        matrix = curvature_operator(model, loss_fn, data, operator=operator, batch_size=batch_size, device=device)
        epsilon_value = _deviation(matrix) if epsilon == "batch_std" else _positive(epsilon)
        ranking = rank("magnitude", matrix.prunable, seed)
        weights = matrix.prunable.flatten()
        norms = ranking.pruned_norms(weights)
        about = {"epsilon": epsilon_value, "dimension": matrix.shape[0], "predictor": predictor, "operator": operator}
        if predictor == "quadratic":
            resolution = {} if tolerance is None else {"resolution": tolerance}
            found = quadratic_threshold(matrix, matrix.gradient(), weights, ranking.ranks, epsilon_value, **resolution)
            met = None if tolerance is None else found.upper - found.lower <= tolerance
            return Prediction(
                found.value, found.lower, found.upper, steps=found.products, probes=0, standard_error=0.0,
                tolerance_met=met, _norms=norms, _spectrum=None, **about,
            )  # fmt: skip

        def threshold(spectrum: Spectrum) -> Estimate:
            method = spectrum.trace_bound if predictor == "trace_bound" else spectrum.width_threshold
            return method(lambda count: norms[count], epsilon_value)

        matrix.compact(seed)
        basis = {"reorthogonalize": reorthogonalize, "storage": storage}
        options: dict[str, Any] = {"steps": steps, "seed": seed, "semidefinite": operator == "ggn", **basis}
        if tolerance is None:
            spectrum, met = probe_spectra(matrix, probes=range(probes), **options), None
        else:
            spectrum, met = refine(matrix, threshold, tolerance, probes=probes, **options)
        if predictor == "statistical_dimension":
            cones = Cones(matrix, weights, ranking.ranks, spectrum, steps=_CONE_STEPS, **basis)
            result = cones.threshold(epsilon_value)
            met = None if tolerance is None else result.upper - result.lower <= tolerance
        else:
            result = threshold(spectrum)
    return Prediction(
        float(result.value), float(result.lower), float(result.upper), steps=spectrum.steps,
        probes=len(spectrum.probes), standard_error=float(result.standard_error), tolerance_met=met, _norms=norms,
        _spectrum=spectrum, **about,
    )  # fmt: skip


def _positive(epsilon: str | float) -> float:
    if isinstance(epsilon, str) or not 0 < float(epsilon) < float("inf"):
        raise ValueError(f"epsilon must be 'batch_std' or a positive number, got {epsilon!r}")
    return float(epsilon)


@torch.no_grad()
def _deviation(matrix: CurvatureOperator) -> float:
    inputs, targets = matrix.data
    losses = []
    for start in range(0, count_samples(inputs) - _DEVIATION_BATCH + 1, _DEVIATION_BATCH):
        part = slice(start, start + _DEVIATION_BATCH)
        losses.append(float(matrix.loss_fn(matrix.forward(take(inputs, part)), take(targets, part))))
    if len(losses) < 2:
        raise ValueError(
            f"epsilon='batch_std' needs at least {2 * _DEVIATION_BATCH} samples, got {count_samples(inputs)};"
            " give a number"
        )
    return _positive(float(np.std(losses, ddof=1)))
