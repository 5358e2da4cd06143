"""The MNIST family and CIFAR: small files in the true formats, real ones where the machine has them, no network."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from gwprune import datasets
from gwprune.datasets import DataError, ImageData
from gwprune.datasets import mnist as mnist_module
from gwprune.datasets.idx import read_idx

from .helpers_datasets import md5, rows

torchvision = pytest.importorskip("torchvision")

pytestmark = pytest.mark.usefixtures("no_network")

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
IDX_NAMES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]

# --- IDX and the MNIST family --------------------------------------------------------------------------------


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">I{array.ndim}I", 0x800 | array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_family(folder: Path, counts: dict[str, int], suffix: str = "") -> dict[str, np.ndarray]:
    """Four small IDX files with random content; returns the arrays by file name without suffix."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for name in IDX_NAMES:
        count = counts[name.split("-")[0]]
        if "images" in name:
            arrays[name] = rng.integers(0, 256, (count, 28, 28))
        else:
            arrays[name] = np.arange(count) % 10
        content = idx_bytes(arrays[name])
        (folder / (name + suffix)).write_bytes(gzip.compress(content) if suffix else content)
    return arrays


@pytest.fixture
def small_family(monkeypatch):
    counts = {"train": 40, "t10k": 20}
    monkeypatch.setattr(mnist_module, "COUNTS", counts)
    return counts


def test_read_idx(tmp_path):
    array = np.arange(24).reshape(2, 3, 4)
    plain, packed = tmp_path / "a-ubyte", tmp_path / "a-ubyte.gz"
    plain.write_bytes(idx_bytes(array))
    packed.write_bytes(gzip.compress(idx_bytes(array)))
    assert np.array_equal(read_idx(plain, (2, 3, 4)), array)
    assert np.array_equal(read_idx(packed, (2, 3, 4)), array)


def test_read_idx_errors_name_the_file(tmp_path):
    array = np.arange(24).reshape(2, 3, 4)
    good = idx_bytes(array)
    packed = gzip.compress(good)
    damaged = bytearray(packed)
    damaged[-8] ^= 1  # the CRC
    cases = {
        "missing": (None, ["no such file"]),
        "empty": (b"", ["truncated", "16 bytes", "found 0"]),
        "short": (good[:-5], ["truncated", "expected 40 bytes", "found 35"]),
        "long": (good + b"x", ["too long", "expected 40", "found 41"]),
        "magic": (idx_bytes(array[0])[:8] + bytes(99), ["magic", "0x00000802", "0x00000803"]),
        "type": (b"\0\0\x0d\3" + good[4:], ["magic", "0x00000d03"]),
        "shape": (idx_bytes(array[:1]), ["(1, 3, 4)", "(2, 3, 4)"]),
        "cut.gz": (packed[:-12], ["truncated gzip", f"{len(packed) - 12} bytes"]),
        "crc.gz": (bytes(damaged), ["damaged", "CRC"]),
        "text.gz": (b"not gzip at all", ["not gzip"]),
    }
    for name, (content, words) in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_idx(path, (2, 3, 4))
        for word in [str(path), *words]:
            assert word in str(caught.value), name


@pytest.fixture(scope="module")
def fashion() -> ImageData:
    if not all((DEBIAN / f"{name}.gz").is_file() for name in IDX_NAMES):
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    return datasets.prepare("fashion_mnist", "/nonexistent")


def test_fashion_mnist_of_debian(fashion):
    assert {split: tuple(images.shape) for split, images in fashion.images.items()} == {
        "train": (54_000, 1, 28, 28),
        "val": (6_000, 1, 28, 28),
        "test": (10_000, 1, 28, 28),
    }
    assert fashion.labels["test"][:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert fashion.labels["train"].bincount().tolist() == [5400] * 10
    assert fashion.labels["val"].bincount().tolist() == [600] * 10
    assert fashion.mean == pytest.approx([0.286], abs=1e-3)
    assert fashion.std == pytest.approx([0.353], abs=1e-3)
    assert fashion.class_names[9] == "Ankle boot"


def test_fashion_mnist_first_training_labels():
    path = DEBIAN / "train-labels-idx1-ubyte.gz"
    if not path.is_file():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    assert read_idx(path, (60_000,))[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]


def test_fashion_mnist_of_debian_damaged(tmp_path, monkeypatch, small_family):
    write_family(tmp_path, small_family, ".gz")
    monkeypatch.setattr(mnist_module, "DEBIAN_DIR", tmp_path)
    assert len(datasets.prepare("fashion_mnist", tmp_path / "data").labels["test"]) == 20

    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx_bytes(np.full(20, 10))))
    with pytest.raises(DataError, match="labels run from 10 to 10, expected 0 to 9") as caught:
        datasets.prepare("fashion_mnist", tmp_path / "data")
    assert str(labels) in str(caught.value)
    labels.write_bytes(labels.read_bytes()[:-9])
    with pytest.raises(DataError, match="truncated gzip.*dataset-fashion-mnist") as caught:
        datasets.prepare("fashion_mnist", tmp_path / "data")
    assert str(labels) in str(caught.value)


