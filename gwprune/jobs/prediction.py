"""Stages `spectrum`, `quadratic`, `statistical_dimension` and `predict`: everything that is known before pruning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch.nn import functional
from tqdm import tqdm

from .. import datasets
from ..curvature.operator import CurvatureOperator, curvature_operator
from ..datasets import DeviceSplit
from ..network.prunable import PrunableSet
from ..pruning import rank, removed_count
from ..spectral.cones import Cones, ConeThreshold
from ..spectral.quadratic import QuadraticThreshold, quadratic_threshold
from ..spectral.width import Estimate, Spectrum, probe_spectra
from ..storage.checkpoints import RecordedOperator, arithmetic, digest
from ..tables.schemas import write_table
from ..tables.thresholds import epsilons_of
from .artifacts import load_network, load_probe, save_probe, weights_digest
from .job import Job

__all__ = ["curve_sparsities", "predict", "quadratic", "spectrum", "statistical_dimension"]

logger = logging.getLogger("gwprune")


def _operator(job: Job, data: str, network: str, operator: str, settings: Mapping[str, Any]) -> CurvatureOperator:
    model = load_network(network, job.device, owner=job.key)
    split = DeviceSplit.from_data(datasets.load(data), "train", job.device).subset(settings["samples"], job.seed)
    result = curvature_operator(
        model,
        functional.cross_entropy,
        split.as_tensors(),
        operator=operator,
        batch_size=settings["batch_size"],
        memory_mb=settings["memory_mb"],
    )
    logger.info(
        "%s of order %d on %d samples, batches of %d", operator, *result.shape[:1], result.samples, result.batch_size
    )
    return result


def _recorded(
    job: Job, data: str, network: str, operator: str, settings: Mapping[str, Any], checkpoint: str
) -> RecordedOperator:
    """The operator without its dead units, whose products are kept on file until the job is complete.

    Finding dead units takes two products, so it pays where many follow.
    """
    matrix = _operator(job, data, network, operator, settings)
    logger.info("without dead units, products compute on %d weights", matrix.compact(job.seed))
    belongs_to = {
        "operator": operator,
        "seed": job.seed,
        "arithmetic": arithmetic(job.device),
        "samples": {key: settings[key] for key in ("samples", "batch_size", "memory_mb")},
        "network": digest(*load_network(network).state_dict().values()),
        "data": datasets.load(data, verify=False).fingerprint,  # it was verified when it was read for the operator
    }
    return RecordedOperator(matrix, checkpoint, belongs_to, written=job.interruption.check)


def spectrum(
    job: Job,
    data: str,
    network: str,
    path: str,
    *,
    operator: str,
    probe: int,
    settings: Mapping[str, Any],
    checkpoint: str,
) -> None:
    """One Lanczos run: writes the raw Jacobi coefficients."""
    matrix = _recorded(job, data, network, operator, settings, checkpoint)
    with tqdm(total=settings["steps"], unit="product", disable=None) as bar, job.interruption.deferred():
        result = probe_spectra(
            matrix,
            steps=settings["steps"],
            probes=[probe],
            seed=job.seed,
            semidefinite=operator == "ggn",
            reorthogonalize=settings["reorthogonalize"],
            storage=settings["basis"],
            progress=lambda step: bar.update(step - bar.n),
        )
    logger.info("%d of %d rows are not zero; %d steps", result.active, result.dimension, result.steps)
    save_probe(path, result.probes[0], owner=_owner(job, operator, probe, matrix.prunable))
    matrix.remove()


def _row(
    key: Mapping[str, Any],
    predictor: str,
    epsilon: float,
    dimension: int,
    steps: int,
    probes: int,
    result: Estimate | QuadraticThreshold | ConeThreshold,
) -> dict[str, Any]:
    return {
        **key,
        "predictor": predictor,
        "epsilon": epsilon,
        "dimension": dimension,
        "steps": steps,
        "probes": probes,
        "threshold": float(result.value),
        "threshold_lower": float(result.lower),
        "threshold_upper": float(result.upper),
    }


def _threshold_rows(
    job: Job,
    predictor: str,
    operator: str,
    tolerances: Mapping[str, float],
    dimension: int,
    probes: int,
    find: Callable[[float], QuadraticThreshold | ConeThreshold],
) -> list[dict[str, Any]]:
    """Rows of the thresholds that ``find`` names for each epsilon rule's tolerance."""
    rows = []
    for rule, epsilon in tolerances.items():
        result = find(epsilon)
        logger.info("%s, %s, %s (epsilon %.6g): %s", predictor, operator, rule, epsilon, result)
        key = {**job.key, "operator": operator, "epsilon_rule": rule}
        rows.append(_row(key, predictor, epsilon, dimension, result.products, probes, result))
    return rows


