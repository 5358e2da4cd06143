"""From a data set name to uint8 tensors with splits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .decode import resize
from .errors import DataError
from .image_data import ImageData
from .registry import DATASETS, validate
from .splits import split_indices

__all__ = ["prepare"]


def prepare(
    name: str,
    data_dir: str | os.PathLike,
    *,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
    image_size: int | None = None,
    channels: int | None = None,
    train_limit: int | None = None,
    path: str | os.PathLike | None = None,
) -> ImageData:
    """Load a data set, fetching it when missing, and divide it into 'train', 'val' and 'test'.

    'val' is a seeded stratified share of the training part. 'test' is the data set's own test part where
    there is one (for tiny_imagenet its validation part, as its test labels are not public), else a seeded
    stratified fifth. 'train' and 'val' are stored in a seeded random order, 'test' in that of the files.

    Args:
        name: one of ``names()``.
        data_dir: directory of downloads.
        validation_fraction: share of the training part that becomes 'val'.
        split_seed: seed of every choice made here.
        image_size: resize to this height and width in pixels, bilinear with antialiasing; None: as they are.
        channels: 3 repeats the channel of grey images; None: as they are.
        train_limit: keep a stratified choice of so many samples of the training part, before 'val' is taken.
        path: for image_folder alone, the root of the tree.

    Raises:
        ValueError: for a name or an option that is not allowed.
        DataError: for missing or damaged files, naming them and the way out.
    """
    options: dict[str, Any] = {
        "validation_fraction": validation_fraction,
        "split_seed": split_seed,
        "image_size": image_size,
        "channels": channels,
        "train_limit": train_limit,
    }
    if path is not None:
        options["path"] = os.fspath(path)
    validate(name, options)
    folder = Path(path or data_dir).expanduser()
    loaded = DATASETS[name].load(folder, image_size)
    try:
        chosen = split_indices(
            loaded.train.labels,
            validation_fraction=validation_fraction,
            split_seed=split_seed,
            draw_test=loaded.test is None,
            train_limit=train_limit,
        )
    except ValueError as error:
        raise DataError(f"{name} in {folder}: {error}") from error

    def finished(images: Tensor) -> Tensor:
        if image_size is not None:
            images = resize(images, image_size)
        if channels is not None and channels != images.shape[1]:
            images = images.expand(-1, channels, -1, -1)
        return images.contiguous()

    images, labels = {}, {}
    for split, indices in chosen.items():
        images[split] = finished(loaded.train.fetch(indices))
        labels[split] = torch.from_numpy(loaded.train.labels[indices])
    if loaded.test is not None:
        images["test"] = finished(loaded.test.fetch(torch.arange(len(loaded.test.labels)).numpy()))
        labels["test"] = torch.from_numpy(loaded.test.labels)
    return ImageData.from_splits(
        images, labels, classes=len(loaded.class_names), name=name, class_names=loaded.class_names
    )
