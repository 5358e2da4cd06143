"""Where random subspaces stop meeting an ellipsoid, observed and predicted.

    python -m benchmarks.phase_transition [--dimension 400] [--trials 100] [--seed 0] [--output DIRECTORY]

A random subspace of codimension c is the span of the first ``D - c`` columns of one Gaussian matrix, so those of one
trial are nested and meeting the ellipsoid is monotone in c: a single QR factorisation gives the trial's exact critical
codimension, and the median over trials is the codimension of probability 1/2.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binom
from tqdm import tqdm

import gwprune

from .ellipsoids import Case, Ellipsoid, cases, critical_codimension, ellipsoid
from .phase_figure import draw
from .reporting import destination, environment, exit_status, markdown_table, print_table, publish

TOLERANCE = 0.02
PROBES = 64  # leaves the statistical dimension a standard error below 0.005
NAME = "phase_transition"


def observed_transition(shape: Ellipsoid, trials: int, rng: np.random.Generator) -> dict[str, float]:
    """Codimension over D of probability 1/2, with its 95% confidence interval and the quartiles of the trials.

    The probability falls between the last codimension that meets and the first that does not: half a step is added.
    """
    dimension = shape.root.shape[1]
    critical = np.sort([critical_codimension(shape, rng) for _ in range(trials)])
    rank = max(int(binom.ppf(0.025, trials, 0.5)) - 1, 0)  # order statistics, free of any distribution

    def normalised(codimension: float) -> float:
        return float(min(codimension + 0.5, dimension) / dimension)

    return {
        "observed": normalised(np.median(critical)),
        "observed_lower": normalised(critical[rank]),
        "observed_upper": normalised(critical[-1 - rank]),
        "first_quartile": normalised(np.quantile(critical, 0.25)),
        "third_quartile": normalised(np.quantile(critical, 0.75)),
    }


def study(
    case: Case, dimension: int, trials: int, seed: np.random.SeedSequence, probes: int = PROBES
) -> dict[str, Any]:
    """One row: the observed transition, and both predictions for the same ellipsoid."""
    rng = np.random.default_rng(seed)
    shape = ellipsoid(case, dimension, rng)
    arguments = shape.matrix, shape.center, shape.epsilon
    number = int(seed.generate_state(1)[0])
    # D steps leave no quadrature error: this is the theory. The defaults are what a caller gets who asks for no more.
    value, error = gwprune.statistical_dimension(*arguments, steps=dimension, probes=probes, seed=number)
    default, default_error = gwprune.statistical_dimension(*arguments, seed=number)
    return {
        **asdict(case),
        "center_norm": float(np.linalg.norm(shape.center)),
        "epsilon": shape.epsilon,
        **observed_transition(shape, trials, rng),
        "statistical_dimension": value,
        "standard_error": error,
        "default_statistical_dimension": default,
        "default_standard_error": default_error,
        "width": shape.width(),
    }


def misses(rows: list[dict[str, Any]], column: str = "statistical_dimension") -> list[str]:
    """The rows whose prediction is further than the tolerance from the observed transition."""
    return [
        f"{Case(row['spectrum'], row['direction'], row['distance'])}: {column.replace('_', ' ')} {row[column]:.4f}, "
        f"observed {row['observed']:.4f}"
        for row in rows
        if not abs(row[column] - row["observed"]) <= TOLERANCE
    ]


HEADER = (
    "spectrum",
    "centre",
    "distance",
    "observed",
    "its 95% interval",
    "statistical dimension",
    "error",
    "with the defaults",
    "width",
    "error of width",
)


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The rows for people."""
    return [
        [
            row["spectrum"],
            row["direction"],
            f"{row['distance']:g}",
            f"{row['observed']:.3f}",
            f"[{row['observed_lower']:.3f}, {row['observed_upper']:.3f}]",
            f"{row['statistical_dimension']:.3f}",
            f"{row['statistical_dimension'] - row['observed']:+.3f}",
            f"{row['default_statistical_dimension']:.3f}",
            f"{row['width']:.3f}",
            f"{row['width'] - row['observed']:+.3f}",
        ]
        for row in rows
    ]


def _errors(rows: list[dict[str, Any]], column: str) -> str:
    errors = [row[column] - row["observed"] for row in rows]
    return f"{min(errors):+.3f} to {max(errors):+.3f}"


def section(rows: list[dict[str, Any]], dimension: int, trials: int) -> str:
    """Markdown for the docs: the table and what it says."""
    defaults = misses(rows, "default_statistical_dimension")
    return (
        f"{len(rows)} ellipsoids, D = {dimension}, {trials} trials each. Errors: of the statistical dimension "
        f"{_errors(rows, 'statistical_dimension')} (required: at most {TOLERANCE} either way), of the width formula "
        f"{_errors(rows, 'width')}.\n\n"
        f"With the defaults of 128 steps and 16 probes, off by more than {TOLERANCE}: {'; '.join(defaults) or 'none'}."
        "\n\n"
        f"{markdown_table(HEADER, table(rows))}"
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phase_transition", description=__doc__.split("\n")[0])
    parser.add_argument("--dimension", type=int, default=400, help="D, at least 40 (default %(default)s)")
    parser.add_argument("--trials", type=int, default=100, help="per case, at least 50 (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default %(default)s)")
    parser.add_argument("--output", type=Path, help="directory for all files, instead of the places in this checkout")
    options = parser.parse_args(arguments)
    if options.dimension < 40 or options.trials < 50 or options.seed < 0:
        parser.error("the dimension must be at least 40, the trials at least 50, the seed not negative")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the study; the exit status is 1 when a statistical dimension misses the observed transition."""
    options = parse(arguments)
    torch.set_num_threads(1)
    started = time.perf_counter()
    chosen = list(cases())
    seeds = np.random.SeedSequence(options.seed).spawn(len(chosen))
    progress = tqdm(list(zip(chosen, seeds, strict=True)), unit="case", disable=None)
    rows = [study(case, options.dimension, options.trials, seed) for case, seed in progress]
    record = {
        "dimension": options.dimension,
        "trials": options.trials,
        "probes": PROBES,
        "seed": options.seed,
        "tolerance": TOLERANCE,
        "cases": rows,
        "environment": environment(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    publish(NAME, record, section(rows, options.dimension, options.trials), options.output)
    draw(rows, destination(NAME, ".svg", options.output), options.dimension)
    print_table("Codimension / D at which half of the random subspaces meet the ellipsoid", HEADER, table(rows))
    for line in misses(rows, "default_statistical_dimension"):
        print(f"note, default steps and probes: {line}")
    return exit_status([f"{line} (tolerance {TOLERANCE})" for line in misses(rows)])


if __name__ == "__main__":
    sys.exit(main())
