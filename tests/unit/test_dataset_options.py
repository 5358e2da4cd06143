"""Data sets by name: options, sizes of splits, digits, resizing, channels, constants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gwprune import datasets
from gwprune.datasets.decode import resize
from gwprune.datasets.image_data import channel_moments
from gwprune.datasets.sizes import split_sizes
from gwprune.datasets.splits import split_indices, stratified_choice

from .helpers_datasets import rows

# --- names and options ---------------------------------------------------------------------------------------


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
        ("digits", {"validation_fraction": 1.0}, ["'validation_fraction'", "less than 1, got 1.0"]),
        ("digits", {"validation_fraction": float("nan")}, ["nan"]),
        ("digits", {"validation_fraction": "0.1"}, ["'0.1'"]),
        ("digits", {"split_seed": -1}, ["'split_seed'", "greater than or equal to 0, got -1"]),
        ("digits", {"image_size": 0}, ["'image_size'", "greater than or equal to 1, got 0"]),
        ("digits", {"train_limit": True}, ["'train_limit'", "got True"]),
        ("digits", {"channels": 2}, ["'channels'", "1 or 3, got 2"]),
        ("cifar10", {"channels": 1}, ["'channels'", "should be 3, got 1"]),
        ("digits", {"channels": True}, ["'channels'", "got True"]),
        ("digits", {"train_limit": 2, "validation_fraction": 0.9}, ["2 samples cannot be divided"]),
        ("digits", {"path": "photos"}, ["'path' is no option of data set 'digits'"]),
        ("image_folder", {"image_size": 8}, ["image_folder", "needs option 'path'", "data_dir"]),
        ("image_folder", {"path": "photos"}, ["image_folder", "needs option 'image_size'"]),
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
    datasets.validate("image_folder", {"image_size": 16, "channels": None, "path": "photos"})


# --- splits --------------------------------------------------------------------------------------------------

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


@settings(max_examples=100, deadline=None)
@given(label_arrays, st.floats(0.01, 0.7), st.booleans(), st.none() | st.integers(2, 250))
def test_sizes_of_splits_are_known_from_the_numbers_alone(labels, fraction, draw_test, limit):
    options = {"validation_fraction": fraction, "draw_test": draw_test, "train_limit": limit}
    try:
        chosen = split_indices(labels, split_seed=0, **options)
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)):
            split_sizes(len(labels), **options)
    else:
        assert {split: len(indices) for split, indices in chosen.items()} == split_sizes(len(labels), **options)


@pytest.mark.parametrize(
    ("name", "options", "images"),
    [
        ("digits", {}, 1294),
        ("mnist", {}, 54_000),
        ("cifar100", {"validation_fraction": 0.2}, 40_000),
        ("tiny_imagenet", {"train_limit": 100}, 90),
        ("image_folder", {}, None),
        ("image_folder", {"train_limit": 100}, 90),
    ],
)
def test_training_images_are_known_before_the_files_are_read(name, options, images):
    assert datasets.training_images(name, options) == images


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


# --- digits, resizing, channels, constants -------------------------------------------------------------------


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
