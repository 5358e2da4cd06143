"""Figures of thresholds: the width curve and its crossing, and predicted against measured thresholds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import cycle

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..tables.schemas import prediction_order
from ..tables.thresholds import LIMITS, interval_text, main_method
from . import style

_CROSSING = {"fmt": "o", "color": style.COLOURS[1], "elinewidth": 0.9, "capsize": 3, "markersize": 4, "zorder": 4}


def _with_bars(rows: style.Rows, name: str, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of a column (cut at ``high``, to stay on the axis) and the lengths of their error bars, (2, n)."""
    value = np.clip(rows[name], 0, high)
    lower, upper = np.clip(rows[f"{name}_lower"], 0, 1), np.clip(rows[f"{name}_upper"], 0, 1)
    # Rounding can put an end a hair beyond its value, and a missing interval is no interval.
    return value, np.nan_to_num(np.maximum([value - lower, upper - value], 0))


def mean_interval(rows: style.Rows) -> tuple[float, float, float] | None:
    """Mean threshold over the seeds and the envelope of their intervals; None without a finite threshold."""
    finite = np.isfinite(rows["threshold"])
    if not finite.any():
        return None
    value = rows["threshold"][finite]
    lower, upper = rows["threshold_lower"][finite], rows["threshold_upper"][finite]
    return float(value.mean()), float(np.fmin(value, lower).min()), float(np.fmax(value, upper).max())


def width_curve(width_curves: pa.Table, predictions: pa.Table, run: str, *paths: str | os.PathLike) -> None:
    """Width curve of each operator with its interval, the diagonal, and the predicted threshold on it.

    Args:
        width_curves: the table.
        predictions: the table.
        run: which run to draw.
        paths: of the images; the suffix of each names its format.
    """
    curves = style.read_rows(width_curves, run=run)
    epsilon_rule = style.one_rule(curves)
    curves = style.where(curves, epsilon_rule=epsilon_rule)
    predicted = style.read_rows(predictions, run=run, predictor="width", method="magnitude")
    predicted = style.where(predicted, epsilon_rule=epsilon_rule)
    names = style.by_importance(curves["operator"], "hessian") or ["hessian"]
    low, high = style.sparsity_limits([*curves["sparsity"], *predicted["threshold"]])
    bottom, _ = style.sparsity_limits([low, *curves["width"]])
    with style.drawing(paths, f"{run}: width curve (ε: {epsilon_rule})", 1.6 + 3.6 * len(names), 4.4) as figure:
        panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
        for axes, operator in zip(panels, names, strict=True):
            part = style.where(curves, operator=operator)
            if not len(part["sparsity"]):
                style.no_data(axes, f"the width curve of {run}")
                continue
            for _, seed in style.groups(part, "seed"):
                order = np.argsort(seed["sparsity"])
                s, width, lower, upper = (
                    seed[name][order] for name in ("sparsity", "width", "width_lower", "width_upper")
                )
                _draw_width(axes, s, width, lower, upper)
            axes.plot([low, high], [low, high], **style.DIAGONAL)
            crossing = style.where(predicted, operator=operator)
            value, bars = _with_bars(crossing, "threshold", high)
            axes.errorbar(value, value, xerr=bars, **_CROSSING)
            interval = mean_interval(crossing)
            axes.set_title(f"{operator}: predicted {interval_text(*interval)}" if interval else operator)
            style.sparsity_axis(axes, low, high)
            style.sparsity_axis(axes, bottom, high, "y", "width ω" if axes is panels[0] else "")
        if not len(curves["run"]):
            return
        _width_legend(
            figure, "width ω(s), one line per seed", "predicted threshold of each seed (title: mean, all intervals)"
        )


