"""How often the stated interval of the squared width holds the truth, on matrices of known spectrum.

    python -m benchmarks.coverage [--repetitions 400] [--seed 0] [--output DIRECTORY]

One Lanczos run of the most steps serves every cell: cut short it is the run of fewer steps, and the first of its probes
is the run of one probe, so each cell sees what ``gwprune.squared_width`` returns for its steps, probes and seed.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from gwprune.spectral.probes import probe_spectra
from gwprune.spectral.spectrum import CONFIDENCE, Spectrum

from .known import EPSILON, Known, matrices, width_function
from .reporting import arguments_of, exit_status, markdown_table, publish, timed

STEPS = (8, 32, 96)
PROBES = (1, 4)
# The pruned norm of a cell puts the exact width here.
WIDTHS = (0.75, 0.95)
ROUNDING = 1e-10
CELL = ["matrix", "width", "steps", "probes"]
Counts = tuple[int, ...]


def truncated(spectrum: Spectrum, steps: int, probes: int) -> Spectrum:
    """The spectrum as fewer steps and probes give it."""
    parts = spectrum.probes[:probes]
    return Spectrum(tuple(replace(part, jacobi=part.jacobi.truncated(min(steps, part.jacobi.steps))) for part in parts))


def repetition(matrix: Known, norms: dict[float, float], seed: int, steps: Counts, probes: Counts) -> list[dict]:
    """One seed in each cell: the interval against the trace, each probe's bounds against its quadratic form."""
    numbers = range(max(probes))
    run = probe_spectra(matrix, steps=max(steps), probes=numbers, seed=seed, semidefinite=matrix.operator == "ggn")
    rows = []
    for width, norm in norms.items():
        exact = [matrix.probe_width(norm, seed, number) for number in numbers]
        for m, p in itertools.product(steps, probes):
            spectrum = truncated(run, m, p)
            estimate = spectrum.width(norm, EPSILON)
            bounds = [probe.integrals(width_function(norm))[1:] for probe in spectrum.probes]
            missed = [not low - ROUNDING <= x <= high + ROUNDING for (low, high), x in zip(bounds, exact, strict=False)]
            rows.append(
                {
                    **{"matrix": matrix.name, "width": width, "steps": m, "probes": p},
                    "held": bool(estimate.lower <= matrix.width(norm) <= estimate.upper),
                    "interval": float(estimate.upper - estimate.lower),
                    "quadrature_interval": float(np.mean([high - low for low, high in bounds])),
                    "quadrature_bounds": p,
                    "violations": sum(missed),
                }
            )
    return rows


def study(matrix: Known, repetitions: int, seed: int, steps: Counts = STEPS, probes: Counts = PROBES) -> pd.DataFrame:
    """The cells of one matrix: counts and means over the repetitions, all from the same runs.

    Args:
        matrix: of known spectrum.
        repetitions: seeds.
        seed: the first one.
        steps: numbers of Lanczos steps.
        probes: numbers of probes.
    """
    norms = {width: matrix.pruned_norm(width) for width in WIDTHS}
    seeds = tqdm(range(seed, seed + repetitions), desc=matrix.name, leave=False, disable=None)
    rows = pd.DataFrame([row for number in seeds for row in repetition(matrix, norms, number, steps, probes)])
    cells = rows.groupby(CELL, sort=False, as_index=False).agg(
        repetitions=("held", "size"),
        held=("held", "sum"),
        interval=("interval", "mean"),
        quadrature_interval=("quadrature_interval", "mean"),
        quadrature_bounds=("quadrature_bounds", "sum"),
        violations=("violations", "sum"),
    )
    # The stated confidence less two binomial standard errors.
    required = CONFIDENCE - 2 * np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / repetitions)
    return cells.assign(coverage=cells.held / repetitions, required=required)


def failures(cells: pd.DataFrame) -> list[str]:
    """A line for each cell whose interval holds too seldom or whose quadrature bounds are violated."""
    lines = []
    for cell in cells.itertuples():
        name = f"{cell.matrix}, width {cell.width:g}, {cell.steps} steps, {cell.probes} probes"
        if cell.coverage < cell.required:
            lines.append(f"{name}: the interval held {cell.coverage:.2%}, required {cell.required:.2%}")
        if cell.violations:
            lines.append(f"{name}: {cell.violations} of {cell.quadrature_bounds} quadrature bounds violated")
    return lines


def table(cells: pd.DataFrame) -> list[dict[str, str]]:
    """One row for each matrix, width and number of steps; the numbers of probes are columns."""
    rows = []
    for (matrix, width, steps), part in cells.groupby(CELL[:3], sort=False):
        by_probes = {f"{cell.probes} probe{'s'[: cell.probes > 1]}": cell for cell in part.itertuples()}
        most = list(by_probes.values())[-1]
        rows.append(
            {
                "matrix": matrix,
                "width": f"{width:g}",
                "steps": str(steps),
                **{f"held, {probes}": f"{100 * cell.coverage:.1f}%" for probes, cell in by_probes.items()},
                **{f"interval, {probes}": f"{cell.interval:.4f}" for probes, cell in by_probes.items()},
                "quadrature alone": f"{most.quadrature_interval:.4f}",
                "bounds that held": f"{most.quadrature_bounds - most.violations} of {most.quadrature_bounds}",
            }
        )
    return rows


def section(cells: pd.DataFrame) -> str:
    """Markdown for the docs: the table and what it says."""
    most, lowest = cells[cells.probes == max(PROBES)], cells.loc[cells.coverage.idxmin()]
    return (
        f"{lowest.repetitions} repetitions. Lowest coverage of the {len(cells)} cells: {lowest.coverage:.1%} (required "
        f"of each: {lowest.required:.1%}, which is {CONFIDENCE:.0%} less two binomial standard errors). Quadrature "
        f"bounds that missed the probe's exact value: {most.violations.sum()} of {most.quadrature_bounds.sum()}.\n\n"
        f"{markdown_table(table(cells))}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the study; the exit status is 1 when an interval holds too seldom or a quadrature bound is violated."""
    parser = arguments_of("coverage", __doc__)
    parser.add_argument("--repetitions", type=int, default=400, help="seeds per matrix (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first one (default %(default)s)")
    options = parser.parse_args(arguments)
    if options.repetitions < 20 or options.seed < 0:
        parser.error("the repetitions must be at least 20, the seed not negative")
    torch.set_num_threads(1)
    parts = (study(matrix, options.repetitions, options.seed) for matrix in matrices(options.seed))
    seconds, cells = timed(lambda: pd.concat(parts, ignore_index=True))
    record = {
        "repetitions": options.repetitions,
        "seed": options.seed,
        "confidence": CONFIDENCE,
        "epsilon": EPSILON,
        "cells": cells.to_dict("records"),
        "seconds": round(seconds, 1),
    }
    publish("coverage", record, section(cells), options.output, "certificate.md")
    return exit_status(failures(cells))


if __name__ == "__main__":
    sys.exit(main())
