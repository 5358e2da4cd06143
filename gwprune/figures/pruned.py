"""Figures of pruned networks: accuracy and loss against sparsity, and against what a network saves."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..tables.schemas import STAGES
from . import style
from .thresholds import interval_text, mean_interval

_STAGE_LINES = dict(zip(STAGES, ("-", "--", (0, (3, 1, 1, 1))), strict=True))
_POINTS = {"marker": "o", "markersize": 3.5, "markerfacecolor": "white"}
# Predicted thresholds of a sweep: greys, so that none is taken for a method.
_OPERATOR_LOOKS = {"hessian": ("#000000", "-."), "ggn": ("#777777", (0, (6, 1.5, 1, 1.5, 1, 1.5)))}
_MEASURED = {"linestyle": (0, (1, 1.2)), "linewidth": 2.2}
_DENSE = {"color": "#555555", "linestyle": ":", "linewidth": 1.1}


def over_seeds(rows: style.Rows, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean and range of a column over the seeds, which may be measured at different sparsities.

    Between its own first and last sparsity a seed is interpolated. A value that is not finite leaves a gap, as the mean
    over the other seeds would flatter the method.

    Args:
        rows: of one method and stage.
        column: its name.

    Returns:
        Sparsities (n,), then mean, smallest and largest value at each, (n,) too.
    """
    grid = np.unique(rows["sparsity"])
    values, inside = [], []
    for _, seed in style.groups(rows, "seed"):
        order = np.argsort(seed["sparsity"])
        s, y = seed["sparsity"][order], seed[column][order]
        values.append(np.interp(style.to_axis(grid), style.to_axis(s), np.where(np.isfinite(y), y, np.nan)))
        inside.append((grid >= s[0]) & (grid <= s[-1]))
    values, inside = np.array(values), np.array(inside)
    mean = np.where(inside, values, 0).sum(0) / inside.sum(0)
    return grid, mean, np.where(inside, values, np.inf).min(0), np.where(inside, values, -np.inf).max(0)


def _threshold_lines(predicted: style.Rows, measured: style.Rows, colour: str) -> tuple[list, list]:
    """Vertical lines as (position, look, legend text), and shaded intervals as (start, end, colour)."""
    lines, spans = [], []
    for operator in style.by_importance(predicted["operator"], "hessian"):
        if interval := mean_interval(style.where(predicted, operator=operator)):
            grey, dashes = _OPERATOR_LOOKS.get(operator, _OPERATOR_LOOKS["ggn"])
            text = f"predicted, {operator}: {interval_text(interval)}"
            lines.append((interval[0], {"color": grey, "linestyle": dashes, "linewidth": 1.2}, text))
            spans.append((interval[1], min(interval[2], 1.0), grey))
    # Where every grid point meets the criterion the table holds the end of the grid, which is no threshold.
    reached = measured["threshold"][measured["reached"].astype(bool)]
    if len(reached):
        some = f" ({len(reached)} of {len(measured['run'])} seeds)" if len(reached) < len(measured["run"]) else ""
        text = f"measured, loss tolerance, magnitude: {reached.mean():.4f}{some}"
        lines.append((reached.mean(), {"color": colour, **_MEASURED}, text))
    return lines, spans


