"""Tiny ImageNet (CS231n): 200 classes of 500 training and 50 validation images, 64x64, colour.

The labels of its own test images are not public, so its validation part serves as the test split here.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from .decode import file_fetcher
from .download import fetching
from .errors import DataError
from .parts import Loaded, Part

__all__ = ["MD5", "URL", "load_tiny_imagenet"]

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
_FOLDER = "tiny-imagenet-200"
_SIZE = 64


def _fetch_archive(data_dir: Path) -> None:
    root = data_dir / _FOLDER
    remedy = (
        f"put {_FOLDER}.zip (md5 {MD5}, from {URL}) into {data_dir} or unpack it to {root}, "
        "or run once where there is network."
    )
    with fetching("Tiny ImageNet", data_dir, remedy):
        if root.exists():
            return
        from torchvision.datasets.utils import download_and_extract_archive

        # Unpack beside the target and rename: a killed job must not leave half a tree that looks whole.
        with tempfile.TemporaryDirectory(prefix=f".{_FOLDER}.", dir=data_dir) as temporary:
            download_and_extract_archive(URL, str(data_dir), temporary, md5=MD5)
            (Path(temporary) / _FOLDER).rename(root)


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); this file is part of {_FOLDER}") from error


def _class_images(folder: Path) -> list[Path]:
    """The training images of one class, sorted by name.

    Raises:
        DataError: naming the folder without images, or an image that is in the class's own list only.
    """
    paths = sorted((folder / "images").glob("*.JPEG"))
    boxes = folder / f"{folder.name}_boxes.txt"
    if boxes.is_file():
        listed = {line.split("\t")[0] for line in _lines(boxes)}
        missing = sorted(listed - {path.name for path in paths})
        if missing:
            raise DataError(f"{folder / 'images' / missing[0]}: image file is missing, {boxes.name} lists it")
    if not paths:
        raise DataError(f"{folder / 'images'}: no .JPEG images of this class")
    return paths


def _part(files: list[tuple[Path, int]], label: str) -> Part:
    labels = np.array([class_index for _, class_index in files], dtype=np.int64)
    return Part(labels, file_fetcher([path for path, _ in files], _SIZE, resized=False, label=label))


def load_tiny_imagenet(data_dir: Path, image_size: int | None) -> Loaded:
    """Tiny ImageNet from ``data_dir``/tiny-imagenet-200, fetched when missing; classes sorted by their ids.

    Raises:
        DataError: naming the missing or damaged file, or what to put where.
    """
    root = data_dir / _FOLDER
    if not root.exists():  # unpacked at one stroke, so there is no half of it to wait for
        _fetch_archive(data_dir)
    classes = sorted(line.strip() for line in _lines(root / "wnids.txt"))
    index_of = {wnid: index for index, wnid in enumerate(classes)}
    train = [(path, index_of[wnid]) for wnid in classes for path in _class_images(root / "train" / wnid)]

    annotations = root / "val" / "val_annotations.txt"
    test = []
    for number, line in enumerate(_lines(annotations), start=1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in index_of:
            raise DataError(f"{annotations}, line {number}: expected an image name, a tab and an id of wnids.txt")
        path = root / "val" / "images" / fields[0]
        if not path.is_file():
            raise DataError(f"{path}: image file is missing, {annotations.name} lists it")
        test.append((path, index_of[fields[1]]))
    if not test:
        raise DataError(f"{annotations}: lists no images")
    return Loaded(_part(train, "Tiny ImageNet, train"), _part(test, "Tiny ImageNet, val"), classes)
