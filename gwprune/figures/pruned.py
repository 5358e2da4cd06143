"""Figures of pruned networks: accuracy and loss against sparsity, and against what a network saves."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..tables.schemas import STAGES
from ..tables.thresholds import LIMITS, Limit, bracket_text, interval_text, main_method
from . import style
from .thresholds import mean_interval

_STAGE_LINES = dict(zip(STAGES, ("-", "--", (0, (3, 1, 1, 1))), strict=True))
_POINTS = {"marker": "o", "markersize": 3.5, "markerfacecolor": "white"}
# Limits in a sweep: greys, so that none is taken for a method.
_LIMIT_COLOURS = dict(zip((limit.name for limit in LIMITS), ("#000000", "#999999"), strict=True))
_PREDICTED = {"linestyle": "-.", "linewidth": 1.2}
_MEASURED = {"linestyle": (0, (1, 1.2)), "linewidth": 1.8}
_MOST = {"linestyle": (0, (6, 3)), "linewidth": 0.8}
_DENSE = {"color": "#555555", "linestyle": ":", "linewidth": 1.1}


def _marks(
    limit: Limit, predicted: style.Rows, measured: style.Rows, dense_loss: np.ndarray
) -> tuple[list[float], list[tuple], float | None, str]:
    """What one seed's panels show of a limit.

    Args:
        limit: which.
        predicted: its row of table `predictions`, if there is one.
        measured: its row of table `empirical`, if there is one.
        dense_loss: training loss at sparsity 0 of the limit's stage, if it is known.

    Returns:
        Sparsities of vertical lines as (position, look); spans as (start, end, look); the loss that may not be
        exceeded; and all of it in words.
    """
    colour, lines, spans, words = _LIMIT_COLOURS[limit.name], [], [], []
    if interval := mean_interval(predicted):
        lines.append((interval[0], {"color": colour, **_PREDICTED}))
        spans.append((interval[1], min(interval[2], 1.0), {"color": colour, "alpha": 0.1}))
        words.append(f"predicted by {limit.predictor}: {interval_text(*interval)}")
    if len(measured["run"]):
        lower, upper = measured["threshold_lower"][0], measured["threshold_upper"][0]
        words.append(f"measured: {bracket_text(lower, upper)}")
        # At the end of the grid there is no threshold.
        lines += [(end, {"color": colour, **_MEASURED}) for end in (lower, upper) if 0 < end < 1]
    most = dense_loss[0] + predicted["epsilon"][0] if len(dense_loss) and len(predicted["run"]) else None
    return lines, spans, most, f"{limit.name} limit " + ",\n".join(words) if words else ""


def sparsity_sweep(
    sweep: pa.Table, predictions: pa.Table, empirical: pa.Table, run: str, *paths: str | os.PathLike
) -> None:
    """Accuracy and loss of the pruned networks against sparsity, a row of panels for each seed, with both limits.

    Limits and the losses that define them are those of one method, magnitude where it is used.

    Args:
        sweep: the table.
        predictions: the table.
        empirical: the table.
        run: which run to draw.
        paths: of the images; the suffix of each names its format.
    """
    rows = style.read_rows(sweep, run=run)
    measured = style.read_rows(empirical, run=run)
    predicted = style.read_rows(predictions, run=run)
    method = main_method(predicted["method"] if len(predicted["run"]) else rows["method"])
    epsilon_rule = style.one_rule(predicted)
    predicted, measured = (
        style.where(part, method=method, epsilon_rule=epsilon_rule) for part in (predicted, measured)
    )
    operator = next(iter(style.by_importance(predicted["operator"], "hessian")), "")
    predicted = style.where(predicted, operator=operator)
    methods = style.by_importance(rows["method"], "magnitude")
    colours = style.numbered_colours(methods)
    low, high = style.sparsity_limits([*rows["sparsity"], *predicted["threshold"]])
    kinds = (("accuracy", "val", "validation accuracy (%)"), ("loss", "train", "training data loss (nats)"))
    seeds = np.unique(rows["seed"])
    title = f"{run}: pruned networks, and the limits of method {method} (ε: {epsilon_rule}, operator: {operator})"
    with style.drawing(paths, title, 9.4, 2.0 + 2.9 * max(len(seeds), 1)) as figure:
        panels = figure.subplots(max(len(seeds), 1), 2, squeeze=False, sharex=True)
        for row, (line, seed) in enumerate(zip(panels, seeds if len(seeds) else [0], strict=True)):
            of_seed = style.where(rows, seed=seed)
            marks = [
                _marks(
                    limit,
                    style.where(predicted, seed=seed, predictor=limit.predictor),
                    style.where(measured, seed=seed, stage=limit.stage, criterion=limit.criterion),
                    style.where(of_seed, stage=limit.stage, sparsity=0.0, split="train")["loss"],
                )
                for limit in LIMITS
            ]
            for axes, (column, chosen, label), (*_, words) in zip(line, kinds, marks, strict=True):
                part = style.where(of_seed, split=chosen)
                if not len(part["run"]):
                    style.no_data(axes, f"{label} of {run}")
                    continue
                for (name, stage), curve in _curves(part, methods):
                    order = np.argsort(curve["sparsity"])
                    s, values = curve["sparsity"][order], curve[column][order]
                    # Few and costly points are shown each.
                    look = {} if stage == "one_shot" else _POINTS
                    values = np.where(np.isfinite(values), values, np.nan)
                    axes.plot(s, values, color=colours[name], linestyle=_STAGE_LINES[stage], **look)
                for limit, (lines, spans, most, _) in zip(LIMITS, marks, strict=True):
                    for start, end, look in spans:
                        axes.axvspan(start, end, linewidth=0, zorder=0, **look)
                    for position, look in lines:
                        axes.axvline(position, zorder=1.5, **look)
                    if column == "loss" and most is not None:
                        axes.axhline(most, color=_LIMIT_COLOURS[limit.name], zorder=1.5, **_MOST)
                axes.set_title(words, fontsize=7.5, loc="left")
                axes.set_ylabel(f"seed {seed}\n{label}" if column == "accuracy" else label)
                if column == "loss":
                    style.log_y(axes)
                style.sparsity_axis(axes, low, high, label="sparsity" if row == len(panels) - 1 else "")
        of_methods = [Line2D([], [], color=colours[name], label=name) for name in methods]
        of_stages = [
            Line2D([], [], color="#333333", label=name, linestyle=_STAGE_LINES[stage], **points)
            for (stage, name), points in zip(STAGES.items(), ({}, _POINTS, _POINTS), strict=True)
            if stage in rows["stage"]
        ]
        of_limits = [
            Line2D([], [], color=colour, linewidth=4, label=f"{name} limit") for name, colour in _LIMIT_COLOURS.items()
        ]
        of_lines = [
            Line2D([], [], color="#333333", label="predicted, with its interval shaded", **_PREDICTED),
            Line2D([], [], color="#333333", label="measured: the ends of its bracket", **_MEASURED),
            Line2D([], [], color="#333333", label="dense (or control) loss + ε, which defines it", **_MOST),
        ]
        columns = (of_methods[i : i + 5] for i in range(0, len(of_methods), 5))
        style.legend(figure, *columns, of_stages + of_limits, of_lines)


def _curves(rows: style.Rows, methods: list[str]) -> Iterator[tuple[tuple[str, str], style.Rows]]:
    """The rows of each method and stage that has any."""
    for name, stage in ((name, stage) for name in methods for stage in STAGES):
        curve = style.where(rows, method=name, stage=stage)
        if len(curve["run"]):
            yield (name, stage), curve


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


def tradeoff(comparison: pa.Table, run: str, *paths: str | os.PathLike) -> None:
    """Test accuracy against sparsity and against theoretical speed-up: one line per method, one row per stage.

    Lines are means over the seeds, bands one standard deviation to both sides.

    Args:
        comparison: the table.
        run: which run to draw.
        paths: of the images; the suffix of each names its format.
    """
    rows = style.read_rows(comparison, run=run)
    stages = [stage for stage in STAGES if stage in rows["stage"]] or ["one_shot"]
    methods = style.by_importance(rows["method"], "magnitude")
    looks = _looks(methods)
    several = len(rows["seeds"]) and rows["seeds"].max() > 1
    title = f"{run}: test accuracy" + (", mean and standard deviation over seeds" if several else "")
    low, high = style.sparsity_limits(rows["sparsity"])
    finite = rows["speedup"][np.isfinite(rows["speedup"])]
    fastest = max(finite.max(initial=1.0), 2.0)
    height = 1.2 + 2.6 * len(stages) + 0.2 * (len(methods) // 5)
    with style.drawing(paths, title, 9.4, height) as figure:
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
            left.set_title(STAGES[stage])
            left.set_ylabel("test accuracy (%)")
        if not len(rows["run"]):
            return
        handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
        per_column = max(2, -(-(len(handles)) // 4))
        common = [Line2D([], [], label="dense network", **_DENSE)]
        if several:
            common.append(Patch(color="#777777", alpha=0.3, label="one standard deviation"))
        style.legend(figure, *(handles[i : i + per_column] for i in range(0, len(handles), per_column)), common)
