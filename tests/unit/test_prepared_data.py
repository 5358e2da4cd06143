"""Prepared data: the file, its damage, and batches on a device."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from gwprune import datasets
from gwprune.datasets import AUGMENTATIONS, DataError, DeviceSplit, ImageData
from gwprune.datasets.augmentation import PADDING, Draws, augmented, draw

from .helpers_datasets import rows

# --- files ---------------------------------------------------------------------------------------------------


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


# --- batches on a device -------------------------------------------------------------------------------------


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
