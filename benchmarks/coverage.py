"""How often the stated interval of the squared width holds the truth, on matrices of known spectrum.

    python -m benchmarks.coverage [--repetitions 400] [--seed 0] [--output DIRECTORY]

One Lanczos run of the most steps serves every cell: cut short it is the run of fewer steps, and the first of its probes
is the run of one probe, so each cell sees what ``gwprune.squared_width`` returns for its steps, probes and seed.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from gwprune.spectral.probes import probe_spectra
from gwprune.spectral.spectrum import CONFIDENCE, Spectrum

from .known import EPSILON, Known, matrices, width_function
from .reporting import environment, exit_status, markdown_table, print_table, publish

NAME = "coverage"
STEPS = (8, 32, 96)
PROBES = (1, 4)
# The pruned norm of a cell puts the exact width here.
WIDTHS = (0.75, 0.95)
ROUNDING = 1e-10


def truncated(spectrum: Spectrum, steps: int, probes: int) -> Spectrum:
    """The spectrum as fewer steps and probes give it."""
    return Spectrum(
        tuple(
            replace(probe, jacobi=probe.jacobi.truncated(min(steps, probe.jacobi.steps)))
            for probe in spectrum.probes[:probes]
        )
    )


@dataclass
class Cell:
    """Counts over the repetitions of one setting."""

    matrix: str
    width: float
    steps: int
    probes: int
    repetitions: int = 0
    held: int = 0
    interval: float = 0.0
    quadrature_interval: float = 0.0
    quadrature_bounds: int = 0
    violations: int = 0

    def add(self, matrix: Known, pruned_norm: float, spectrum: Spectrum, probe_widths: list[float]) -> None:
        """One repetition: the stated interval against the trace, each probe's bounds against its own quadratic form."""
        estimate = spectrum.width(pruned_norm, EPSILON)
        self.repetitions += 1
        self.held += bool(estimate.lower <= matrix.width(pruned_norm) <= estimate.upper)
        self.interval += float(estimate.upper - estimate.lower)
        for probe, exact in zip(spectrum.probes, probe_widths, strict=True):
            _, lower, upper = probe.integrals(width_function(pruned_norm))
            self.quadrature_bounds += 1
            self.quadrature_interval += float(upper - lower)
            self.violations += not lower - ROUNDING <= exact <= upper + ROUNDING

    @property
    def coverage(self) -> float:
        return self.held / self.repetitions

    @property
    def required(self) -> float:
        """The stated confidence less two binomial standard errors."""
        return CONFIDENCE - 2 * np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / self.repetitions)

    def record(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "coverage": self.coverage,
            "required": self.required,
            "interval": self.interval / self.repetitions,
            "quadrature_interval": self.quadrature_interval / self.quadrature_bounds,
        }

    def failures(self) -> list[str]:
        name = f"{self.matrix}, width {self.width:g}, {self.steps} steps, {self.probes} probes"
        found = []
        if self.coverage < self.required:
            found.append(f"{name}: the interval held {self.coverage:.2%}, required {self.required:.2%}")
        if self.violations:
            found.append(f"{name}: {self.violations} of {self.quadrature_bounds} quadrature bounds violated")
        return found


def study(
    matrix: Known, repetitions: int, seed: int, steps: tuple[int, ...] = STEPS, probes: tuple[int, ...] = PROBES
) -> list[Cell]:
    """The cells of one matrix, all from the same repetitions."""
    norms = {width: matrix.pruned_norm(width) for width in WIDTHS}
    cells = [Cell(matrix.name, width, m, p) for width in WIDTHS for m in steps for p in probes]
    for number in tqdm(range(seed, seed + repetitions), desc=matrix.name, leave=False, disable=None):
        numbers = range(max(probes))
        run = probe_spectra(
            matrix, steps=max(steps), probes=numbers, seed=number, semidefinite=matrix.operator == "ggn"
        )
        spectra = {(m, p): truncated(run, m, p) for m in steps for p in probes}
        exact = {width: [matrix.probe_width(norms[width], number, i) for i in numbers] for width in WIDTHS}
        for cell in cells:
            spectrum = spectra[cell.steps, cell.probes]
            cell.add(matrix, norms[cell.width], spectrum, exact[cell.width][: cell.probes])
    return cells


def table(cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """(header, rows) for people: one row per matrix, width and number of steps; the probes are columns."""
    probes = sorted({cell.probes for cell in cells})
    lines: dict[tuple, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.probes):
        lines.setdefault((cell.matrix, cell.width, cell.steps), []).append(cell)
    header = ["matrix", "width", "steps"]
    header += [f"held, {count} probe{'s'[: count > 1]}" for count in probes]
    header += [f"interval, {count} probe{'s'[: count > 1]}" for count in probes]
    header += ["quadrature alone", "bounds that held"]
    rows = []
    for matrix, width, steps in sorted(lines, key=lambda key: ([cell.matrix for cell in cells].index(key[0]), key[1:])):
        line = lines[matrix, width, steps]
        most = line[-1].record()
        rows.append(
            [
                matrix,
                f"{width:g}",
                str(steps),
                *(f"{100 * cell.coverage:.1f}%" for cell in line),
                *(f"{cell.record()['interval']:.4f}" for cell in line),
                f"{most['quadrature_interval']:.4f}",
                f"{most['quadrature_bounds'] - most['violations']} of {most['quadrature_bounds']}",
            ]
        )
    return header, rows


def section(cells: list[Cell]) -> str:
    """Markdown for the docs: the table and what it says."""
    bounds = sum(cell.quadrature_bounds for cell in cells if cell.probes == max(PROBES))
    violations = sum(cell.violations for cell in cells if cell.probes == max(PROBES))
    lowest = min(cells, key=lambda cell: cell.coverage)
    return (
        f"{lowest.repetitions} repetitions. Lowest coverage of the {len(cells)} cells: {lowest.coverage:.1%} (required "
        f"of each: {lowest.required:.1%}, which is {CONFIDENCE:.0%} less two binomial standard errors). Quadrature "
        f"bounds that missed the probe's exact value: {violations} of {bounds}.\n\n{markdown_table(*table(cells))}"
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=400, help="seeds per matrix (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first one (default %(default)s)")
    parser.add_argument("--output", type=Path, help="directory for all files, instead of the places in this checkout")
    options = parser.parse_args(arguments)
    if options.repetitions < 20 or options.seed < 0:
        parser.error("the repetitions must be at least 20, the seed not negative")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the study; the exit status is 1 when an interval holds too seldom or a quadrature bound is violated."""
    options = parse(arguments)
    torch.set_num_threads(1)
    started = time.perf_counter()
    cells = [cell for matrix in matrices(options.seed) for cell in study(matrix, options.repetitions, options.seed)]
    record = {
        "repetitions": options.repetitions,
        "seed": options.seed,
        "confidence": CONFIDENCE,
        "epsilon": EPSILON,
        "cells": [cell.record() for cell in cells],
        "environment": environment(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    publish(NAME, record, section(cells), options.output)
    print_table("How often the stated interval of the squared width holds the exact trace", *table(cells))
    return exit_status([line for cell in cells for line in cell.failures()])


if __name__ == "__main__":
    sys.exit(main())