def quadratic(
    job: Job,
    data: str,
    network: str,
    dense: str,
    path: str,
    *,
    operators: Sequence[str],
    epsilon_rules: Sequence[str],
    settings: Mapping[str, Any],
) -> None:
    """Predictor `quadratic`: where the local model of the loss rise reaches each tolerance. A few products each."""
    tolerances, rows = epsilons_of(dense, epsilon_rules, owner=job.key), []
    for operator in operators:
        matrix = _operator(job, data, network, operator, settings)
        weights = matrix.prunable.flatten()
        ranking = rank("magnitude", matrix.prunable, job.seed)
        find = partial(quadratic_threshold, matrix, matrix.gradient(), weights, ranking.ranks)
        rows += _threshold_rows(job, "quadratic", operator, tolerances, ranking.dimension, 0, find)
    write_table("predictions", rows, path, job.provenance())


def statistical_dimension(
    job: Job,
    data: str,
    network: str,
    dense: str,
    probes: Sequence[str],
    path: str,
    *,
    operator: str,
    epsilon_rules: Sequence[str],
    settings: Mapping[str, Any],
    checkpoint: str,
) -> None:
    """Predictor `statistical_dimension`: where that of the cone at the removed vector meets the sparsity."""
    matrix = _recorded(job, data, network, operator, settings, checkpoint)
    known = _known(job, operator, probes, matrix.prunable)
    cones = Cones(
        matrix,
        matrix.prunable.flatten(),
        rank("magnitude", matrix.prunable, job.seed).ranks,
        known,
        steps=settings["cone_steps"],
        reorthogonalize=settings["reorthogonalize"],
        storage=settings["basis"],
    )
    tolerances = epsilons_of(dense, epsilon_rules, owner=job.key)
    name, number = "statistical_dimension", len(known.probes)
    with job.interruption.deferred():
        rows = _threshold_rows(job, name, operator, tolerances, known.dimension, number, cones.threshold)
    write_table("predictions", rows, path, job.provenance())
    matrix.remove()


def _owner(job: Job, operator: str, probe: int, prunable: PrunableSet) -> dict[str, Any]:
    return {**job.key, "operator": operator, "probe": probe, "weights": weights_digest(prunable)}


def _known(job: Job, operator: str, files: Sequence[str], prunable: PrunableSet) -> Spectrum:
    """The spectrum of these files of probes 0, 1, ..., which must be those of this operator and network."""
    probes = (load_probe(file, owner=_owner(job, operator, probe, prunable)) for probe, file in enumerate(files))
    known = Spectrum(tuple(probes))
    if known.dimension != prunable.dimension:
        raise ValueError(f"{files[0]} is of order {known.dimension}, the network has {prunable.dimension} weights")
    return known


def curve_sparsities(asked: Sequence[float], points: int = 81) -> list[float]:
    """The asked sparsities and a grid that is even in log(1 - s) from 0 to 0.9999, for the width curve."""
    even = {round(1 - 10.0 ** (-4 * i / (points - 1)), 6) for i in range(points)}
    return sorted(even | set(asked))


def predict(
    job: Job,
    network: str,
    dense: str,
    probes: Mapping[str, Sequence[str]],
    *,
    spectra: str,
    curves: str,
    predictions: str,
    epsilon_rules: Sequence[str],
    sparsities: Sequence[float],
) -> None:
    """Predictors `width` and `trace_bound` from the probes (operator -> files): curves, spectra, thresholds."""
    prunable = PrunableSet(load_network(network, owner=job.key))
    norms = rank("magnitude", prunable, job.seed).pruned_norms(prunable.flatten())
    rows: dict[str, list[dict[str, Any]]] = {"spectra": [], "width_curves": [], "predictions": []}
    grid = curve_sparsities(sparsities)
    radii = norms[[removed_count(s, prunable.dimension) for s in grid]]
    for operator, files in probes.items():
        known = _known(job, operator, files, prunable)
        for number, probe in enumerate(known.probes):
            for name in probe.rules:
                key = {**job.key, "operator": operator, "probe": number, "rule": name}
                rows["spectra"] += [
                    {**key, "node": float(node), "weight": float(weight)}
                    for node, weight in zip(*probe.full_rule(name), strict=True)
                ]
        for rule, epsilon in epsilons_of(dense, epsilon_rules, owner=job.key).items():
            key = {**job.key, "operator": operator, "epsilon_rule": rule}
            width = known.width(radii, epsilon)
            parts = zip(grid, radii, width.value, width.lower, width.upper, strict=True)
            names = ("sparsity", "pruned_norm", "width", "width_lower", "width_upper")
            rows["width_curves"] += [{**key, **dict(zip(names, map(float, part), strict=True))} for part in parts]
            for predictor in ("width", "trace_bound"):
                method = known.width_threshold if predictor == "width" else known.trace_bound
                result = method(lambda count: norms[count], epsilon)
                logger.info("%s, %s, %s (epsilon %.6g): %s", predictor, operator, rule, epsilon, result)
                rows["predictions"].append(
                    _row(key, predictor, epsilon, known.dimension, known.steps, len(known.probes), result)
                )
    for name, path in (("spectra", spectra), ("width_curves", curves), ("predictions", predictions)):
        write_table(name, rows[name], path, job.provenance())
