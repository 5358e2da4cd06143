"""Seeded stratified splits: indices only, no images."""

from __future__ import annotations

import numpy as np

from ..streams import numpy_stream
from .sizes import split_sizes

__all__ = ["split_indices", "stratified_choice"]


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
        validation_fraction: see :func:`split_sizes`, which says how many samples each split gets.
        split_seed: seed of every choice made here.
        draw_test: take a share of all as 'test'; otherwise there is no such key.
        train_limit: samples of 'train' + 'val' together, a stratified choice; None or too many: all.

    Raises:
        ValueError: when there are too few samples for each split to have one.
    """

    sizes = split_sizes(
        len(labels), validation_fraction=validation_fraction, draw_test=draw_test, train_limit=train_limit
    )
    pool = np.arange(len(labels))
    result: dict[str, np.ndarray] = {}
    if draw_test:
        result["test"] = stratified_choice(labels, sizes["test"], numpy_stream(split_seed, "test split"))
        pool = np.setdiff1d(pool, result["test"], assume_unique=True)
    limit = sizes["train"] + sizes["val"]
    if limit < len(pool):
        pool = pool[stratified_choice(labels[pool], limit, numpy_stream(split_seed, "train limit"))]
    val = pool[stratified_choice(labels[pool], sizes["val"], numpy_stream(split_seed, "validation split"))]
    train = np.setdiff1d(pool, val, assume_unique=True)
    order = numpy_stream(split_seed, "order of splits")
    return result | {"train": order.permutation(train), "val": order.permutation(val)}
