"""Figures of pruning: the width curve, the pruned networks, predicted against measured thresholds."""

from __future__ import annotations

import os
from itertools import cycle

import numpy as np
import pyarrow as pa
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .axes import (
    COLOURS,
    MARKERS,
    Rows,
    by_importance,
    drawing,
    groups,
    legend,
    log_y,
    no_data,
    numbered_colours,
    one_rule,
    read_rows,
    sparsity_axis,
    sparsity_limits,
    to_axis,
    where,
)

STAGES = {
    "one_shot": {"linestyle": "-"},
    "fine_tuned": {"linestyle": "--"},
    "trained": {"linestyle": (0, (3, 1, 1, 1))},
}
POINTS = {"marker": "o", "markersize": 3.5, "markerfacecolor": "white"}
# Predicted thresholds of a sweep: greys, so that none is taken for a method.
OPERATORS = {"hessian": ("#000000", "-."), "ggn": ("#777777", (0, (6, 1.5, 1, 1.5, 1, 1.5)))}
MEASURED = {"linestyle": (0, (1, 1.2)), "linewidth": 2.2}


def _with_bars(rows: Rows, name: str, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of ``name`` (cut at ``high``, to stay on the axis) and the lengths of their error bars."""
    value = np.clip(rows[name], 0, high)
    lower, upper = np.clip(rows[f"{name}_lower"], 0, 1), np.clip(rows[f"{name}_upper"], 0, 1)
    # Rounding can put an end a hair beyond its value, and a missing interval is no interval.
    return value, np.nan_to_num(np.maximum([value - lower, upper - value], 0))


def _interval(rows: Rows) -> tuple[float, float, float] | None:
    """Mean threshold over the seeds and the envelope of their intervals; None without a finite threshold."""
    finite = np.isfinite(rows["threshold"])
    if not finite.any():
        return None
    value = rows["threshold"][finite]
    lower, upper = rows["threshold_lower"][finite], rows["threshold_upper"][finite]
    return float(value.mean()), float(np.fmin(value, lower).min()), float(np.fmax(value, upper).max())


def _interval_text(found: tuple[float, float, float]) -> str:
    return f"{found[0]:.4f} [{found[1]:.4f}, {found[2]:.4f}]"


def width_curve(
    width_curves: pa.Table,
    predictions: pa.Table,
    run: str,
    path: str | os.PathLike,
    epsilon_rule: str | None = None,
) -> None:
    """Width curve of each operator with its interval, the diagonal, and the predicted threshold on it.

    ``epsilon_rule``: which one to draw; by default `batch_std`, or the first there is.
    """
    curves = read_rows(width_curves, run=run)
    epsilon_rule = one_rule(curves, epsilon_rule)
    curves = where(curves, epsilon_rule=epsilon_rule)
    predicted = where(read_rows(predictions, run=run, predictor="width"), epsilon_rule=epsilon_rule)
    names = by_importance(curves["operator"], "hessian") or ["hessian"]
    low, high = sparsity_limits([*curves["sparsity"], *predicted["threshold"]])
    bottom, _ = sparsity_limits([low, *curves["width"]])
    with drawing(path, f"{run}: width curve (ε: {epsilon_rule})", 1.6 + 3.6 * len(names), 4.4) as figure:
        panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
        for axes, operator in zip(panels, names, strict=True):
            part = where(curves, operator=operator)
            if not len(part["sparsity"]):
                no_data(axes, f"the width curve of {run}")
                continue
            for _, seed in groups(part, "seed"):
                order = np.argsort(seed["sparsity"])
                s, width, lower, upper = (
                    seed[name][order] for name in ("sparsity", "width", "width_lower", "width_upper")
                )
                axes.fill_between(s, lower, upper, color=COLOURS[0], alpha=0.18, linewidth=0)
                axes.plot(s, width, color=COLOURS[0], linewidth=1)
            axes.plot([low, high], [low, high], color="#555555", linestyle=":")
            crossing = where(predicted, operator=operator)
            value, bars = _with_bars(crossing, "threshold", high)
            look = {"fmt": "o", "color": COLOURS[1], "elinewidth": 0.9, "capsize": 3, "markersize": 4}
            axes.errorbar(value, value, xerr=bars, **look, zorder=4)
            found = _interval(crossing)
            axes.set_title(f"{operator}: predicted {_interval_text(found)}" if found else operator)
            sparsity_axis(axes, low, high)
            sparsity_axis(axes, bottom, high, "y", "width ω" if axes is panels[0] else "")
        if not len(curves["run"]):
            return
        orange = {"color": COLOURS[1], "marker": "o", "markersize": 4}
        handles = [
            Line2D([], [], color=COLOURS[0], label="width ω(s), one line per seed"),
            Patch(color=COLOURS[0], alpha=0.18, label="interval of ω(s)"),
            Line2D([], [], color="#555555", linestyle=":", label="ω = s"),
            Line2D([], [], **orange, label="predicted threshold, interval"),
        ]
        legend(figure, handles[:2], handles[2:])


def over_seeds(rows: Rows, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sparsities and the mean, smallest and largest value over the seeds.

    Seeds may be measured at different sparsities: between its own first and last a seed is interpolated. A
    value that is not finite leaves a gap, as the mean over the other seeds would flatter the method.
    """
    grid = np.unique(rows["sparsity"])
    values, inside = [], []
    for _, seed in groups(rows, "seed"):
        order = np.argsort(seed["sparsity"])
        s, y = seed["sparsity"][order], seed[column][order]
        values.append(np.interp(to_axis(grid), to_axis(s), np.where(np.isfinite(y), y, np.nan)))
        inside.append((grid >= s[0]) & (grid <= s[-1]))
    values, inside = np.array(values), np.array(inside)
    mean = np.where(inside, values, 0).sum(0) / inside.sum(0)
    return grid, mean, np.where(inside, values, np.inf).min(0), np.where(inside, values, -np.inf).max(0)


def _threshold_lines(predicted: Rows, measured: Rows, colour: str, name: str) -> tuple[list, list]:
    """Vertical lines as (position, look, legend text), and shaded intervals as (start, end, colour)."""
    lines, spans = [], []
    for operator in by_importance(predicted["operator"], "hessian"):
        if found := _interval(where(predicted, operator=operator)):
            grey, dashes = OPERATORS.get(operator, OPERATORS["ggn"])
            text = f"predicted, {operator}: {_interval_text(found)}"
            lines.append((found[0], {"color": grey, "linestyle": dashes, "linewidth": 1.2}, text))
            spans.append((found[1], min(found[2], 1.0), grey))
    # Where every grid point meets the criterion the table holds the end of the grid, which is no threshold.
    reached = measured["threshold"][measured["reached"].astype(bool)]
    if len(reached):
        some = f" ({len(reached)} of {len(measured['run'])} seeds)" if len(reached) < len(measured["run"]) else ""
        text = f"measured, {name}: {reached.mean():.4f}{some}"
        lines.append((reached.mean(), {"color": colour, **MEASURED}, text))
    return lines, spans


def sparsity_sweep(
    sweep: pa.Table,
    predictions: pa.Table,
    empirical: pa.Table,
    run: str,
    path: str | os.PathLike,
    epsilon_rule: str | None = None,
    criterion: str = "loss_tolerance",
    method: str = "magnitude",
) -> None:
    """Accuracy and loss of the pruned networks against sparsity, with predicted and measured thresholds.

    The measured one is that of ``criterion`` for one-shot pruning by ``method``.
    """
    rows = read_rows(sweep, run=run)
    predicted = read_rows(predictions, run=run, predictor="width")
    measured = read_rows(empirical, run=run, method=method, stage="one_shot", criterion=criterion)
    epsilon_rule = one_rule(predicted if len(predicted["run"]) else measured, epsilon_rule)
    predicted = where(predicted, epsilon_rule=epsilon_rule)
    if criterion.endswith("_tolerance"):
        measured = where(measured, epsilon_rule=epsilon_rule)
    methods = by_importance(rows["method"], "magnitude")
    colours = numbered_colours(methods)
    name = f"{criterion.replace('_', ' ')}, {method}"
    lines, spans = _threshold_lines(predicted, measured, colours.get(method, COLOURS[0]), name)
    low, high = sparsity_limits([*rows["sparsity"], *predicted["threshold"]])
    kinds = (("accuracy", "val", "validation accuracy (%)"), ("loss", "train", "training data loss (nats)"))
    several = len(np.unique(rows["seed"])) > 1
    title = f"{run}: pruned networks" + (", mean and range over seeds" if several else "")
    with drawing(path, title, 9.4, 4.9) as figure:
        for axes, (column, chosen, label) in zip(figure.subplots(1, 2), kinds, strict=True):
            part = where(rows, split=chosen)
            if not len(part["run"]):
                no_data(axes, f"{label} of {run}")
                continue
            for name, stage in ((name, stage) for name in methods for stage in STAGES):
                curve = where(part, method=name, stage=stage)
                if not len(curve["run"]):
                    continue
                s, mean, least, most = over_seeds(curve, column)
                axes.plot(s, mean, color=colours[name], **STAGES[stage])
                axes.fill_between(s, least, most, color=colours[name], alpha=0.15, linewidth=0)
                if stage != "one_shot":  # few and costly: show each one, also where the mean interpolates
                    y = np.where(np.isfinite(curve[column]), curve[column], np.nan)
                    axes.plot(curve["sparsity"], y, color=colours[name], linestyle="", **POINTS)
            for start, end, colour in spans:
                axes.axvspan(start, end, color=colour, alpha=0.1, linewidth=0, zorder=0)
            for position, look, _ in lines:
                axes.axvline(position, **look, zorder=1.5)
            axes.set_ylabel(label)
            if column == "loss":
                log_y(axes)
            sparsity_axis(axes, low, high)
        of_methods = [Line2D([], [], color=colours[name], label=name) for name in methods]
        of_stages = [
            Line2D([], [], color="#333333", label=stage.replace("_", " "), **look, **points)
            for (stage, look), points in zip(STAGES.items(), ({}, POINTS, POINTS), strict=True)
            if stage in rows["stage"]
        ]
        of_lines = [Line2D([], [], label=text, **look) for _, look, text in lines]
        legend(figure, *(of_methods[i : i + 4] for i in range(0, len(of_methods), 4)), of_stages, of_lines)


def predicted_vs_empirical(
    thresholds: pa.Table,
    path: str | os.PathLike,
    criterion: str = "loss_tolerance",
    stage: str = "one_shot",
    method: str = "magnitude",
    epsilon_rule: str | None = None,
) -> None:
    """Predicted against measured threshold of all runs and seeds: a colour per run, a marker per predictor.

    ``epsilon_rule``: draw only this one; by default all that there are.
    """
    rule = {"epsilon_rule": epsilon_rule} if epsilon_rule else {}
    rows = read_rows(thresholds, criterion=criterion, stage=stage, method=method, **rule)
    finite = np.isfinite(rows["predicted"]) & np.isfinite(rows["empirical"])
    rows = {name: values[finite] for name, values in rows.items()}
    chosen = ", ".join([criterion, stage, method, *rule.values()]).replace("_", " ")
    with drawing(path, f"predicted and measured thresholds ({chosen})", 7.2, 5.0) as figure:
        axes = figure.subplots()
        if not len(rows["run"]):
            no_data(axes, chosen)
            return
        pairs = set(zip(rows["predictor"], rows["operator"], strict=True))
        # The paper's prediction first.
        pairs = sorted(pairs, key=lambda pair: (pair[0] != "width", pair[0], pair[1] != "hessian", pair[1]))
        colours = numbered_colours(np.unique(rows["run"]))
        low, high = sparsity_limits([*rows["predicted"], *rows["empirical"]], pad=0.08)
        axes.plot([low, high], [low, high], color="#555555", linestyle=":")
        handles = [Line2D([], [], color=colour, linewidth=4, label=run) for run, colour in colours.items()]
        for (predictor, operator), marker in zip(pairs, cycle(MARKERS), strict=False):
            look = {"marker": marker, "markersize": 5.5, "markerfacecolor": "white", "linestyle": ""}
            handles.append(Line2D([], [], color="#333333", label=f"{predictor}, {operator}", **look))
            for run, part in groups(where(rows, predictor=predictor, operator=operator), "run"):
                x, x_bars = _with_bars(part, "empirical", high)
                y, y_bars = _with_bars(part, "predicted", high)
                bars = {"xerr": x_bars, "yerr": y_bars, "elinewidth": 0.9, "capsize": 2}
                axes.errorbar(x, y, color=colours[run], **bars, **look)
        handles.append(Line2D([], [], color="#555555", linestyle=":", label="predicted = measured"))
        sparsity_axis(axes, low, high, "x", "measured threshold (sparsity)")
        sparsity_axis(axes, low, high, "y", "predicted threshold (sparsity)")
        figure.legend(handles=handles, loc="outside center right")
