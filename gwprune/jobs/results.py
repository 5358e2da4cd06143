"""Work of the rules `collect`, `aggregate` and of the figures: from part files to tables and pictures.

Nothing here computes on a network.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..storage.files import atomic_path
from ..tables.comparison import comparison_rows, comparison_threshold_rows, source_of
from ..tables.files import combine, read_table, table_provenance, write_table
from ..tables.published import published_rows
from ..tables.rendering import comparison_pages, html, markdown
from ..tables.schemas import RUN_TABLES, readme
from ..tables.thresholds import criteria_of, empirical_rows, threshold_rows
from .job import Job
from .rules import Files

__all__ = [
    "AggregateSettings",
    "CollectSettings",
    "DrawSettings",
    "aggregate",
    "collect",
    "draw",
    "read_benchmark",
]

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


@dataclass(frozen=True)
class CollectSettings:
    """Settings of rule `collect`.

    Attributes:
        seeds: of the run, in the order of its dense summaries.
        epsilon_rules: loss tolerances.
        accuracy_drops: allowed drops of the validation accuracy, percentage points.
        facts: network, dataset and l1 of the run, as in table `comparison`.
        asked: stage -> sparsities that the configuration asks for; the others are bisection's.
        benchmarks: run, seed, rule, job and file of each benchmark of Snakemake.
    """

    seeds: Sequence[int]
    epsilon_rules: Sequence[str]
    accuracy_drops: Sequence[float]
    facts: Mapping[str, Any]
    asked: Mapping[str, Sequence[float]]
    benchmarks: Sequence[Mapping[str, Any]]


def collect(job: Job, inputs: Files, outputs: Files, settings: CollectSettings) -> None:
    """Tables of one run: join the part files of its seeds, derive all the others.

    ``inputs`` are table -> part files, and ``inputs["dense"]`` the dense summary of each seed.
    """
    wanted = {
        (job.run, seed): criteria_of(
            file, settings.epsilon_rules, settings.accuracy_drops, owner={"run": job.run, "seed": seed}
        )
        for seed, file in zip(settings.seeds, inputs["dense"], strict=True)
    }
    origin = job.provenance()
    joined = {
        name: combine(name, files, outputs[name], origin, [_owner(file, wanted) for file in files])
        for name, files in inputs.items()
        if name in RUN_TABLES
    }
    origin = table_provenance(joined["sweep"])
    empirical = write_table("empirical", empirical_rows(joined["sweep"], wanted), outputs["empirical"], origin)
    write_table("thresholds", threshold_rows(joined["predictions"], empirical), outputs["thresholds"], origin)
    write_table("costs", cost_rows(settings.benchmarks), outputs["costs"], origin)
    compared = comparison_rows(joined["sweep"], settings.facts, settings.asked, source_of(origin))
    write_table("comparison", compared, outputs["comparison"], origin)
    thresholds = comparison_threshold_rows(empirical, settings.facts)
    write_table("comparison_thresholds", thresholds, outputs["comparison_thresholds"], origin)


@dataclass(frozen=True)
class AggregateSettings:
    """Settings of rule `aggregate`.

    Attributes:
        benchmarks: of jobs that belong to no single run.
        published: digest of the published numbers: with other ones the tables are made again.
    """

    benchmarks: Sequence[Mapping[str, Any]]
    published: str


def aggregate(job: Job, inputs: Files, outputs: Files, settings: AggregateSettings) -> None:
    """Join the tables of all runs.

    ``outputs["csv"]`` says what table `thresholds` says; ``outputs["markdown"]`` and ``outputs["html"]`` are the
    rendered comparison, ``outputs["readme"]`` describes the files.
    """
    origin = job.provenance()
    joined = {name: combine(name, inputs[name], outputs[name], origin) for name in RUN_TABLES if name != "costs"}
    costs = [row for file in inputs["costs"] for row in read_table("costs", file).to_pylist()]
    costs += cost_rows(settings.benchmarks)
    write_table("costs", costs, outputs["costs"], table_provenance(joined["sweep"]))
    write_table("published", published_rows(), outputs["published"], origin)
    pages = comparison_pages(*(joined[name].to_pylist() for name in ("comparison", "comparison_thresholds")))
    for kind, text in (("markdown", markdown(pages)), ("html", html(pages)), ("readme", readme())):
        with atomic_path(outputs[kind]) as temporary:
            temporary.write_text(text)
    thresholds = joined["thresholds"]
    with atomic_path(outputs["csv"]) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, thresholds.schema.names)
        writer.writeheader()
        writer.writerows(thresholds.to_pylist())


@dataclass(frozen=True)
class DrawSettings:
    """Settings of the rules `run_figures` and `threshold_figure`.

    Attributes:
        figures: figure -> the tables that it is drawn from.
    """

    figures: Mapping[str, Sequence[str]]


def draw(job: Job, inputs: Files, outputs: Files, settings: DrawSettings) -> None:
    """Draw figures from tables, of the job's run or of all.

    ``outputs`` name each figure, and with ``_png`` behind it its second file.
    """
    from ..figures import FIGURES  # noqa: PLC0415 - matplotlib only where it draws

    for figure, tables in settings.figures.items():
        arrow = [read_table(name, inputs[name]) for name in tables]
        FIGURES[figure](*arrow, *([job.run] if job.run else []), outputs[figure], outputs[f"{figure}_png"])
