"""The work of the rules that predict: everything that is known before pruning.

Each function takes the job, its named files, and its settings.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from torch.nn import functional

from .. import datasets
from ..curvature.compaction import CompactedOperator
from ..datasets import DeviceSplit
from ..network.prunable import PrunableSet
from ..predict import operator_for, problem_for, reranked, width_curve
from ..pruning import Ranking, method_of, rank
from ..spectral.predictors import PREDICTORS, Predictor
from ..spectral.probes import known_spectrum
from ..spectral.problem import Problem
from ..spectral.spectrum import Spectrum
from ..storage.checkpoints import RecordedOperator, arithmetic, digest
from ..tables.files import write_table
from ..tables.thresholds import epsilons_of
from .artifacts import load_network, load_probe, save_probe, weights_digest
from .job import Job, paced
from .pruned import ranking_of
from .rules import Files

__all__ = [
    "OperatorSettings", "PredictSettings", "ProductsSettings", "SpectrumSettings", "curve_sparsities", "predict",
    "predict_with_products", "spectrum",
]  # fmt: skip

logger = logging.getLogger("gwprune")


@dataclass(frozen=True, kw_only=True)
class OperatorSettings:
    """How a job multiplies by the curvature.

    Attributes:
        samples: number of training images; None: all.
        batch_size: samples per pass; None: as many as fit the memory.
        memory_mb: memory in MiB for kept graphs.
        reorthogonalize: whether Lanczos runs keep and use their basis.
        basis: where it lies: ``"device"``, ``"host"`` or ``"disk"``.
        checkpoint: file that keeps the products until the job is complete; empty: none.
    """

    samples: int | None
    batch_size: int | None
    memory_mb: int
    reorthogonalize: bool = True
    basis: str = "device"
    checkpoint: str = ""


@dataclass(frozen=True, kw_only=True)
class SpectrumSettings(OperatorSettings):
    """Settings of :func:`spectrum`.

    Attributes:
        operator: ``"hessian"`` or ``"ggn"``.
        probe: number of the probe.
        steps: Lanczos steps.
    """

    operator: str
    probe: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class RankedSettings:
    """Whose removed vectors a job predicts for.

    Attributes:
        methods: one-shot pruning method -> its own options, where no file holds its ranking.
    """

    methods: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class PredictSettings(RankedSettings):
    """Settings of :func:`predict`.

    Attributes:
        operators: some of ``"hessian"`` and ``"ggn"``.
        predictors: names of such that need the spectrum alone.
        epsilon_rules: ``batch_std``, ``relative:x`` or ``absolute:x``.
        sparsities: those that the width curve must hold.
    """

    operators: Sequence[str]
    predictors: Sequence[str]
    epsilon_rules: Sequence[str]
    sparsities: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class ProductsSettings(RankedSettings, OperatorSettings):
    """Settings of :func:`predict_with_products`.

    Attributes:
        predictor: its name.
        operators: some of ``"hessian"`` and ``"ggn"``.
        epsilon_rules: ``batch_std``, ``relative:x`` or ``absolute:x``.
        l1: coefficient of the penalty in the objective.
        cone_steps: most Lanczos steps from one removed vector.
    """

    predictor: str
    operators: Sequence[str]
    epsilon_rules: Sequence[str]
    l1: float = 0.0
    cone_steps: int = 64


def _operator(job: Job, inputs: Files, predictor: Predictor, name: str, settings: OperatorSettings) -> Any:
    """The operator; with a checkpoint, its products are kept on file until the job is complete."""
    split = DeviceSplit.from_data(datasets.load(inputs["data"]), "train", job.device)
    how = {"batch_size": settings.batch_size, "memory_mb": settings.memory_mb}
    operator = operator_for(
        predictor,
        load_network(inputs["network"], job.device, owner=job.key),
        functional.cross_entropy,
        split.subset(settings.samples, job.seed).as_tensors(),
        seed=job.seed,
        operator=name,
        **how,
    )
    logger.info(
        "%s of order %d on %d samples, batches of %d; products are taken to err by %.0f machine epsilons",
        *(name, operator.shape[0], operator.samples, operator.batch_size, operator.roundings),
    )
    if isinstance(operator, CompactedOperator):
        logger.info("without dead units, products compute on %d weights", operator.small.shape[0])
    if not settings.checkpoint:
        return operator
    belongs_to = {
        "operator": name,
        "seed": job.seed,
        "arithmetic": arithmetic(job.device),
        "samples": {"samples": settings.samples, **how},
        "network": digest(*load_network(inputs["network"]).state_dict().values()),
        # The file was verified when it was read for the operator.
        "data": datasets.load(inputs["data"], verify=False).fingerprint,
    }
    due, count = paced(), itertools.count(1)

    def written() -> None:
        number = next(count)
        # A run of a known number of steps tells them itself.
        if "steps" not in vars(settings) and due():
            logger.info("product %d", number)
        job.interruption.check()

    return RecordedOperator(operator, settings.checkpoint, belongs_to, written=written)


def spectrum(job: Job, inputs: Files, outputs: Files, settings: SpectrumSettings) -> None:
    """One Lanczos run: writes the raw Jacobi coefficients; or all eigenvalues, where the steps pay for them.

    Args:
        job: the run and seed.
        inputs: ``data``, ``network``.
        outputs: ``probe``.
        settings: see :class:`SpectrumSettings`.
    """
    operator = _operator(job, inputs, PREDICTORS["width"], settings.operator, settings)
    with job.interruption.deferred():
        result = known_spectrum(
            operator,
            steps=settings.steps,
            probes=[settings.probe],
            seed=job.seed,
            reorthogonalize=settings.reorthogonalize,
            storage=settings.basis,
            progress=_logged_steps(settings.steps),
        )
    how = "products, all eigenvalues" if result.exact else "steps"
    logger.info("%d of %d rows are not zero; %d %s", result.active, result.dimension, result.steps, how)
    save_probe(
        outputs["probe"], result.probes[0], owner=_owner(job, settings.operator, settings.probe, operator.prunable)
    )
    if settings.checkpoint:
        operator.remove()


def _logged_steps(steps: int) -> Callable[[int], None]:
    """What follows a Lanczos step: a line in the log with every eighth of all ``steps``, and every few seconds."""
    due = paced()

    def logged(step: int) -> None:
        if due() or 8 * step // steps > 8 * (step - 1) // steps:
            logger.info("step %d of %d", step, steps)

    return logged


def _rankings(job: Job, inputs: Files, prunable: PrunableSet, settings: RankedSettings) -> dict[str, Ranking]:
    """Method -> ranking: of the files of ``inputs["rankings"]``, in order, where a method needs data."""
    files = iter(inputs.get("rankings", ()))
    return {
        name: ranking_of(job, {"ranking": next(files)} if method_of(name).needs else {}, prunable, name, options)
        for name, options in settings.methods.items()
    }


def _rows(
    job: Job, predictor: Predictor, method: str, operator: str, problem: Problem, tolerances: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Rows of table `predictions`: the threshold of each criterion and each epsilon rule's tolerance."""
    rows = []
    for (rule, epsilon), criterion in itertools.product(tolerances.items(), predictor.criteria):
        result = predictor.threshold(problem, epsilon, criterion)
        names = ", ".join(filter(None, (predictor.name, method, operator, rule, criterion)))
        logger.info("%s (epsilon %.6g): %s", names, epsilon, result)
        rows.append(
            {
                **job.key,
                "method": method,
                "predictor": predictor.name,
                "criterion": criterion,
                "operator": operator,
                "epsilon_rule": rule,
                "epsilon": epsilon,
                "dimension": problem.dimension,
                "steps": problem.spectrum.steps if predictor.from_spectrum else result.products,
                "probes": 0 if problem.spectrum is None else problem.spectrum.random_probes,
                "threshold": float(result.value),
                "threshold_lower": float(result.lower),
                "threshold_upper": float(result.upper),
            }
        )
    return rows