def sparsity_sweep(
    sweep: pa.Table,
    predictions: pa.Table,
    empirical: pa.Table,
    run: str,
    path: str | os.PathLike,
) -> None:
    """Accuracy and loss of the pruned networks against sparsity, with predicted and measured thresholds.

    The measured one is that of the data loss for one-shot magnitude pruning.

    Args:
        sweep: the table.
        predictions: the table.
        empirical: the table.
        run: which run to draw.
        path: of the image; its suffix names the format.
    """
    rows = style.read_rows(sweep, run=run)
    predicted = style.read_rows(predictions, run=run, predictor="width")
    measured = style.read_rows(empirical, run=run, method="magnitude", stage="one_shot", criterion="loss_tolerance")
    epsilon_rule = style.one_rule(predicted if len(predicted["run"]) else measured)
    predicted, measured = (style.where(part, epsilon_rule=epsilon_rule) for part in (predicted, measured))
    methods = style.by_importance(rows["method"], "magnitude")
    colours = style.numbered_colours(methods)
    lines, spans = _threshold_lines(predicted, measured, colours.get("magnitude", style.COLOURS[0]))
    low, high = style.sparsity_limits([*rows["sparsity"], *predicted["threshold"]])
    kinds = (("accuracy", "val", "validation accuracy (%)"), ("loss", "train", "training data loss (nats)"))
    several = len(np.unique(rows["seed"])) > 1
    title = f"{run}: pruned networks" + (", mean and range over seeds" if several else "")
    with style.drawing(path, title, 9.4, 4.9) as figure:
        for axes, (column, chosen, label) in zip(figure.subplots(1, 2), kinds, strict=True):
            part = style.where(rows, split=chosen)
            if not len(part["run"]):
                style.no_data(axes, f"{label} of {run}")
                continue
            for name, stage in ((name, stage) for name in methods for stage in STAGES):
                curve = style.where(part, method=name, stage=stage)
                if not len(curve["run"]):
                    continue
                s, mean, least, most = over_seeds(curve, column)
                axes.plot(s, mean, color=colours[name], linestyle=_STAGE_LINES[stage])
                axes.fill_between(s, least, most, color=colours[name], alpha=0.15, linewidth=0)
                if stage != "one_shot":  # few and costly: show each one, also where the mean interpolates
                    y = np.where(np.isfinite(curve[column]), curve[column], np.nan)
                    axes.plot(curve["sparsity"], y, color=colours[name], linestyle="", **_POINTS)
            for start, end, colour in spans:
                axes.axvspan(start, end, color=colour, alpha=0.1, linewidth=0, zorder=0)
            for position, look, _ in lines:
                axes.axvline(position, **look, zorder=1.5)
            axes.set_ylabel(label)
            if column == "loss":
                style.log_y(axes)
            style.sparsity_axis(axes, low, high)
        of_methods = [Line2D([], [], color=colours[name], label=name) for name in methods]
        of_stages = [
            Line2D([], [], color="#333333", label=stage.replace("_", " "), linestyle=line, **points)
            for (stage, line), points in zip(_STAGE_LINES.items(), ({}, _POINTS, _POINTS), strict=True)
            if stage in rows["stage"]
        ]
        of_lines = [Line2D([], [], label=text, **look) for _, look, text in lines]
        style.legend(figure, *(of_methods[i : i + 4] for i in range(0, len(of_methods), 4)), of_stages, of_lines)


def _looks(methods: list[str]) -> dict[str, dict]:
    """A colour and a marker for each method: pairs differ, and neighbours differ in both."""
    return {
        name: {
            "color": style.COLOURS[i % len(style.COLOURS)],
            # The shift keeps the pairs of the second round of colours apart from those of the first.
            "marker": style.MARKERS[(i + i // len(style.COLOURS)) % len(style.MARKERS)],
            "markersize": 3.8,
            "markerfacecolor": "white" if i // len(style.COLOURS) % 2 else style.COLOURS[i % len(style.COLOURS)],
        }
        for i, name in enumerate(methods)
    }


def _curve(axes: Axes, rows: style.Rows, x: str, look: dict) -> None:
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

    Args:
        comparison: the table.
        run: which run to draw.
        path: of the image; its suffix names the format.
    """
    rows = style.read_rows(comparison, run=run)
    stages = [stage for stage in STAGES if stage in rows["stage"]] or [STAGES[0]]
    methods = style.by_importance(rows["method"], "magnitude")
    looks = _looks(methods)
    several = len(rows["seeds"]) and rows["seeds"].max() > 1
    title = f"{run}: test accuracy" + (", mean and standard deviation over seeds" if several else "")
    low, high = style.sparsity_limits(rows["sparsity"])
    finite = rows["speedup"][np.isfinite(rows["speedup"])]
    fastest = max(finite.max(initial=1.0), 2.0)
    height = 1.2 + 2.6 * len(stages) + 0.2 * (len(methods) // 5)
    with style.drawing(path, title, 9.4, height) as figure:
        panels = figure.subplots(len(stages), 2, squeeze=False, sharey="row")
        for stage, (left, right) in zip(stages, panels, strict=True):
            part = style.where(rows, stage=stage)
            if not len(part["run"]):
                style.no_data(left, f"the comparison of {run}")
                style.no_data(right, "")
                continue
            for axes, x in ((left, "sparsity"), (right, "speedup")):
                axes.axhline(part["dense_accuracy_mean"].mean(), **_DENSE)
                for method in methods:
                    curve = style.where(part, method=method)
                    if len(curve["run"]):
                        _curve(axes, curve, x, looks[method])
            last = stage == stages[-1]
            style.sparsity_axis(left, low, high, label="sparsity" if last else "")
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
        style.legend(figure, *(handles[i : i + per_column] for i in range(0, len(handles), per_column)), common)
