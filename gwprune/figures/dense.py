"""Figures of the dense network: its training and the spectrum of its curvature."""

from __future__ import annotations

import os
from itertools import cycle

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from . import style

_SMEARING = 0.01  # standard deviation, over the width of the axis
_PROBES = "|x+1234"  # a marker for each probe


def training_history(training: pa.Table, run: str, *paths: str | os.PathLike) -> None:
    """Loss, accuracy and (when it varies) learning rate of each epoch; one thin line per seed.

    Args:
        training: the table.
        run: which run to draw.
        paths: of the images; the suffix of each names its format.
    """
    rows = style.read_rows(training, run=run)
    varies = len(np.unique(rows["lr"])) > 1
    seeds = len(np.unique(rows["seed"]))
    title = f"{run}: dense training" + (f", one line for each of {seeds} seeds" if seeds > 1 else "")
    with style.drawing(paths, title, 6.4, 5.6 if varies else 4.8) as figure:
        ratios = [3, 3, 1][: 2 + varies]
        panels = figure.subplots(len(ratios), sharex=True, height_ratios=ratios)
        colours = {"train": style.COLOURS[0], "val": style.COLOURS[1]}
        if not len(rows["epoch"]):
            for axes, what in zip(panels, ("loss", "accuracy"), strict=True):
                style.no_data(axes, f"{what} of {run}")
            return
        for _, seed in style.groups(rows, "seed"):
            order = np.argsort(seed["epoch"])
            epoch = seed["epoch"][order]
            look = {"linewidth": 0.9, "alpha": 0.85, "marker": "o" if len(epoch) == 1 else None, "markersize": 3}
            for split, colour in colours.items():
                for axes, what in zip(panels, ("loss", "accuracy"), strict=False):
                    values = seed[f"{split}_{what}"][order]
                    axes.plot(epoch, np.where(np.isfinite(values), values, np.nan), color=colour, **look)
            if varies:
                panels[2].plot(epoch, seed["lr"][order], color="#555555", drawstyle="steps-mid", **look)
        style.log_y(panels[0])
        panels[0].set_ylabel("data loss (nats)")
        panels[1].set_ylabel("accuracy (%)")
        if varies:
            panels[2].set(ylabel="lr", ylim=(0, None))
        panels[-1].set_xlabel("epoch")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        names = {"train": "train, running mean of the epoch", "val": "val, after the epoch"}
        handles = [Line2D([], [], color=colour, label=names[split]) for split, colour in colours.items()]
        style.legend(figure, *([handle] for handle in handles))


