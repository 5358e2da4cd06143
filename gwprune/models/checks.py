"""What the networks share: the shape of an input, its least size, and width multipliers."""

from __future__ import annotations

__all__ = ["Shape", "require_size", "scaled"]

Shape = tuple[int, int, int]
"""Shape of one input: (channels, height, width)."""


def require_size(network: str, input_shape: Shape, minimum: int) -> None:
    """Check that an input is at least ``minimum`` pixels high and wide.

    Args:
        network: name of the network, for the error message.
        input_shape: (channels, height, width) of one input.
        minimum: pixels.

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
