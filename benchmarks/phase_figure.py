"""The figure of the phase transition: every case, observed and predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gwprune.figures.axes import COLOURS, drawing

# Filled and hollow, so that the two differ in shape and fill too, not in colour alone.
_PREDICTORS = {
    "statistical_dimension": {"label": "statistical dimension", "marker": "o", "color": COLOURS[0], "ms": 5},
    "width": {"label": "width formula", "marker": "s", "color": COLOURS[1], "ms": 5, "mfc": "white", "mew": 1.2},
}


def _column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows])


def _dots(axes: Axes, rows: list[dict[str, Any]]) -> None:
    heights = np.arange(len(rows))
    quartiles = _column(rows, "first_quartile"), _column(rows, "third_quartile")
    axes.hlines(heights, *quartiles, color="#999999", linewidth=4, label="observed: middle half of the trials")
    axes.plot(_column(rows, "observed"), heights, "|", color="black", ms=9, mew=1.5, label="observed: median", zorder=4)
    for name, look in _PREDICTORS.items():
        axes.plot(_column(rows, name), heights, linestyle="", zorder=3, **look)
    for i in range(1, len(rows)):
        if rows[i]["spectrum"] != rows[i - 1]["spectrum"]:
            axes.axhline(i - 0.5, color="#BBBBBB", linewidth=0.6)
    labels = [f"{row['spectrum']}, {row['direction']} {row['distance']:g}" for row in rows]
    axes.set_yticks(heights, labels)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(rows) - 0.5, -0.5), xlabel="codimension / D")
    axes.grid(axis="y", visible=False)


def draw(rows: list[dict[str, Any]], path: Path, dimension: int) -> None:
    """One line for each case; the suffix of ``path`` says the format."""
    title = f"Codimension at which half of the random subspaces meet the ellipsoid, D = {dimension}"
    with drawing(path, title, 7.5, 1.4 + 0.18 * len(rows)) as figure:
        axes = figure.subplots()
        _dots(axes, rows)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
