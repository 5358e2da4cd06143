"""Work of the rules `finetune` and `train_sparse`: training under a mask that is held."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import datasets
from ..network.prunable import PrunableSet
from ..pruning import layerwise_shuffle, reinitialise
from ..storage.checkpoints import arithmetic, digest, set_aside
from ..storage.files import config_hash, read_json, write_json
from ..streams import stream_seed
from ..tables.files import write_table
from ..training.train import Recipe, train
from .artifacts import build_network, load_network, load_ranking, load_sparse
from .dense import after_epoch, initial_network
from .evaluated import EvaluatedNetwork
from .job import Job
from .pruned import ranking_of
from .rules import Files

__all__ = ["FinetuneSettings", "TrainSparseSettings", "finetune", "train_sparse"]

logger = logging.getLogger("gwprune")


@dataclass(frozen=True, kw_only=True)
class _MaskedSettings:
    """What both rules are told.

    Attributes:
        method: pruning method.
        sparsities: of the job, one after the other.
        recipe: fields of :class:`gwprune.training.train.Recipe`.
        epochs: of training behind the masks, for the rows; states of iterative methods tell their own.
        checkpoint: start of the names of the checkpoints: rows of the sparsities that are done, and the training of
            the one that is under way.
        options: the method's own options, where no file holds its ranking.
    """

    method: str
    sparsities: Sequence[float]
    recipe: Mapping[str, Any]
    epochs: int
    checkpoint: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(_MaskedSettings):
    """Settings of rule `finetune`.

    Attributes:
        first_epoch: epochs of the recipe that are left out at its start.
    """

    first_epoch: int = 0


def finetune(job: Job, inputs: Files, outputs: Files, settings: FinetuneSettings) -> None:
    """Prune the dense network to each sparsity, train on with the mask held, and evaluate.

    Renda, Frankle and Carbin, Comparing rewinding and fine-tuning in neural network pruning (arXiv 2003.02389): with
    ``first_epoch`` the last epochs of the recipe of dense training are gone through again (learning-rate rewinding);
    with ``inputs["rewound"]`` from the weights that the network had then (weight rewinding).
    """
    network = EvaluatedNetwork(
        job, load_network(inputs["network"], job.device, owner=job.key), datasets.load(inputs["data"])
    )
    ranking = ranking_of(job, inputs, network.prunable, settings.method, settings.options)
    masks = {sparsity: ranking.mask(sparsity).to(job.device) for sparsity in settings.sparsities}
    start = load_network(inputs["rewound"], job.device, owner=job.key) if "rewound" in inputs else network.model
    _train_masked(
        network,
        masks,
        start.state_dict(),
        outputs,
        settings,
        method=settings.method,
        stage="fine_tuned",
        first_epoch=settings.first_epoch,
        spent=dict.fromkeys(masks, float(settings.epochs)),
    )


@dataclass(frozen=True, kw_only=True)
class TrainSparseSettings(_MaskedSettings):
    """Settings of rule `train_sparse`.

    Attributes:
        network: name and options of the network.
        control: what is done to the masks or to the weights (see `gwprune.pruning.CONTROLS`); empty for nothing.
    """

    network: Mapping[str, Any]
    control: str = ""


def train_sparse(job: Job, inputs: Files, outputs: Files, settings: TrainSparseSettings) -> None:
    """Train the untrained network from its start under the mask of each sparsity, and evaluate.

    The masks are those of ``inputs["states"]`` or ``inputs["masks"]``, a file a sparsity, or of the method's ranking:
    ``inputs["ranking"]``, or one that is made here, of ``inputs["network"]`` or else of the untrained network.
    """
    images = datasets.load(inputs["data"])
    model, description = initial_network(job, images, settings.network)
    network = EvaluatedNetwork(job, model, images)
    masks, spent = _masks(job, inputs, network.prunable, settings)
    if settings.control == "layerwise_shuffle":
        masks = {sparsity: layerwise_shuffle(kept, network.prunable, job.seed) for sparsity, kept in masks.items()}
    if settings.control == "reinitialise":
        reinitialise(model, stream_seed(job.seed, "other initial weights"), lambda: build_network(description))
    _train_masked(
        network,
        masks,
        model.state_dict(),
        outputs,
        settings,
        method="_".join(filter(None, (settings.method, settings.control))),
        stage="trained",
        first_epoch=0,
        spent=spent,
    )


def _masks(
    job: Job, inputs: Files, prunable: PrunableSet, settings: TrainSparseSettings
) -> tuple[dict[float, Tensor], dict[float, float]]:
    """Sparsity -> mask (D,), and sparsity -> epochs that were spent on it."""
    sparsities = settings.sparsities
    spent = dict.fromkeys(sparsities, float(settings.epochs))
    if "states" in inputs:
        pairs = zip(sparsities, inputs["states"], strict=True)
        states = {sparsity: load_sparse(file, job.device, sparsity=sparsity, owner=job.key) for sparsity, file in pairs}
        return {s: state.kept for s, state in states.items()}, {s: state.epochs for s, state in states.items()}
    method, key = settings.method, job.key
    if "masks" in inputs or "ranking" in inputs:
        # They need not rank these weights: a method for trained networks ranks those.
        files = inputs["masks"] if "masks" in inputs else [inputs["ranking"]] * len(sparsities)
        rankings = [load_ranking(file, prunable.dimension, prunable.signature, method, owner=key) for file in files]
    else:
        if "network" in inputs:
            prunable = PrunableSet(load_network(inputs["network"], job.device, owner=key))
        rankings = [ranking_of(job, inputs, prunable, method, settings.options)] * len(sparsities)
    pairs = zip(sparsities, rankings, strict=True)
    return {sparsity: ranking.mask(sparsity).to(job.device) for sparsity, ranking in pairs}, spent


def _train_masked(
    network: EvaluatedNetwork,
    masks: Mapping[float, Tensor],
    start: Mapping[str, Tensor],
    outputs: Files,
    settings: _MaskedSettings,
    *,
    method: str,
    stage: str,
    first_epoch: int,
    spent: Mapping[float, float],
) -> None:
    """Train from ``start`` under the mask of each sparsity; the norm in the rows is that of ``network`` as it is."""
    job, model, prunable = network.job, network.model, network.prunable
    weights = prunable.flatten()
    start = {name: tensor.clone() for name, tensor in start.items()}
    recipe = Recipe(**settings.recipe)
    done = _FinishedRows(
        Path(f"{settings.checkpoint}.json"),
        {
            **job.key,
            "method": method,
            "recipe": dict(settings.recipe),
            "first_epoch": first_epoch,
            "spent": sorted(spent.items()),
            "arithmetic": arithmetic(job.device),
            "network": digest(weights, *start.values()),
            "masks": digest(*masks.values()),
            "data": network.fingerprint,
        },
    )
    under_way = Path(f"{settings.checkpoint}.pt")
    length = recipe.epochs - first_epoch
    for sparsity, kept in masks.items():
        if done.rows(sparsity) is not None:
            logger.info("sparsity %g was done before", sparsity)
            continue
        logger.info("sparsity %g", sparsity)
        model.load_state_dict(start)
        with job.interruption.deferred():
            train(
                model,
                network.splits["train"],
                network.splits["val"],
                recipe,
                job.seed,
                mask=kept,
                first_epoch=first_epoch,
                checkpoint=under_way,
                progress=after_epoch(job, recipe.epochs),
            )
        zeros, removed = int((prunable.flatten() == 0).sum()), int((~kept).sum())
        if zeros < removed:
            raise AssertionError(f"only {zeros} of {removed} weights are zero after training at sparsity {sparsity}")
        rows = network.rows(
            method,
            stage,
            sparsity,
            kept,
            pruned_norm=float(weights[~kept].double().square().sum().sqrt()),
            epochs=spent[sparsity] + length,
            values=network.values(recipe.l1),
        )
        done.add(sparsity, rows)
        under_way.unlink(missing_ok=True)
        if sparsity != list(masks)[-1]:
            job.interruption.check()
    rows = [row for sparsity in masks for row in done.rows(sparsity)]
    write_table("sweep", rows, outputs["sweep"], job.provenance())
    for file in (under_way, done.path):
        file.unlink(missing_ok=True)


class _FinishedRows:
    """Rows of the sparsities that a job has finished, on file, so that a later attempt need not do them again.

    Args:
        path: of the file.
        belongs_to: what the rows depend on; those of anything else are not used.
    """

    def __init__(self, path: Path, belongs_to: Mapping[str, Any]):
        self.path, self._guard = path, config_hash(belongs_to)
        self._rows: dict[str, list[dict[str, Any]]] = {}
        if path.exists():
            try:
                before = read_json(path)
            except (OSError, ValueError) as error:
                set_aside(path, str(error))
                return
            if isinstance(before, dict) and before.get("guard") == self._guard:
                self._rows = before["rows"]
            else:
                set_aside(path)

    def rows(self, sparsity: float) -> list[dict[str, Any]] | None:
        """Rows of a sparsity, if it is finished."""
        return self._rows.get(repr(sparsity))

    def add(self, sparsity: float, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of a sparsity."""
        self._rows[repr(sparsity)] = rows
        write_json(self.path, {"guard": self._guard, "rows": self._rows})
