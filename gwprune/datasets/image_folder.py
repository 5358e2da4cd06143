"""Any tree of image files: root/train/<class>/..., and root/test or root/val as the test split."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .decode import file_fetcher
from .errors import DataError
from .parts import Loaded, Part

__all__ = ["EXTENSIONS", "load_image_folder"]

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def _images(folder: Path) -> list[Path]:
    """All image files below ``folder``, sorted, so that the order is the same on every file system."""
    return sorted(
        Path(parent) / name
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
    )


def _class_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _part(folder: Path, index_of: dict[str, int], image_size: int) -> Part:
    paths: list[Path] = []
    labels: list[int] = []
    for class_folder in _class_folders(folder):
        if class_folder.name not in index_of:
            raise DataError(f"{class_folder}: no class of this name among the training images")
        found = _images(class_folder)
        if not found:
            raise DataError(f"{class_folder}: no image files ({', '.join(EXTENSIONS)})")
        paths += found
        labels += [index_of[class_folder.name]] * len(found)
    if not paths:
        raise DataError(f"{folder}: no class folders with images; expected {folder}/<class>/<image files>")
    fetch = file_fetcher(paths, image_size, resized=True, label=str(folder))
    return Part(np.array(labels, dtype=np.int64), fetch)


def load_image_folder(root: Path, image_size: int | None) -> Loaded:
    """Read the tree ``root``; images become RGB squares of ``image_size`` (aspect ratio not kept).

    The test split is root/test, else root/val, else None. With both, root/val is not used.

    Raises:
        DataError: naming the folder or file that is missing, empty or not decodable.
        ValueError: when ``image_size`` is None.
    """
    if image_size is None:
        raise ValueError("image_folder needs image_size, for images of a tree may differ in size")
    train = root / "train"
    if not train.is_dir():
        raise DataError(f"{train}: no such folder; image_folder expects {train}/<class>/<image files>")
    names = [folder.name for folder in _class_folders(train)]
    index_of = {name: index for index, name in enumerate(names)}
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    return Loaded(
        _part(train, index_of, image_size),
        None if test is None else _part(test, index_of, image_size),
        names,
    )
