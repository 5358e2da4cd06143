"""Stages `rank`, `sweep` and `finetune`: prune to check the prediction."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .. import datasets
from ..artifacts import load_network, load_ranking, save_ranking
from ..checkpoints import arithmetic, digest
from ..datasets import DeviceSplit
from ..files import config_hash, read_json, write_json
from ..jobs import Job
from ..many_masks import evaluate_masks
from ..parameters import PrunableSet
from ..pruning import rank, removed_count
from ..tables import write_table
from ..thresholds import criteria_of, empirical_threshold, search
from ..training import EpochRecord, Recipe, train
from .dense import values_of
from .laboratory import Laboratory

__all__ = ["finetune", "rank_weights", "sweep"]

logger = logging.getLogger("gwprune")


def rank_weights(
    job: Job,
    network: str,
    path: str,
    *,
    method: str,
    data: str | None = None,
    samples: int = 1000,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Rank the prunable weights of the dense network by a method, from ``samples`` images where it needs ``data``."""
    model = load_network(network, job.device)
    prunable = PrunableSet(model)
    known = None
    if data is not None:
        known = DeviceSplit.from_data(datasets.load(data), "train", job.device).subset(samples, job.seed).as_tensors()
    ranking = rank(method, prunable, job.seed, model=model, data=known, options=options or {})
    save_ranking(path, ranking, method, prunable.signature)


def sweep(
    job: Job,
    data: str,
    network: str,
    ranking: str,
    dense: str,
    path: str,
    *,
    method: str,
    l1: float,
    epochs: int,
    sparsities: Sequence[float],
    resolution: float,
    epsilon_rules: Sequence[str],
    accuracy_drops: Sequence[float],
) -> None:
    """One-shot sweep: every criterion bracketed to ``resolution`` by bisection, and the asked sparsities.

    Args:
        epochs: of dense training, for the rows.
    """
    bench = Laboratory(job, data, network)
    known = load_ranking(ranking, bench.prunable.dimension, bench.prunable.signature, method)
    dense_weights = bench.prunable.flatten()
    norms, kept_norms = known.pruned_norms(dense_weights), known.kept_l1_norms(dense_weights)
    wanted = criteria_of(dense, epsilon_rules, accuracy_drops)
    with tqdm(unit="network", disable=None) as bar:

        def measure(points: Sequence[float]) -> Iterator[dict[str, dict[str, float]]]:
            counts = [removed_count(point, known.dimension) for point in points]
            splits = list(bench.splits.values())
            evaluations = evaluate_masks(bench.model, bench.prunable, known, counts, splits)
            for count, found in zip(counts, evaluations, strict=True):
                bar.update()
                penalty = l1 * float(kept_norms[count])
                yield {split: values_of(part, penalty) for split, part in zip(bench.splits, found, strict=True)}

        grid = search(wanted, sparsities, measure, resolution)
        for criterion in wanted:
            logger.info("%s %s: %s", criterion.name, criterion.epsilon_rule, empirical_threshold(grid, criterion))
    rows = []
    for sparsity, found in grid.items():
        count = removed_count(sparsity, known.dimension)
        kept, norm = known.kept(count), norms[count]
        rows += bench.rows(method, "one_shot", sparsity, kept, pruned_norm=norm, epochs=epochs, values=found)
    write_table("sweep", rows, path, job.provenance())


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
) -> None:
    """Prune to each sparsity, train on with the mask held, and evaluate.

    Args:
        epochs: of dense training, for the rows.
        checkpoint: start of the names of the checkpoints: rows of the sparsities that are done, and the training of
            the one that is under way.
    """
    bench = Laboratory(job, data, network)
    model, prunable = bench.model, bench.prunable
    known = load_ranking(ranking, prunable.dimension, prunable.signature, method)
    norms = known.pruned_norms(prunable.flatten())
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan = Recipe(**recipe)
    done = _Finished(
        Path(f"{checkpoint}.json"),
        {
            **job.key,
            "method": method,
            "recipe": dict(recipe),
            "epochs": epochs,
            "arithmetic": arithmetic(job.device),
            "network": digest(*dense.values()),
            "ranking": digest(known.ranks),
            "data": bench.fingerprint,
        },
    )
    under_way = Path(f"{checkpoint}.pt")
    with tqdm(total=plan.epochs * len(sparsities), unit="epoch", disable=None) as bar:

        def progress(record: EpochRecord) -> None:
            logger.info("%s", record)
            bar.update()
            if record.epoch < plan.epochs:
                job.interruption.check()

        for sparsity in sparsities:
            if done.rows(sparsity) is not None:
                logger.info("sparsity %g was done before", sparsity)
                continue
            model.load_state_dict(dense)
            kept = known.mask(sparsity).to(job.device)
            prunable.assign(prunable.flatten() * kept)
            logger.info("sparsity %g", sparsity)
            with job.interruption.deferred():
                train(
                    model,
                    bench.splits["train"],
                    bench.splits["val"],
                    plan,
                    job.seed,
                    mask=kept,
                    checkpoint=under_way,
                    progress=progress,
                )
            count = removed_count(sparsity, known.dimension)
            zeros = int((prunable.flatten() == 0).sum())
            if zeros < count:
                raise AssertionError(f"only {zeros} weights are zero after fine-tuning at sparsity {sparsity}")
            rows = bench.rows(
                method,
                "fine_tuned",
                sparsity,
                kept,
                pruned_norm=norms[count],
                epochs=epochs + plan.epochs,
                values=bench.values(plan.l1),
            )
            done.add(sparsity, rows)
            under_way.unlink(missing_ok=True)
            if sparsity != sparsities[-1]:
                job.interruption.check()
    rows = [row for sparsity in sparsities for row in done.rows(sparsity)]
    write_table("sweep", rows, path, job.provenance())
    for file in (under_way, done.path):
        file.unlink(missing_ok=True)


class _Finished:
    """Rows of the sparsities that a job has finished, on file, so that a later attempt need not do them again."""

    def __init__(self, path: Path, belongs_to: Mapping[str, Any]):
        self.path, self._guard = path, config_hash(belongs_to)
        self._rows: dict[str, list[dict[str, Any]]] = {}
        try:
            found = read_json(path)
            if found["guard"] == self._guard:
                self._rows = found["rows"]
        except (OSError, ValueError, KeyError, TypeError):  # none, or not one of ours: the work starts over
            pass

    def rows(self, sparsity: float) -> list[dict[str, Any]] | None:
        return self._rows.get(repr(sparsity))

    def add(self, sparsity: float, rows: list[dict[str, Any]]) -> None:
        self._rows[repr(sparsity)] = rows
        write_json(self.path, {"guard": self._guard, "rows": self._rows})
