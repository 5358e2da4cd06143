"""MNIST, Fashion-MNIST and Kuzushiji-MNIST: 60,000 + 10,000 grey images of 28x28 in ten classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .download import fetching, wait_for_downloads
from .errors import DataError
from .idx import read_idx
from .parts import Loaded, Part, array_part, checked_labels

__all__ = ["COUNTS", "DEBIAN_DIR", "load_fashion_mnist", "load_kmnist", "load_mnist", "read_family"]

#: Where Debian's package dataset-fashion-mnist puts its files. Debian compressed them anew, so torchvision's
#: checksums of the .gz files do not apply to them.
DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")

#: Images per part.
COUNTS = {"train": 60_000, "t10k": 10_000}

_FASHION_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_KUZUSHIJI_NAMES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


def _files(folder: Path, suffix: str) -> list[Path]:
    kinds = ("images-idx3", "labels-idx1")
    return [folder / f"{part}-{kind}-ubyte{suffix}" for part in COUNTS for kind in kinds]


def _complete(folder: Path, suffix: str) -> bool:
    return all(path.is_file() for path in _files(folder, suffix))


def read_family(folder: Path, suffix: str, class_names: Sequence[str]) -> Loaded:
    """Read the four IDX files of ``folder``; ``suffix`` is "" or ".gz".

    Raises:
        DataError: naming the file that is missing, damaged or not of the shape of this family.
    """
    paths = iter(_files(folder, suffix))
    parts: list[Part] = []
    for count, image_path, label_path in zip(COUNTS.values(), paths, paths, strict=True):
        images = read_idx(image_path, (count, 28, 28))
        labels = checked_labels(read_idx(label_path, (count,)), 10, label_path)
        parts.append(array_part(images[:, None], labels))
    return Loaded(parts[0], parts[1], list(class_names))


def _load_torchvision(class_name: str, data_dir: Path, class_names: Sequence[str], other_way: str = "") -> Loaded:
    raw = data_dir / class_name / "raw"
    wait_for_downloads(data_dir)
    if not _complete(raw, ""):
        from torchvision import datasets

        dataset = getattr(datasets, class_name)
        remedy = (
            f"{other_way}put torchvision's files, unpacked or not, under {raw} "
            f"({', '.join(path.name for path in _files(raw, '.gz'))}), or run once where there is network."
        )
        with fetching(class_name, data_dir, remedy):
            # torchvision checks the md5 of every .gz file, takes those already there, and unpacks them
            dataset(str(data_dir), download=True)
    return read_family(raw, "", class_names)


def load_mnist(data_dir: Path, image_size: int | None) -> Loaded:
    """MNIST from torchvision's files under ``data_dir``/MNIST/raw, fetched when missing."""
    return _load_torchvision("MNIST", data_dir, [str(digit) for digit in range(10)])


def load_kmnist(data_dir: Path, image_size: int | None) -> Loaded:
    """Kuzushiji-MNIST from torchvision's files under ``data_dir``/KMNIST/raw, fetched when missing."""
    return _load_torchvision("KMNIST", data_dir, _KUZUSHIJI_NAMES)


def load_fashion_mnist(data_dir: Path, image_size: int | None, debian_dir: Path | None = None) -> Loaded:
    """Fashion-MNIST from Debian's package, else from torchvision's files under ``data_dir``/FashionMNIST/raw.

    Args:
        debian_dir: in place of ``DEBIAN_DIR``.

    Raises:
        DataError: naming the damaged file, or both ways to get the data when it is in neither place.
    """
    debian_dir = DEBIAN_DIR if debian_dir is None else debian_dir
    if _complete(debian_dir, ".gz"):
        try:
            return read_family(debian_dir, ".gz", _FASHION_NAMES)
        except DataError as error:
            raise DataError(f"{error}; reinstall Debian's package dataset-fashion-mnist") from error
    other_way = f"install Debian's package dataset-fashion-mnist (read from {debian_dir}), or "
    return _load_torchvision("FashionMNIST", data_dir, _FASHION_NAMES, other_way)
