"""Rows of result tables, and one small set of tables for the tests of tables, figures and terminal."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from gwprune.figures.style import from_axis, to_axis
from gwprune.spectral.predictors import PREDICTORS
from gwprune.tables.comparison import comparison_rows, comparison_threshold_rows
from gwprune.tables.schemas import table_schema
from gwprune.tables.thresholds import criteria, empirical_rows, threshold_rows

FACTS = {"network": "fc", "dataset": "digits", "l1": 1e-4}
RUNS = {"fc5_l1": 0.97, "lenet": 0.83}
METHODS = {"magnitude": 0.0, "random": 0.7, "snip": 0.15}  # decades lost against magnitude
OPERATORS = ("hessian", "ggn")
SEEDS = (0, 1)
EPSILON = 0.04

_NAMES = {
    **FACTS,
    "run": "a",
    "predictor": "width",
    "operator": "hessian",
    "epsilon_rule": "batch_std",
    "method": "magnitude",
    "stage": "one_shot",
    "criterion": "loss_tolerance",
    "split": "test",
    "rule": "gauss",
}
_VALUES = {"string": "", "int64": 0, "double": 0.5, "bool": True}


def row_of(table: str, **values: Any) -> dict[str, Any]:
    """A row of a table: these values, and usual ones in the other columns."""
    assert set(values) <= set(table_schema(table).names), set(values) - set(table_schema(table).names)
    return {field.name: _NAMES.get(field.name, _VALUES[str(field.type)]) for field in table_schema(table)} | values


def interval(name: str, value: float, lower: float, upper: float) -> dict[str, float]:
    """The three columns of a value with its interval."""
    return {name: value, f"{name}_lower": lower, f"{name}_upper": upper}


def table_of(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=table_schema(name))


def shifted(sparsity: float, decades: float) -> float:
    """The sparsity that leaves fewer weights, by this many powers of ten."""
    return float(from_axis(to_axis(sparsity) + decades))


def _of_seed(run: str, seed: int, rng: np.random.Generator) -> dict[str, list[dict[str, Any]]]:
    key = {"run": run, "seed": seed}
    limit = shifted(RUNS[run], 0.03 * seed)
    losses = [0.13 + 0.7 * np.exp(-epoch) + 0.01 * rng.normal() for epoch in range(4)]
    training = [
        row_of("training", **key, epoch=epoch + 1, train_loss=loss, val_loss=loss + 0.01, lr=0.1 / (1 + epoch // 2))
        for epoch, loss in enumerate(losses)
    ]
    spectra, curves, predictions = [], [], []
    for operator in OPERATORS:
        of_operator = {**key, "operator": operator}
        for probe in range(2):
            nodes = 10 ** rng.uniform(-6, 1, 12) * (1 if operator == "ggn" else rng.choice([-1, 1], 12))
            parts = zip([0.0, *nodes], [0.4, *np.full(12, 0.05)], strict=True)
            spectra += [
                row_of("spectra", **of_operator, probe=probe, node=node, weight=weight) for node, weight in parts
            ]
        crossing = to_axis(limit) + 0.3 * (operator == "ggn")
        for place in np.linspace(0, crossing + 1, 9):
            width, lower, upper = (1 / (1 + 10 ** (2 * (place - crossing + d)) / 30) for d in (0, 0.1, -0.3))
            curves.append(
                row_of(
                    "width_curves",
                    **of_operator,
                    sparsity=float(from_axis(place)),
                    **interval("width", width, lower, upper),
                )
            )
    shifts = {("width", "hessian"): 0.03, ("width", "ggn"): 0.35, ("quadratic", "hessian"): -0.05}
    for (predictor, operator), shift in shifts.items():
        ends = interval("threshold", *(shifted(limit, shift + d) for d in (0, -0.1, 0.1)))
        of = {"predictor": predictor, "operator": operator, "criterion": PREDICTORS[predictor].criteria[0]}
        predictions.append(row_of("predictions", **key, **of, epsilon=EPSILON, **ends))
    sweep = []
    points = [(method, "one_shot", decades, 7) for method, decades in METHODS.items()]
    points += [("magnitude", "fine_tuned", -0.4, 3), ("snip", "trained", 0.1, 3)]
    for method, stage, decades, count in points:
        place = max(to_axis(RUNS[run]) - decades, 0.1)
        for position in np.linspace(0, place + 0.7, count):
            rise = EPSILON * 10 ** (2.5 * (position - place) - 0.1 * seed) if position else 0.0
            for split in ("train", "val", "test"):
                loss = 0.13 + 0.15 * (split != "train") + min(rise, 2.2)
                values = {"loss": loss, "objective": loss + 0.1, "accuracy": max(90 - 37 * rise + seed, 10)}
                counts = {"nonzeros": int(1e6 * 10**-position), "multiply_adds": int(2e6 * 10**-position)}
                where = {
                    "method": method,
                    "stage": stage,
                    "split": split,
                    "sparsity": round(float(from_axis(position)), 6),
                }
                sweep.append(row_of("sweep", **key, **where, **values, **counts))
    return {
        "training": training,
        "spectra": spectra,
        "width_curves": curves,
        "predictions": predictions,
        "sweep": sweep,
    }


@lru_cache(maxsize=1)
def example() -> dict[str, pa.Table]:
    """All tables of two runs with two seeds each, but for `costs` and `published`."""
    rng = np.random.default_rng(0)
    parts = [_of_seed(run, seed, rng) for run in RUNS for seed in SEEDS]
    tables = {name: table_of(name, [row for part in parts for row in part[name]]) for name in parts[0]}
    dense = {"train": {"loss": 0.13, "objective": 0.23}, "val": {"accuracy": 90.0}}
    wanted = criteria(dense, {"batch_std": EPSILON}, [1.0])
    tables["empirical"] = table_of(
        "empirical", empirical_rows(tables["sweep"], {(run, seed): wanted for run in RUNS for seed in SEEDS})
    )
    tables["thresholds"] = table_of("thresholds", threshold_rows(tables["predictions"], tables["empirical"]))
    asked = {"one_shot": set(tables["sweep"]["sparsity"].to_pylist())}
    compared, thresholds = [], []
    for run in RUNS:
        sweep, empirical = (
            table_of(name, [row for row in tables[name].to_pylist() if row["run"] == run])
            for name in ("sweep", "empirical")
        )
        compared += comparison_rows(sweep, FACTS, asked, "measured: here")
        thresholds += comparison_threshold_rows(empirical, FACTS)
    tables["comparison"] = table_of("comparison", compared)
    tables["comparison_thresholds"] = table_of("comparison_thresholds", thresholds)
    return tables
