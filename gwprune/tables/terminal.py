"""Tables for people, on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .costs import advice
from .files import read_table
from .rendering import Sheet, comparison_pages
from .schemas import prediction_order
from .thresholds import bracket_text

__all__ = [
    "cost_view",
    "limit_views",
    "print_comparison",
    "print_costs",
    "print_thresholds",
    "sheet_view",
    "threshold_view",
]

# The two limits: (name, stage, criterion, the predictor that speaks of it).
_LIMITS = (
    ("one-shot", "one_shot", "loss_tolerance", "width"),
    ("fine-tuned", "fine_tuned", "control_loss_tolerance", "statistical_dimension"),
)
# Measurements that a person compares with a prediction: (heading, stage, criterion).
_MEASURED = (
    ("one-shot\ndata loss", "one_shot", "loss_tolerance"),
    ("one-shot\nobjective", "one_shot", "objective_tolerance"),
    ("fine-tuned\ndata loss", "fine_tuned", "control_loss_tolerance"),
)
_PREDICTION = ("run", "seed", "predictor", "operator", "epsilon_rule")


def _view(title: str, left: Iterable[str], right: Iterable[str], no_wrap: bool = False) -> Table:
    """An empty table with columns of names to the left and columns of numbers to the right."""
    table = Table(title=title, title_justify="left")
    for names, justify in ((left, "left"), (right, "right")):
        for name in names:
            table.add_column(name, justify=justify, no_wrap=no_wrap)
    return table


def _measured(row: dict[str, Any] | None) -> str:
    return "-" if row is None else bracket_text(row["empirical_lower"], row["empirical_upper"])


def _gap(row: dict[str, Any] | None) -> str:
    return "-" if row is None or row["gap"] is None else f"{row['gap']:+.4f}"


def _predicted(row: dict[str, Any]) -> str:
    return f"{row['predicted']:.4f} [{row['predicted_lower']:.4f}, {row['predicted_upper']:.4f}]"


def limit_views(thresholds: pa.Table, method: str = "magnitude") -> Iterator[Table]:
    """One table for each run and epsilon rule, two lines for each seed: what predicts a limit, and what was measured.

    The predictions are those of the Hessian, or of the first other operator where the run has no Hessian.

    Args:
        thresholds: the table.
        method: whose measured thresholds.
    """

    def page(row: dict[str, Any]) -> tuple:
        return row["run"], row["epsilon_rule"]

    rows = [row for row in thresholds.to_pylist() if row["method"] == method]
    for (run, rule), part in groupby(sorted(rows, key=page), key=page):
        names = ("seed", "limit", "predicted by")
        table = _view(f"{run}, method {method}, epsilon {rule}", names, ("predicted, interval", "measured", "gap"))
        own = sorted(part, key=lambda row: (row["seed"], *prediction_order("", row["operator"])))
        for seed, of_seed in groupby(own, key=lambda row: row["seed"]):
            found = list(of_seed)
            for limit, stage, criterion, predictor in _LIMITS:
                facts = [row for row in found if (row["stage"], row["criterion"]) == (stage, criterion)]
                guess = next((row for row in facts if row["predictor"] == predictor), None)
                if facts:
                    by = "-" if guess is None else f"{predictor}"
                    predicted = "-" if guess is None else _predicted(guess)
                    table.add_row(str(seed), limit, by, predicted, _measured(facts[0]), _gap(guess))
            table.add_section()
        yield table


def threshold_view(thresholds: pa.Table, method: str = "magnitude") -> Table:
    """One line for each prediction, with measured thresholds beside it and the gap to the first of them.

    Args:
        thresholds: the table.
        method: whose measured thresholds.
    """
    title = f"Predicted and measured pruning thresholds (sparsity; method {method})"
    names = ("run", "seed", "predictor", "operator", "epsilon", "predicted, interval")
    table = _view(title, names, (*(heading for heading, _, _ in _MEASURED), "gap"))

    def place(row: dict[str, Any]) -> tuple:
        return row["run"], row["seed"], *prediction_order(row["predictor"], row["operator"]), row["epsilon_rule"]

    rows = sorted((row for row in thresholds.to_pylist() if row["method"] == method), key=place)
    for _, part in groupby(rows, key=lambda row: (row["run"], row["seed"])):
        for _, line in groupby(part, key=place):
            by_criterion = {(row["stage"], row["criterion"]): row for row in line}
            row = next(iter(by_criterion.values()))
            measured = [by_criterion.get((stage, criterion)) for _, stage, criterion in _MEASURED]
            table.add_row(
                *(str(row[name]) for name in _PREDICTION),
                _predicted(row),
                *map(_measured, measured),
                _gap(measured[0]),
            )
        table.add_section()
    return table


def cost_view(costs: pa.Table, sections: Mapping[str, str]) -> Table:
    """One line for each rule: what its jobs cost, and what `resources` should say.

    Args:
        costs: the table.
        sections: rule -> section of `resources`.
    """
    numbers = ("jobs", "median s", "longest s", "hours in all", "largest MB", "mem_mb", "runtime, min")
    table = _view("What jobs cost, and what to ask for", ("rule", "section of resources"), numbers)
    formats = {"median_seconds": ".1f", "longest_seconds": ".1f", "hours": ".2f", "largest_rss_mb": ".0f"}
    for row in advice(costs, sections):
        table.add_row(*(format(value, formats.get(name, "")) for name, value in row.items()))
    return table


def sheet_view(sheet: Sheet) -> Table:
    """A sheet of the comparison."""
    table = _view(sheet.title, sheet.header[:2], sheet.header[2:], no_wrap=True)
    for section in sheet.sections:
        for row in section:
            table.add_row(*(Text(cell.text, "bold" if cell.bold else "") for cell in row))
        table.add_section()
    return table


def _console(least: int) -> Console:
    # A pipe has no width of its own; a table squeezed into 80 columns helps nobody.
    console = Console()
    return console if console.is_terminal and console.width >= least else Console(width=least + 20)


def _table(name: str, results: Path) -> pa.Table:
    path = results / "tables" / f"{name}.parquet"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; run the workflow first")
    return read_table(name, path)


def print_costs(results: Path, sections: Mapping[str, str]) -> None:
    """Print the table of costs of a results directory.

    Args:
        results: the directory.
        sections: rule -> section of `resources`.

    Raises:
        FileNotFoundError: when the workflow has not finished.
    """
    console = _console(110)
    console.print(cost_view(_table("costs", results), sections))
    console.print("mem_mb, runtime: for a job like the largest one; a section takes the largest of its rules")
    console.print(
        "finetune, train_sparse: runtime is for a job of all its sparsities, that of resources for one of them"
    )


def print_comparison(results: Path) -> None:
    """Print the comparison of methods of a results directory, run by run.

    Raises:
        FileNotFoundError: when the workflow has not finished.
    """
    tables = (_table(name, results).to_pylist() for name in ("comparison", "comparison_thresholds"))
    console = _console(150)
    for page in comparison_pages(*tables):
        console.print(Text(f"\n{page.title}", "bold"))
        console.print(Text(page.text))
        for sheet in page.sheets:
            console.print(sheet_view(sheet))
    console.print("test split; mean ± standard deviation over seeds (rank at that sparsity); † a layer without weights")
    console.print(f"terms: results/README.md; the same as text: {results}/tables/comparison.md")


def print_thresholds(results: Path, every: bool = False) -> None:
    """Print the two limits of each network, predicted and measured, and name the files of a results directory.

    Args:
        results: the directory.
        every: every predictor and operator instead, and the objective too.

    Raises:
        FileNotFoundError: when the workflow has not finished.
    """
    thresholds = _table("thresholds", results)
    methods = set(thresholds["method"].to_pylist())
    method = "magnitude" if "magnitude" in methods else min(methods, default="magnitude")
    console = _console(150 if every else 100)
    if every:
        console.print(threshold_view(thresholds, method))
        console.print("gap = predicted - one-shot data-loss threshold; columns and units: results/README.md")
    else:
        console.print("Predicted and measured pruning thresholds (sparsity, training data loss)")
        for view in limit_views(thresholds, method):
            console.print(view)
        console.print("one-shot: against the dense network; fine-tuned: against the dense network trained on as long")
        console.print("gap = predicted - lower end of the bracket; every predictor: gwprune thresholds --all")
    console.print(f"tables: {results}/tables/*.parquet, {results}/tables/thresholds.csv")
    if (results / "report.html").exists():
        console.print(f"report: {results}/report.html")
