"""What the figures share: style and saving, selection of rows, the axis of sparsities."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ..spectral.predictors import PREDICTORS
from ..storage.files import atomic_path

Rows = dict[str, np.ndarray]

# Okabe and Ito's colours, with grey for their yellow, which is too light for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "osD^vPX*<>"
DIAGONAL = {"color": "#555555", "linestyle": ":"}
STYLE = {
    "svg.hashsalt": "gwprune",  # otherwise the ids in an svg file are random
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "figure.titlesize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
}
# Dates and versions would make two files of the same data differ.
METADATA = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}


@contextmanager
def drawing(paths: Sequence[str | os.PathLike], title: str, width: float, height: float) -> Iterator[Figure]:
    """An empty figure of the common style, saved to each of ``paths`` when the block ends."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title)
        yield figure
        for path in paths:
            kind = Path(path).suffix[1:].lower()
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=kind, metadata=METADATA.get(kind))


def read_rows(table: pa.Table, **equal: str) -> Rows:
    """Columns of a table as arrays of equal length, of the rows in which columns equal the given values."""
    for column, value in equal.items():
        table = table.filter(pc.equal(table[column], value))
    return {name: table[name].to_numpy() for name in table.column_names}


def where(rows: Rows, **equal: object) -> Rows:
    """The rows in which columns equal the given values."""
    mask = np.ones(len(rows["run"]), bool)
    for column, value in equal.items():
        mask &= rows[column] == value
    return {name: values[mask] for name, values in rows.items()}


def groups(rows: Rows, column: str) -> Iterator[tuple[object, Rows]]:
    """Each value of ``column`` in order, with its rows."""
    for value in np.unique(rows[column]):
        yield value, where(rows, **{column: value})


def one_rule(rows: Rows) -> str:
    """The epsilon rule to draw: the paper's choice, else the first there is."""
    rules = sorted(set(rows["epsilon_rule"]))
    return "batch_std" if "batch_std" in rules or not rules else rules[0]


def by_importance(names: Iterable[str], first: str) -> list[str]:
    """The distinct names in alphabetical order, but ``first`` first."""
    return sorted(set(names), key=lambda name: (name != first, name))


def no_data(axes: Axes, what: str) -> None:
    """An empty panel that says so."""
    axes.text(0.5, 0.5, f"no data for {what}", ha="center", va="center", transform=axes.transAxes, color="#555555")
    axes.set(xticks=[], yticks=[])


def legend(figure: Figure, *columns: list) -> None:
    """A legend below the panels with these columns; short ones are filled up so that none breaks."""
    columns = [column for column in columns if column]
    rows = max(map(len, columns), default=0)
    blank = Line2D([], [], linestyle="", label=" ")
    handles = [handle for column in columns for handle in [*column, *[blank] * (rows - len(column))]]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(columns))


def numbered_colours(names: Iterable[str]) -> dict[str, str]:
    """One colour each; where there are too few good ones, evenly spaced colours from dark to light."""
    names = list(names)
    if len(names) <= len(COLOURS):
        return dict(zip(names, COLOURS, strict=False))
    return {name: to_hex(matplotlib.colormaps["viridis"](i / len(names))) for i, name in enumerate(names)}


def predictor_looks(names: Collection[str]) -> dict[str, dict]:
    """Marker and colour of those registered predictors that are among ``names``, in the order of the registry."""
    looks = zip(PREDICTORS, numbered_colours(PREDICTORS).values(), MARKERS, strict=False)
    # Filled or hollow by turns, so that neighbours differ in more than colour.
    fills = cycle(({"markeredgewidth": 1.2, "markerfacecolor": "white"}, {}))
    return {
        name: {"marker": marker, "color": colour, **fill}
        for (name, colour, marker), fill in zip(looks, fills, strict=False)
        if name in names
    }


def to_axis(sparsity: np.ndarray) -> np.ndarray:
    """Position on the sparsity axis: -log10(1 - s), so 0, 0.9, 0.99 are 0, 1, 2. Full sparsity stops at 9."""
    return -np.log10(np.maximum(1 - np.asarray(sparsity, float), 1e-9))


def from_axis(position: np.ndarray) -> np.ndarray:
    """Inverse of `to_axis`."""
    return 1 - 10.0 ** -np.asarray(position, float)


def sparsity_limits(values: Iterable[float], pad: float = 0.04) -> tuple[float, float]:
    """Limits that hold the sparsities in ``values`` (1 and non-finite ones do not count) with a margin."""
    values = np.asarray(list(values), float)
    values = values[(values >= 0) & (values < 1)]
    positions = to_axis(values) if len(values) else np.array([0.0, 1.0])
    low, high = positions.min(), positions.max()
    margin = max(pad * (high - low), 0.02)
    return tuple(float(from_axis(position)) for position in (max(low - margin, 0), high + margin))


def sparsity_ticks(low: float, high: float) -> np.ndarray:
    """Tick positions, as sparsities: the finest set of round numbers whose labels leave each other room."""
    # The last but one halves the widest step of the last, at the cost of one short label.
    choices = ((range(1, 11), []), ((1, 2, 5, 10), []), ((1, 5, 10), []), ((1, 10), [0.5]), ((1, 10), []))
    for mantissas, more in choices:
        ticks = np.unique([*more, *(round(1 - m * 10.0**-k, 12) for k in range(1, 9) for m in mantissas)])
        ticks = ticks[(ticks >= low - 1e-12) & (ticks <= high)]
        letters = np.array([len(f"{tick:.8g}") for tick in ticks])
        room = 0.024 * ((letters[1:] + letters[:-1]) / 2 + 1) * (to_axis(high) - to_axis(low))
        if len(ticks) >= 3 and np.all(np.diff(to_axis(ticks)) >= room):
            return ticks
    if len(ticks) >= 5:  # very many decades: every second one
        return ticks[::2]
    ticks = MaxNLocator(5).tick_values(low, high)
    return ticks[(ticks >= low) & (ticks <= high)]


def sparsity_axis(axes: Axes, low: float, high: float, which: str = "x", label: str = "sparsity") -> None:
    """Make an axis of ``axes`` one of sparsities, logarithmic in the fraction of weights that remains."""
    getattr(axes, f"set_{which}scale")("function", functions=(to_axis, from_axis))
    axes.set(**{f"{which}lim": (low, high), f"{which}label": label})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(sparsity_ticks(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda s, _: f"{s:.8g}"))


def log_y(axes: Axes) -> None:
    """Logarithmic y axis, if there is anything positive to show on it."""
    if not np.isfinite(axes.dataLim.minposy):
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low < 50:  # few decades: label 2 and 5 as well, and in plain numbers
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
