"""Data sets: real files where the machine has them, otherwise small files in the true formats; no network."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import urllib.request
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gwprune import datasets
from gwprune.datasets import AUGMENTATIONS, DataError, DeviceSplit, ImageData
from gwprune.datasets import mnist as mnist_module
from gwprune.datasets.augmentation import PADDING, Draws, augmented, draw
from gwprune.datasets.decode import resize
from gwprune.datasets.idx import read_idx
from gwprune.datasets.image_data import channel_moments
from gwprune.datasets.splits import split_indices, stratified_choice

torchvision = pytest.importorskip("torchvision")

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
IDX_NAMES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Every download fails at once, as on a machine without network."""

    def refuse(*args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def rows(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


# --- names and options --------------------------------------------------------------------------------------


def test_names_and_specs():
    assert datasets.names() == [
        "digits", "mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100", "tiny_imagenet", "image_folder",
    ]  # fmt: skip
    for name, spec in datasets.DATASETS.items():
        assert spec.name == name
        assert spec.provenance.endswith(".")
    with pytest.raises(AttributeError):
        datasets.DATASETS["digits"].name = "other"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fashion_mist", {}, ["fashion_mist", "digits, mnist", "did you mean 'fashion_mnist'"]),
        (None, {}, ["None", "digits"]),
        ("digits", {"image_siz": 8}, ["image_siz", "did you mean 'image_size'"]),
        ("digits", {"validation_fraction": 1.0}, ["validation_fraction = 1.0", "between 0 and 1"]),
        ("digits", {"validation_fraction": float("nan")}, ["nan"]),
        ("digits", {"validation_fraction": "0.1"}, ["'0.1'"]),
        ("digits", {"split_seed": -1}, ["split_seed = -1", "from 0"]),
        ("digits", {"image_size": 0}, ["image_size = 0", "from 1"]),
        ("digits", {"train_limit": True}, ["train_limit = True"]),
        ("digits", {"channels": 2}, ["channels = 2", "1 or 3"]),
        ("cifar10", {"channels": 1}, ["channels = 1", "allowed: 3"]),
        ("image_folder", {}, ["image_folder", "image_size"]),
    ],
)
def test_validate_refuses(name, options, words, tmp_path):
    with pytest.raises(ValueError, match=".") as caught:
        datasets.validate(name, options)
    for word in words:
        assert word in str(caught.value)


def test_validate_accepts():
    datasets.validate("digits", {})
    datasets.validate("mnist", {"channels": 3, "image_size": 32, "train_limit": None, "split_seed": 7})
    datasets.validate("image_folder", {"image_size": 16, "channels": None})


# --- splits -------------------------------------------------------------------------------------------------

label_arrays = st.lists(st.integers(0, 5), min_size=4, max_size=200).map(np.array)


@settings(max_examples=100, deadline=None)
@given(label_arrays, st.floats(0.01, 0.7), st.integers(0, 10), st.booleans())
def test_splits_are_disjoint_complete_stratified_and_seeded(labels, fraction, seed, draw_test):
    options = {"validation_fraction": fraction, "split_seed": seed, "draw_test": draw_test}
    chosen = split_indices(labels, **options)
    assert set(chosen) == {"train", "val"} | ({"test"} if draw_test else set())
    assert sorted(np.concatenate(list(chosen.values()))) == list(range(len(labels)))
    again = split_indices(labels, **options)
    assert all(np.array_equal(chosen[split], again[split]) for split in chosen)
    pool = labels[np.concatenate([chosen["train"], chosen["val"]])]
    for value in np.unique(pool):
        share = len(chosen["val"]) * np.mean(pool == value)
        assert abs(np.sum(labels[chosen["val"]] == value) - share) < 1


@settings(max_examples=100, deadline=None)
@given(label_arrays, st.integers(1, 200), st.integers(0, 10))
def test_stratified_choice(labels, count, seed):
    count = min(count, len(labels))
    chosen = stratified_choice(labels, count, np.random.default_rng(seed))
    assert len(chosen) == count
    assert np.all(np.diff(chosen) > 0)
    for value in np.unique(labels):
        assert abs(np.sum(labels[chosen] == value) - count * np.mean(labels == value)) < 1


