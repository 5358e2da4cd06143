"""The comparison of pruning methods: what tables `sweep` and `empirical` of a run say over its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .files import grouped
from .thresholds import Bracket

__all__ = ["comparison_rows", "comparison_threshold_rows", "in_words", "source_of"]


def in_words(name: str, options: Mapping[str, Any]) -> str:
    """A network or data set with its options on one line: ``fc(hidden=[300, 100])``."""
    return name + (f"({', '.join(f'{key}={value}' for key, value in sorted(options.items()))})" if options else "")


def source_of(provenance: Mapping[str, str]) -> str:
    """Where measured rows come from, out of the provenance of their table."""
    commit, local = provenance.get("git_commit", ""), ", local changes"
    parts = [
        f"gwprune {provenance.get('gwprune', '')}".strip(),
        f"commit {commit[:12]}{local if commit.endswith('+') else ''}" if commit else "",
        f"configuration {provenance['config_hash']}" if provenance.get("config_hash") else "",
    ]
    return "measured: " + ", ".join(filter(None, parts))


def _std(values: Sequence[float]) -> float:
    # By hand: statistics.stdev refuses NaN and infinities.
    mean = fmean(values)
    return (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5 if len(values) > 1 else 0.0


def _ratio(above: float, below: float) -> float:
    return above / below if below else float("inf")


def comparison_rows(
    sweep: pa.Table, facts: Mapping[str, Any], asked: Mapping[str, Iterable[float]], source: str
) -> list[dict[str, Any]]:
    """Rows of table `comparison` of one run: its test split, over seeds.

    Bisection adds sparsities to a stage, others for every seed and method: of a stage in ``asked`` only 0 and its asked
    ones are compared, of the other stages all that every seed of the same method and stage has.

    Args:
        sweep: table `sweep` of the run.
        facts: network, dataset and l1 of the run.
        asked: stage -> sparsities that the configuration asks for.
        source: column `source`.

    Raises:
        ValueError: when a seed has no dense network, which is the one-shot row of sparsity 0.
    """
    tested = sweep.filter(pc.field("split") == "test")
    one_shot = tested.filter((pc.field("stage") == "one_shot") & (pc.field("sparsity") == 0.0))
    dense = {row["seed"]: row for row in one_shot.to_pylist()}
    if missing := sorted(set(tested["seed"].to_pylist()) - set(dense)):
        raise ValueError(f"table sweep has no dense network (one_shot at sparsity 0) for seed(s) {missing}")
    seeds = {(part["method"], part["stage"]): len(set(part["seed"])) for part in grouped(tested, "method", "stage")}
    wanted = {stage: {0.0, *sparsities} for stage, sparsities in asked.items()}
    rows = []
    for part in grouped(tested, "run", "method", "stage", "sparsity"):
        every_seed = len(part["seed"]) == seeds[part["method"], part["stage"]]
        if not every_seed or part["sparsity"] not in wanted.get(part["stage"], {part["sparsity"]}):
            continue
        own = [dense[seed] for seed in part["seed"]]
        of_dense = {name: fmean(row[name] for row in own) for name in ("accuracy", "nonzeros", "multiply_adds")}
        multiply_adds = fmean(part["multiply_adds"])
        rows.append(
            {
                **facts,
                **{name: part[name] for name in ("run", "method", "stage", "sparsity")},
                "seeds": len(part["seed"]),
                "accuracy_mean": fmean(part["accuracy"]),
                "accuracy_std": _std(part["accuracy"]),
                "top5_mean": fmean(part["top5_accuracy"]),
                "loss_mean": fmean(part["loss"]),
                "dense_accuracy_mean": of_dense["accuracy"],
                "compression": _ratio(of_dense["nonzeros"], fmean(part["nonzeros"])),
                "dense_multiply_adds": of_dense["multiply_adds"],
                "multiply_adds": multiply_adds,
                "speedup": _ratio(of_dense["multiply_adds"], multiply_adds),
                "epochs": fmean(part["epochs"]),
                "empty_layers": max(part["empty_layers"]),
                "source": source,
            }
        )
    for row in rows:
        rivals = [other for other in rows if other["sparsity"] == row["sparsity"]]
        # Means that differ by rounding alone are tied.
        better = [other["stage"] for other in rivals if other["accuracy_mean"] > row["accuracy_mean"] + 1e-9]
        row |= {"rank": 1 + len(better), "ranked": len(rivals), "stage_rank": 1 + better.count(row["stage"])}
    return rows


def comparison_threshold_rows(empirical: pa.Table, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of table `comparison_thresholds` of one run: its measured thresholds over seeds.

    Args:
        empirical: table `empirical` of the run.
        facts: network, dataset and l1 of the run.
    """
    keys = ("run", "method", "stage", "criterion", "epsilon_rule")
    rows = []
    for part in grouped(empirical, *keys):
        lower, upper, values = part["threshold_lower"], part["threshold_upper"], part["threshold"]
        known = all(bracket.known for bracket in map(Bracket, lower, upper, part["reached"]))
        rows.append(
            {
                **facts,
                **{key: part[key] for key in keys},
                "seeds": len(values),
                "reached_seeds": sum(part["reached"]),
                "threshold_mean": fmean(values) if known else None,
                "threshold_std": _std(values) if known and len(values) > 1 else None,
                "threshold_lower": min(lower),
                "threshold_upper": max(upper),
            }
        )
    return rows
