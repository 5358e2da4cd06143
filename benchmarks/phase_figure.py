"""The figure of the phase transition: every case, observed and predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gwprune.figures.style import drawing, predictor_looks, read_rows


def draw(rows: list[dict[str, Any]], path: Path, dimension: int) -> None:
    """Draw one line for each case.

    Args:
        rows: what the study says of each.
        path: of the image; its suffix names the format.
        dimension: D, for the title.
    """
    columns, heights = read_rows(pa.Table.from_pylist(rows)), np.arange(len(rows))
    title = f"Codimension at which half of the random subspaces meet the ellipsoid, D = {dimension}"
    with drawing([path], title, 7.5, 1.4 + 0.18 * len(rows)) as figure:
        axes = figure.subplots()
        quartiles, middle = "observed: middle half of the trials", "observed: median"
        axes.hlines(
            heights, columns["first_quartile"], columns["third_quartile"], color="#999999", linewidth=4, label=quartiles
        )
        axes.plot(columns["observed"], heights, "|", color="black", ms=9, mew=1.5, label=middle, zorder=4)
        for name, look in predictor_looks(columns).items():
            label = {"width": "width formula"}.get(name, name.replace("_", " "))
            axes.plot(columns[name], heights, linestyle="", zorder=3, ms=5, label=label, **look)
        for i in np.flatnonzero(columns["spectrum"][1:] != columns["spectrum"][:-1]):
            axes.axhline(i + 0.5, color="#BBBBBB", linewidth=0.6)
        labels = [f"{row['spectrum']}, {row['direction']} {row['distance']:g}" for row in rows]
        axes.set_yticks(heights, labels)
        axes.set(xlim=(-0.02, 1.02), ylim=(len(rows) - 0.5, -0.5), xlabel="codimension / D")
        axes.grid(axis="y", visible=False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
