"""What jobs cost, and what the next ones should ask for: table `costs` as advice."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from .files import grouped

__all__ = ["advice"]

_MARGIN = 1.5  # of time over the longest job seen
# Snakemake itself runs beside the work inside a SLURM job, twice.
_BESIDE_MB = 400
_LEAST_MINUTES = 10


def advice(costs: pa.Table, sections: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row per rule of table `costs`, in the workflow's order.

    Args:
        costs: the table.
        sections: rule -> section of `resources` in the configuration, in the workflow's order.

    Returns:
        Rows of rule, section (of `resources`), jobs, median_seconds, longest_seconds, hours (of all jobs),
        largest_rss_mb, mem_mb (the largest and what runs beside it, in steps of 500) and runtime (minutes; half as
        much again as the longest, at least 10).
    """
    order = {rule: number for number, rule in enumerate(sections)}
    return [
        {
            "rule": part["rule"],
            "section": sections.get(part["rule"], ""),
            "jobs": len(part["seconds"]),
            "median_seconds": statistics.median(part["seconds"]),
            "longest_seconds": max(part["seconds"]),
            "hours": sum(part["seconds"]) / 3600,
            "largest_rss_mb": max(part["max_rss_mb"]),
            "mem_mb": math.ceil((max(part["max_rss_mb"]) + _BESIDE_MB) / 500) * 500,
            "runtime": max(_LEAST_MINUTES, math.ceil(_MARGIN * max(part["seconds"]) / 60)),
        }
        for part in sorted(grouped(costs, "rule"), key=lambda part: order.get(part["rule"], len(order)))
    ]
