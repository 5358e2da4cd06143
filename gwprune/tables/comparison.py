"""The comparison of pruning methods: what tables `sweep` and `empirical` of a run say over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

__all__ = ["comparison_rows", "comparison_threshold_rows", "in_words", "source_of"]

Row = dict[str, Any]


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


def _grouped(rows: Iterable[Row], *keys: str) -> dict[tuple, list[Row]]:
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _std(values: Sequence[float]) -> float:
    # By hand: statistics.stdev refuses NaN and infinities.
    mean = statistics.fmean(values)
    return (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5 if len(values) > 1 else 0.0


def _ratio(above: float, below: float) -> float:
    return above / below if below else float("inf")


def comparison_rows(
    sweep: pa.Table, facts: Mapping[str, Any], asked: Iterable[float], source: str
) -> list[dict[str, Any]]:
    """Rows of table `comparison` of one run, from its table `sweep`: test split, over seeds.

    Bisection adds sparsities to the one-shot sweeps, others for every seed and method: of stage `one_shot` only 0 and
    the ``asked`` ones are compared, of the other stages all that every seed of the same method and stage has.

    Args:
        facts: network, dataset and l1 of the run.
        asked: sparsities of the one-shot sweeps that the configuration asks for.
        source: column `source`.

    Raises:
        ValueError: when a seed has no dense network, which is the one-shot row of sparsity 0.
    """
    tested = [row for row in sweep.to_pylist() if row["split"] == "test"]
    dense = {row["seed"]: row for row in tested if row["stage"] == "one_shot" and row["sparsity"] == 0.0}
    missing = sorted({row["seed"] for row in tested} - set(dense))
    if missing:
        raise ValueError(f"table sweep has no dense network (one_shot at sparsity 0) for seed(s) {missing}")
    wanted = {0.0, *asked}
    rows = []
    for (run, method, stage), part in _grouped(tested, "run", "method", "stage").items():
        seeds = {row["seed"] for row in part}
        for sparsity, found in sorted(_grouped(part, "sparsity").items()):
            if len(found) < len(seeds) or (stage == "one_shot" and sparsity[0] not in wanted):
                continue
            values = {name: [row[name] for row in found] for name in found[0]}
            mean = {
                name: statistics.fmean(values[name])
                for name in ("accuracy", "top5_accuracy", "loss", "nonzeros", "multiply_adds", "epochs")
            }
            of_dense = {
                name: statistics.fmean(dense[row["seed"]][name] for row in found)
                for name in ("accuracy", "nonzeros", "multiply_adds")
            }
            rows.append(
                {
                    **facts,
                    "run": run,
                    "method": method,
                    "stage": stage,
                    "sparsity": sparsity[0],
                    "seeds": len(found),
                    "accuracy_mean": mean["accuracy"],
                    "accuracy_std": _std(values["accuracy"]),
                    "top5_mean": mean["top5_accuracy"],
                    "loss_mean": mean["loss"],
                    "dense_accuracy_mean": of_dense["accuracy"],
                    "compression": _ratio(of_dense["nonzeros"], mean["nonzeros"]),
                    "dense_multiply_adds": of_dense["multiply_adds"],
                    "multiply_adds": mean["multiply_adds"],
                    "speedup": _ratio(of_dense["multiply_adds"], mean["multiply_adds"]),
                    "epochs": mean["epochs"],
                    "empty_layers": max(values["empty_layers"]),
                    "source": source,
                }
            )
    _rank(rows)
    return rows


def _rank(rows: list[Row]) -> None:
    """Fill `rank`, `ranked` and `stage_rank`; means that differ by rounding alone are tied."""
    for rivals in _grouped(rows, "run", "sparsity").values():
        for row in rivals:
            better = [other for other in rivals if other["accuracy_mean"] > row["accuracy_mean"] + 1e-9]
            row["rank"], row["ranked"] = 1 + len(better), len(rivals)
            row["stage_rank"] = 1 + sum(other["stage"] == row["stage"] for other in better)


def comparison_threshold_rows(empirical: pa.Table, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of table `comparison_thresholds` of one run, from its table `empirical`: over seeds."""
    keys = ("run", "method", "stage", "criterion", "epsilon_rule")
    return [
        {
            **facts,
            **dict(zip(keys, key, strict=True)),
            "seeds": len(part),
            "reached_seeds": sum(row["reached"] for row in part),
            "threshold_mean": statistics.fmean(row["threshold"] for row in part),
            "threshold_std": _std([row["threshold"] for row in part]),
            "threshold_lower": min(row["threshold_lower"] for row in part),
            "threshold_upper": max(row["threshold_upper"] for row in part),
        }
        for key, part in _grouped(empirical.to_pylist(), *keys).items()
    ]
