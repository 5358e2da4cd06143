"""The picture of docs/theory.md: what the two limits ask of the sublevel set, in two dimensions.

    python -m benchmarks.theory_figure [--output DIRECTORY]

It checks with the formulas of the page what it shows.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from gwprune.figures.style import COLOURS, drawing

from .reporting import arguments_of, destination

EPSILON, L1 = 0.08, 0.25
ANGLE, SOFT, STIFF = np.radians(-40), 0.15, 3.0  # of the soft eigenvector; both eigenvalues
_BASIS = np.array([[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]])
HESSIAN = (_BASIS * [SOFT, STIFF]) @ _BASIS.T
FAR, NEAR = np.array([1.2, 0.55]), np.array([1.2, 0.26])  # w* of the two panels
BLUE, ORANGE, GREEN = COLOURS[0], COLOURS[1], COLOURS[2]


def rise(move: np.ndarray, gradient: np.ndarray | float = 0.0) -> float:
    """``g^T d + 1/2 d^T H d`` for the move d."""
    return float(np.sum(gradient * move) + move @ HESSIAN @ move / 2)


def contour(center: np.ndarray, level: float) -> np.ndarray:
    """The ellipse ``1/2 (x - center)^T H (x - center) = level`` as columns (2, n)."""
    turn = np.linspace(0, 2 * np.pi, 400)
    circle = np.array([np.cos(turn), np.sin(turn)])
    return center[:, None] + (_BASIS / np.sqrt([SOFT, STIFF])) @ circle * np.sqrt(2 * level)


def edges(removed: np.ndarray) -> np.ndarray:
    """The two directions (2, 2), one a column, that bound the cone ``y^T H Delta >= sqrt(kappa y^T H y)``."""
    pulled = HESSIAN @ removed
    kappa = removed @ pulled - 2 * EPSILON
    values, vectors = np.linalg.eigh(np.outer(pulled, pulled) - kappa * HESSIAN)  # one of each sign: y^T M y = 0
    sides = np.array([vectors @ (1 / np.sqrt(np.abs(values)) * [1, sign]) for sign in (1, -1)])
    return (sides * np.sign(sides @ pulled)[:, None]).T


def _point(axes: Axes, place: np.ndarray, text: str, shift: tuple[float, float], colour: str = "black") -> None:
    axes.plot(*place, "o", color=colour, ms=5, zorder=5)
    axes.annotate(text, place, xytext=shift, textcoords="offset points", color=colour)


def _two_limits(axes: Axes) -> None:
    pruned = FAR * [1, 0]
    removed = FAR - pruned
    assert rise(removed) > EPSILON
    outline = contour(FAR, EPSILON)
    below = outline[0][outline[1] < 0]  # where the line meets the set
    left, right = (pruned + 9 * side / np.linalg.norm(side) for side in edges(removed).T)
    axes.fill(*np.transpose([left, pruned, right]), color=ORANGE, alpha=0.12, lw=0)
    axes.plot(*np.transpose([left, pruned, right]), color=ORANGE, lw=0.8, ls="--")
    axes.fill(*outline, color=BLUE, alpha=0.25, lw=0)
    axes.plot(*outline, color=BLUE)
    axes.axhline(0, color="#555555", lw=1)
    axes.plot([below.min(), below.max()], [0, 0], color=GREEN, lw=4, solid_capstyle="butt", zorder=3)
    axes.annotate("", FAR, pruned, arrowprops={"arrowstyle": "->", "color": "#555555"})
    axes.annotate(r"$\Delta$", (FAR + pruned) / 2, xytext=(4, -8), textcoords="offset points", color="#555555")
    _point(axes, FAR, r"$w^*$", (3, 6))
    _point(axes, pruned, r"$w^s$: outside", (-18, -15))
    axes.text(0.16, 0.04, "all $x$ with $x_2 = 0$", color="#555555")
    axes.text(1.3, -0.24, "inside: what fine-tuning\ncould find", color=GREEN, va="top")
    axes.text(0.72, 1.14, "sublevel set", color=BLUE)
    axes.text(1.42, 0.78, "cone under which\nit is seen", color=ORANGE)
    axes.set_title("The pruned point misses the set, its subspace meets it")


def _two_centres(axes: Axes) -> None:
    pruned = NEAR * [1, 0]
    gradient = -L1 * np.sign(NEAR)
    shift = -np.linalg.solve(HESSIAN, gradient)
    level = EPSILON - rise(shift, gradient)
    assert np.isclose(level, EPSILON + gradient @ np.linalg.solve(HESSIAN, gradient) / 2)
    assert rise(pruned - NEAR) < EPSILON < rise(pruned - NEAR, gradient)
    for center, height, colour, style in ((NEAR, EPSILON, BLUE, "-"), (NEAR + shift, level, ORANGE, "--")):
        axes.fill(*contour(center, height), color=colour, alpha=0.12, lw=0)
        axes.plot(*contour(center, height), color=colour, ls=style)
    axes.axhline(0, color="#555555", lw=1)
    _point(axes, NEAR, r"$w^*$", (-3, 7), BLUE)
    _point(axes, NEAR + shift, r"$w^* - H^{-1} g$", (5, -12), ORANGE)
    _point(axes, pruned, r"$w^s$", (-14, -14))
    axes.text(0.16, 1.12, "objective: data loss and penalty", color=BLUE)
    axes.text(1.3, 0.78, "data loss alone", color=ORANGE)
    axes.set_title("At an l1 optimum: two functions, two centres")


def draw(path: Path) -> None:
    """Draw both panels to ``path``, whose suffix names the format."""
    with drawing([path], "What the two limits ask", 8.5, 3.6) as figure:
        for axes, panel in zip(figure.subplots(1, 2), (_two_limits, _two_centres), strict=True):
            panel(axes)
            axes.set(xlim=(0.1, 2.4), ylim=(-0.55, 1.3), xlabel="$x_1$, kept", ylabel="$x_2$, removed")
            axes.set_aspect("equal")
            axes.grid(visible=False)


def main(arguments: list[str] | None = None) -> int:
    options = arguments_of("theory_figure", __doc__).parse_args(arguments)
    draw(destination("theory", ".svg", options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
