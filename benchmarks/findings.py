"""What the committed comparison says about the paper's two claims: the tables of docs/findings.md.

    python -m benchmarks.findings [DIRECTORY OF TABLES]

Reads result tables, by default those under results/reference/fashion_mnist, and writes the generated sections.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.reporting import markdown_table, replace_section
from gwprune.tables.schemas import read_table

__all__ = ["accuracy_table", "agreement_table", "coincide", "prediction_tables"]

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "results" / "reference" / "fashion_mnist"
PAGE = ROOT / "docs" / "findings.md"

Row = Mapping[str, Any]


def coincide(row: Row) -> bool:
    """Whether the predicted interval and the measured bracket of a row of table `thresholds` have a point in common."""
    return row["predicted_lower"] <= row["empirical_upper"] and row["empirical_lower"] <= row["predicted_upper"]


def _interval(value: float, lower: float, upper: float) -> str:
    return f"{value:.3f} [{lower:.3f}, {upper:.3f}]"


def _wanted(thresholds: Iterable[Row], stage: str = "one_shot") -> list[Row]:
    """Thresholds of global magnitude pruning, which is what predictions are of."""
    return [row for row in thresholds if row["method"] == "magnitude" and row["stage"] == stage]


def _criteria(rows: Sequence[Row]) -> list[str]:
    return sorted({row["criterion"] for row in rows}, key=lambda name: (name.startswith("accuracy"), name))


def prediction_tables(thresholds: Iterable[Row]) -> str:
    """For every run a table: predictions of each seed beside the measured thresholds, with intervals."""
    rows, text = _wanted(thresholds), []
    for run in sorted({row["run"] for row in rows}):
        part = [row for row in rows if row["run"] == run]
        criteria, lines = _criteria(part), []
        for seed in sorted({row["seed"] for row in part}):
            own = [row for row in part if row["seed"] == seed]
            measured = {row["criterion"]: row for row in own}
            cells = [
                "never missed"
                if row["empirical_upper"] >= 1
                else f"{row['empirical_lower']:.3f} to {row['empirical_upper']:.3f}"
                for row in (measured[name] for name in criteria)
            ]
            lines.append([seed, "**measured**", *cells])
            for predictor, operator in sorted({(row["predictor"], row["operator"]) for row in own}):
                found = {r["criterion"]: r for r in own if (r["predictor"], r["operator"]) == (predictor, operator)}
                any_ = next(iter(found.values()))
                value = _interval(any_["predicted"], any_["predicted_lower"], any_["predicted_upper"])
                marks = [
                    f"{found[name]['gap']:+.3f}{' (inside)' if coincide(found[name]) else ''}" for name in criteria
                ]
                lines.append(["", f"`{predictor}`, {operator}: {value}", *marks])
        text += [f"### `{run}`", "", markdown_table(["seed", "prediction [interval]", *criteria], lines)]
    return "\n".join(text)


def agreement_table(thresholds: Iterable[Row]) -> str:
    """For every run, predictor and criterion: in how many seeds interval and bracket meet, and the mean gap."""
    rows, lines = _wanted(thresholds), []
    criteria = _criteria(rows)
    for run, predictor, operator in sorted({(r["run"], r["predictor"], r["operator"]) for r in rows}):
        own = [r for r in rows if (r["run"], r["predictor"], r["operator"]) == (run, predictor, operator)]
        cells = []
        for name in criteria:
            found = [row for row in own if row["criterion"] == name]
            met = sum(coincide(row) for row in found)
            cells.append(f"{met} of {len(found)}, {fmean(row['gap'] for row in found):+.3f}")
        wide = fmean(row["predicted_upper"] - row["predicted_lower"] for row in own)
        lines.append([f"`{run}`", f"`{predictor}`", operator, f"{wide:.3f}", *cells])
    return markdown_table(["run", "predictor", "operator", "interval's width", *criteria], lines)


def accuracy_table(comparison: Iterable[Row], network: str) -> str:
    """Test accuracy of every method on a network, with and without l1, at the sparsities that were fine-tuned."""
    rows = [row for row in comparison if row["network"] == network]
    columns = sorted({row["sparsity"] for row in rows if row["stage"] == "fine_tuned"})
    groups: dict[tuple, dict[float, Row]] = {}
    for row in rows:
        if row["sparsity"] in columns:
            groups.setdefault((row["stage"], row["method"], row["l1"]), {})[row["sparsity"]] = row
    best = {s: max(found[s]["accuracy_mean"] for found in groups.values() if s in found) for s in columns}
    lines = []
    for (stage, method, l1), found in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1], -item[0][2])):
        cells = []
        for s in columns:
            text = f"{found[s]['accuracy_mean']:.1f} ± {found[s]['accuracy_std']:.1f}" if s in found else ""
            cells.append(f"**{text}**" if s in found and found[s]["accuracy_mean"] == best[s] else text)
        spent = sorted({round(row["epochs"]) for row in found.values()})
        epochs = str(spent[0]) if len(spent) == 1 else f"{spent[0]} to {spent[-1]}"
        lines.append([stage, f"`{method}`", f"{l1:g}", epochs, *cells])
    return markdown_table(["stage", "method", "l1", "epochs", *(f"{s:g}" for s in columns)], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="?", type=Path, default=TABLES, help="directory of Parquet tables")
    parser.add_argument("--page", type=Path, default=PAGE, help="markdown page to write")
    chosen = parser.parse_args()
    thresholds = read_table("thresholds", chosen.tables / "thresholds.parquet").to_pylist()
    comparison = read_table("comparison", chosen.tables / "comparison.parquet").to_pylist()
    replace_section(chosen.page, "agreement", agreement_table(thresholds))
    replace_section(chosen.page, "predictions", prediction_tables(thresholds))
    networks = sorted({row["network"] for row in comparison})
    parts = [f"### {network}\n\n{accuracy_table(comparison, network)}" for network in networks]
    replace_section(chosen.page, "accuracies", "\n".join(parts))


if __name__ == "__main__":
    main()