def prediction(
    curve: Mapping[str, np.ndarray] | None,
    threshold: tuple[float, float, float],
    layers: Mapping[str, float],
    title: str,
    *paths: str | os.PathLike,
) -> Figure:
    """One width curve with its interval, the diagonal and the predicted threshold on it; and the layers there.

    Args:
        curve: arrays of one length by the names of columns of table `width_curves`; None: it has no panel.
        threshold: value, lower and upper end.
        layers: name of each layer -> its sparsity at the threshold.
        title: of the figure.
        *paths: of the image; the suffix of each names its format.
    """
    height = max(4.4, 1.2 + 0.16 * len(layers))
    columns = 1 + (curve is not None)
    with style.drawing(paths, f"{title}\n{interval_text(*threshold)}", 4.8 * columns, height) as figure:
        panels = figure.subplots(1, columns, squeeze=False)[0]
        if curve is not None:
            _width_panel(panels[0], curve, threshold)
            _width_legend(figure, "width ω(s)", "predicted threshold, interval")
        axes = panels[-1]
        axes.barh(list(layers), list(layers.values()), color=style.COLOURS[0], height=0.7)
        axes.axvline(threshold[0], color=style.COLOURS[1])
        axes.set(xlim=(0, 1), xlabel="sparsity of each layer at the threshold (line)")
        axes.invert_yaxis()
    return figure


def _width_panel(axes: Axes, curve: Mapping[str, np.ndarray], threshold: tuple[float, float, float]) -> None:
    s, width, lower, upper = (curve[name] for name in ("sparsity", "width", "width_lower", "width_upper"))
    low, high = style.sparsity_limits([*s, threshold[0]])
    bottom, _ = style.sparsity_limits([low, *width])
    _draw_width(axes, s, width, lower, upper)
    axes.plot([low, high], [low, high], **style.DIAGONAL)
    rows = {f"threshold{end}": np.array([v]) for end, v in zip(("", "_lower", "_upper"), threshold, strict=True)}
    value, bars = _with_bars(rows, "threshold", high)
    axes.errorbar(value, value, xerr=bars, **_CROSSING)
    style.sparsity_axis(axes, low, high)
    style.sparsity_axis(axes, bottom, high, "y", "width ω")


