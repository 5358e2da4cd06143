"""The join of network, curvature, ranking and predictor, for one call of the library and for the workflow's jobs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .curvature.compaction import CompactedOperator, compacted
from .curvature.operator import OPERATORS, CurvatureOperator, curvature_operator
from .curvature.watched import watched
from .names import whole_number
from .network.accuracy import rise_at_drop
from .network.losses import accuracy_drop, allowed_rise, check_epsilon
from .network.matrices import Choice, Matrix
from .network.modes import check_network, eval_mode, frozen
from .network.prunable import PrunableSet
from .network.samples import leaves, mini_batch_size
from .predicted import Predicted
from .pruning import Ranking, method_of, rank, removed_count
from .spectral.lanczos import STORAGES, storage_for
from .spectral.predictors import PREDICTORS, Predictor
from .spectral.probes import InterruptedSpectrum, known_spectrum, probe_until
from .spectral.problem import Problem
from .spectral.spectrum import Estimate, Spectrum
from .storage.checkpoints import RecordedOperator, arithmetic, digest

__all__ = [
    "Layer", "Prediction", "load_prediction", "operator_for", "predict_threshold", "problem_for", "reranked",
    "width_curve",
]  # fmt: skip

_BESIDE = 1e-3  # how well `quadratic` is known beside `width`, in sparsity


def operator_for(
    predictor: Predictor,
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor] | None,
    data: Any,
    *,
    seed: int,
    **options: Any,
) -> CurvatureOperator | CompactedOperator:
    """The curvature of a network's loss, as a predictor multiplies by it.

    Finding dead units takes two products, so it pays where many follow.

    Args:
        predictor: what the operator is for.
        model: in eval mode.
        loss_fn: ``loss_fn(output, target)``, mean over samples.
        data: see :func:`gwprune.curvature_operator`.
        seed: of the random vector that shows dead units, and of the samples if some are drawn.
        **options: ``forward``, ``weight``, ``samples``, ``operator``, ``batch_size``, ``device``, ``memory_mb``,
            ``checks`` and ``prunable``, see :func:`gwprune.curvature_operator`.
    """
    operator = curvature_operator(model, loss_fn, data, seed=seed, **options)
    return compacted(operator, seed) if predictor.apart or "spectrum" in predictor.needs else operator


def problem_for(
    predictor: Predictor,
    prunable: PrunableSet,
    ranking: Ranking,
    *,
    operator: Any = None,
    spectrum: Spectrum | None = None,
    **options: Any,
) -> Problem:
    """What a predictor is computed from, for a network and the order in which a method removes its weights.

    Args:
        predictor: what the problem is for; the gradient is computed if it needs one.
        prunable: the weights.
        ranking: of the weights.
        operator: the curvature; not needed by a predictor that takes no products.
        spectrum: of the operator.
        **options: ``l1``, ``tolerance``, ``steps``, ``reorthogonalize`` and ``storage``, see
            :class:`gwprune.spectral.problem.Problem`.
    """
    weights = prunable.flatten()
    return Problem(
        weights=weights,
        ranks=ranking.ranks.to(weights.device),
        norms=ranking.pruned_norms(weights),
        operator=operator,
        gradient=operator.gradient() if "gradient" in predictor.needs else None,
        loss=operator.loss if "loss" in predictor.needs else None,
        spectrum=spectrum,
        **options,
    )


def reranked(problem: Problem, ranking: Ranking) -> Problem:
    """The problem of the same network and another method's order; only the removed vectors are others.

    Args:
        problem: of any method; the first of the new one.
        ranking: of the same weights.
    """
    ranks = ranking.ranks.to(problem.weights.device)
    return replace(problem, ranks=ranks, norms=ranking.pruned_norms(problem.weights), first=problem)


def width_curve(
    spectrum: Spectrum, norms: np.ndarray, sparsities: Sequence[float] | np.ndarray, epsilon: float
) -> dict[str, np.ndarray]:
    """The width at some sparsities: the columns of table `width_curves`.

    Args:
        spectrum: of the curvature.
        norms: (D + 1,), the pruned norm after removal of 0, 1, ..., D weights.
        sparsities: in [0, 1].
        epsilon: loss tolerance, positive.

    Returns:
        Arrays ``sparsity``, ``pruned_norm``, ``width``, ``width_lower``, ``width_upper``, all of one length.
    """
    removed = norms[[removed_count(float(sparsity), spectrum.dimension) for sparsity in sparsities]]
    width = spectrum.width(removed, epsilon)
    return {
        "sparsity": np.asarray(sparsities),
        "pruned_norm": removed,
        "width": width.value,
        "width_lower": width.lower,
        "width_upper": width.upper,
    }


@dataclass(frozen=True)
class Layer:
    """One tensor of the prunable set, as the mask at the predicted threshold leaves it.

    Attributes:
        name: of the parameter.
        shape: of the parameter.
        weights: number of its elements.
        removed: number of those that the mask removes.
        share: of all weights that the mask removes.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    removed: int
    share: float

    @property
    def sparsity(self) -> float:
        """Fraction of its weights that the mask removes."""
        return self.removed / self.weights


