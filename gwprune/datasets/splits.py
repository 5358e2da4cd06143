"""Seeded stratified splits: indices only, no images."""

from __future__ import annotations

import numpy as np

from ..streams import numpy_stream

__all__ = ["TEST_FRACTION", "split_indices", "stratified_choice"]

#: Drawn as test split from data sets that have none of their own.
TEST_FRACTION = 0.2


def stratified_choice(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Choose exactly ``count`` indices, each class within one sample of its share; sorted, without repeats.

    Args:
        labels: (N,) integers.
        count: 1..N.

    Raises:
        ValueError: when there are fewer samples than ``count``.
    """
    if count > len(labels):
        raise ValueError(f"cannot choose {count} of {len(labels)} samples")
    sizes = np.unique(labels, return_counts=True)[1]
    shares, remainders = np.divmod(sizes.astype(np.int64) * count, len(labels))
    # largest remainders take what is left over; ties by class order
    shares[np.argsort(-remainders, kind="stable")[: count - int(shares.sum())]] += 1
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    chosen = [rng.permutation(group)[:share] for group, share in zip(members, shares, strict=True)]
    return np.sort(np.concatenate(chosen))


def _rounded(fraction: float, count: int) -> int:
    return max(1, int(fraction * count + 0.5))


def split_indices(
    labels: np.ndarray,
    *,
    validation_fraction: float,
    split_seed: int,
    draw_test: bool,
    train_limit: int | None = None,
) -> dict[str, np.ndarray]:
    """Divide a training part, by class, into 'train' and 'val', after 'test' if ``draw_test``.

    'train' and 'val' come in a seeded random order: image trees are sorted by class, and mini-batches in
    stored order (as the batch_std tolerance takes them) must not hold a single class each.

    Args:
        labels: (N,) class of each sample of the training part.
        validation_fraction: share of 'val' in 'train' + 'val', at least one sample.
        draw_test: take ``TEST_FRACTION`` of all as 'test'; otherwise there is no such key.
        train_limit: samples of 'train' + 'val' together, a stratified choice; None or too many: all.

    Raises:
        ValueError: when there are too few samples for each split to have one.
    """

    pool = np.arange(len(labels))
    result: dict[str, np.ndarray] = {}
    if draw_test:
        count = _rounded(TEST_FRACTION, len(pool))
        result["test"] = stratified_choice(labels, count, numpy_stream(split_seed, "test split"))
        pool = np.setdiff1d(pool, result["test"], assume_unique=True)
    if train_limit is not None and train_limit < len(pool):
        pool = pool[stratified_choice(labels[pool], train_limit, numpy_stream(split_seed, "train limit"))]
    held_out = _rounded(validation_fraction, len(pool))
    if held_out >= len(pool):
        raise ValueError(
            f"{len(pool)} samples cannot be divided into training and validation samples with "
            f"validation_fraction = {validation_fraction}"
        )
    val = pool[stratified_choice(labels[pool], held_out, numpy_stream(split_seed, "validation split"))]
    train = np.setdiff1d(pool, val, assume_unique=True)
    order = numpy_stream(split_seed, "order of splits")
    return result | {"train": order.permutation(train), "val": order.permutation(val)}
