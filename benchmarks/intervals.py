"""How fast the interval of the predicted threshold closes, product by product, on trained networks.

    make run CONFIG=config/fashion_mnist.yaml && make run CONFIG=benchmarks/networks.yaml
    python -m benchmarks.intervals [RESULTS ...]

Reads the Lanczos runs that the workflow left: cut short, a run is the run of fewer steps.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gwprune.jobs.artifacts import load_network, load_probe
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import rank
from gwprune.spectral.crossings import crossing
from gwprune.spectral.lanczos import Jacobi
from gwprune.spectral.quadrature import Rule, gauss, radau, ritz
from gwprune.spectral.spectrum import ProbeSpectrum, Spectrum
from gwprune.tables.schemas import read_table

from .reporting import environment, markdown_table, print_table, publish

NAME = "intervals"
STEPS = (32, 64, 96, 128, 160, 192, 224, 254)
GOALS = (0.02, 0.005)
_HEADER = (
    "network",
    "operator",
    "products",
    "interval",
    "width",
    "middle",
    "squared alone",
    "its width",
    "plain Gauss",
)


def squared_alone(jacobi: Jacobi) -> tuple[Rule, Rule]:
    """Rules of the squared matrix, Gauss and Gauss-Radau at 0 (Golub and Meurant 2010): Lanczos on ``T^2`` from e_1."""
    nodes, vectors = ritz(jacobi)
    count = max(1, jacobi.steps // 2 - 1)
    basis = np.zeros((count + 1, jacobi.steps))
    basis[0] = vectors[0]  # e_1 in the Ritz basis, where T^2 is diagonal
    alpha, beta = np.zeros(count), np.zeros(count)
    for step in range(count):
        image = nodes**2 * basis[step]
        alpha[step] = basis[step] @ image
        for _ in range(2):
            image -= basis[: step + 1].T @ (basis[: step + 1] @ image)
        beta[step] = np.linalg.norm(image)
        basis[step + 1] = image / beta[step]
    found = Jacobi(alpha, beta)
    return tuple(Rule(np.sqrt(np.maximum(rule.nodes, 0)), rule.weights) for rule in (gauss(found), radau(found)))


def threshold_of(rule: Rule, probe: ProbeSpectrum, norms: np.ndarray, epsilon: float) -> float:
    """Crossing of the width that one rule gives, the zero rows included."""
    share = probe.active / probe.dimension

    def width(count: int) -> float:
        values = 2 * epsilon / (2 * epsilon + norms[count] ** 2 * np.abs(rule.nodes))
        return 1 - share + share * float(values @ rule.weights)

    return crossing(width, probe.dimension)


def study(unit: Path, operator: str, epsilon: float) -> list[dict[str, Any]]:
    """Rows for one network: the interval after each number of steps, and what else could be read from them."""
    probe = load_probe(unit / "spectrum" / f"{operator}_probe0.npz")
    prunable = PrunableSet(load_network(unit / "network.pt"))
    norms = rank("magnitude", prunable, 0).pruned_norms(prunable.flatten())
    rows = []
    for steps in [count for count in STEPS if count <= probe.jacobi.steps]:
        cut = replace(probe, jacobi=probe.jacobi.truncated(steps))
        found = Spectrum((cut,)).width_threshold(norms, epsilon)
        old = [threshold_of(rule, cut, norms, epsilon) for rule in squared_alone(cut.jacobi)]
        rows.append(
            {
                "network": unit.parent.name,
                "operator": operator,
                "steps": steps,
                "lower": float(found.lower),
                "upper": float(found.upper),
                "middle": float(found.value),
                "standard_error": float(found.standard_error),
                "squared_lower": old[0],
                "squared_upper": old[1],
                "gauss": threshold_of(cut.rules["gauss"], cut, norms, epsilon),
            }
        )
    return rows


def first_below(rows: list[dict[str, Any]], goal: float) -> str:
    """The number of products after which the interval is at most ``goal`` wide."""
    return next((str(row["steps"]) for row in rows if row["upper"] - row["lower"] <= goal), "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="*", type=Path, help="results directories of the workflow")
    parser.add_argument("--output", type=Path, help="a directory instead of the repository's docs and benchmarks")
    arguments = parser.parse_args()
    results = arguments.results or [Path("results/fashion_mnist"), Path("results/benchmark_networks")]
    rows, summary, predictions = [], [], []
    for directory in results:
        for unit in sorted(directory.glob("runs/*/seed*")):
            for operator in sorted({path.name.split("_")[0] for path in unit.glob("spectrum/*_probe0.npz")}):
                table = read_table("predictions", unit / "predictions" / "width.parquet").to_pandas()
                kept = table[table.operator == operator]
                epsilon = float(kept[kept.epsilon_rule == "batch_std"].epsilon.iloc[0])
                found = study(unit, operator, epsilon)
                rows += found
                summary.append([unit.parent.name, operator, *(first_below(found, goal) for goal in GOALS)])
        predictions += compare(directory)
    cells = [
        [
            row["network"], row["operator"], row["steps"], f"[{row['lower']:.4f}, {row['upper']:.4f}]",
            f"{row['upper'] - row['lower']:.4f}", f"{row['middle']:.4f}",
            f"[{row['squared_lower']:.4f}, {row['squared_upper']:.4f}]",
            f"{row['squared_upper'] - row['squared_lower']:.4f}", f"{row['gauss']:.4f}",
        ]
        for row in rows
    ]  # fmt: skip
    goals = ["network", "operator", *(f"products to width {goal}" for goal in GOALS)]
    print_table("Intervals", _HEADER, cells)
    print_table("Goals", goals, summary)
    section = "\n".join(
        [markdown_table(goals, summary), markdown_table(_HEADER, cells), markdown_table(_PREDICTIONS, predictions)]
    )
    publish(NAME, {"environment": environment(), "rows": rows}, section, arguments.output, "intervals.md")


_PREDICTIONS = ("network", "predictor", "operator", "predicted", "interval", "criterion", "stage", "measured", "gap")


def compare(directory: Path) -> list[list[str]]:
    """Every prediction of a results directory beside the measured thresholds of magnitude pruning."""
    path = directory / "tables" / "thresholds.parquet"
    if not path.exists():  # a workflow that was stopped after its predictions
        return []
    table = read_table("thresholds", path).to_pandas()
    table = table[(table.method == "magnitude") & ~table.criterion.str.startswith("accuracy")]
    table = table[table.epsilon_rule == "batch_std"]
    return [
        [
            row.run, row.predictor, row.operator, f"{row.predicted:.4f}",
            f"[{row.predicted_lower:.4f}, {row.predicted_upper:.4f}]", row.criterion, row.stage,
            f"{row.empirical:.4f}", f"{row.gap:+.4f}",
        ]
        for row in table.sort_values(["run", "stage", "criterion", "predictor", "operator"]).itertuples()
    ]  # fmt: skip


if __name__ == "__main__":
    main()