def _layers(prunable: PrunableSet, problem: Problem, threshold: float) -> tuple[Layer, ...]:
    count = removed_count(threshold, problem.dimension)
    removed = [int(part.sum()) for part in (problem.ranks < count).split(prunable.sizes)]
    return tuple(
        Layer(name, tuple(shape), size, gone, gone / count if count else 0.0)
        for name, shape, size, gone in zip(prunable.names, prunable.shapes, prunable.sizes, removed, strict=True)
    )


@dataclass(frozen=True)
class Prediction(Predicted):
    """Result of :func:`predict_threshold`. Thresholds are sparsities, epsilon is in units of the loss.

    Attributes:
        threshold: the predicted threshold; inside its interval, extrapolated from how that closed (docs/intervals.md).
        lower: lower end of its interval.
        upper: upper end of its interval.
        epsilon: loss tolerance.
        epsilon_standard_error: of the tolerance, where it comes from the spread of batches; 0 for a given number.
        samples: number of samples.
        dimension: D, the number of prunable weights.
        steps: operator-vector products per probe; of a predictor without probes, in all.
        probes: number of random probes; 0 where all eigenvalues are known.
        standard_error: of the threshold over random probes.
        predictor: name of the predictor.
        operator: name of the operator.
        method: name of the pruning method.
        quadratic: threshold of predictor ``quadratic``, to 0.001, beside one of ``width``; None beside others.
        emptied: share of the prunable weights that are below a thousandth of the largest, as an l1 penalty leaves them.
        tolerance_met: whether the interval became as narrow as asked before the steps were spent; None when no
            tolerance was asked.
        checks: names of the checks that network, loss and data passed.
        roundings: relative error of a product that the interval allows for, in machine epsilons of the network's
            dtype: twice what the checks measured, at least 32.
        layers: what the mask at the threshold removes of each tensor of the prunable set.
        left_out: the network's matrices that are not in the prunable set, with their shares of its matrices' weights.
        interrupted: whether an interrupt ended it before the steps that were asked for.
    """

    threshold: float
    lower: float
    upper: float
    epsilon: float
    epsilon_standard_error: float
    samples: int
    dimension: int
    steps: int
    probes: int
    standard_error: float
    predictor: str
    operator: str
    method: str
    quadratic: float | None
    emptied: float
    tolerance_met: bool | None
    checks: tuple[str, ...]
    roundings: float
    layers: tuple[Layer, ...] = field(repr=False)
    left_out: tuple[Matrix, ...] = field(repr=False)
    interrupted: bool
    _norms: np.ndarray = field(repr=False)
    _spectrum: Spectrum | None = field(repr=False)

    def pruned_norm(self, sparsity: np.ndarray | float) -> np.ndarray:
        """``R(s)``, the norm of what the method removes at sparsity s."""
        counts = [removed_count(float(s), self.dimension) for s in np.ravel(sparsity)]
        return self._norms[counts].reshape(np.shape(sparsity))

    def width(self, sparsity: np.ndarray | float) -> Estimate:
        """Width ``omega(s)`` with its interval.

        Raises:
            ValueError: for a predictor without a spectrum (``quadratic``), or a sparsity outside [0, 1].
        """
        return self._known_spectrum().width(self.pruned_norm(sparsity), self.epsilon)

    def curve(self, points: int = 81) -> dict[str, np.ndarray]:
        """The width curve on ``points`` sparsities even in log(1 - s), with the keys of table `width_curves`."""
        return width_curve(self._known_spectrum(), self._norms, 1 - np.logspace(0, -4, points), self.epsilon)

    def _known_spectrum(self) -> Spectrum:
        if self._spectrum is None:
            raise ValueError(f"predictor {self.predictor!r} computes no width; use 'width'")
        return self._spectrum


load_prediction = Prediction.load


