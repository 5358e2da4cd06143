"""What a configuration asks for, before anything runs: networks, seeds, jobs, and about how long they take."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pyarrow as pa

from ..config import load_file
from ..config.plan import RULES, Plan
from ..config.runs import Run
from ..tables.files import read_table, tables_folder
from .words import duration

__all__ = ["Outlook", "outlook", "print_outlook"]

_COLUMNS = 80


@dataclass(frozen=True)
class Outlook:
    """What a whole run consists of.

    Attributes:
        networks: lines of text, one or more a network.
        jobs: rule -> number of its jobs, in the workflow's order; without those that are done by themselves, as
            Snakemake's `all`.
        seconds: rule -> seconds of all its jobs, one after the other; a rule that no cost is known of is left out.
    """

    networks: list[str]
    jobs: dict[str, int]
    seconds: dict[str, float]


def outlook(plan: Plan, costs: pa.Table | None = None) -> Outlook:
    """What a plan consists of.

    Args:
        plan: of a configuration.
        costs: table `costs` of an earlier run. A job is taken to last as long as those of its rule on its own network
            did on the average, or else on any.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for name, run in plan.runs.items():
        counts.update((job.rule, name) for job in plan.jobs(name) for _ in run.experiment.seeds)
        counts.update({("collect", name): 1, ("run_figures", name): 1})
    counts.update({("prepare_data", ""): len(plan.datasets), ("aggregate", ""): 1, ("threshold_figure", ""): 1})
    jobs: Counter[str] = Counter()
    for (rule, _), count in counts.items():
        jobs[rule] += count
    order = ["prepare_data", *RULES, "collect", "aggregate", "run_figures", "threshold_figure"]
    return Outlook(
        [line for run in plan.runs.values() for line in _described(run)],
        {rule: jobs[rule] for rule in order if jobs[rule]},
        _seconds(counts, costs) if costs is not None else {},
    )


def _seconds(counts: Mapping[tuple[str, str], int], costs: pa.Table) -> dict[str, float]:
    known: dict[tuple[str, str], list[float]] = {}
    for row in costs.select(["rule", "run", "seconds"]).to_pylist():
        for run in {row["run"], "any"}:
            known.setdefault((row["rule"], run), []).append(row["seconds"])
    seconds: dict[str, float] = {}
    for (rule, run), count in counts.items():
        if times := known.get((rule, run)) or known.get((rule, "any")):
            seconds[rule] = seconds.get(rule, 0.0) + count * fmean(times)
    return seconds


def _described(run: Run) -> list[str]:
    """What happens to a network, in lines of text."""
    own = run.experiment
    spectrum, tuning, sparse = own.spectrum, own.fine_tuning, own.sparse_training
    lines = [
        f"{run.name}: {own.network.name} on {own.dataset.name}, seed{'s' * (len(own.seeds) > 1)} {_listed(own.seeds)}",
        f"  train: {own.network.weights or _count(own.training.epochs, 'epoch')}, l1 {run.l1:g}",
        f"  predict: {_listed(spectrum.predictors)} of {_listed(spectrum.operators)},"
        f" {_count(spectrum.steps, 'step')}, {_count(spectrum.probes, 'probe')}, epsilon {_listed(own.epsilon)}",
        f"  prune: {_listed(own.pruning.methods)} at {_sparsities(own.pruning.sparsities)}",
    ]
    if tuning.methods:
        lines.append(
            f"  fine-tune: {_listed(tuning.methods)} at {_sparsities(tuning.sparsities)},"
            f" {_count(tuning.epochs, 'epoch')} each"
        )
    if sparse.methods:
        lines.append(f"  train sparse: {_listed(sparse.methods)} at {_sparsities(sparse.sparsities)}")
    return lines


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _sparsities(values: list[float]) -> str:
    return f"{len(values)} sparsit{'y' if len(values) == 1 else 'ies'}"


def _listed(values: list) -> str:
    return ", ".join(map(str, values))


def print_outlook(path: Path) -> None:
    """Print what a run of a configuration would do, with the costs of an earlier run of it where there are some.

    Args:
        path: file of the configuration.

    Raises:
        ConfigError: naming file, line and key of every fault.
    """
    plan = Plan(load_file(path))
    results = Path(plan.config.results)
    file = tables_folder(results) / "costs.parquet"
    found = outlook(plan, read_table("costs", file) if file.exists() else None)
    print(f"{path} is valid; its results go to {results}\n")
    for line in found.networks:
        print(_folded(line))
    print(f"\n{'jobs':<24}{'number':>8}{'  time, one by one' if found.seconds else ''}")
    for rule, number in found.jobs.items():
        time = f"  {duration(found.seconds[rule])}" if rule in found.seconds else ""
        print(f"  {rule:<22}{number:>8}{time}")
    time = f"  about {duration(sum(found.seconds.values()))}" if found.seconds else ""
    print(f"  {'all':<22}{sum(found.jobs.values()):>8}{time}")
    print(f"times: from {file}" if found.seconds else f"times: none known, {file} does not exist")
    print(f"to run: snakemake --cores all --configfile {path}\nwhat is still to do: the same with -n --quiet rules")


def _folded(line: str) -> str:
    return "\n".join(textwrap.wrap(line, _COLUMNS, subsequent_indent="    ", break_on_hyphens=False))
