"""Where random subspaces stop meeting an ellipsoid, observed and predicted.

    python -m benchmarks.phase_transition [--dimension 400] [--trials 100] [--seed 0] [--output DIRECTORY]

A random subspace of codimension c is the span of the first ``D - c`` columns of one Gaussian matrix, so those of one
trial are nested and meeting the ellipsoid is monotone in c: a single QR factorisation gives the trial's exact critical
codimension, and the median over trials is the codimension of probability 1/2.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from scipy.stats import binom
from tqdm import tqdm

import gwprune

from .ellipsoids import Case, Ellipsoid, cases, critical_codimension, ellipsoid
from .phase_figure import draw
from .reporting import arguments_of, destination, exit_status, markdown_table, publish, timed

TOLERANCE = 0.02
PROBES = 64  # leaves the statistical dimension a standard error below 0.005


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


def table(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The rows for people."""
    return [
        {
            "spectrum": row["spectrum"],
            "centre": row["direction"],
            "distance": f"{row['distance']:g}",
            "observed": f"{row['observed']:.3f}",
            "its 95% interval": f"[{row['observed_lower']:.3f}, {row['observed_upper']:.3f}]",
            "statistical dimension": f"{row['statistical_dimension']:.3f}",
            "error": f"{row['statistical_dimension'] - row['observed']:+.3f}",
            "with the defaults": f"{row['default_statistical_dimension']:.3f}",
            "width": f"{row['width']:.3f}",
            "error of width": f"{row['width'] - row['observed']:+.3f}",
        }
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
        f"{markdown_table(table(rows))}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the study; the exit status is 1 when a statistical dimension misses the observed transition."""
    parser = arguments_of("phase_transition", __doc__)
    parser.add_argument("--dimension", type=int, default=400, help="D, at least 40 (default %(default)s)")
    parser.add_argument("--trials", type=int, default=100, help="per case, at least 50 (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default %(default)s)")
    options = parser.parse_args(arguments)
    if options.dimension < 40 or options.trials < 50 or options.seed < 0:
        parser.error("the dimension must be at least 40, the trials at least 50, the seed not negative")
    torch.set_num_threads(1)
    chosen = list(cases())
    seeds = np.random.SeedSequence(options.seed).spawn(len(chosen))
    progress = tqdm(list(zip(chosen, seeds, strict=True)), unit="case", disable=None)
    seconds, rows = timed(lambda: [study(case, options.dimension, options.trials, seed) for case, seed in progress])
    record = {
        "dimension": options.dimension,
        "trials": options.trials,
        "probes": PROBES,
        "seed": options.seed,
        "tolerance": TOLERANCE,
        "cases": rows,
        "seconds": round(seconds, 1),
    }
    text = section(rows, options.dimension, options.trials)
    publish("phase_transition", record, text, options.output, "certificate.md")
    draw(rows, destination("phase_transition", ".svg", options.output), options.dimension)
    return exit_status([f"{line} (tolerance {TOLERANCE})" for line in misses(rows)])


if __name__ == "__main__":
    sys.exit(main())
