"""The comparison as people read it: sheets of cells, as Markdown (which is aligned, for terminals too) and as HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from .costs import advice
from .schemas import STAGES
from .thresholds import bracket_text, decimals

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["NOTES", "Cell", "Page", "Sheet", "comparison_pages", "cost_sheet", "html", "markdown"]

Row = dict[str, Any]

_COLUMNS = 5  # sparsities side by side, so that a line fits on a wide terminal
_EMPTY = "†"
NOTES = (
    "Accuracies are of the test split, in percent: mean ± standard deviation over the seeds if there are several, in"
    " brackets the rank among"
    f" all methods and stages at the same sparsity; the best is bold. {_EMPTY}: some layer has no weight left.",
    "Speed-up is theoretical: multiply-adds of the dense network over those of the weights left. Epochs count from"
    " initialisation, or from a network that was given trained. Thresholds: mean ± standard deviation over the seeds,"
    " where each seed's bracket is known, and the"
    " smallest interval that holds the brackets of all seeds; >=: some seed met it throughout; <: some seed missed it"
    " at the first sparsity.",
)


@dataclass(frozen=True)
class Cell:
    """A text, bold or not, and what it stands for, to be sorted by."""

    text: str
    bold: bool = False
    value: str | float | None = None


@dataclass(frozen=True)
class Sheet:
    """A table of texts: sections of rows, as long as the header each."""

    title: str
    header: Sequence[str]
    sections: Sequence[Sequence[Sequence[Cell]]]

    @property
    def rows(self) -> Iterator[Sequence[Cell]]:
        """All rows, section after section."""
        return (row for section in self.sections for row in section)


@dataclass(frozen=True)
class Page:
    """What is said of one run."""

    title: str
    text: str
    sheets: Sequence[Sheet]


def _sections(rows: Iterable[Row], column: Callable, cells: Callable) -> list[list[list[Cell]]]:
    """One section for each stage, one row for each method: the names of both, then ``cells(column -> row)``."""
    stages = list(STAGES)
    order = sorted(rows, key=lambda row: (stages.index(row["stage"]), row["method"] != "magnitude", row["method"]))
    return [
        [
            [Cell(stage), Cell(method), *cells({column(row): row for row in own})]
            for method, own in groupby(part, key=lambda row: row["method"])
        ]
        for stage, part in groupby(order, key=lambda row: row["stage"])
    ]


def _factor(value: float) -> str:
    return f"x{value:.3g}" if value < 1000 else f"x{value:.0f}"


def _epochs(rows: Iterable[Row]) -> str:
    values = [row["epochs"] for row in rows]
    ends = [f"{value:.4g}" for value in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _with_deviation(row: Row) -> str:
    """Mean accuracy, with its deviation where there are several seeds."""
    deviation = f" ± {row['accuracy_std']:.2f}" if row["seeds"] > 1 else ""
    return f"{row['accuracy_mean']:.2f}{deviation}"


def _accuracy(row: Row | None) -> Cell:
    if row is None:
        return Cell("-")
    mark = _EMPTY if row["empty_layers"] else ""
    text = f"{_with_deviation(row)} ({row['rank']}){mark}"
    return Cell(text, bold=row["rank"] == 1 and row["ranked"] > 1)


def _threshold(row: Row | None) -> Cell:
    if row is None:
        return Cell("-")
    bracket = bracket_text(row["threshold_lower"], row["threshold_upper"])
    if not row["threshold_std"]:  # the seeds share one bracket, or are not known: no number says more
        return Cell(bracket)
    digits = decimals(row["threshold_std"])
    return Cell(f"{row['threshold_mean']:.{digits}f} ± {row['threshold_std']:.{digits}f} {bracket}")


def _accuracy_sheets(rows: list[Row]) -> Iterator[Sheet]:
    pruned = [row for row in rows if row["sparsity"] > 0]
    sparsities = sorted({row["sparsity"] for row in pruned})
    for block in (sparsities[start : start + _COLUMNS] for start in range(0, len(sparsities), _COLUMNS)):
        part = [row for row in pruned if row["sparsity"] in block]
        header = ["stage", "method", *(f"{sparsity:.6g}" for sparsity in block)]

        def accuracies(own: dict[float, Row], block: Sequence[float] = block) -> list[Cell]:
            return [*(_accuracy(own.get(sparsity)) for sparsity in block), Cell(_epochs(own.values()))]

        def factors(own: dict[float, Row], column: str, block: Sequence[float] = block) -> list[Cell]:
            return [Cell(_factor(own[sparsity][column]) if sparsity in own else "-") for sparsity in block]

        # At the same sparsity it is the same for all but for rounding.
        compression = factors({row["sparsity"]: row for row in part}, "compression")
        first = [Cell(""), Cell("compression"), *compression, Cell("")]
        sections = [[first], *_sections(part, itemgetter("sparsity"), accuracies)]
        yield Sheet("test accuracy at each sparsity", [*header, "epochs"], sections)
        sections = _sections(part, itemgetter("sparsity"), partial(factors, column="speedup"))
        yield Sheet("theoretical speed-up at each sparsity", header, sections)


def _threshold_sheets(rows: list[Row]) -> Iterator[Sheet]:
    column = itemgetter("criterion", "epsilon_rule")
    columns = sorted(set(map(column, rows)), key=lambda key: (key[0].startswith("accuracy"), key))
    if columns:
        sections = _sections(rows, column, lambda own: [_threshold(own.get(key)) for key in columns])
        names = [" ".join(filter(None, key)) for key in columns]
        yield Sheet("measured thresholds (sparsity)", ["stage", "method", *names], sections)


def comparison_pages(rows: Iterable[Row], thresholds: Iterable[Row]) -> list[Page]:
    """Pages of the comparison, one for each run, by network, data set and recipe.

    Args:
        rows: those of table `comparison`.
        thresholds: those of table `comparison_thresholds`.
    """
    rows, thresholds = list(rows), list(thresholds)
    pages = []
    for network, dataset, run in sorted({(row["network"], row["dataset"], row["run"]) for row in rows}):
        own = [row for row in rows if row["run"] == run]
        counts = [row["seeds"] for row in own]
        seeds = sorted({min(counts), max(counts)})
        dense = next((row for row in own if row["stage"] == "one_shot" and row["sparsity"] == 0), own[0])
        deviation = f" ± {dense['accuracy_std']:.2f}" if dense["sparsity"] == 0 and dense["seeds"] > 1 else ""
        text = (
            f"run {run}; {' to '.join(map(str, seeds))} seed(s); dense network:"
            f" {dense['dense_accuracy_mean']:.2f}{deviation} % on the test split,"
            f" {dense['dense_multiply_adds']:,.0f} multiply-adds; {dense['source']}"
        )
        sheets = [*_accuracy_sheets(own), *_threshold_sheets([row for row in thresholds if row["run"] == run])]
        pages.append(Page(f"{network} on {dataset}, l1 {own[0]['l1']:g}", text, sheets))
    return pages


def cost_sheet(costs: pa.Table, sections: Mapping[str, str]) -> Sheet:
    """One line for each rule: what its jobs cost, and what `resources` should say.

    Args:
        costs: the table.
        sections: rule -> section of `resources`.
    """
    formats = {"median_seconds": ".1f", "longest_seconds": ".1f", "hours": ".2f", "largest_rss_mb": ".0f"}
    lines = [
        [Cell(format(value, formats.get(name, "")), value=value) for name, value in row.items()]
        for row in advice(costs, sections)
    ]
    numbers = ("jobs", "median s", "longest s", "hours in all", "largest MB", "mem_mb", "runtime, min")
    return Sheet("what jobs cost, and what to ask for", ("rule", "section of resources", *numbers), [lines])


def markdown(pages: Iterable[Page]) -> str:
    """The pages as one Markdown text, its columns aligned."""
    lines = ["# Comparison of pruning methods", "", *(line for note in NOTES for line in (note, ""))]
    for page in pages:
        lines += [f"## {page.title}", "", page.text, ""]
        for sheet in page.sheets:
            texts = [[f"**{cell.text}**" if cell.bold else cell.text for cell in row] for row in sheet.rows]
            widths = [max(map(len, column)) for column in zip(sheet.header, *texts, strict=True)]

            def line(cells: Iterable[str], widths: Sequence[int] = widths) -> str:
                # Names to the left, numbers to the right.
                padded = [f"{cell:{'<' if i < 2 else '>'}{widths[i]}}" for i, cell in enumerate(cells)]
                return f"| {' | '.join(padded)} |"

            rule = [f"{'-' * (width - 1)}{'-' if i < 2 else ':'}" for i, width in enumerate(widths)]
            lines += [f"### {sheet.title}", "", line(sheet.header), line(rule), *map(line, texts), ""]
    return "\n".join(lines)


_STYLE = (
    "body{font:14px sans-serif;margin:1.5em}table{border-collapse:collapse;margin-bottom:1.5em}"
    "th,td{padding:2px 10px;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}"
    "th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}tbody{border-bottom:2px solid #888}"
)


def html(pages: Iterable[Page]) -> str:
    """The pages as one HTML document that needs nothing else."""

    def line(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"

    lines = ["<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8"><title>Comparison</title>']
    lines += [f"<style>{_STYLE}</style></head><body>", "<h1>Comparison of pruning methods</h1>"]
    lines += [f"<p>{escape(note)}</p>" for note in NOTES]
    for page in pages:
        lines += [f"<h2>{escape(page.title)}</h2>", f"<p>{escape(page.text)}</p>"]
        for sheet in page.sheets:
            lines += [f"<h3>{escape(sheet.title)}</h3>", "<table>"]
            lines.append(f"<thead>{line(map(escape, sheet.header), 'th')}</thead>")
            for section in sheet.sections:
                cells = ([f"<b>{escape(c.text)}</b>" if c.bold else escape(c.text) for c in row] for row in section)
                lines += ["<tbody>", *(line(row, "td") for row in cells), "</tbody>"]
            lines.append("</table>")
    return "\n".join([*lines, "</body></html>", ""])