def predict_threshold(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor] | None,
    data: Any,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    weight: Callable[[Any], Any] | None = None,
    samples: int | None = None,
    operator: str = "hessian",
    predictor: str = "width",
    method: str = "magnitude",
    epsilon: str | float = "batch_std",
    steps: int = 128,
    probes: int = 1,
    tolerance: float | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    reorthogonalize: bool = True,
    storage: str = "auto",
    checks: bool = True,
    prunable: Choice | PrunableSet | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: bool | None = None,
    seed: int = 0,
) -> Prediction:
    """Predict how sparse pruning can make ``model`` before its data loss rises by ``epsilon``.

    The default, ``predictor="width"``, is the paper's formula, for networks that an l1 penalty has emptied: on those it
    was within 0.02 of the measured limit, within 0.005 on large ones. On others it was 0.05 to 0.4 too high, and its
    interval, which is about the formula's value, leaves the measured limit out. So the result has ``quadratic`` beside
    it, at less than a tenth of the cost: within 0.005 on the first, 0.1 on the others, and of no use far from a minimum
    of the loss. Printed, the result says which to go by; :func:`gwprune.measure_threshold` looks at the network itself.

    An interrupt (Ctrl-C) in the middle of the Lanczos steps ends them: the prediction is that of the steps so far, a
    warning says so, and a second one ends the call.

    Args:
        model: any module; used in eval mode and left as it was.
        loss_fn: ``loss_fn(output, target)``, mean over samples, twice differentiable; None: the network's output has
            the loss, as ``loss``.
        data: (input, target) or a dict with ``labels``, a Dataset or a DataLoader; training samples, without
            augmentation. See :func:`gwprune.curvature_operator`.
        forward: for data of any other form, ``forward(model, batch)`` that returns (output, target), or with
            ``loss_fn=None`` the loss.
        weight: ``weight(target)``, how much a batch counts in the mean, such as its targets that are not ignored; with
            ``forward`` ``weight(batch)``. None: the number of samples.
        samples: number of samples to draw by ``seed``; no more are read. None: all.
        operator: ``"hessian"`` or ``"ggn"``.
        predictor: a name of `gwprune.spectral.predictors.PREDICTORS`: ``"width"`` (Zhang et al. 2024, arXiv
            2306.05857), ``"quadratic"`` (local model of the loss rise), ``"trace_bound"`` (below the width, from the
            trace alone), ``"statistical_dimension"`` (of the cone that the sublevel set spans: exact for random
            subspaces; some 200 further products), or, with ``operator="ggn"``, ``"surgeon"`` (Gauss-Newton model
            least over the kept weights) and ``"surgeon_step"`` (loss measured there).
        method: one-shot pruning method whose removed weights the prediction is of, one that ranks by the weights
            alone: a name of `gwprune.pruning.METHODS`, global ``"magnitude"`` for one, or ``"module:function"``.
        epsilon: a positive number in units of the loss; ``"5%"`` of the dense network's mean loss; or ``"batch_std"``:
            the standard deviation of the loss over mini-batches of all samples in their order, see
            :func:`gwprune.network.losses.batch_deviation`. Their size is that of the DataLoader if ``data`` is one,
            else 128. A warning tells when there are fewer than 16. Or ``"accuracy: 1"``, a drop by so many percentage
            points, of a classifier: a translation, as accuracy has no curvature, to the rise of the loss at which the
            network, linearised in its weights, has lost as much (28 passes, see
            :func:`gwprune.network.accuracy.rise_at_drop`).
        steps: Lanczos steps per probe. Without a tolerance, as many steps as the curvature has rows that are not
            exactly zero (never more than D), up to 3,000, make it dense: the eigenvalues are then known and the
            interval closes but for rounding.
        probes: number of Rademacher probes.
        tolerance: width of the interval, in sparsity, at which to stop. It takes steps, and further probes once it is
            chance that keeps the interval open, until ``steps`` products are spent in all.
        batch_size: samples per pass; by default as many as fit the memory budget.
        device: where to compute (the model is moved); by default where it is.
        reorthogonalize: keep ``steps`` x D numbers per probe and orthogonalise; False for very large networks.
        storage: where these lie: ``"device"``, ``"host"`` memory or ``"disk"``; ``"auto"``: the first of them that has
            room.
        checks: whether to refuse what gives a wrong number, see `gwprune.curvature.checks`.
        prunable: names, patterns such as ``"*.in_proj_weight"`` or a function that choose the weights that may be
            pruned, see :class:`gwprune.PrunableSet`. By default the weights of linear and convolution layers; a
            warning names what that leaves out, when it is more than a fifth.
        checkpoint: file that keeps the products until the call is complete (4 D bytes each in float32). The same call
            after a kill or an interrupt goes on where it was; one of another network, loss or data starts anew.
        progress: whether to say on standard error what the products will take, and to show a bar of them; None: if
            that is a terminal.
        seed: of the probes and of the samples that are drawn.

    Raises:
        TypeError: for data, a loss, an output or an argument of another kind.
        ValueError: for an unknown operator, predictor or method, a method that needs more than the weights, an epsilon,
            steps, probes or tolerance that are not positive, what :class:`gwprune.PrunableSet` refuses, or
            ``"batch_std"`` with fewer than two whole batches or batches of equal loss. CurvatureError, which is one,
            for a loss that is no mean over samples, a product that autograd gets wrong, or a curvature that is exactly
            zero.
        FloatingPointError: when the data hold NaN, or a product is not finite.
        MemoryError: when the basis fits neither into memory nor on the disk.
        NotDeterministicError: for a network that is random in eval mode.

    Examples:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
        >>> data = (torch.randn(256, 8), torch.randint(3, (256,)))
        >>> p = predict_threshold(net, torch.nn.functional.cross_entropy, data, epsilon=0.05)
        >>> 0 <= p.lower <= p.threshold <= p.upper <= 1
        True
    """
    check_network(model)
    steps, probes = whole_number("steps", steps, 1), whole_number("probes", probes, 1)
    seed = whole_number("seed", seed, 0)
    if operator not in OPERATORS:
        raise ValueError(f"operator must be one of {', '.join(OPERATORS)}, got {operator!r}")
    if predictor not in PREDICTORS:
        raise ValueError(f"predictor must be one of {', '.join(PREDICTORS)}, got {predictor!r}")
    if operator not in PREDICTORS[predictor].operators:
        known = ", ".join(PREDICTORS[predictor].operators)
        raise ValueError(f"predictor {predictor!r} needs operator {known}, got {operator!r}")
    if tolerance is not None and not (isinstance(tolerance, Real) and 0 < tolerance < 1):
        raise ValueError(f"tolerance must be between 0 and 1, got {tolerance!r}")
    entry = method_of(method)
    if entry.needs or entry.depends_on_sparsity:
        raise ValueError(
            f"method {method!r} does not rank by the weights alone, as a prediction needs; measure_threshold takes it"
        )
    check_epsilon(epsilon)
    if storage not in ("auto", *STORAGES):
        raise ValueError(f"storage must be one of auto, {', '.join(STORAGES)}, got {storage!r}")
    chosen = PREDICTORS[predictor]
    with eval_mode(model):
        matrix = operator_for(
            chosen,
            model,
            loss_fn,
            data,
            seed=seed,
            forward=forward,
            weight=weight,
            samples=samples,
            operator=operator,
            batch_size=batch_size,
            device=device,
            checks=checks,
            prunable=prunable,
        )
        ranking = rank(method, matrix.prunable, seed)
        given = matrix.model, matrix.batch_loss, matrix.data
        drop = accuracy_drop(epsilon)
        if drop is None:
            value, error = allowed_rise(epsilon, *given, mini_batch_size(data), matrix.batch_size)
        else:
            weights = matrix.prunable.flatten()

            def removed(sparsity: float) -> Tensor:
                return weights.masked_fill(ranking.mask(sparsity).to(weights.device), 0)

            value, error = rise_at_drop(*given, matrix.batch_size, matrix.prunable, removed, drop), 0.0
        plan = _plan(chosen, matrix, steps, probes, tolerance, reorthogonalize)
        if storage == "auto":
            # Rows that are zero have no room in the probes' basis, but in that of a run from a removed vector.
            size = (plan["basis"] or 0) * getattr(matrix, "small", matrix).shape[0]
            if plan["basis"] and "products" in chosen.needs:
                size = max(size, Problem.steps * matrix.shape[0])
            storage = storage_for(size * torch.empty((), dtype=matrix.dtype).element_size(), matrix.device)
        basis = {"reorthogonalize": reorthogonalize, "storage": storage}
        recorded = None if checkpoint is None else _recorded(matrix, checkpoint, seed)
        with watched(matrix, recorded or matrix, progress, title=f"{predictor}, {operator}", **plan) as products:
            problem = problem_for(chosen, matrix.prunable, ranking, operator=products, tolerance=tolerance, **basis)
            # First, so that an interrupt of the many products leaves it.
            beside = None
            if predictor == "width":
                beside = _quadratic(problem, value)
                products.remain(plan["products"] - _beside(matrix))
            interrupted = False
            if "spectrum" in chosen.needs:
                try:
                    known = _spectrum(chosen, problem, value, steps, probes, seed, basis)
                except InterruptedSpectrum as stop:
                    if not chosen.from_spectrum:
                        raise
                    known, interrupted = stop.spectrum, True
                problem = replace(problem, spectrum=known)
            result = chosen.threshold(problem, value)
        if interrupted:
            later = f"; the same call goes on from {checkpoint}" if recorded else ""
            warnings.warn(
                f"interrupted after {known.steps} of {steps} steps: the interval is what these tell{later}",
                stacklevel=2,
            )
        if recorded:
            (recorded.close if interrupted else recorded.remove)()
    spectrum = problem.spectrum
    return Prediction(
        float(result.value), float(result.lower), float(result.upper), value, error, matrix.samples, problem.dimension,
        steps=result.products if spectrum is None else spectrum.steps,
        probes=0 if spectrum is None else spectrum.random_probes, standard_error=float(result.standard_error),
        predictor=predictor, operator=operator, method=method, quadratic=beside, emptied=_emptied(problem.weights),
        tolerance_met=None if tolerance is None else bool(result.upper - result.lower <= tolerance),
        checks=matrix.checks, roundings=matrix.roundings, layers=_layers(matrix.prunable, problem, result.value),
        left_out=matrix.prunable.left_out, interrupted=interrupted, _norms=problem.norms, _spectrum=spectrum,
    )  # fmt: skip


