"""Stages `collect`, `aggregate` and the figures: from part files to tables and pictures. Nothing here computes on a
network."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..storage.files import atomic_path
from ..tables.comparison import comparison_rows, comparison_threshold_rows, source_of
from ..tables.files import combine, read_table, table_provenance, write_table
from ..tables.published import published_rows
from ..tables.rendering import comparison_pages, html, markdown
from ..tables.thresholds import criteria_of, empirical_rows, threshold_rows
from .job import Job

__all__ = ["aggregate", "collect", "draw", "read_benchmark"]

logger = logging.getLogger("gwprune")


def read_benchmark(path: Path) -> dict[str, float]:
    """Seconds, memory and processor time of a Snakemake benchmark file; what was not measured is 0.

    Raises:
        ValueError: naming the file, when it holds no measurement.
    """
    with open(path, newline="") as stream:
        row = next(csv.DictReader(stream, delimiter="\t"), None)
    if row is None or "s" not in row:
        raise ValueError(f"{path} is no complete benchmark file of Snakemake; delete it and run its job again")

    def number(name: str) -> float:
        try:
            return float(row[name])
        except (KeyError, TypeError, ValueError):  # "-" or "NA" for jobs too short to be sampled
            return 0.0

    return {"seconds": number("s"), "max_rss_mb": number("max_rss"), "cpu_seconds": number("cpu_time")}


def cost_rows(benchmarks: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of table `costs`; each benchmark says run, seed, rule, job and file."""
    rows = []
    for item in benchmarks:
        path = Path(item["file"])
        if not path.exists():
            logger.warning("no benchmark file %s; its job is left out of the costs", path)
            continue
        rows.append({**{key: item[key] for key in ("run", "seed", "rule", "job")}, **read_benchmark(path)})
    return rows


def _owner(file: str, keys: Iterable[tuple[str, int]]) -> dict[str, Any] | None:
    """The run and seed, of ``keys``, whose folder holds a file; None: no such folder."""
    seeds = {f"seed{seed}": {"run": run, "seed": seed} for run, seed in keys}
    return next((seeds[folder] for folder in reversed(Path(file).parts) if folder in seeds), None)


def collect(
    job: Job,
    parts: Mapping[str, Sequence[str]],
    out: Mapping[str, str],
    *,
    dense: Sequence[str],
    criteria: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    asked: Sequence[float],
    benchmarks: Iterable[Mapping[str, Any]],
) -> None:
    """Tables of one run: join the part files (table -> files) of its seeds, derive all the others.

    Args:
        dense: dense summaries, one for each item of ``criteria``, which says run, seed, epsilon_rules, accuracy_drops.
        facts: network, dataset and l1 of the run, as in table `comparison`.
        asked: sparsities of the one-shot sweeps that the configuration asks for; the others are bisection's.
    """
    wanted = {
        (item["run"], item["seed"]): criteria_of(
            file, item["epsilon_rules"], item["accuracy_drops"], owner={key: item[key] for key in ("run", "seed")}
        )
        for item, file in zip(criteria, dense, strict=True)
    }
    origin = job.provenance()
    joined = {
        name: combine(name, files, out[name], origin, [_owner(file, wanted) for file in files])
        for name, files in parts.items()
    }
    origin = table_provenance(joined["sweep"])
    empirical = write_table("empirical", empirical_rows(joined["sweep"], wanted), out["empirical"], origin)
    write_table("thresholds", threshold_rows(joined["predictions"], empirical), out["thresholds"], origin)
    write_table("costs", cost_rows(benchmarks), out["costs"], origin)
    compared = comparison_rows(joined["sweep"], facts, asked, source_of(origin))
    write_table("comparison", compared, out["comparison"], origin)
    thresholds = comparison_threshold_rows(empirical, facts)
    write_table("comparison_thresholds", thresholds, out["comparison_thresholds"], origin)


def aggregate(
    job: Job,
    runs: Mapping[str, Sequence[str]],
    out: Mapping[str, str],
    *,
    benchmarks: Iterable[Mapping[str, Any]],
    csv_file: str,
    pages: Mapping[str, str],
) -> None:
    """Join the tables of all runs (table -> files); thresholds.csv says what table `thresholds` says.

    Args:
        benchmarks: of jobs that belong to no single run.
        pages: files of the rendered comparison, keys ``markdown`` and ``html``.
    """
    origin = job.provenance()
    joined = {name: combine(name, files, out[name], origin) for name, files in runs.items() if name != "costs"}
    costs = [row for file in runs["costs"] for row in read_table("costs", file).to_pylist()]
    write_table("costs", [*costs, *cost_rows(benchmarks)], out["costs"], table_provenance(joined["sweep"]))
    write_table("published", published_rows(), out["published"], origin)
    found = comparison_pages(*(joined[name].to_pylist() for name in ("comparison", "comparison_thresholds")))
    for kind, render in (("markdown", markdown), ("html", html)):
        with atomic_path(pages[kind]) as temporary:
            temporary.write_text(render(found))
    thresholds = joined["thresholds"]
    with atomic_path(csv_file) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, thresholds.schema.names)
        writer.writeheader()
        writer.writerows(thresholds.to_pylist())


def draw(kind: str, tables: Mapping[str, str], path: str, run: str = "") -> None:
    """Draw figure ``kind`` from table files; per-run figures need ``run``."""
    from ..figures import FIGURES  # noqa: PLC0415 - matplotlib only where it draws

    arrow = [read_table(name, file) for name, file in tables.items()]
    FIGURES[kind](*arrow, *([run] if run else []), path)
