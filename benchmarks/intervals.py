"""How fast the interval of the predicted threshold closes, product by product, on trained networks.

    make run CONFIG=config/fashion_mnist.yaml && make run CONFIG=benchmarks/networks.yaml
    python -m benchmarks.intervals [RESULTS ...]

Reads the Lanczos runs that the workflow left: cut short, a run is the run of fewer steps.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gwprune.jobs.artifacts import load_network, load_probe
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import rank
from gwprune.spectral.crossings import crossing
from gwprune.spectral.lanczos import Jacobi, lanczos
from gwprune.spectral.quadrature import Rule, gauss, radau, ritz
from gwprune.spectral.spectrum import ProbeSpectrum, Spectrum
from gwprune.tables.files import read_table
from gwprune.tables.thresholds import bracket_text

from .reporting import arguments_of, markdown_table, publish

STEPS = (32, 64, 96, 128, 160, 192, 224, 254)
GOALS = (0.02, 0.005)


def squared_alone(jacobi: Jacobi) -> tuple[Rule, Rule]:
    """Rules of the squared matrix, Gauss and Gauss-Radau at 0 (Golub and Meurant 2010): Lanczos on ``T^2`` from e_1."""
    nodes, vectors = ritz(jacobi)
    # In the basis of the Ritz vectors T^2 is diagonal, and e_1 is the first row of their coordinates.
    squared, start = torch.from_numpy(np.diag(nodes**2)), torch.from_numpy(vectors[0].copy())
    (of_square,) = lanczos(squared, [start], max(1, jacobi.steps // 2 - 1))
    rules = gauss(of_square), radau(of_square)
    return tuple(Rule(np.sqrt(np.maximum(rule.nodes, 0)), rule.weights) for rule in rules)


def threshold_of(rule: Rule, probe: ProbeSpectrum, norms: np.ndarray, epsilon: float) -> float:
    """Crossing of the width that one rule gives, the zero rows included."""
    share = probe.active / probe.dimension

    def width(count: int) -> float:
        values = 2 * epsilon / (2 * epsilon + norms[count] ** 2 * np.abs(rule.nodes))
        return 1 - share + share * float(values @ rule.weights)

    return crossing(width, probe.dimension)


def middle_of(probe: ProbeSpectrum) -> Rule:
    """Rule half-way between those that bound from below and from above."""
    names = ("gauss", "radau") if probe.semidefinite else ("squared_lower", "squared_upper")
    lower, upper = (probe.rules[name] for name in names)
    return Rule(np.append(lower.nodes, upper.nodes), np.append(lower.weights, upper.weights) / 2)


def study(unit: Path, operator: str, epsilon: float) -> list[dict[str, Any]]:
    """Rows for one network: the interval after each number of steps, and what else could be read from them."""
    probe = load_probe(unit / "spectrum" / f"{operator}_probe0.npz")
    prunable = PrunableSet(load_network(unit / "network.pt"))
    norms = rank("magnitude", prunable, 0).pruned_norms(prunable.flatten())
    rows = []
    for steps in [count for count in STEPS if count <= probe.jacobi.steps]:
        cut = replace(probe, jacobi=probe.jacobi.truncated(steps))
        interval = Spectrum((cut,)).width_threshold(norms, epsilon)
        squared = [threshold_of(rule, cut, norms, epsilon) for rule in squared_alone(cut.jacobi)]
        rows.append(
            {
                "network": unit.parent.name,
                "operator": operator,
                "steps": steps,
                "lower": float(interval.lower),
                "upper": float(interval.upper),
                "estimate": float(interval.value),
                "middle": threshold_of(middle_of(cut), cut, norms, epsilon),
                "standard_error": float(interval.standard_error),
                "squared_lower": squared[0],
                "squared_upper": squared[1],
                "gauss": threshold_of(cut.rules["gauss"], cut, norms, epsilon),
            }
        )
    return rows


def goals(rows: list[dict[str, Any]]) -> dict[str, str]:
    """For one network and operator, the number of products after which the interval is as narrow as each goal."""
    cells = {name: rows[0][name] for name in ("network", "operator")}
    for goal in GOALS:
        steps = (str(row["steps"]) for row in rows if row["upper"] - row["lower"] <= goal)
        cells[f"products to width {goal}"] = next(steps, "-")
    return cells


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows for people."""
    return [
        {
            "network": row["network"],
            "operator": row["operator"],
            "products": row["steps"],
            "interval": f"[{row['lower']:.4f}, {row['upper']:.4f}]",
            "width": f"{row['upper'] - row['lower']:.4f}",
            "estimate": f"{row['estimate']:.4f}",
            "middle": f"{row['middle']:.4f}",
            "squared alone": f"[{row['squared_lower']:.4f}, {row['squared_upper']:.4f}]",
            "its width": f"{row['squared_upper'] - row['squared_lower']:.4f}",
            "plain Gauss": f"{row['gauss']:.4f}",
        }
        for row in rows
    ]


def compare(directory: Path) -> list[dict[str, str]]:
    """Every prediction of a results directory beside the measured thresholds of magnitude pruning."""
    path = directory / "tables" / "thresholds.parquet"
    if not path.exists():  # a workflow that was stopped after its predictions
        return []
    rows = read_table("thresholds", path).to_pandas()
    rows = rows[(rows.method == "magnitude") & (rows.epsilon_rule == "batch_std")]
    rows = rows[~rows.criterion.str.startswith("accuracy")]
    return [
        {
            "network": row.run,
            "predictor": row.predictor,
            "operator": row.operator,
            "predicted": f"{row.predicted:.4f}",
            "interval": f"[{row.predicted_lower:.4f}, {row.predicted_upper:.4f}]",
            "criterion": row.criterion,
            "stage": row.stage,
            "measured": bracket_text(row.empirical_lower, row.empirical_upper),
            "gap": "-" if np.isnan(row.gap) else f"{row.gap:+.4f}",
        }
        for row in rows.sort_values(["run", "stage", "criterion", "predictor", "operator"]).itertuples()
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = arguments_of("intervals", __doc__)
    parser.add_argument("results", nargs="*", type=Path, help="results directories of the workflow")
    options = parser.parse_args(arguments)
    results = options.results or [Path("results/fashion_mnist"), Path("results/benchmark_networks")]
    studies = []
    for unit in (unit for directory in results for unit in sorted(directory.glob("runs/*/seed*"))):
        predictions = read_table("predictions", unit / "predictions" / "width.parquet").to_pylist()
        for operator in sorted({path.name.split("_")[0] for path in unit.glob("spectrum/*_probe0.npz")}):
            epsilons = {row["epsilon_rule"]: row["epsilon"] for row in predictions if row["operator"] == operator}
            studies.append(study(unit, operator, epsilons["batch_std"]))
    rows = [row for part in studies for row in part]
    predictions = [row for directory in results for row in compare(directory)]
    section = "\n".join(map(markdown_table, (map(goals, studies), table(rows), predictions)))
    publish("intervals", {"rows": rows}, section, options.output, "intervals.md")


if __name__ == "__main__":
    main()