def test_split_seed_train_limit_and_order():
    labels = np.repeat(np.arange(10), 100)  # sorted by class, as a tree of images is
    options = {"validation_fraction": 0.1, "draw_test": False}
    first, other = (split_indices(labels, split_seed=seed, **options) for seed in (0, 1))
    assert set(first["val"]) != set(other["val"])
    small = split_indices(labels, split_seed=0, train_limit=200, **options)
    assert (len(small["train"]), len(small["val"])) == (180, 20)
    assert np.bincount(labels[np.concatenate(list(small.values()))]).tolist() == [20] * 10
    assert all(len(np.unique(labels[batch])) >= 5 for batch in first["train"].reshape(-1, 50))
    with pytest.raises(ValueError, match="1 samples cannot be divided"):
        split_indices(labels[:1], split_seed=0, **options)


# --- digits, resizing, channels, constants ------------------------------------------------------------------


def test_digits():
    from sklearn.datasets import load_digits

    data = datasets.prepare("digits", "/nonexistent", split_seed=3)
    sizes = {split: len(labels) for split, labels in data.labels.items()}
    assert sizes == {"train": 1294, "val": 144, "test": 359}
    bunch = load_digits()
    expected = [
        (bytes(int(value * 255 / 16 + 0.5) for value in image.ravel()), int(label))
        for image, label in zip(bunch.images, bunch.target, strict=True)
    ]
    found = [
        pair
        for split in datasets.SPLITS
        for pair in zip(rows(data.images[split]), data.labels[split].tolist(), strict=True)
    ]
    assert sorted(found) == sorted(expected)
    train = data.images["train"].double() / 255
    assert data.images["train"].shape == (1294, 1, 8, 8)
    assert data.mean == pytest.approx([train.mean().item()])
    assert data.std == pytest.approx([train.std(correction=0).item()])
    assert (data.classes, data.name, data.class_names) == (10, "digits", [str(n) for n in range(10)])


def test_digits_resized_grey_repeated_and_limited():
    data = datasets.prepare("digits", ".", image_size=32, channels=3, train_limit=100)
    assert data.images["train"].shape == (90, 3, 32, 32)
    assert data.images["val"].shape == (10, 3, 32, 32)
    assert len(data.images["test"]) == 359
    for images in data.images.values():
        assert images.is_contiguous()
        assert torch.equal(images[:, 0], images[:, 2])
    assert len(data.mean) == len(data.std) == 3
    assert data.fingerprint != datasets.prepare("digits", ".").fingerprint


def test_resize_is_bilinear_with_antialias_in_chunks():
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    halved = resize(images, 4, chunk=2)
    assert torch.equal(halved, resize(images, 4))
    for image, small in zip(images, halved, strict=True):
        reference = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((4, 4), Image.Resampling.BILINEAR)
        difference = np.array(reference).astype(int) - small.permute(1, 2, 0).numpy()
        assert np.abs(difference).max() <= 1  # PIL works in fixed point
    constant = torch.full((1, 1, 28, 28), 200, dtype=torch.uint8)
    assert torch.equal(resize(constant, 32), torch.full((1, 1, 32, 32), 200, dtype=torch.uint8))


