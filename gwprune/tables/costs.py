"""What jobs cost, and what the next ones should ask for: table `costs` as advice."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["SECTION_OF_RULE", "advice"]

# Rule -> section of `resources` in the configuration.
SECTION_OF_RULE = {
    "prepare_data": "prepare",
    "train": "train",
    "spectrum": "spectrum",
    "quadratic": "spectrum",
    "statistical_dimension": "spectrum",
    "rank": "sweep",
    "sweep": "sweep",
    "finetune": "finetune",
    "snapshot": "train",
    "mask": "sweep",
    "train_sparse": "sparse_training",
    "level": "sparse_training",
    "measure": "sweep",
    "predict": "tables",
}
_MARGIN = 1.5  # of time over the longest job seen
# Snakemake itself runs beside the work inside a SLURM job, twice.
_BESIDE_MB = 400
_LEAST_MINUTES = 10


def advice(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per rule of table `costs`, in the workflow's order.

    Returns:
        Rows of rule, section (of `resources`), jobs, median_seconds, longest_seconds, hours (of all jobs),
        largest_rss_mb, mem_mb (the largest and what runs beside it, in steps of 500) and runtime (minutes; half as
        much again as the longest, at least 10).
    """
    by_rule: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_rule.setdefault(row["rule"], []).append(row)
    order = list(SECTION_OF_RULE)
    found = []
    for rule in sorted(by_rule, key=lambda name: order.index(name) if name in order else len(order)):
        seconds = [row["seconds"] for row in by_rule[rule]]
        memory = max(row["max_rss_mb"] for row in by_rule[rule])
        found.append(
            {
                "rule": rule,
                "section": SECTION_OF_RULE.get(rule, ""),
                "jobs": len(seconds),
                "median_seconds": statistics.median(seconds),
                "longest_seconds": max(seconds),
                "hours": sum(seconds) / 3600,
                "largest_rss_mb": memory,
                "mem_mb": math.ceil((memory + _BESIDE_MB) / 500) * 500,
                "runtime": max(_LEAST_MINUTES, math.ceil(_MARGIN * max(seconds) / 60)),
            }
        )
    return found
