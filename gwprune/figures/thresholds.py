"""Figures of thresholds: the width curve and its crossing, and predicted against measured thresholds."""

from __future__ import annotations

import os
from itertools import cycle

import numpy as np
import pyarrow as pa
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..tables.schemas import prediction_order
from . import style


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


def interval_text(interval: tuple[float, float, float]) -> str:
    return "{:.4f} [{:.4f}, {:.4f}]".format(*interval)


def width_curve(width_curves: pa.Table, predictions: pa.Table, run: str, path: str | os.PathLike) -> None:
    """Width curve of each operator with its interval, the diagonal, and the predicted threshold on it.

    Args:
        width_curves: the table.
        predictions: the table.
        run: which run to draw.
        path: of the image; its suffix names the format.
    """
    curves = style.read_rows(width_curves, run=run)
    epsilon_rule = style.one_rule(curves)
    curves = style.where(curves, epsilon_rule=epsilon_rule)
    predicted = style.where(style.read_rows(predictions, run=run, predictor="width"), epsilon_rule=epsilon_rule)
    names = style.by_importance(curves["operator"], "hessian") or ["hessian"]
    low, high = style.sparsity_limits([*curves["sparsity"], *predicted["threshold"]])
    bottom, _ = style.sparsity_limits([low, *curves["width"]])
    with style.drawing(path, f"{run}: width curve (ε: {epsilon_rule})", 1.6 + 3.6 * len(names), 4.4) as figure:
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
                axes.fill_between(s, lower, upper, color=style.COLOURS[0], alpha=0.18, linewidth=0)
                axes.plot(s, width, color=style.COLOURS[0], linewidth=1)
            axes.plot([low, high], [low, high], **style.DIAGONAL)
            crossing = style.where(predicted, operator=operator)
            value, bars = _with_bars(crossing, "threshold", high)
            look = {"fmt": "o", "color": style.COLOURS[1], "elinewidth": 0.9, "capsize": 3, "markersize": 4}
            axes.errorbar(value, value, xerr=bars, **look, zorder=4)
            interval = mean_interval(crossing)
            axes.set_title(f"{operator}: predicted {interval_text(interval)}" if interval else operator)
            style.sparsity_axis(axes, low, high)
            style.sparsity_axis(axes, bottom, high, "y", "width ω" if axes is panels[0] else "")
        if not len(curves["run"]):
            return
        orange = {"color": style.COLOURS[1], "marker": "o", "markersize": 4}
        handles = [
            Line2D([], [], color=style.COLOURS[0], label="width ω(s), one line per seed"),
            Patch(color=style.COLOURS[0], alpha=0.18, label="interval of ω(s)"),
            Line2D([], [], **style.DIAGONAL, label="ω = s"),
            Line2D([], [], **orange, label="predicted threshold, interval"),
        ]
        style.legend(figure, handles[:2], handles[2:])


def predicted_vs_empirical(thresholds: pa.Table, path: str | os.PathLike) -> None:
    """Predicted against measured threshold of all runs and seeds: a colour per run, a marker per predictor.

    Args:
        thresholds: the table.
        path: of the image; its suffix names the format.
    """
    chosen = {"criterion": "loss_tolerance", "stage": "one_shot", "method": "magnitude"}
    rows = style.read_rows(thresholds, **chosen)
    finite = np.isfinite(rows["predicted"]) & np.isfinite(rows["empirical"])
    rows = {name: values[finite] for name, values in rows.items()}
    text = ", ".join(chosen.values()).replace("_", " ")
    with style.drawing(path, f"predicted and measured thresholds ({text})", 7.2, 5.0) as figure:
        axes = figure.subplots()
        if not len(rows["run"]):
            style.no_data(axes, text)
            return
        present = set(zip(rows["predictor"], rows["operator"], strict=True))
        pairs = sorted(present, key=lambda pair: prediction_order(*pair))
        colours = style.numbered_colours(np.unique(rows["run"]))
        low, high = style.sparsity_limits([*rows["predicted"], *rows["empirical"]], pad=0.08)
        axes.plot([low, high], [low, high], **style.DIAGONAL)
        handles = [Line2D([], [], color=colour, linewidth=4, label=run) for run, colour in colours.items()]
        for (predictor, operator), marker in zip(pairs, cycle(style.MARKERS), strict=False):
            look = {"marker": marker, "markersize": 5.5, "markerfacecolor": "white", "linestyle": ""}
            handles.append(Line2D([], [], color="#333333", label=f"{predictor}, {operator}", **look))
            for run, part in style.groups(style.where(rows, predictor=predictor, operator=operator), "run"):
                x, x_bars = _with_bars(part, "empirical", high)
                y, y_bars = _with_bars(part, "predicted", high)
                bars = {"xerr": x_bars, "yerr": y_bars, "elinewidth": 0.9, "capsize": 2}
                axes.errorbar(x, y, color=colours[run], **bars, **look)
        handles.append(Line2D([], [], **style.DIAGONAL, label="predicted = measured"))
        style.sparsity_axis(axes, low, high, "x", "measured threshold (sparsity)")
        style.sparsity_axis(axes, low, high, "y", "predicted threshold (sparsity)")
        figure.legend(handles=handles, loc="outside center right")
