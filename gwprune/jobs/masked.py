"""Work of the rules `finetune`, `bracket` and `train_sparse`: training under a mask that is held."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import datasets
from ..network.prunable import PrunableSet
from ..pruning import Ranking, layerwise_shuffle, reinitialise
from ..storage.checkpoints import arithmetic, digest, set_aside
from ..storage.files import config_hash, read_json, write_json
from ..storage.owners import refuse_foreign
from ..streams import stream_seed
from ..tables.files import read_table, write_table
from ..tables.thresholds import criteria_of, empirical_threshold, next_sparsity
from ..training.train import Recipe, train
from .artifacts import build_network, load_network, load_ranking, load_sparse
from .dense import after_epoch, initial_network
from .evaluated import EvaluatedNetwork
from .job import Job
from .pruned import ranking_of
from .rules import Files

__all__ = ["BracketSettings", "FinetuneSettings", "TrainSparseSettings", "bracket", "finetune", "train_sparse"]

logger = logging.getLogger("gwprune")


@dataclass(frozen=True, kw_only=True)
class _MaskedSettings:
    """What all of them are told.

    Attributes:
        method: pruning method.
        recipe: fields of :class:`gwprune.training.train.Recipe`.
        epochs: of training behind the masks, for the rows; states of iterative methods tell their own.
        checkpoint: start of the names of the checkpoints: rows of the sparsities that are done, and the training of
            the one that is under way.
        options: the method's own options, where no file holds its ranking.
    """

    method: str
    recipe: Mapping[str, Any]
    epochs: int
    checkpoint: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _TunedSettings(_MaskedSettings):
    """What the rules are told that go on from the dense network.

    Attributes:
        first_epoch: epochs of the recipe that are left out at its start.
    """

    first_epoch: int = 0


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(_TunedSettings):
    """Settings of rule `finetune`.

    Attributes:
        sparsities: of the job, one after the other.
    """

    sparsities: Sequence[float]


def finetune(job: Job, inputs: Files, outputs: Files, settings: FinetuneSettings) -> None:
    """Prune the dense network to each sparsity, train on with the mask held, and evaluate.

    Renda, Frankle and Carbin, Comparing rewinding and fine-tuning in neural network pruning (arXiv 2003.02389): with
    ``first_epoch`` the last epochs of the recipe of dense training are gone through again (learning-rate rewinding);
    with ``inputs["rewound"]`` from the weights that the network had then (weight rewinding).
    """
    ranking, trainings = _fine_tuning(job, inputs, settings, Path(f"{settings.checkpoint}.json"))
    rows = []
    for sparsity in settings.sparsities:
        rows += trainings.rows(sparsity, ranking.mask(sparsity).to(job.device), spent=settings.epochs)
    write_table("sweep", rows, outputs["sweep"], job.provenance())
    trainings.finished.path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class BracketSettings(_TunedSettings):
    """Settings of rule `bracket`.

    Attributes:
        epsilon_rules: loss tolerances.
        resolution: width that the bracket of each of them is narrowed to.
        points: file of the rows that the search has measured. It stays, so that a search with another resolution or
            other tolerances goes on from them.
    """

    epsilon_rules: Sequence[str]
    resolution: float
    points: str


def bracket(job: Job, inputs: Files, outputs: Files, settings: BracketSettings) -> None:
    """Narrow the brackets of the fine-tuned thresholds that the asked sparsities leave, by further trainings.

    Searched is the criterion `control_loss_tolerance` of every epsilon rule, on training data.

    ``inputs["grid"]`` are the files of the asked sparsities, ``inputs["control"]`` the one with the control, which is
    sparsity 0. The rows written are those of the search, and of the control where another method's job has trained it.
    """
    ranking, trainings = _fine_tuning(job, inputs, settings, Path(settings.points))
    grid = _measured(job, inputs["grid"])
    shared = {} if 0.0 in grid else {0.0: _measured(job, [inputs["control"]])[0.0]}
    rows = [{**row, "method": settings.method} for row in shared.get(0.0, {}).values()]
    grid |= shared
    dense = criteria_of(inputs["dense"], settings.epsilon_rules, [], owner=job.key)
    wanted = [criterion.against(grid[0.0]) for criterion in dense if criterion.quantity == "loss"]
    while (sparsity := next_sparsity(grid, wanted, settings.resolution)) is not None:
        own = trainings.rows(sparsity, ranking.mask(sparsity).to(job.device), spent=settings.epochs)
        grid[sparsity] = {row["split"]: row for row in own}
        rows += own
    for criterion in wanted:
        logger.info("%s %s: %s", criterion.name, criterion.epsilon_rule, empirical_threshold(grid, criterion))
    write_table("sweep", rows, outputs["sweep"], job.provenance())


def _measured(job: Job, files: Sequence[str]) -> dict[float, dict[str, dict[str, Any]]]:
    """Sparsity -> split -> row of table `sweep`, of part files of this run and seed."""
    grid: dict[float, dict[str, dict[str, Any]]] = {}
    for file in files:
        for row in read_table("sweep", file).to_pylist():
            refuse_foreign(file, row, job.key)
            grid.setdefault(row["sparsity"], {})[row["split"]] = row
    return grid


def _fine_tuning(job: Job, inputs: Files, settings: _TunedSettings, finished: Path) -> tuple[Ranking, _Trainings]:
    """The ranking of a method, and the trainings under its masks, with the file of those that are finished."""
    network = EvaluatedNetwork(
        job, load_network(inputs["network"], job.device, owner=job.key), datasets.load(inputs["data"])
    )
    ranking = ranking_of(job, inputs, network.prunable, settings.method, settings.options)
    start = load_network(inputs["rewound"], job.device, owner=job.key) if "rewound" in inputs else network.model
    trainings = _Trainings(
        network,
        start.state_dict(),
        settings,
        finished,
        method=settings.method,
        stage="fine_tuned",
        first_epoch=settings.first_epoch,
        belongs_to={"masks": digest(ranking.ranks), "spent": settings.epochs},
    )
    return ranking, trainings


@dataclass(frozen=True, kw_only=True)
class TrainSparseSettings(_MaskedSettings):
    """Settings of rule `train_sparse`.

    Attributes:
        sparsities: of the job, one after the other.
        network: name and options of the network.
        control: what is done to the masks or to the weights (see `gwprune.pruning.CONTROLS`); empty for nothing.
    """

    sparsities: Sequence[float]
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
    trainings = _Trainings(
        network,
        model.state_dict(),
        settings,
        Path(f"{settings.checkpoint}.json"),
        method="_".join(filter(None, (settings.method, settings.control))),
        stage="trained",
        first_epoch=0,
        belongs_to={"masks": digest(*masks.values()), "spent": sorted(spent.items())},
    )
    rows = [row for s, kept in masks.items() for row in trainings.rows(s, kept, spent=spent[s])]
    write_table("sweep", rows, outputs["sweep"], job.provenance())
    trainings.finished.path.unlink(missing_ok=True)


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


class _Trainings:
    """Trainings of a network under masks, each from the same start.

    Args:
        network: is trained; the norms in the rows are those of its weights as they are now.
        start: state that every training begins with.
        settings: of the job.
        finished: file of the rows of the trainings that are done.
        method: column of that name.
        stage: column of that name.
        first_epoch: epochs of the recipe that are left out at its start.
        belongs_to: what else the rows depend on: the masks, and what was spent on them.

    Attributes:
        finished: the rows that are done.
    """

    def __init__(
        self,
        network: EvaluatedNetwork,
        start: Mapping[str, Tensor],
        settings: _MaskedSettings,
        finished: Path,
        *,
        method: str,
        stage: str,
        first_epoch: int,
        belongs_to: Mapping[str, Any],
    ):
        job = network.job
        self._network, self._method, self._stage, self._first_epoch = network, method, stage, first_epoch
        self._weights = network.prunable.flatten()
        self._start = {name: tensor.clone() for name, tensor in start.items()}
        self._recipe = Recipe(**settings.recipe)
        self._under_way = Path(f"{settings.checkpoint}.pt")
        self.finished = _FinishedRows(
            finished,
            {
                **job.key,
                "method": method,
                "recipe": dict(settings.recipe),
                "first_epoch": first_epoch,
                "arithmetic": arithmetic(job.device),
                "network": digest(self._weights, *self._start.values()),
                **belongs_to,
                "data": network.fingerprint,
            },
        )

    def rows(self, sparsity: float, kept: Tensor, *, spent: float) -> list[dict[str, Any]]:
        """Rows of table `sweep` of one training, which is not done again when its rows are on file.

        Args:
            sparsity: of the mask.
            kept: boolean mask (D,).
            spent: epochs that were spent on the mask before.
        """
        if (before := self.finished.rows(sparsity)) is not None:
            logger.info("sparsity %g was done before", sparsity)
            return before
        network, recipe = self._network, self._recipe
        job, model, prunable = network.job, network.model, network.prunable
        job.interruption.check()
        logger.info("sparsity %g", sparsity)
        model.load_state_dict(self._start)
        with job.interruption.deferred():
            train(
                model,
                network.splits["train"],
                network.splits["val"],
                recipe,
                job.seed,
                mask=kept,
                first_epoch=self._first_epoch,
                checkpoint=self._under_way,
                progress=after_epoch(job, recipe.epochs, f"sparsity {sparsity:g}"),
            )
        zeros, removed = int((prunable.flatten() == 0).sum()), int((~kept).sum())
        if zeros < removed:
            raise AssertionError(f"only {zeros} of {removed} weights are zero after training at sparsity {sparsity}")
        rows = network.rows(
            self._method,
            self._stage,
            sparsity,
            kept,
            pruned_norm=float(self._weights[~kept].double().square().sum().sqrt()),
            epochs=spent + recipe.epochs - self._first_epoch,
            values=network.values(recipe.l1),
        )
        self.finished.add(sparsity, rows)
        self._under_way.unlink(missing_ok=True)
        return rows


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
