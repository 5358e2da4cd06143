"""Where a curve over the number of removed weights crosses a line: by halving, without a look at every number."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["crossing", "first_rise"]


def crossing(curve: Callable[[int], float], dimension: int) -> float:
    """``sup {s : omega(s) >= s}`` of a falling curve, as k/D with the largest count k that has ``omega >= k/D``.

    Args:
        curve: omega after removal of a number of weights.
        dimension: D.
    """
    low, high = 0, dimension
    if curve(high) >= 1.0:
        return 1.0
    while high - low > 1:
        middle = (low + high) // 2
        if curve(middle) >= middle / dimension:
            low = middle
        else:
            high = middle
    return low / dimension


def first_rise(
    rise: Callable[[int], float],
    dimension: int,
    epsilon: float,
    resolution: float = 1e-4,
    guess: Callable[[int, int], float] | None = None,
) -> tuple[float, float, int]:
    """Where a rise of the loss first reaches ``epsilon``.

    The rise need not be monotone: a scan over remaining fractions 1, 1/2, 1/4, ... finds the first bracket. Halving
    narrows it to the resolution and to a tenth of the remaining fraction; or guesses do, where they are faster, each
    taken a step of half the resolution further from the nearer end, so that both ends close in.

    Args:
        rise: of the loss after removal of a number of weights.
        dimension: number of weights.
        epsilon: the rise to reach.
        resolution: width of the bracket, in sparsity.
        guess: where between two numbers of removed weights it may be, both of which ``rise`` was asked for, or 0.

    Returns:
        (lower, upper, evaluations): a bracket of sparsities, and how often ``rise`` was asked; (1, 1, n) when the rise
        never reaches epsilon.
    """
    low, evaluations = 0, 0
    counts = sorted({dimension - int(dimension * 2.0**-halvings) for halvings in range(1, 40)} | {dimension})
    for count in counts:
        evaluations += 1
        if rise(count) >= epsilon:
            high = count
            break
        low = count
    else:
        return 1.0, 1.0, evaluations
    widths: list[int] = []
    while high - low > (wanted := max(1, min(resolution * dimension, 0.1 * (dimension - low)))):
        widths.append(high - low)
        middle = (low + high) // 2
        # Three guesses that did no better than three halvings are followed by a halving.
        if guess is not None and not (len(widths) > 3 and 8 * widths[-1] > widths[-4]):
            found, step = round(guess(low, high)), max(1, int(wanted / 2))
            found += step if found - low < high - found else -step
            middle = min(max(found, low + step), high - step)
        evaluations += 1
        if rise(middle) >= epsilon:
            high = middle
        else:
            low = middle
    return low / dimension, high / dimension, evaluations
