"""The figure of the comparison: accuracy against what a pruned network saves."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .axes import (
    COLOURS,
    MARKERS,
    Rows,
    by_importance,
    drawing,
    legend,
    no_data,
    read_rows,
    sparsity_axis,
    sparsity_limits,
    where,
)

STAGES = ("one_shot", "fine_tuned", "trained")
_DENSE = {"color": "#555555", "linestyle": ":", "linewidth": 1.1}


def _looks(methods: list[str]) -> dict[str, dict]:
    """A colour and a marker for each method: pairs differ, and neighbours differ in both."""
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            # The shift keeps the pairs of the second round of colours apart from those of the first.
            "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
            "markersize": 3.8,
            "markerfacecolor": "white" if i // len(COLOURS) % 2 else COLOURS[i % len(COLOURS)],
        }
        for i, name in enumerate(methods)
    }


def _curve(axes: Axes, rows: Rows, x: str, look: dict) -> None:
    order = np.argsort(rows["sparsity"])
    x, mean, std = (rows[name][order] for name in (x, "accuracy_mean", "accuracy_std"))
    shown = np.isfinite(x) & np.isfinite(mean)  # nothing left: an infinite speed-up
    axes.plot(x[shown], mean[shown], linewidth=1.1, **look)
    axes.fill_between(x[shown], (mean - std)[shown], (mean + std)[shown], color=look["color"], alpha=0.18, linewidth=0)


def _speedup_axis(axes: Axes, high: float, label: str) -> None:
    axes.set_xscale("log")
    axes.set_xlim(0.95, high * 1.1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.set_xlabel(label)


def tradeoff(comparison: pa.Table, run: str, path: str | os.PathLike) -> None:
    """Test accuracy against sparsity and against theoretical speed-up: one line per method, one row per stage.

    Lines are means over the seeds, bands one standard deviation to both sides.
    """
    rows = read_rows(comparison, run=run)
    stages = [stage for stage in STAGES if stage in rows["stage"]] or [STAGES[0]]
    methods = by_importance(rows["method"], "magnitude")
    looks = _looks(methods)
    several = len(rows["seeds"]) and rows["seeds"].max() > 1
    title = f"{run}: test accuracy" + (", mean and standard deviation over seeds" if several else "")
    low, high = sparsity_limits(rows["sparsity"])
    finite = rows["speedup"][np.isfinite(rows["speedup"])]
    fastest = max(finite.max(initial=1.0), 2.0)
    height = 1.2 + 2.6 * len(stages) + 0.2 * (len(methods) // 5)
    with drawing(path, title, 9.4, height) as figure:
        panels = figure.subplots(len(stages), 2, squeeze=False, sharey="row")
        for stage, (left, right) in zip(stages, panels, strict=True):
            part = where(rows, stage=stage)
            if not len(part["run"]):
                no_data(left, f"the comparison of {run}")
                no_data(right, "")
                continue
            for axes, x in ((left, "sparsity"), (right, "speedup")):
                axes.axhline(part["dense_accuracy_mean"].mean(), **_DENSE)
                for method in methods:
                    curve = where(part, method=method)
                    if len(curve["run"]):
                        _curve(axes, curve, x, looks[method])
            last = stage == stages[-1]
            sparsity_axis(left, low, high, label="sparsity" if last else "")
            _speedup_axis(right, fastest, "theoretical speed-up" if last else "")
            left.set_title(stage.replace("_", " "))
            left.set_ylabel("test accuracy (%)")
        if not len(rows["run"]):
            return
        handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
        per_column = max(2, -(-(len(handles)) // 4))
        common = [Line2D([], [], label="dense network", **_DENSE)]
        if several:
            common.append(Patch(color="#777777", alpha=0.3, label="one standard deviation"))
        legend(figure, *(handles[i : i + per_column] for i in range(0, len(handles), per_column)), common)