def test_channel_moments():
    images = torch.randint(256, (70, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    images[:, 1] = 51
    mean, std = channel_moments(images)
    units = images.double() / 255
    assert mean == pytest.approx(units.mean((0, 2, 3)).tolist())
    assert mean[1] == pytest.approx(0.2)
    assert std[1] == 1.0  # a constant channel divides by one, not by zero
    assert std[::2] == pytest.approx(units.std((0, 2, 3), correction=0).tolist()[::2])


# --- IDX and the MNIST family -------------------------------------------------------------------------------


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


# --- CIFAR --------------------------------------------------------------------------------------------------


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


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


# --- trees of images ----------------------------------------------------------------------------------------


def write_image(path: Path, seed: int, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shape = (*size, 3) if mode == "RGB" else size
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)


def write_tiny_imagenet(root: Path, boxes: bool = True) -> Path:
    tree = root / "tiny-imagenet-200"
    wnids = ["n02", "n01", "n03"]
    lines = []
    for wnid in wnids:
        names = [f"{wnid}_{n}.JPEG" for n in range(6)]
        for n, name in enumerate(names):
            write_image(tree / "train" / wnid / "images" / name, n, mode="L" if n == 0 else "RGB")
        if boxes:
            text = "".join(f"{name}\t0\t0\t63\t63\n" for name in names)
            (tree / "train" / wnid / f"{wnid}_boxes.txt").write_text(text)
    for n in range(4):
        write_image(tree / "val" / "images" / f"val_{n}.JPEG", 100 + n, mode="L" if n == 1 else "RGB")
        lines.append(f"val_{n}.JPEG\t{wnids[n % 3]}\t0\t32\t44\t62\n")
    (tree / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (tree / "val" / "val_annotations.txt").write_text("".join(lines))
    return tree


def test_tiny_imagenet(tmp_path):
    tree = write_tiny_imagenet(tmp_path)
    data = datasets.prepare("tiny_imagenet", tmp_path, validation_fraction=1 / 6)
    assert {split: tuple(images.shape) for split, images in data.images.items()} == {
        "train": (15, 3, 64, 64),
        "val": (3, 3, 64, 64),
        "test": (4, 3, 64, 64),
    }
    assert data.class_names == ["n01", "n02", "n03"]
    assert data.labels["test"].tolist() == [1, 0, 2, 1]
    assert data.labels["val"].sort().values.tolist() == [0, 1, 2]
    decoded = np.array(Image.open(tree / "val" / "images" / "val_0.JPEG")).transpose(2, 0, 1)
    assert np.array_equal(data.images["test"][0].numpy(), decoded)
    grey = data.images["test"][1]
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])
    small = datasets.prepare("tiny_imagenet", tmp_path, image_size=16, train_limit=6)
    assert small.images["train"].shape == (5, 3, 16, 16)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("train/n03/images/n03_2.JPEG", None, "missing"),
        ("val/images/val_2.JPEG", None, "missing"),
        ("train/n01/images/n01_3.JPEG", b"no image", "cannot be decoded"),
        ("val/images/val_0.JPEG", "cut", "cannot be decoded"),
        ("val/images/val_0.JPEG", "small", "32x32 pixels, expected 64x64"),
        ("val/val_annotations.txt", None, "part of tiny-imagenet-200"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn99\t0\n", "line 1"),
        ("val/val_annotations.txt", b"\n", "lists no images"),
        ("wnids.txt", b"\xff\xfe\xfa", "cannot be read"),
    ],
)
def test_tiny_imagenet_damaged(file, content, words, tmp_path):
    path = write_tiny_imagenet(tmp_path) / file
    if content is None:
        path.unlink()
    elif content == "small":
        write_image(path, 0, (32, 32))
    else:
        path.write_bytes(path.read_bytes()[:-900] if content == "cut" else content)
    with pytest.raises(DataError, match=words) as caught:
        datasets.prepare("tiny_imagenet", tmp_path)
    assert str(path) in str(caught.value)


def test_tiny_imagenet_class_without_images(tmp_path):
    tree = write_tiny_imagenet(tmp_path, boxes=False)
    for path in (tree / "train" / "n02" / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="n02/images: no .JPEG images"):
        datasets.prepare("tiny_imagenet", tmp_path)


def test_tiny_imagenet_from_archive_or_missing(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="tiny-imagenet-200.zip .*no network|no network.*tiny-imagenet-200.zip"):
        datasets.prepare("tiny_imagenet", tmp_path)
    assert not list(tmp_path.glob("*tiny*"))
    assert not list(tmp_path.glob(".tiny*"))

    tree = write_tiny_imagenet(tmp_path / "source")
    archive = tmp_path / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in tree.rglob("*"):
            file.write(path, path.relative_to(tree.parent))
    monkeypatch.setattr("gwprune.datasets.tiny_imagenet.MD5", md5(archive))
    assert len(datasets.prepare("tiny_imagenet", tmp_path).labels["test"]) == 4
    assert not list(tmp_path.glob(".tiny*"))


