"""Work of the rules `rank`, `mask` and `sweep`: which weights go, and what the dense network is worth without them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .. import datasets
from ..datasets import DeviceSplit
from ..network.prunable import PrunableSet
from ..pruning import Ranking, mask, rank, removed_count
from ..tables.files import write_table
from ..tables.thresholds import criteria_of, empirical_threshold, search
from ..training.evaluation import evaluate, pruned
from .artifacts import load_network, load_ranking, save_ranking, weights_digest
from .dense import columns_of, initial_network
from .evaluated import EvaluatedNetwork
from .job import Job, paced
from .rules import Files

__all__ = [
    "MaskSettings",
    "RankSettings",
    "SweepSettings",
    "mask_weights",
    "rank_weights",
    "ranking_of",
    "sweep",
]

logger = logging.getLogger("gwprune")


@dataclass(frozen=True)
class RankSettings:
    """Settings of rule `rank`.

    Attributes:
        method: pruning method.
        options: its own options.
        samples: training images that it looks at.
        network: name and options of the network, of a method that ranks the untrained one.
    """

    method: str
    options: Mapping[str, Any]
    samples: int
    network: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class MaskSettings(RankSettings):
    """Settings of rule `mask`: those of a ranking, and the one sparsity."""

    sparsity: float


def rank_weights(job: Job, inputs: Files, outputs: Files, settings: RankSettings) -> None:
    """Rank the prunable weights of a network by a method that needs data."""
    prunable, given = _subject(job, inputs, settings)
    owner = _owner(job, prunable)
    ranking = rank(settings.method, prunable, job.seed, options=settings.options, **given)
    save_ranking(outputs["ranking"], ranking, settings.method, prunable.signature, owner=owner)


def mask_weights(job: Job, inputs: Files, outputs: Files, settings: MaskSettings) -> None:
    """The mask of one sparsity, as a ranking, by a method whose masks depend on the sparsity."""
    prunable, given = _subject(job, inputs, settings)
    owner = _owner(job, prunable)
    kept = mask(settings.method, prunable, job.seed, settings.sparsity, options=settings.options, **given)
    save_ranking(outputs["mask"], Ranking.of_mask(kept), settings.method, prunable.signature, owner=owner)


def _owner(job: Job, prunable: PrunableSet) -> dict[str, Any]:
    """What a ranking of these weights belongs to."""
    return {**job.key, "weights": weights_digest(prunable)}


def _subject(job: Job, inputs: Files, settings: RankSettings) -> tuple[PrunableSet, dict[str, Any]]:
    """The weights that a method ranks, and the network and data that it may look at."""
    images = datasets.load(inputs["data"])
    if settings.network is None:
        model: nn.Module = load_network(inputs["network"], job.device, owner=job.key)
    else:
        model, _ = initial_network(job, images, settings.network)
    split = DeviceSplit.from_data(images, "train", job.device).subset(settings.samples, job.seed)
    return PrunableSet(model), {"model": model, "data": split.as_tensors()}


def ranking_of(job: Job, inputs: Files, prunable: PrunableSet, method: str, options: Mapping[str, Any]) -> Ranking:
    """The ranking of a network by a method: that of ``inputs["ranking"]``, or, by the weights alone, made here.

    Args:
        job: its seed is the method's.
        inputs: of the job.
        prunable: the weights that the method ranks.
        method: pruning method.
        options: its own options.

    Raises:
        ArtifactError: when the file ranks other weights.
    """
    if "ranking" not in inputs:
        return rank(method, prunable, job.seed, options=options)
    owner = _owner(job, prunable)
    return load_ranking(inputs["ranking"], prunable.dimension, prunable.signature, method, owner=owner)


@dataclass(frozen=True)
class SweepSettings:
    """Settings of rule `sweep`.

    Attributes:
        method: pruning method.
        sparsities: that the configuration asks for.
        resolution: width that the bracket of each criterion is narrowed to.
        epsilon_rules: loss tolerances.
        accuracy_drops: allowed drops of the validation accuracy, percentage points.
        l1: coefficient of the penalty in the objective.
        epochs: of dense training, for the rows.
        options: the method's own options, where no file holds its ranking.
    """

    method: str
    sparsities: Sequence[float]
    resolution: float
    epsilon_rules: Sequence[str]
    accuracy_drops: Sequence[float]
    l1: float
    epochs: int
    options: Mapping[str, Any] = field(default_factory=dict)


def sweep(job: Job, inputs: Files, outputs: Files, settings: SweepSettings) -> None:
    """One-shot sweep: every criterion bracketed by bisection, and the asked sparsities."""
    network = EvaluatedNetwork(
        job, load_network(inputs["network"], job.device, owner=job.key), datasets.load(inputs["data"])
    )
    prunable = network.prunable
    ranking = ranking_of(job, inputs, prunable, settings.method, settings.options)
    weights = prunable.flatten()
    norms, kept_norms = ranking.pruned_norms(weights), ranking.kept_l1_norms(weights)
    criteria = criteria_of(inputs["dense"], settings.epsilon_rules, settings.accuracy_drops, owner=job.key)

    due, evaluations = paced(), itertools.count(1)

    def evaluated(points: Sequence[float]) -> Iterator[dict[str, dict[str, float]]]:
        for point in points:
            number = next(evaluations)
            if due():
                logger.info("evaluation %d, sparsity %g", number, point)
            count = removed_count(point, ranking.dimension)
            penalty = settings.l1 * float(kept_norms[count])
            with pruned(prunable, ranking.kept(count)):
                values = {
                    name: columns_of(evaluate(network.model, split), penalty) for name, split in network.splits.items()
                }
            yield values

    grid = search(criteria, settings.sparsities, evaluated, settings.resolution)
    for criterion in criteria:
        logger.info("%s %s: %s", criterion.name, criterion.epsilon_rule, empirical_threshold(grid, criterion))
    rows = []
    for sparsity, values in grid.items():
        count = removed_count(sparsity, ranking.dimension)
        rows += network.rows(
            settings.method,
            "one_shot",
            sparsity,
            ranking.kept(count),
            pruned_norm=norms[count],
            epochs=settings.epochs,
            values=values,
        )
    write_table("sweep", rows, outputs["sweep"], job.provenance())
