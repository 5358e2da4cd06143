"""Stages `finetune` and `train_sparse`: training under a mask that is held."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..pruning import METHODS, layerwise_shuffle, reinitialise, without_control
from ..storage.checkpoints import arithmetic, digest, set_aside
from ..storage.files import config_hash, read_json, write_json
from ..streams import stream_seed
from ..tables.files import write_table
from ..training.train import Recipe, train
from .artifacts import build_network, load_description, load_network, load_ranking, load_sparse
from .dense import progress_of
from .job import Job
from .laboratory import Laboratory

__all__ = ["finetune", "train_sparse"]

logger = logging.getLogger("gwprune")


def finetune(
    job: Job,
    data: str,
    network: str,
    ranking: str,
    path: str,
    *,
    method: str,
    sparsities: Sequence[float],
    recipe: Mapping[str, Any],
    epochs: int,
    checkpoint: str,
    rewound: str | None = None,
    first_epoch: int = 0,
) -> None:
    """Prune the dense network to each sparsity, train on with the mask held, and evaluate.

    Renda, Frankle and Carbin, Comparing rewinding and fine-tuning in neural network pruning (arXiv 2003.02389): with
    ``first_epoch`` the last epochs of the recipe of dense training are gone through again (learning-rate rewinding);
    with ``rewound`` from the weights that the network had then (weight rewinding).

    Args:
        epochs: of dense training, for the rows.
        checkpoint: start of the names of the checkpoints: rows of the sparsities that are done, and the training of
            the one that is under way.
        rewound: file of the network that gives the weights, when not ``network``.
        first_epoch: epochs of the recipe that are left out at its start.
    """
    bench = Laboratory(job, data, network)
    known = load_ranking(ranking, bench.prunable.dimension, bench.prunable.signature, method, owner=bench.ranked)
    masks = {sparsity: known.mask(sparsity).to(job.device) for sparsity in sparsities}
    start = bench.model if rewound is None else load_network(rewound, job.device, owner=job.key)
    _train_masked(
        bench,
        masks,
        start.state_dict(),
        path,
        method=method,
        stage="fine_tuned",
        recipe=recipe,
        first_epoch=first_epoch,
        spent=dict.fromkeys(sparsities, float(epochs)),
        checkpoint=checkpoint,
    )


def train_sparse(
    job: Job,
    data: str,
    network: str,
    masks: Sequence[str],
    path: str,
    *,
    method: str,
    sparsities: Sequence[float],
    recipe: Mapping[str, Any],
    epochs: int,
    checkpoint: str,
) -> None:
    """Train the initial network from its start under the mask of each sparsity, and evaluate.

    Args:
        network: the untrained network.
        masks: the method's ranking, or a file for each sparsity: a mask, or the state of an iterative method.
        method: with the name of a control behind it, that control of the masks (see `gwprune.pruning.CONTROLS`).
        epochs: that the making of the masks took, for the rows; of iterative methods their states tell.
    """
    bench = Laboratory(job, data, network)
    prunable = bench.prunable
    base, control = without_control(method)
    kept: dict[float, Tensor] = {}
    spent = dict.fromkeys(sparsities, float(epochs))
    iterative = METHODS[base].when == "iterative"
    signature = prunable.signature
    # They need not be made from these weights: methods for any network rank the trained one.
    rankings = {
        file: load_ranking(file, prunable.dimension, signature, base, owner=job.key) for file in masks if not iterative
    }
    files = masks if len(masks) > 1 else list(masks) * len(sparsities)
    for sparsity, file in zip(sparsities, files, strict=True):
        if iterative:
            state = load_sparse(file, job.device, sparsity=sparsity, owner=job.key)
            kept[sparsity], spent[sparsity] = state.kept, state.epochs
        else:
            kept[sparsity] = rankings[file].mask(sparsity).to(job.device)
        if control == "layerwise_shuffle":
            kept[sparsity] = layerwise_shuffle(kept[sparsity], prunable, job.seed)
    if control == "reinitialise":
        description = load_description(network, owner=job.key)
        reinitialise(bench.model, stream_seed(job.seed, "other initial weights"), lambda: build_network(description))
    _train_masked(
        bench,
        kept,
        bench.model.state_dict(),
        path,
        method=method,
        stage="trained",
        recipe=recipe,
        first_epoch=0,
        spent=spent,
        checkpoint=checkpoint,
    )


def _train_masked(
    bench: Laboratory,
    masks: Mapping[float, Tensor],
    start: Mapping[str, Tensor],
    path: str,
    *,
    method: str,
    stage: str,
    recipe: Mapping[str, Any],
    first_epoch: int,
    spent: Mapping[float, float],
    checkpoint: str,
) -> None:
    """Train from ``start`` under the mask of each sparsity; the norm in the rows is that of the bench's network."""
    job, model, prunable = bench.job, bench.model, bench.prunable
    weights = prunable.flatten()
    start = {name: tensor.clone() for name, tensor in start.items()}
    plan = Recipe(**recipe)
    done = _Finished(
        Path(f"{checkpoint}.json"),
        {
            **job.key,
            "method": method,
            "recipe": dict(recipe),
            "first_epoch": first_epoch,
            "spent": sorted(spent.items()),
            "arithmetic": arithmetic(job.device),
            "network": digest(weights, *start.values()),
            "masks": digest(*masks.values()),
            "data": bench.fingerprint,
        },
    )
    under_way = Path(f"{checkpoint}.pt")
    length = plan.epochs - first_epoch
    with tqdm(total=length * len(masks), unit="epoch", disable=None) as bar:
        for sparsity, kept in masks.items():
            if done.rows(sparsity) is not None:
                logger.info("sparsity %g was done before", sparsity)
                continue
            logger.info("sparsity %g", sparsity)
            model.load_state_dict(start)
            with job.interruption.deferred():
                train(
                    model,
                    bench.splits["train"],
                    bench.splits["val"],
                    plan,
                    job.seed,
                    mask=kept,
                    first_epoch=first_epoch,
                    checkpoint=under_way,
                    progress=progress_of(job, plan.epochs, lambda _: bar.update()),
                )
            zeros, removed = int((prunable.flatten() == 0).sum()), int((~kept).sum())
            if zeros < removed:
                raise AssertionError(
                    f"only {zeros} of {removed} weights are zero after training at sparsity {sparsity}"
                )
            rows = bench.rows(
                method,
                stage,
                sparsity,
                kept,
                pruned_norm=float(weights[~kept].double().square().sum().sqrt()),
                epochs=spent[sparsity] + length,
                values=bench.values(plan.l1),
            )
            done.add(sparsity, rows)
            under_way.unlink(missing_ok=True)
            if sparsity != list(masks)[-1]:
                job.interruption.check()
    write_table("sweep", [row for sparsity in masks for row in done.rows(sparsity)], path, job.provenance())
    for file in (under_way, done.path):
        file.unlink(missing_ok=True)


class _Finished:
    """Rows of the sparsities that a job has finished, on file, so that a later attempt need not do them again."""

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
        return self._rows.get(repr(sparsity))

    def add(self, sparsity: float, rows: list[dict[str, Any]]) -> None:
        self._rows[repr(sparsity)] = rows
        write_json(self.path, {"guard": self._guard, "rows": self._rows})