def _quadratic(problem: Problem, epsilon: float) -> float:
    """The threshold of predictor ``quadratic``, from the same operator."""
    found = replace(problem, gradient=problem.operator.gradient(), tolerance=_BESIDE)
    return float(PREDICTORS["quadratic"].threshold(found, epsilon).value)


def _beside(operator: Any) -> int:
    """How many products that takes: one for every halving of the weights that are left, and some more."""
    return operator.shape[0].bit_length() + 4


def _emptied(weights: Tensor) -> float:
    """Share of the weights below a thousandth of the largest."""
    size = weights.abs()
    return int((size < size.max() / 1000).sum()) / len(weights)


def _spectrum(
    predictor: Predictor, problem: Problem, epsilon: float, steps: int, probes: int, seed: int, basis: dict[str, Any]
) -> Spectrum:
    """The spectrum from as many products as were asked for, or as the tolerance takes."""
    if problem.tolerance is None:
        return known_spectrum(problem.operator, steps=steps, probes=range(probes), seed=seed, **basis)
    # The interval of a predictor that takes further products is about that of the width.
    guide = predictor if predictor.from_spectrum else PREDICTORS["width"]

    def threshold(spectrum: Spectrum) -> Estimate:
        return guide.threshold(replace(problem, spectrum=spectrum), epsilon)

    return probe_until(problem.operator, threshold, problem.tolerance, steps=steps, probes=probes, seed=seed, **basis)