def smeared_density(positions: np.ndarray, weights: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """The sum of Gaussians, one for each node.

    Args:
        positions: of the nodes, (n,).
        weights: mass of each, (n,).
        sigma: standard deviation of the Gaussians.

    Returns:
        A grid and the density on it, of equal length.
    """
    low, high = positions.min() - 6 * sigma, positions.max() + 6 * sigma
    grid = np.linspace(low, high, int(np.clip(4 * (high - low) / sigma, 200, 5000)))
    density = np.zeros_like(grid)
    for part in np.array_split(np.arange(len(positions)), len(positions) // 2000 + 1):  # bounds the memory
        kernel = np.exp(-0.5 * ((grid[:, None] - positions[part]) / sigma) ** 2)
        density += kernel @ weights[part] / (sigma * np.sqrt(2 * np.pi))
    return grid, density


def asinh_scale(nodes: np.ndarray, weights: np.ndarray) -> float:
    """Where the eigenvalue axis turns from linear to logarithmic: the weighted median |node| other than 0.

    It is kept within six decades of the largest, as rounding leaves "zeros" far smaller than that.

    Args:
        nodes: eigenvalues, (n,).
        weights: their weights, (n,).
    """
    used = (nodes != 0) & (weights > 0)
    if not used.any():
        return 1.0
    sizes, masses = np.abs(nodes[used]), weights[used]
    order = np.argsort(sizes)
    mass = np.cumsum(masses[order])
    median = sizes[order][np.searchsorted(mass, mass[-1] / 2)]
    return float(np.clip(median, 1e-6 * sizes.max(), 1e-2 * sizes.max()))


def _eigenvalue_axis(axes: Axes, low: float, high: float, scale: float) -> None:
    axes.set_xscale("function", functions=(lambda v: np.arcsinh(v / scale), lambda x: scale * np.sinh(x)))
    axes.set_xlim(scale * np.sinh(low), scale * np.sinh(high))
    top = np.floor(np.log10(scale * np.sinh(max(-low, high))))
    step = max(1, int(np.ceil((max(high, 0) - min(low, 0)) / np.log(10) / 7)))
    powers = 10.0 ** np.arange(top, np.log10(2 * scale), -step)
    axes.xaxis.set_major_locator(FixedLocator([*-powers, 0, *powers]))
    axes.xaxis.set_minor_locator(NullLocator())

    # Superscripts as letters: mathtext takes longer than the whole rest of the figure.
    superscript = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

    def text(value: float, _: int) -> str:
        power = f"{np.log10(abs(value) or 1):.0f}".translate(superscript)
        return f"{'−' if value < 0 else ''}10{power}" if value else "0"

    axes.xaxis.set_major_formatter(FuncFormatter(text))


def spectral_density(spectra: pa.Table, run: str, *paths: str | os.PathLike) -> None:
    """Spectral density of each operator (mean over the probes of a seed) above its raw nodes and weights.

    The density is per unit of asinh(eigenvalue / scale) and smeared there, for display only.

    Args:
        spectra: the table.
        run: which run to draw.
        paths: of the images; the suffix of each names its format.
    """
    rows = style.read_rows(spectra, run=run, rule="gauss")
    names = style.by_importance(rows["operator"], "hessian") or ["hessian"]
    kept = np.isfinite(rows["node"]) & (rows["weight"] > 0)
    rows = {name: values[kept] for name, values in rows.items()}
    scale = asinh_scale(rows["node"], rows["weight"])
    rows["position"] = np.arcsinh(rows["node"] / scale)
    low, high = min(rows["position"], default=0), max(rows["position"], default=0)
    sigma = _SMEARING * max(high - low, 1)
    seeds, numbers = np.unique(rows["seed"]), np.unique(rows["probe"])
    colours = style.numbered_colours(seeds)
    markers = dict(zip(numbers, cycle(_PROBES), strict=False))
    title = f"{run}: spectrum of the curvature (Gauss rule; seeds: {len(seeds)}, probes of each: {len(numbers)})"
    with style.drawing(paths, title, 0.6 + 4.2 * len(names), 4.8) as figure:
        panels = figure.subplots(2, len(names), squeeze=False, sharex=True, sharey="row", height_ratios=[2, 1])
        for (upper, lower), operator in zip(panels.T, names, strict=True):
            part = style.where(rows, operator=operator)
            if not len(part["node"]):
                style.no_data(upper, f"{operator}, rule gauss, of {run}")
                style.no_data(lower, operator)
                continue
            many = len(part["node"]) > 3000  # as vectors they would make a huge file
            for seed, own in style.groups(part, "seed"):
                probes = len(np.unique(own["probe"]))
                grid, density = smeared_density(own["position"], own["weight"] / probes, sigma)
                zero = own["weight"][own["node"] == 0].sum() / probes
                label = f"seed {seed}: weight {zero:.3g} at exactly 0"
                upper.plot(scale * np.sinh(grid), density, color=colours[seed], linewidth=1, label=label)
                look = {"color": colours[seed], "linestyle": "", "markersize": 4, "alpha": 0.6, "rasterized": many}
                for probe, nodes in style.groups(own, "probe"):
                    lower.plot(nodes["node"], nodes["weight"], marker=markers[probe], **look)
            upper.set_title(operator)
            upper.legend(loc="upper right")
            for axes in (upper, lower):
                axes.set_yscale("log")
                _eigenvalue_axis(axes, low - 5 * sigma, high + 5 * sigma, scale)
            upper.tick_params(labelbottom=False)
            lower.set_xlabel(f"eigenvalue (linear within ±{scale:.0e}, logarithmic beyond)")
        if len(rows["weight"]):
            # Between outliers the Gaussians fall to nothing: stop a little below the lowest of their tops.
            peak = 1 / (sigma * np.sqrt(2 * np.pi))
            floor = max(np.quantile(rows["weight"], 0.02), 1e-12) * peak
            panels[0, 0].set_ylim(floor / 10, peak * 10 ** (0.7 * len(seeds)))  # the legend stands above the curves
        panels[0, 0].set_ylabel(f"density in asinh coordinate,\nsmeared for display (σ = {sigma:.2g})")
        panels[1, 0].set_ylabel("raw nodes:\nweight per probe")
        of_seeds = [Line2D([], [], color=colour, label=f"seed {seed}") for seed, colour in colours.items()]
        look = {"color": "#333333", "linestyle": ""}
        of_probes = [Line2D([], [], marker=marker, label=f"probe {name}", **look) for name, marker in markers.items()]
        style.legend(figure, *([handle] for handle in (*of_seeds, *of_probes)))
