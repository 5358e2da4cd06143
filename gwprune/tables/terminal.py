"""Tables for people, on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .costs import advice
from .rendering import Sheet, comparison_pages
from .schemas import read_table

__all__ = ["cost_view", "print_comparison", "print_costs", "print_thresholds", "sheet_view", "threshold_view"]

# Measurements that a person compares with a prediction: (heading, stage, criterion).
_MEASURED = (
    ("one-shot\ndata loss", "one_shot", "loss_tolerance"),
    ("one-shot\nobjective", "one_shot", "objective_tolerance"),
    ("fine-tuned\ndata loss", "fine_tuned", "loss_tolerance"),
)


def _interval(value: float, lower: float, upper: float) -> str:
    return f"{value:.4f} [{lower:.4f}, {upper:.4f}]"


def _bracketed(row: dict[str, Any] | None) -> bool:
    return row is not None and row["empirical_lower"] > 0.0 and row["empirical_upper"] < 1.0


def _measured(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if row["empirical_lower"] == 0.0:  # missed at the first sparsity that was tried
        return f"< {row['empirical_upper']:.4f}"
    # An upper end of 1 says that the criterion held up to the last sparsity that was tried.
    return f"{'>= ' if row['empirical_upper'] == 1.0 else ''}{row['empirical']:.4f}"


def threshold_view(rows: list[dict[str, Any]], method: str = "magnitude") -> Table:
    """One line per prediction; measured thresholds of ``method`` beside it, and the gap to the first of them."""
    table = Table(title=f"Predicted and measured pruning thresholds (sparsity; method {method})", title_justify="left")
    for name in ("run", "seed", "predictor", "operator", "epsilon"):
        table.add_column(name)
    table.add_column("predicted [interval]")
    for heading, _, _ in _MEASURED:
        table.add_column(heading, justify="right")
    table.add_column("gap", justify="right")
    lines: dict[tuple, dict[tuple, dict[str, Any]]] = {}
    for row in rows:
        if row["method"] == method:
            key = tuple(row[name] for name in ("run", "seed", "predictor", "operator", "epsilon_rule"))
            lines.setdefault(key, {})[row["stage"], row["criterion"]] = row
    order = {"width": 0, "quadratic": 1, "trace_bound": 2}
    previous = None
    for key in sorted(lines, key=lambda key: (key[0], key[1], order.get(key[2], 9), key[3] != "hessian", key[4])):
        if previous not in (None, key[:2]):
            table.add_section()
        previous = key[:2]
        found = lines[key]
        prediction = next(iter(found.values()))
        measured = [found.get((stage, criterion)) for _, stage, criterion in _MEASURED]
        table.add_row(
            key[0],
            str(key[1]),
            *key[2:],
            _interval(*(prediction[f"predicted{part}"] for part in ("", "_lower", "_upper"))),
            *map(_measured, measured),
            f"{measured[0]['gap']:+.4f}" if _bracketed(measured[0]) else "-",
        )
    return table


def _console(least: int) -> Console:
    # A pipe has no width of its own; a table squeezed into 80 columns helps nobody.
    console = Console()
    return console if console.is_terminal and console.width >= least else Console(width=least + 20)


def _rows_of(name: str, results: Path) -> list[dict[str, Any]]:
    path = results / "tables" / f"{name}.parquet"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; run the workflow first")
    return read_table(name, path).to_pylist()


def cost_view(rows: list[dict[str, Any]]) -> Table:
    """One line per rule: what its jobs cost, and what `resources` should say."""
    table = Table(title="What jobs cost, and what to ask for", title_justify="left")
    for name in ("rule", "section of resources"):
        table.add_column(name)
    for name in ("jobs", "median s", "longest s", "hours in all", "largest MB", "mem_mb", "runtime, min"):
        table.add_column(name, justify="right")
    for row in advice(rows):
        numbers = (f"{row[name]:.1f}" for name in ("median_seconds", "longest_seconds"))
        sizes = (f"{row['hours']:.2f}", f"{row['largest_rss_mb']:.0f}", str(row["mem_mb"]), str(row["runtime"]))
        table.add_row(row["rule"], row["section"], str(row["jobs"]), *numbers, *sizes)
    return table


def print_costs(results: Path) -> None:
    """Print the table of costs of a results directory.

    Raises:
        FileNotFoundError: when the workflow has not finished.
    """
    console = _console(110)
    console.print(cost_view(_rows_of("costs", results)))
    console.print("mem_mb, runtime: for a job like the largest one; a section takes the largest of its rules")
    console.print(
        "finetune, train_sparse: runtime is for a job of all its sparsities, that of resources for one of them"
    )


def sheet_view(sheet: Sheet) -> Table:
    """A sheet of the comparison."""
    table = Table(title=sheet.title, title_justify="left")
    for number, name in enumerate(sheet.header):
        table.add_column(name, justify="left" if number < 2 else "right", no_wrap=True)
    for section in sheet.sections:
        for row in section:
            table.add_row(*(Text(cell.text, "bold" if cell.bold else "") for cell in row))
        table.add_section()
    return table


def print_comparison(results: Path) -> None:
    """Print the comparison of methods of a results directory, run by run.

    Raises:
        FileNotFoundError: when the workflow has not finished.
    """
    tables = (_rows_of(name, results) for name in ("comparison", "comparison_thresholds"))
    console = _console(150)
    for page in comparison_pages(*tables):
        console.print(Text(f"\n{page.title}", "bold"))
        console.print(Text(page.text))
        for sheet in page.sheets:
            console.print(sheet_view(sheet))
    console.print("test split; mean ± standard deviation over seeds (rank at that sparsity); † a layer without weights")
    console.print(f"terms: results/README.md; the same as text: {results}/tables/comparison.md")


def print_thresholds(results: Path) -> None:
    """Print the table of thresholds and name the files of a results directory.

    Raises:
        FileNotFoundError: when the workflow has not finished.
    """
    rows, console = _rows_of("thresholds", results), _console(130)
    methods = {row["method"] for row in rows}
    console.print(threshold_view(rows, "magnitude" if "magnitude" in methods else min(methods, default="magnitude")))
    console.print("gap = predicted - one-shot data-loss threshold; columns and units: results/README.md")
    console.print(f"tables: {results}/tables/*.parquet, {results}/tables/thresholds.csv")
    if (results / "report.html").exists():
        console.print(f"report: {results}/report.html")
