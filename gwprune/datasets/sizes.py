"""How many samples each split gets: known from the numbers alone, before any file is read."""

from __future__ import annotations

__all__ = ["split_sizes"]

# Share that is drawn as test split from data sets that have none of their own.
_TEST_FRACTION = 0.2


def _rounded(fraction: float, count: int) -> int:
    return max(1, int(fraction * count + 0.5))


def split_sizes(
    count: int, *, validation_fraction: float, draw_test: bool, train_limit: int | None = None
) -> dict[str, int]:
    """Sizes of 'train' and 'val', after 'test' if ``draw_test``.

    Args:
        count: samples of the training part.
        validation_fraction: share of 'val' in 'train' + 'val', at least one sample.
        draw_test: a fifth of all becomes 'test'; otherwise there is no such key.
        train_limit: samples of 'train' + 'val' together; None or too many: all.

    Raises:
        ValueError: when there are too few samples for each split to have one.
    """
    test = _rounded(_TEST_FRACTION, count) if draw_test else 0
    pool = min(count - test, train_limit or count)
    held_out = _rounded(validation_fraction, pool)
    if held_out >= pool:
        raise ValueError(
            f"{pool} samples cannot be divided into training and validation samples with "
            f"validation_fraction = {validation_fraction}"
        )
    return ({"test": test} if draw_test else {}) | {"train": pool - held_out, "val": held_out}