def write_tree(root: Path, parts: tuple[str, ...] = ("train",)) -> Path:
    for part in parts:
        for number, name in enumerate(("ant", "bee")):
            for n in range(5):
                write_image(root / part / name / "deep" / f"{n}.PNG", 10 * number + n, (9 + n, 12))
            (root / part / name / "notes.txt").write_text("not an image")
    return root


def test_image_folder(tmp_path):
    options = {"image_size": 8, "validation_fraction": 0.25}
    drawn = datasets.prepare("image_folder", write_tree(tmp_path / "a"), **options)
    assert {split: len(labels) for split, labels in drawn.labels.items()} == {"train": 6, "val": 2, "test": 2}
    assert drawn.labels["test"].sort().values.tolist() == [0, 1]
    assert drawn.class_names == ["ant", "bee"]

    own = datasets.prepare("image_folder", write_tree(tmp_path / "b", ("train", "val")), **options)
    assert own.labels["test"].tolist() == [0] * 5 + [1] * 5
    source = np.array(Image.open(tmp_path / "b" / "val" / "bee" / "deep" / "3.PNG")).transpose(2, 0, 1)
    assert torch.equal(own.images["test"][8], resize(torch.from_numpy(source.copy())[None], 8)[0])
    assert sorted(rows(own.images["train"]) + rows(own.images["val"])) == sorted(rows(own.images["test"]))


def test_image_folder_errors(tmp_path):
    def message(root: Path) -> str:
        with pytest.raises(DataError) as caught:
            datasets.prepare("image_folder", root, image_size=8)
        return str(caught.value)

    assert f"{tmp_path / 'none' / 'train'}: no such folder" in message(tmp_path / "none")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    assert "no class folders" in message(tmp_path / "empty")
    tree = write_tree(tmp_path / "tree", ("train", "test"))
    (tree / "train" / "cat").mkdir()
    assert f"{tree / 'train' / 'cat'}: no image files" in message(tree)
    (tree / "train" / "cat").rmdir()
    write_image(tree / "test" / "cat" / "0.png", 0)
    assert f"{tree / 'test' / 'cat'}: no class of this name" in message(tree)
    (tree / "test" / "cat" / "0.png").unlink()
    (tree / "test" / "cat").rmdir()
    (tree / "train" / "ant" / "deep" / "1.PNG").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert f"{tree / 'train' / 'ant' / 'deep' / '1.PNG'}: image cannot be decoded" in message(tree)


# --- files --------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path) -> tuple[ImageData, Path]:
    data = datasets.prepare("digits", ".", train_limit=50)
    path = tmp_path / "new" / "digits.pt"
    datasets.save(data, path)
    return data, path


def test_round_trip(saved):
    data, path = saved
    found = datasets.load(path)
    for split in datasets.SPLITS:
        assert torch.equal(found.images[split], data.images[split])
        assert torch.equal(found.labels[split], data.labels[split])
    for field in ("classes", "mean", "std", "name", "class_names", "fingerprint"):
        assert getattr(found, field) == getattr(data, field)
    assert len(data.fingerprint) == 64
    assert data.fingerprint == datasets.prepare("digits", ".", train_limit=50).fingerprint
    assert [file.name for file in path.parent.iterdir()] == ["digits.pt"]


