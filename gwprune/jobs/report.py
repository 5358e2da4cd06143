"""The report of a finished workflow: one HTML page that needs nothing else, from its tables and figures."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..config.plan import RUN_FIGURES, SECTION_OF_RULE
from ..spectral.predictors import PREDICTORS
from ..storage.files import atomic_path
from ..tables.files import grouped, read_table, table_provenance, tables_folder
from ..tables.rendering import NOTES, Cell, Sheet, comparison_pages, cost_sheet
from ..tables.schemas import TABLES, key_columns, prediction_order, table_schema
from ..tables.thresholds import LIMITS, bracket_text, gap_text, limit_rows, main_method

__all__ = ["build_report"]

# Names of columns for people; other columns keep theirs.
_HEADINGS = {"run": "network", "epsilon_rule": "epsilon rule"}


def build_report(results: Path, config: Path | None = None) -> Path:
    """Write ``report.html`` into a directory of results.

    Args:
        results: the directory; its tables may lie in it or in its folder ``tables``.
        config: file of the configuration, for the section on provenance.

    Returns:
        The report.

    Raises:
        FileNotFoundError: when the workflow has not written its tables.
        TableError: naming the file, for a table that is damaged or of another version.
    """
    folder = tables_folder(results)
    if not (folder / "thresholds.parquet").exists():
        raise FileNotFoundError(f"{folder} holds nothing to report; run the workflow first")
    files = {name: folder / f"{name}.parquet" for name in TABLES}
    tables = {
        name: read_table(name, path) if path.exists() else table_schema(name).empty_table()
        for name, path in files.items()
    }
    method = main_method(tables["thresholds"]["method"].to_pylist())
    limits = limit_rows(tables["thresholds"], method)
    runs = sorted(set(tables["thresholds"]["run"].to_pylist()))
    used = set(tables["predictions"]["predictor"].to_pylist())
    words = {
        "method": method,
        "predictors": [predictor for name, predictor in PREDICTORS.items() if name in used],
        "runs": runs,
        "summaries": [_summary(limit.name, limits) for limit in LIMITS],
        "limit_sheet": _limits(limits),
        "training_sheet": _training(tables),
        "curvature_sheet": _curvature(tables),
        "prediction_sheet": _predictions(tables["predictions"]),
        "pages": comparison_pages(*(tables[name].to_pylist() for name in ("comparison", "comparison_thresholds"))),
        "notes": NOTES,
        "cost_sheet": cost_sheet(tables["costs"], SECTION_OF_RULE),
        "pictures": _pictures(results, runs),
        "provenance": table_provenance(tables["thresholds"]),
        "config": config,
        "config_text": config.read_text() if config else "",
        "files": [
            (name, path.relative_to(results), text, tables[name].num_rows)
            for (name, path), (text, _) in zip(files.items(), TABLES.values(), strict=True)
            if path.exists()
        ],
    }
    environment = Environment(
        loader=PackageLoader("gwprune", "jobs"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = results / "report.html"
    with atomic_path(page) as temporary:
        temporary.write_text(environment.get_template("report.html.jinja").render(words))
    return page


def _number(value: float | None, form: str) -> Cell:
    return Cell("-") if value is None else Cell(format(value, form), value=value)


def _interval(lower: float | None, upper: float | None) -> Cell:
    return Cell("-") if lower is None else Cell(f"[{lower:.4f}, {upper:.4f}]", value=lower)


def _keys(row: Mapping[str, Any], names: Iterable[str]) -> list[Cell]:
    return [Cell(str(row[name]), value=row[name]) for name in names]


def _limits(rows: list[dict[str, Any]]) -> Sheet:
    """The first table: both limits of each network."""
    keys = ("run", "seed", "epsilon_rule", "limit")
    lines = []
    for row in rows:
        bracket = row["empirical_lower"], row["empirical_upper"]
        lines.append(
            [
                *_keys(row, keys),
                Cell(row["predictor"] or "-", value=row["predictor"]),
                _number(row["predicted"], ".4f"),
                _interval(row["predicted_lower"], row["predicted_upper"]),
                Cell(bracket_text(*bracket), value=bracket[0]),
                Cell(gap_text(row["gap"], *bracket), value=row["gap"]),
            ]
        )
    heads = [_HEADINGS.get(key, key) for key in keys]
    return Sheet("limits", [*heads, "predicted by", "predicted", "interval", "measured", "gap"], [lines])


def _summary(limit: str, rows: list[dict[str, Any]]) -> str:
    """A sentence on how well one limit was predicted."""
    own = [row for row in rows if row["limit"] == limit]
    known = [row for row in own if row["gap"] is not None]
    if not known:
        return f"The {limit} limit was {'not bracketed closely enough to be compared' if own else 'not measured'}."
    met = [
        row["predicted_lower"] <= row["empirical_upper"] and row["predicted_upper"] >= row["empirical_lower"]
        for row in known
    ]
    gap, left = fmean(abs(row["gap"]) for row in known), len(own) - len(known)
    return (
        f"The {limit} limit, as {known[0]['predictor']} predicts it: mean |gap| {gap:.3f}; the predicted interval meets"
        f" the measured bracket in {sum(met)} of {len(known)}"
        f"{f'; {left} more without a prediction or a close bracket' if left else ''}."
    )


def _training(tables: Mapping[str, pa.Table]) -> Sheet:
    """The dense networks: one line for each network and seed."""
    facts = {row["run"]: row for row in tables["comparison"].to_pylist()}
    epochs = {(part["run"], part["seed"]): part["epoch"] for part in grouped(tables["training"], "run", "seed")}
    dense: dict[tuple, dict[str, dict[str, Any]]] = {}
    for row in tables["sweep"].to_pylist():
        if row["stage"] == "one_shot" and row["sparsity"] == 0:
            dense.setdefault((row["run"], row["seed"]), {})[row["split"]] = row
    lines = []
    for (run, seed), splits in sorted(dense.items()):
        about = facts.get(run, {"network": "", "dataset": "", "l1": None})
        lines.append(
            [
                *_keys({"run": run, "seed": seed}, ("run", "seed")),
                *_keys(about, ("network", "dataset")),
                _number(about["l1"], "g"),
                _number(max(epochs.get((run, seed), [0])), "d"),
                _number(splits["train"]["loss"], ".4g"),
                *(_number(splits[split]["accuracy"], ".2f") for split in ("train", "val", "test")),
            ]
        )
    accuracies = [f"{split} accuracy, %" for split in ("train", "val", "test")]
    heads = ["network", "seed", "architecture", "data set", "l1", "epochs", "train loss, nats", *accuracies]
    return Sheet("dense networks", heads, [lines])


def _curvature(tables: Mapping[str, pa.Table]) -> Sheet:
    """The spectra: one line for each network, seed and operator."""
    asked = {(row["run"], row["seed"], row["operator"]): row for row in tables["predictions"].to_pylist()}
    lines = []
    for part in grouped(tables["spectra"], "run", "seed", "operator", "rule"):
        if part["rule"] != "gauss":
            continue
        nodes, weights = np.array(part["node"]), np.array(part["weight"])
        keys = ("run", "seed", "operator")
        size = asked.get(tuple(part[key] for key in keys), {"dimension": None})["dimension"]
        probes = len(set(part["probe"]))
        zero = float(weights[nodes == 0].sum()) / probes
        numbers = [(size, ",d"), (probes, "d"), (float(nodes.min()), ".3g"), (float(nodes.max()), ".3g"), (zero, ".3f")]
        lines.append([*_keys(part, keys), *(_number(value, form) for value, form in numbers)])
    heads = ["network", "seed", "operator", "D", "probes", "smallest node", "largest node", "fraction exactly 0"]
    return Sheet("spectra", heads, [sorted(lines, key=lambda line: [cell.value for cell in line[:3]])])


def _predictions(predictions: pa.Table) -> Sheet:
    """Every prediction."""
    keys = key_columns("predictions")

    def place(row: dict[str, Any]) -> tuple:
        return row["run"], row["seed"], prediction_order(row["predictor"], row["operator"]), *(row[key] for key in keys)

    lines = [
        [
            *_keys(row, keys),
            _number(row["epsilon"], ".4g"),
            _number(row["threshold"], ".4f"),
            _interval(row["threshold_lower"], row["threshold_upper"]),
        ]
        for row in sorted(predictions.to_pylist(), key=place)
    ]
    heads = [_HEADINGS.get(key, key) for key in keys]
    return Sheet("predictions", [*heads, "epsilon, nats", "predicted", "interval"], [lines])


def _pictures(results: Path, runs: Iterable[str]) -> dict[str, dict[str, tuple[str, str]]]:
    """Figure -> run ("" for all runs) -> its path below the results, and itself as a URL."""
    names = {name: list(runs) for name in RUN_FIGURES} | {"predicted_vs_empirical": [""]}
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for name, own in names.items():
        places = {run: Path("figures", run, f"{name}.svg") for run in own}
        found[name] = {
            # An image of its own: what the figures call their parts is not unique in a page.
            run: (str(place), f"data:image/svg+xml;base64,{base64.b64encode((results / place).read_bytes()).decode()}")
            for run, place in places.items()
            if (results / place).exists()
        }
    return found
