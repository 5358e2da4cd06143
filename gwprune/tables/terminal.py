"""Tables for people, on the terminal."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .costs import advice
from .files import read_table, tables_folder
from .rendering import Sheet, comparison_pages
from .schemas import prediction_order
from .thresholds import LIMITS, bracket_text, gap_text, interval_text, limit_rows, main_method

__all__ = [
    "cost_view",
    "limit_views",
    "prediction_views",
    "print_comparison",
    "print_costs",
    "print_thresholds",
    "sheet_view",
]

# Measurements that a person compares with a prediction: (stage, criterion) -> name.
_MEASURED = {
    ("one_shot", "loss_tolerance"): "one-shot, data loss",
    ("one_shot", "objective_tolerance"): "one-shot, objective",
    ("fine_tuned", "control_loss_tolerance"): "fine-tuned, data loss",
}
_LEAST = 80  # columns that every terminal has
_WIDE = 100  # columns for a prediction, its predictor and its interval on one line


def _view(title: str, left: Iterable[str], right: Iterable[str], no_wrap: bool = False) -> Table:
    """An empty table with columns of names to the left and columns of numbers to the right."""
    table = Table(title=title, title_justify="left")
    for names, justify in ((left, "left"), (right, "right")):
        for name in names:
            table.add_column(name, justify=justify, no_wrap=no_wrap)
    return table


def _bracket(row: dict[str, Any]) -> str:
    return bracket_text(row["empirical_lower"], row["empirical_upper"])


def _gap(row: dict[str, Any] | None) -> str:
    return "-" if row is None else gap_text(row["gap"], row["empirical_lower"], row["empirical_upper"])


def _predicted(row: dict[str, Any], wide: bool) -> str:
    if row["predicted"] is None:
        return "-"
    text = interval_text(row["predicted"], row["predicted_lower"], row["predicted_upper"])
    return text if wide else text.replace(" ", "\n", 1)


def limit_views(thresholds: pa.Table, method: str = "magnitude", wide: bool = True) -> Iterator[Table]:
    """One table for each run and epsilon rule, two lines for each seed: what predicts a limit, and what was measured.

    Args:
        thresholds: the table.
        method: whose limits.
        wide: whether there are 100 columns; else predictions are folded, and 80 are enough.
    """
    rows = limit_rows(thresholds, method)
    for (run, rule), page in groupby(rows, key=itemgetter("run", "epsilon_rule")):
        names = ("seed", "limit", *(["predicted by"] if wide else []))
        table = _view(f"{run}, method {method}, epsilon {rule}", names, ("predicted, interval", "measured", "gap"))
        for _, lines in groupby(page, key=itemgetter("seed")):
            for row in lines:
                predictor, predicted = row["predictor"] or "-", _predicted(row, True)
                cells = [predictor, predicted] if wide else [f"{predicted}\nby {predictor}"]
                table.add_row(str(row["seed"]), row["limit"], *cells, _bracket(row), _gap(row))
            table.add_section()
        yield table


def prediction_views(thresholds: pa.Table, method: str = "magnitude", wide: bool = True) -> Iterator[Table]:
    """One table for each run, epsilon rule and seed: what was measured, then every prediction and its gaps.

    Args:
        thresholds: the table.
        method: whose measured thresholds.
        wide: whether there are 100 columns; else predictions are folded, and 80 are enough.
    """

    def page(row: dict[str, Any]) -> tuple:
        return row["run"], row["epsilon_rule"], row["seed"]

    def line(row: dict[str, Any]) -> tuple:
        return prediction_order(row["predictor"], row["operator"])

    rows = sorted((row for row in thresholds.to_pylist() if row["method"] == method), key=lambda r: (page(r), line(r)))
    for (run, rule, seed), of_page in groupby(rows, key=page):
        found = list(of_page)
        measured = {(row["stage"], row["criterion"]): _bracket(row) for row in found}
        title = [f"{run}, seed {seed}, method {method}, epsilon {rule}"]
        title += [f"measured {name}: {measured[key]}" for key, name in _MEASURED.items() if key in measured]
        gaps = [f"{limit.name}\ngap" for limit in LIMITS]
        names = ("predictor", "operator", "predicted, interval" if wide else "predicted,\ninterval")
        table = _view("\n".join(title), names, gaps)
        for _, of_line in groupby(found, key=line):
            own = {(row["stage"], row["criterion"]): row for row in of_line}
            facts = [own.get((limit.stage, limit.criterion)) for limit in LIMITS]
            row = next(filter(None, [*facts, *own.values()]))
            table.add_row(row["predictor"], row["operator"], _predicted(row, wide), *map(_gap, facts))
        yield table


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
    path = tables_folder(results) / f"{name}.parquet"
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

    It fits into 80 columns, and takes more where the terminal has them.

    Args:
        results: the directory.
        every: every predictor and operator instead, and the objective too.

    Raises:
        FileNotFoundError: when the workflow has not finished.
    """
    thresholds = _table("thresholds", results)
    columns = max(_LEAST, shutil.get_terminal_size((_WIDE, 24)).columns)
    console, method = Console(width=columns), main_method(thresholds["method"].to_pylist())
    console.print("Predicted and measured pruning thresholds (sparsity)\n")
    for view in (prediction_views if every else limit_views)(thresholds, method, columns >= _WIDE):
        console.print(view)
    console.print("limits: training data loss against the dense network (one-shot), or against")
    console.print("the dense network trained on as long (fine-tuned); gap = predicted - lower end")
    if not every:
        console.print("every predictor: gwprune thresholds --all")
    files = [("tables", tables_folder(results) / "*.parquet")]
    if (results / "report.html").exists():
        files.append(("report", results / "report.html"))
    for name, path in files:
        console.print(f"{name}: {path}", soft_wrap=True)