def _draw_width(axes: Axes, s: np.ndarray, width: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
    axes.fill_between(s, lower, upper, color=style.COLOURS[0], alpha=0.18, linewidth=0)
    axes.plot(s, width, color=style.COLOURS[0], linewidth=1)


def _width_legend(figure: Figure, curve: str, crossing: str) -> None:
    orange = {"color": style.COLOURS[1], "marker": "o", "markersize": 4}
    handles = [
        Line2D([], [], color=style.COLOURS[0], label=curve),
        Patch(color=style.COLOURS[0], alpha=0.18, label="interval of ω(s)"),
        Line2D([], [], **style.DIAGONAL, label="ω = s"),
        Line2D([], [], **orange, label=crossing),
    ]
    style.legend(figure, handles[:2], handles[2:])


def _bars(axes: Axes, rows: style.Rows, colour: str, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Brackets and intervals as bars, with an arrow where the panel cuts one; the points that they belong to."""
    x, y = (np.clip(rows[name], low, high) for name in ("empirical_lower", "predicted"))
    ends = [np.clip(rows[name], low, high) for name in ("empirical_upper", "predicted_lower", "predicted_upper")]
    right, bottom, top = (np.where(np.isfinite(end), end, y) for end in ends)
    axes.hlines(y, x, right, color=colour, linewidth=0.9)
    axes.vlines(x, bottom, top, color=colour, linewidth=0.9)
    cut = {"color": colour, "linestyle": "", "markersize": 4.5, "clip_on": False, "zorder": 5}
    for marker, name, beyond, places in (
        (">", "empirical_upper", rows["empirical_upper"] > high, (right, y)),
        ("^", "predicted_upper", rows["predicted_upper"] > high, (x, top)),
        ("v", "predicted_lower", rows["predicted_lower"] < low, (x, bottom)),
    ):
        if beyond.any():
            axes.plot(*(place[beyond] for place in places), marker, label=f"{name} beyond the panel", **cut)
    return x, y


def predicted_vs_empirical(thresholds: pa.Table, *paths: str | os.PathLike) -> None:
    """Predicted against measured limits: a row of panels for each limit, a column for each predictor.

    Points stand at the lower end of the measured bracket.

    Args:
        thresholds: the table.
        paths: of the images; the suffix of each names its format.
    """
    rows = style.read_rows(thresholds)
    method, epsilon_rule = main_method(rows["method"]), style.one_rule(rows)
    rows = style.where(rows, method=method, epsilon_rule=epsilon_rule)
    predictors = sorted(set(rows["predictor"]), key=lambda name: prediction_order(name, "")) or ["width"]
    operators = style.by_importance(rows["operator"], "hessian")
    markers = dict(zip(operators, cycle(style.MARKERS), strict=False))
    colours = style.numbered_colours(np.unique(rows["run"]))
    title = f"predicted and measured limits (sparsity; method {method}, ε: {epsilon_rule})"
    measured = [limit for limit in LIMITS if limit.criterion in rows["criterion"][rows["stage"] == limit.stage]]
    width = 1.2 + 2.1 * len(predictors)
    # As many columns of runs in the legend as there is room beside the others, by the length of their names.
    room = (width - 5.2) / (0.7 + 0.065 * max(map(len, colours), default=1))
    per = max(4, -(-len(colours) // max(int(room), 1)))
    with style.drawing(paths, title, width, 0.6 + 2.3 * max(len(measured), 1) + 0.17 * per) as figure:
        if not measured:
            style.no_data(figure.subplots(), "the limits")
            return
        panels = figure.subplots(len(measured), len(predictors), squeeze=False, sharex="row", sharey="row")
        for limit, line in zip(measured, panels, strict=True):
            of_limit = style.where(rows, stage=limit.stage, criterion=limit.criterion)
            line[0].set_ylabel(f"{limit.name} limit,\npredicted")
            low, high = style.sparsity_limits([*of_limit["predicted"], *of_limit["empirical_lower"]], pad=0.08)
            for axes, predictor in zip(line, predictors, strict=True):
                axes.plot([low, high], [low, high], **style.DIAGONAL)
                part = style.where(of_limit, predictor=predictor)
                gaps = []
                for operator, marker in markers.items():
                    own = style.where(part, operator=operator)
                    look = {"marker": marker, "markersize": 4.5, "markerfacecolor": "white", "linestyle": ""}
                    for run, of_run in style.groups(own, "run"):
                        axes.plot(*_bars(axes, of_run, colours[run], low, high), color=colours[run], **look)
                    if np.isfinite(own["gap"]).any():
                        gaps.append(f"{operator}: {np.nanmean(np.abs(own['gap'])):.3f}")
                axes.text(0.97, 0.03, "\n".join(gaps), ha="right", va="bottom", fontsize=7, transform=axes.transAxes)
                weight = "bold" if predictor == limit.predictor else "normal"
                axes.set_title(predictor, fontsize=8.5, fontweight=weight)
                style.sparsity_axis(axes, low, high, "x", f"{limit.name} limit, measured")
                style.sparsity_axis(axes, low, high, "y", axes.get_ylabel())
        of_runs = [Line2D([], [], color=colour, linewidth=4, label=run) for run, colour in colours.items()]
        look = {"color": "#333333", "linestyle": "", "markersize": 4.5, "markerfacecolor": "white"}
        of_operators = [Line2D([], [], marker=marker, label=name, **look) for name, marker in markers.items()]
        explained = [
            Line2D([], [], **style.DIAGONAL, label="predicted = measured"),
            Line2D([], [], color="#333333", marker="|", label="interval of the prediction, bracket of the measurement"),
            Line2D([], [], color="#333333", linestyle="", marker="^", label="goes on beyond the panel"),
            Line2D([], [], linestyle="", label="corner: mean |predicted - measured|; bold: this limit's predictor"),
        ]
        style.legend(figure, *(of_runs[i : i + per] for i in range(0, len(of_runs), per)), of_operators, explained)