def predict_with_products(job: Job, inputs: Files, outputs: Files, settings: ProductsSettings) -> None:
    """A predictor that multiplies by the operator, or needs the gradient: writes its thresholds.

    Args:
        job: the run and seed.
        inputs: ``data``, ``network``, ``dense``; ``rankings`` of the methods that need data, in their order; for a
            predictor that needs the spectrum also by the name of each operator the files of its probes, in the order
            of their numbers.
        outputs: ``predictions``.
        settings: see :class:`ProductsSettings`.
    """
    predictor = PREDICTORS[settings.predictor]
    tolerances = epsilons_of(inputs["dense"], settings.epsilon_rules, owner=job.key)
    rows, operators = [], []
    rankings: dict[str, Ranking] = {}
    for name in settings.operators:
        operator = _operator(job, inputs, predictor, name, settings)
        operators.append(operator)
        probes = None
        if "spectrum" in predictor.needs:
            probes = _spectrum(job, name, inputs[name], operator.prunable)
        # Without a checkpoint there is nothing to wait for.
        with job.interruption.deferred() if settings.checkpoint else nullcontext():
            # They are of the weights, which all operators share.
            rankings = rankings or _rankings(job, inputs, operator.prunable, settings)
            problem = problem_for(
                predictor,
                operator.prunable,
                next(iter(rankings.values())),
                operator=operator,
                spectrum=probes,
                l1=settings.l1,
                steps=settings.cone_steps,
                reorthogonalize=settings.reorthogonalize,
                storage=settings.basis,
            )
            for number, (method, ranking) in enumerate(rankings.items()):
                # What is computed for the first serves the others.
                of_method = reranked(problem, ranking) if number else problem
                rows += _rows(job, predictor, method, name, of_method, tolerances)
    write_table("predictions", rows, outputs["predictions"], job.provenance())
    for operator in operators if settings.checkpoint else ():
        operator.remove()