def test_failed_save_leaves_the_old_file(saved, monkeypatch):
    data, path = saved
    before = path.read_bytes()

    def full(content, stream):
        stream.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        datasets.save(data, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["digits.pt"]


def test_load_refuses_damaged_and_foreign_files(saved):
    data, path = saved
    good = path.read_bytes()

    def refused(content: bytes | object, words: str) -> None:
        # a new file each time: the old one is still mapped by the tensors read from it
        path.unlink(missing_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        with pytest.raises(DataError, match=words) as caught:
            datasets.load(path)
        assert str(path) in str(caught.value)

    stored = torch.load(path, weights_only=True)
    refused(None, "no such file")
    refused(b"", "empty file")
    refused(good[:-1000], "truncated")
    refused(good[:100], "truncated")
    refused(b"hello, this is text", "truncated, or not a file of prepared data")
    refused(pickle.dumps({"format": 1}), "not a file of prepared data")
    refused({"weights": torch.zeros(3)}, "foreign")
    refused([1, 2], "foreign")
    refused(stored | {"version": 99}, "format version 99, but this gwprune reads 1")
    refused({key: value for key, value in stored.items() if key != "mean"}, "entries missing: mean")
    refused(stored | {"images": stored["images"] | {"val": torch.zeros(5)}}, "images of val are not a uint8")
    refused(stored | {"classes": 3, "class_names": None}, "not all in 0..2")
    flipped = bytearray(good)
    place = good.index(data.images["test"].numpy().tobytes()) + 100
    flipped[place] ^= 1
    refused(bytes(flipped), "fingerprint")
    assert datasets.load(path, verify=False).name == "digits"


def test_from_splits_refuses_tensors_that_do_not_fit():
    images = {split: torch.zeros(3, 1, 2, 2, dtype=torch.uint8) for split in datasets.SPLITS}
    labels = {split: torch.arange(3) for split in datasets.SPLITS}
    ImageData.from_splits(images, labels, classes=3, name="x")
    bad = [
        (images, labels, 2, None, "0..1"),
        (images, labels, 3, ["a"], "1 class names"),
        ({"train": images["train"]}, labels, 3, None, "splits are"),
        (images | {"val": images["val"][:0]}, labels | {"val": labels["val"][:0]}, 3, None, "val is empty"),
        (images | {"test": torch.zeros(3, 1, 2, 3, dtype=torch.uint8)}, labels, 3, None, "images of test"),
        (images, labels | {"val": labels["val"].int()}, 3, None, "labels of val"),
    ]
    for some_images, some_labels, classes, names, words in bad:
        with pytest.raises(DataError, match=words):
            ImageData.from_splits(some_images, some_labels, classes=classes, name="x", class_names=names)


# --- batches on a device ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split() -> DeviceSplit:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(256, (50, 3, 10, 12), dtype=torch.uint8, generator=generator)
    return DeviceSplit(images, torch.arange(50) % 7, (0.1, 0.4, 0.5), (0.2, 0.3, 1.0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_inputs_are_normalised(split):
    mean = torch.tensor(split.mean).view(-1, 1, 1)
    std = torch.tensor(split.std).view(-1, 1, 1)
    expected = (split.images.float() / 255 - mean) / std
    inputs, labels = split.as_tensors()
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(labels, split.labels)
    assert torch.equal(split.inputs([3, 1]), inputs[[3, 1]])
    assert torch.equal(split.inputs(torch.tensor([3, 1])), inputs[[3, 1]])
    assert torch.equal(split.inputs(slice(2, 9)), inputs[2:9])
    assert split.images.dtype == torch.uint8


def test_batches_keep_order_and_lose_nothing(split):
    batches = list(split.batches(16))
    assert [len(x) for x, _ in batches] == [16, 16, 16, 2]
    assert torch.equal(torch.cat([x for x, _ in batches]), split.inputs())
    assert torch.equal(torch.cat([y for _, y in batches]), split.labels)
    with pytest.raises(ValueError, match="batch_size = 0"):
        split.batches(0)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_epoch_is_seeded_and_complete(split, augment):
    first, again, other = (list(split.epoch(16, seeded(seed), augment)) for seed in (0, 0, 1))
    assert [x.shape for x, _ in first] == [(n, 3, 10, 12) for n in (16, 16, 16, 2)]
    for (x, y), (x_again, y_again) in zip(first, again, strict=True):
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)
    labels, other_labels = (torch.cat([y for _, y in epoch]) for epoch in (first, other))
    assert not torch.equal(labels, other_labels)
    assert torch.equal(labels.bincount(), split.labels.bincount())
    assert [len(x) for x, _ in split.epoch(16, seeded(), augment, drop_last=True)] == [16, 16, 16]
    # the order of the samples is that of the first numbers drawn, whatever the augmentation
    assert torch.equal(labels, split.labels[torch.randperm(50, generator=seeded())])
    generator = seeded()
    split.epoch(16, generator, augment)
    started = generator.get_state()
    list(split.epoch(16, generator, augment))
    assert not torch.equal(started, generator.get_state())


def test_epoch_refuses(split):
    with pytest.raises(ValueError, match="'cutout' is not known, allowed: none, flip, crop_flip"):
        split.epoch(4, seeded(), "cutout")
    with pytest.raises(ValueError, match="batch_size"):
        split.epoch(0, seeded())


def test_epoch_without_augmentation_only_reorders(split):
    x, _ = next(split.epoch(50, seeded()))
    assert torch.equal(x, split.inputs(torch.randperm(50, generator=seeded())))


@pytest.mark.parametrize("kind", ["flip", "crop_flip"])
def test_augmentation_against_a_slow_loop(split, kind):
    draws = draw(kind, len(split), seeded(3), "cpu")
    result = augmented(split.images, draws)
    assert result.dtype == torch.uint8
    _, _, height, width = split.images.shape
    for n, image in enumerate(split.images.numpy()):
        if kind == "crop_flip":
            top, left = int(draws.rows[n]), int(draws.columns[n])
            padded = np.pad(image, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))
            image = padded[:, top : top + height, left : left + width]
        if draws.flips[n]:
            image = image[:, :, ::-1]
        assert np.array_equal(result[n].numpy(), image)


def test_a_crop_is_a_shifted_image():
    image = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8)
    unmoved = Draws(torch.tensor([PADDING]), torch.tensor([PADDING]), torch.tensor([False]))
    assert torch.equal(augmented(image, unmoved), image)
    moved = augmented(image, Draws(torch.tensor([PADDING + 2]), torch.tensor([PADDING - 3]), torch.tensor([False])))
    assert torch.equal(moved[..., :6, 3:], image[..., 2:, :5])
    assert not moved[..., 6:, :].any()
    assert not moved[..., :3].any()


def test_draws_cover_their_range():
    draws = draw("crop_flip", 2000, seeded(), "cpu")
    for values in (draws.rows, draws.columns):
        counts = values.bincount(minlength=2 * PADDING + 1)
        assert len(counts) == 2 * PADDING + 1
        assert counts.min() > 150
    assert 900 < int(draws.flips.sum()) < 1100
    part = draws[10:20]
    assert torch.equal(part.rows, draws.rows[10:20])
    assert torch.equal(part.flips, draws.flips[10:20])


def test_subset(split):
    small = split.subset(12, seed=4)
    assert len(small) == 12
    assert torch.equal(small.images, split.subset(12, seed=4).images)
    assert not torch.equal(small.images, split.subset(12, seed=5).images)
    positions = [rows(split.images).index(row) for row in rows(small.images)]
    assert positions == sorted(set(positions))
    assert torch.equal(small.labels, split.labels[positions])
    assert torch.equal(small.inputs(), split.inputs(positions))
    for count in (None, 50, 51):
        assert torch.equal(split.subset(count, seed=0).images, split.images)
    with pytest.raises(ValueError, match="count = 0"):
        split.subset(0, seed=0)


def test_from_data_and_wrong_tensors():
    data = datasets.prepare("digits", ".", train_limit=100)
    train = DeviceSplit.from_data(data, "train")
    inputs, labels = train.as_tensors()
    assert inputs.mean().abs() < 1e-5
    assert inputs.std(correction=0) == pytest.approx(1, abs=1e-5)
    assert labels.dtype == torch.int64
    with pytest.raises(ValueError, match="'training' is not known, allowed: train, val, test"):
        DeviceSplit.from_data(data, "training")
    with pytest.raises(ValueError, match="images must be uint8"):
        DeviceSplit(inputs, labels, (0.0,), (1.0,))
    with pytest.raises(ValueError, match="labels must be int64"):
        DeviceSplit(train.images, labels.int(), (0.0,), (1.0,))
    with pytest.raises(ValueError, match="2 means"):
        DeviceSplit(train.images, labels, (0.0, 0.0), (1.0, 1.0))
