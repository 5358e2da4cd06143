"""Option types, and the wording of errors, shared by the networks and their registry."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

__all__ = ["Choice", "Flag", "Pair", "Positive", "Probability", "Rule", "Shape", "Size", "Sizes"]
__all__ += ["require_size", "scaled", "unknown"]

Shape = tuple[int, int, int]
"""Shape of one input: (channels, height, width)."""


@dataclass(frozen=True)
class Rule:
    """What a network option accepts; ``expects`` completes the sentence "expected ..."."""

    expects: str
    holds: Callable[[Any], bool]


def _is_size(value: Any) -> bool:
    # bool is an int in Python; `width: true` in a configuration is a mistake, not a 1.
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_size, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


Size = Annotated[int, Rule("a whole number of at least 1", _is_size)]
Sizes = Annotated[tuple[int, ...], Rule("a list of whole numbers of at least 1", _is_sizes)]
Pair = Annotated[
    tuple[int, int],
    Rule("a list of two whole numbers of at least 1", lambda value: _is_sizes(value) and len(value) == 2),
]
Positive = Annotated[float, Rule("a number above 0", lambda value: _is_number(value) and value > 0)]
Probability = Annotated[
    float, Rule("a number of at least 0 and below 1", lambda value: _is_number(value) and 0 <= value < 1)
]
Flag = Annotated[bool, Rule("true or false", lambda value: isinstance(value, bool))]


@dataclass(frozen=True)
class Choice:
    """An option with few allowed values: ``Annotated[str, Choice("A", "B")]``."""

    allowed: tuple[str, ...]

    def __init__(self, *allowed: str) -> None:
        object.__setattr__(self, "allowed", allowed)


def unknown(what: str, value: Any, allowed: Iterable[str]) -> ValueError:
    """The error for a name outside a closed set: names the value, the nearest match and all that is allowed.

    Args:
        what: the kind of name, e.g. ``"network"``.
        value: what was given.
        allowed: the names that exist.
    """
    allowed = list(allowed)
    nearest = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return ValueError(f"unknown {what} {value!r}; {hint}allowed: {', '.join(allowed) or 'none'}")


def require_size(network: str, input_shape: Shape, minimum: int) -> None:
    """Check that an input is at least ``minimum`` pixels high and wide.

    Raises:
        ValueError: naming the network, its input shape and the minimum.
    """
    if min(input_shape[1:]) < minimum:
        raise ValueError(
            f"network {network!r}: input shape {input_shape} is too small; height and width must be at least {minimum}"
        )


def scaled(channels: int, width: float) -> int:
    """``channels`` times the width multiplier, rounded, at least 1."""
    return max(1, round(channels * width))
