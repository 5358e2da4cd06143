"""CIFAR-10 and CIFAR-100 through torchvision: 50,000 + 10,000 colour images of 32x32."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .download import fetching, wait_for_downloads
from .errors import DataError
from .parts import Loaded, Part, array_part, checked_labels

__all__ = ["load_cifar10", "load_cifar100"]


def _check(folder: Path, files: dict[str, str]) -> None:
    """Compare checksums first: a pickle runs code, so only the published files are ever opened.

    Raises:
        DataError: naming the first file that is missing or differs.
    """
    from torchvision.datasets.utils import check_integrity

    for name, md5 in files.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: missing after the archive was unpacked")
        if not check_integrity(path, md5):
            raise DataError(f"{path}: corrupted, its md5 is not {md5}; delete it to have it fetched again")


def _load(class_name: str, data_dir: Path, classes: int) -> Loaded:
    from torchvision import datasets

    dataset = getattr(datasets, class_name)
    folder = data_dir / dataset.base_folder
    files = dict(dataset.train_list + dataset.test_list) | {dataset.meta["filename"]: dataset.meta["md5"]}

    def complete() -> bool:
        return all((folder / name).is_file() for name in files)

    wait_for_downloads(data_dir)
    if not complete():
        remedy = (
            f"put {dataset.filename} (md5 {dataset.tgz_md5}) or the folder {dataset.base_folder} "
            f"unpacked from it into {data_dir}, or run once where there is network."
        )
        with fetching(class_name, data_dir, remedy):
            if not complete():
                dataset(str(data_dir), download=True)
    _check(folder, files)
    try:
        parts = [dataset(str(data_dir), train=train) for train in (True, False)]
    except Exception as error:  # whatever a foreign pickle raises
        raise DataError(f"{folder}: torchvision cannot read the {class_name} files there ({error})") from error

    def part(loaded: datasets.CIFAR10) -> Part:
        labels = checked_labels(np.asarray(loaded.targets), classes, folder)
        return array_part(loaded.data.transpose(0, 3, 1, 2), labels)

    return Loaded(part(parts[0]), part(parts[1]), list(parts[0].classes))


def load_cifar10(data_dir: Path, image_size: int | None) -> Loaded:
    """CIFAR-10 from ``data_dir``/cifar-10-batches-py, fetched when missing.

    Raises:
        DataError: naming what to put where, or the corrupted file.
    """
    return _load("CIFAR10", data_dir, 10)


def load_cifar100(data_dir: Path, image_size: int | None) -> Loaded:
    """CIFAR-100 (fine labels) from ``data_dir``/cifar-100-python, fetched when missing.

    Raises:
        DataError: naming what to put where, or the corrupted file.
    """
    return _load("CIFAR100", data_dir, 100)