def _plan(
    predictor: Predictor, operator: Any, steps: int, probes: int, tolerance: float | None, reorthogonalize: bool
) -> dict[str, int | None]:
    """How many products there will be at most, if that is known, and how many vectors are kept of them."""
    if "spectrum" not in predictor.needs:
        return {"products": None, "basis": 0}
    each = min(steps, operator.shape[0])
    spent = each * probes if tolerance is None else steps
    spent += _beside(operator) if predictor.name == "width" else 0
    return {
        "products": spent + 1 if predictor.from_spectrum else None,  # one shows which rows are zero
        "basis": (each * probes if tolerance is None else each) if reorthogonalize else 0,
    }


def _recorded(operator: Any, path: str | os.PathLike, seed: int) -> RecordedOperator:
    """The operator, its products kept on file, which belong to all that they are made of."""
    tensors = [leaf for part in operator.data.parts for _, leaf in leaves(part) if isinstance(leaf, Tensor)]
    with eval_mode(operator.model), frozen(operator.model):
        loss = float(operator.batch_loss(operator.model, operator.data.some(32)).detach())
    belongs_to = {
        "operator": operator.operator,
        "seed": seed,
        "prunable": operator.prunable.signature,
        "network": digest(*operator.model.state_dict().values()),
        "data": digest(*tensors),
        "samples": [operator.samples, operator.batch_size],
        "loss": f"{loss:.4g}",  # a function has no digest
        "shares": digest(torch.tensor(operator.shares)),
        "arithmetic": arithmetic(operator.device),
    }
    return RecordedOperator(operator, path, belongs_to)
