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

from ..spectral.predictors import PREDICTORS
from .files import read_table, tables_folder
from .rendering import Sheet, comparison_pages, cost_sheet
from .schemas import prediction_order
from .thresholds import LIMITS, bracket_text, gap_text, interval_text, limit_rows, main_method

__all__ = [
    "MEASURED",
    "limit_views",
    "prediction_views",
    "print_comparison",
    "print_costs",
    "print_thresholds",
    "sheet_views",
]

# Measurements that a person compares with a prediction: (stage, criterion) -> name.
MEASURED = {
    ("one_shot", "loss_tolerance"): "one-shot, data loss",
    ("one_shot", "objective_tolerance"): "one-shot, objective",
    ("fine_tuned", "control_loss_tolerance"): "fine-tuned, data loss",
    ("fine_tuned", "control_objective_tolerance"): "fine-tuned, objective",
}
_LEAST = 80  # columns that every terminal has
_WIDE = 100  # columns for a prediction, its predictor and its interval on one line
_PIPE = 170  # columns of what is no terminal


def _view(title: str, left: Iterable[str], right: Iterable[str], no_wrap: bool = False) -> Table:
    """An empty table with columns of names to the left and columns of numbers to the right."""
    table = Table(title=title, title_justify="left")
    for name in left:
        table.add_column(name, justify="left", no_wrap=no_wrap)
    for name in right:
        table.add_column(name, justify="right", no_wrap=no_wrap)
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

    A predictor with a model of its own for each of several criteria has a line for each of those that were measured.

    Args:
        thresholds: the table.
        method: whose measured thresholds.
        wide: whether there are 100 columns; else predictions are folded, and 80 are enough.
    """

    def page(row: dict[str, Any]) -> tuple:
        return row["run"], row["epsilon_rule"], row["seed"]

    def model(row: dict[str, Any]) -> str:
        """The criterion whose model the row's prediction is of; empty for the predictor's first or only one."""
        known = PREDICTORS.get(row["predictor"])
        own = known.criterion_for(row["criterion"]) if known else ""
        return own if known and own != known.criteria[0] else ""

    def line(row: dict[str, Any]) -> tuple:
        return *prediction_order(row["predictor"], row["operator"]), model(row)

    rows = sorted((row for row in thresholds.to_pylist() if row["method"] == method), key=lambda r: (page(r), line(r)))
    for (run, rule, seed), of_page in groupby(rows, key=page):
        found = list(of_page)
        measured = {(row["stage"], row["criterion"]): _bracket(row) for row in found}
        title = [f"{run}, seed {seed}, method {method}, epsilon {rule}"]
        title += [f"measured {name}: {measured[key]}" for key, name in MEASURED.items() if key in measured]
        gaps = [f"{limit.name}\ngap" for limit in LIMITS]
        names = ("predictor", "operator", "predicted, interval" if wide else "predicted,\ninterval")
        table = _view("\n".join(title), names, gaps)
        for _, of_line in groupby(found, key=line):
            own = {(row["stage"], row["criterion"]): row for row in of_line}
            of = model(next(iter(own.values())))
            criteria = [limit.criterion.replace("loss_tolerance", of or "loss_tolerance") for limit in LIMITS]
            facts = [own.get((limit.stage, name)) for limit, name in zip(LIMITS, criteria, strict=True)]
            row = next(filter(None, [*facts, *own.values()]))
            name = f"{row['predictor']}, {of.removesuffix('_tolerance')}" if of else row["predictor"]
            table.add_row(name, row["operator"], _predicted(row, wide), *map(_gap, facts))
        yield table


def sheet_views(sheet: Sheet, columns: int) -> Iterator[Table]:
    """A sheet as one table, or as several below each other: each with the first two columns and as many as fit.

    Args:
        sheet: its first two columns hold names.
        columns: of the terminal.
    """
    names = [name.replace(" ", "\n") for name in sheet.header]
    texts = zip(*([cell.text for cell in row] for row in sheet.rows), strict=True)
    widths = [
        max(map(len, [*name.splitlines(), *column])) + 3  # what rich puts between two columns
        for name, column in zip(names, texts, strict=True)
    ]
    blocks: list[list[int]] = [[]]
    for place in range(2, len(names)):
        if blocks[-1] and sum(widths[i] for i in (0, 1, *blocks[-1], place)) >= columns:
            blocks.append([])
        blocks[-1].append(place)
    for block in blocks:
        table = _view(sheet.title, names[:2], [names[i] for i in block], no_wrap=True)
        for section in sheet.sections:
            for row in section:
                table.add_row(*(Text(row[i].text, "bold" if row[i].bold else "") for i in (0, 1, *block)))
            table.add_section()
        yield table


def _columns() -> int:
    """Columns of the terminal; a pipe has as many as the widest table is worth."""
    return max(_LEAST, shutil.get_terminal_size((_PIPE, 24)).columns)


def _table(name: str, results: Path) -> pa.Table:
    path = tables_folder(results) / f"{name}.parquet"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; run the workflow first, or name where its results are")
    return read_table(name, path)


def print_costs(results: Path, sections: Mapping[str, str]) -> None:
    """Print the table of costs of a results directory.

    Args:
        results: the directory.
        sections: rule -> section of `resources`.

    Raises:
        FileNotFoundError: when the workflow has not finished.
    """
    console = Console(width=_columns(), highlight=False)
    for view in sheet_views(cost_sheet(_table("costs", results), sections), console.width):
        console.print(view)
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
    console = Console(width=_columns(), highlight=False)
    for page in comparison_pages(*tables):
        console.print(Text(f"\n{page.title}", "bold"))
        console.print(Text(page.text))
        for view in (view for sheet in page.sheets for view in sheet_views(sheet, console.width)):
            console.print(view)
    console.print("test split; mean ± standard deviation over seeds (rank at that sparsity); † a layer without weights")
    console.print(f"terms: results/README.md; the same as text: {results}/tables/comparison.md", soft_wrap=True)


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
    console, method = Console(width=_columns(), highlight=False), main_method(thresholds["method"].to_pylist())
    console.print("Predicted and measured pruning thresholds (sparsity)\n")
    for view in (prediction_views if every else limit_views)(thresholds, method, console.width >= _WIDE):
        console.print(view)
    console.print("limits: training data loss against the dense network (one-shot), or against")
    console.print("the dense network trained on as long (fine-tuned); gap = predicted - lower end")
    if not every:
        console.print(f"every predictor: gwprune thresholds {results} --all", soft_wrap=True)
    files = [("tables", tables_folder(results) / "*.parquet")]
    if (results / "report.html").exists():
        files.append(("report", results / "report.html"))
    for name, path in files:
        console.print(f"{name}: {path}", soft_wrap=True)