def test_fashion_mnist_missing_names_both_ways(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist_module, "DEBIAN_DIR", tmp_path / "debian")
    with pytest.raises(DataError) as caught:
        datasets.prepare("fashion_mnist", tmp_path / "data")
    message = str(caught.value)
    for word in (
        "dataset-fashion-mnist",
        str(tmp_path / "data" / "FashionMNIST" / "raw"),
        "no network in tests",
    ):
        assert word in message


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("kmnist", "KMNIST"), ("fashion_mnist", "FashionMNIST")]
)
def test_torchvision_files_of_the_family(name, folder, tmp_path, monkeypatch, small_family):
    monkeypatch.setattr(mnist_module, "DEBIAN_DIR", tmp_path / "debian")
    raw = tmp_path / folder / "raw"
    arrays = write_family(raw, small_family)
    data = datasets.prepare(name, tmp_path)
    assert {split: len(labels) for split, labels in data.labels.items()} == {
        "train": 36,
        "val": 4,
        "test": 20,
    }
    assert np.array_equal(data.images["test"][:, 0].numpy(), arrays["t10k-images-idx3-ubyte"])
    # every image keeps its label through the split
    label_of = dict(
        zip(
            (image.astype(np.uint8).tobytes() for image in arrays["train-images-idx3-ubyte"]),
            arrays["train-labels-idx1-ubyte"].tolist(),
            strict=True,
        )
    )
    for split in ("train", "val"):
        assert [label_of.pop(row) for row in rows(data.images[split])] == data.labels[split].tolist()
    assert not label_of

    cut = raw / "train-images-idx3-ubyte"
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated, expected 31376 bytes, found 31276") as caught:
        datasets.prepare(name, tmp_path)
    assert str(cut) in str(caught.value)


def test_torchvision_checks_the_md5_of_packed_files(tmp_path, monkeypatch, small_family):
    raw = tmp_path / "MNIST" / "raw"
    write_family(raw, small_family, ".gz")
    with pytest.raises(DataError, match="no network in tests") as caught:
        datasets.prepare("mnist", tmp_path)  # their md5s are not the published ones
    assert str(raw) in str(caught.value)
    resources = [(f"{name}.gz", md5(raw / f"{name}.gz")) for name in IDX_NAMES]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    assert len(datasets.prepare("mnist", tmp_path).labels["test"]) == 20


# --- CIFAR ---------------------------------------------------------------------------------------------------


def write_cifar(root: Path, monkeypatch, class_name: str) -> tuple[Path, dict[str, dict]]:
    """Small files in the pickle format of CIFAR, their md5s set on torchvision's class."""
    rng = np.random.default_rng(0)
    dataset = getattr(torchvision.datasets, class_name)
    fine = class_name == "CIFAR100"
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    written = {}

    def write(name: str, content: dict) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        written[name] = content
        return [name, md5(folder / name)]

    def batch(count: int) -> dict:
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        key = "fine_labels" if fine else "labels"
        return {
            "data": pixels,
            key: [n % 10 for n in range(count)],
            "filenames": [f"{n}.png" for n in range(count)],
        }

    train = [write(name, batch(20)) for name, _ in dataset.train_list]
    test = [write(name, batch(30)) for name, _ in dataset.test_list]
    names = [f"class {n}" for n in range(100 if fine else 10)]
    meta = dict(dataset.meta)
    meta["md5"] = write(meta["filename"], {meta["key"]: names})[1]
    monkeypatch.setattr(dataset, "train_list", train)
    monkeypatch.setattr(dataset, "test_list", test)
    monkeypatch.setattr(dataset, "meta", meta)
    return folder, written


@pytest.mark.parametrize(
    ("name", "class_name", "classes", "train"),
    [("cifar10", "CIFAR10", 10, 100), ("cifar100", "CIFAR100", 100, 20)],
)
def test_cifar(name, class_name, classes, train, tmp_path, monkeypatch):
    folder, written = write_cifar(tmp_path, monkeypatch, class_name)
    data = datasets.prepare(name, tmp_path, validation_fraction=0.2)
    assert data.classes == classes
    assert data.class_names[3] == "class 3"
    assert len(data.labels["val"]) == train // 5
    assert len(data.labels["train"]) == train - train // 5
    test = written["test" if classes == 100 else "test_batch"]
    assert np.array_equal(data.images["test"].numpy(), test["data"].reshape(-1, 3, 32, 32))
    assert data.labels["test"].tolist() == [n % 10 for n in range(30)]
    both = rows(data.images["train"]) + rows(data.images["val"])
    pixels = [row for key, batch in written.items() if "data" in batch and "test" not in key for row in batch["data"]]
    assert sorted(both) == sorted(row.tobytes() for row in pixels)

    damaged = next(path for path in sorted(folder.iterdir()) if "meta" not in path.name)
    damaged.write_bytes(damaged.read_bytes() + b" ")
    with pytest.raises(DataError, match="corrupted.*md5") as caught:
        datasets.prepare(name, tmp_path)
    assert str(damaged) in str(caught.value)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_missing(name, tmp_path):
    with pytest.raises(DataError, match="no network in tests") as caught:
        datasets.prepare(name, tmp_path)
    assert f"put cifar-{name[5:]}-python.tar.gz" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_data_dir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="CIFAR10") as caught:
        datasets.prepare("cifar10", tmp_path / "file" / "data")
    assert str(tmp_path / "file" / "data") in str(caught.value)