def _owner(job: Job, operator: str, probe: int, prunable: PrunableSet) -> dict[str, Any]:
    return {**job.key, "operator": operator, "probe": probe, "weights": weights_digest(prunable)}


def _spectrum(job: Job, operator: str, files: Sequence[str], prunable: PrunableSet) -> Spectrum:
    """The spectrum from these files of probes 0, 1, ..., which must be those of this operator and network."""
    owners = (_owner(job, operator, number, prunable) for number in range(len(files)))
    return Spectrum(tuple(load_probe(file, owner=owner) for file, owner in zip(files, owners, strict=True)))


def curve_sparsities(asked: Sequence[float], points: int = 81) -> list[float]:
    """The asked sparsities and a grid that is even in log(1 - s) from 0 to 0.9999, for the width curve."""
    even = {round(1 - 10.0 ** (-4 * i / (points - 1)), 6) for i in range(points)}
    return sorted(even | set(asked))


def predict(job: Job, inputs: Files, outputs: Files, settings: PredictSettings) -> None:
    """What follows from the probes alone: writes spectra, width curves, and the thresholds of the predictors.

    Args:
        job: the run and seed.
        inputs: ``network``, ``dense``; ``rankings`` of the methods that need data, in their order; by the name of
            each operator the files of its probes, in the order of their numbers.
        outputs: ``spectra``, ``width_curves``, ``predictions``.
        settings: see :class:`PredictSettings`.
    """
    prunable = PrunableSet(load_network(inputs["network"], owner=job.key))
    rows: dict[str, list[dict[str, Any]]] = {"spectra": [], "width_curves": [], "predictions": []}
    tolerances = epsilons_of(inputs["dense"], settings.epsilon_rules, owner=job.key)
    grid = curve_sparsities(settings.sparsities)
    spectra = {name: _spectrum(job, name, inputs[name], prunable) for name in settings.operators}
    rankings = _rankings(job, inputs, prunable, settings)
    # The curve is that of global magnitude pruning whatever the methods are.
    magnitude = rankings["magnitude"] if "magnitude" in rankings else rank("magnitude", prunable, job.seed)
    problem = problem_for(PREDICTORS["width"], prunable, magnitude)
    for operator, own in spectra.items():
        problem = replace(problem, spectrum=own)
        for number, probe in enumerate(own.probes):
            for name in probe.rules:
                key = {**job.key, "operator": operator, "probe": number, "rule": name}
                rows["spectra"] += [
                    {**key, "node": float(node), "weight": float(weight)}
                    for node, weight in zip(*probe.full_rule(name), strict=True)
                ]
        for rule, epsilon in tolerances.items():
            key = {**job.key, "operator": operator, "epsilon_rule": rule}
            curve = width_curve(problem.spectrum, problem.norms, grid, epsilon)
            rows["width_curves"] += [
                {**key, **dict(zip(curve, map(float, values), strict=True))}
                for values in zip(*curve.values(), strict=True)
            ]
        for method, ranking in rankings.items():
            of_method = reranked(problem, ranking)
            for name in settings.predictors:
                rows["predictions"] += _rows(job, PREDICTORS[name], method, operator, of_method, tolerances)
    for table, found in rows.items():
        write_table(table, found, outputs[table], job.provenance())
