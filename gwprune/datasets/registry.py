"""The data sets by name, and validation of their options."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .cifar import load_cifar10, load_cifar100
from .digits import load_digits
from .image_folder import load_image_folder
from .mnist import load_fashion_mnist, load_kmnist, load_mnist
from .parts import Loaded
from .tiny_imagenet import load_tiny_imagenet

__all__ = ["DATASETS", "OPTIONS", "DatasetSpec", "names", "validate"]

OPTIONS = ("validation_fraction", "split_seed", "image_size", "channels", "train_limit")


@dataclass(frozen=True)
class DatasetSpec:
    """One data set.

    Attributes:
        name: as used in configurations.
        classes, size: number of classes and native height = width in pixels; None where the tree decides.
        channels: 1 (grey) or 3 (RGB) as loaded.
        load: (data_dir, image_size) -> what the files hold.
        provenance: one sentence on where the files come from and what the test split is.
    """

    name: str
    classes: int | None
    channels: int
    size: int | None
    load: Callable[[Path, int | None], Loaded]
    provenance: str


_TORCHVISION = "torchvision downloads the files and checks their md5 sums; the test split is the published one."

_SPECS = (
    DatasetSpec(
        "digits", 10, 1, 8, load_digits,
        "The 1,797 optical digits inside scikit-learn's package, no download; there is no published test "
        "split, so a seeded stratified fifth is held out.",
    ),
    DatasetSpec("mnist", 10, 1, 28, load_mnist, f"MNIST (LeCun et al.); {_TORCHVISION}"),
    DatasetSpec(
        "fashion_mnist", 10, 1, 28, load_fashion_mnist,
        "Fashion-MNIST (Zalando) from Debian's package dataset-fashion-mnist when it is installed, otherwise "
        f"{_TORCHVISION}",
    ),
    DatasetSpec("kmnist", 10, 1, 28, load_kmnist, f"Kuzushiji-MNIST (CODH); {_TORCHVISION}"),
    DatasetSpec("cifar10", 10, 3, 32, load_cifar10, f"CIFAR-10 (Krizhevsky); {_TORCHVISION}"),
    DatasetSpec("cifar100", 100, 3, 32, load_cifar100, f"CIFAR-100 with fine labels; {_TORCHVISION}"),
    DatasetSpec(
        "tiny_imagenet", 200, 3, 64, load_tiny_imagenet,
        "Tiny ImageNet of Stanford's CS231n, downloaded with its md5 sum checked; the labels of its test "
        "images are not public, so its validation part is the test split.",
    ),
    DatasetSpec(
        "image_folder", None, 3, None, load_image_folder,
        "Your own tree data_dir/train/<class>/<images>; the test split is data_dir/test, else data_dir/val, "
        "else a seeded stratified fifth of the training images.",
    ),
)  # fmt: skip

DATASETS: Mapping[str, DatasetSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})


def names() -> list[str]:
    """The known data sets, small ones first."""
    return list(DATASETS)


def _refuse_unknown(what: str, value: Any, allowed: Iterable[str]) -> None:
    allowed = list(allowed)
    if isinstance(value, str) and value in allowed:
        return
    near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{what} {value!r} is not known, allowed: {', '.join(allowed)}{hint}")


def _refuse_unless_integer(option: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{option} = {value!r} is not allowed, allowed: whole numbers from {least}")


def validate(name: str, options: Mapping[str, Any]) -> None:
    """Check a data set name and options of ``prepare`` (those of ``OPTIONS``; missing ones: its defaults).

    Raises:
        ValueError: naming the value, what is allowed, and the nearest known name.
    """
    _refuse_unknown("data set", name, DATASETS)
    for option in options:
        _refuse_unknown(f"option of data set {name!r}:", option, OPTIONS)
    spec = DATASETS[name]

    fraction = options.get("validation_fraction", 0.1)
    if isinstance(fraction, bool) or not isinstance(fraction, Real) or not 0 < fraction < 1:
        raise ValueError(f"validation_fraction = {fraction!r} is not allowed, allowed: between 0 and 1, both excluded")
    _refuse_unless_integer("split_seed", options.get("split_seed", 0), 0)
    for option, least in (("image_size", 1), ("train_limit", 2)):
        if options.get(option) is not None:
            _refuse_unless_integer(option, options[option], least)
    if spec.size is None and options.get("image_size") is None:
        raise ValueError(f"data set {name!r} needs image_size (pixels), for its images may differ in size")
    channels, allowed = options.get("channels"), sorted({spec.channels, 3})
    if channels is not None and (type(channels) is not int or channels not in allowed):
        raise ValueError(
            f"channels = {channels!r} is not allowed for data set {name!r}, "
            f"allowed: {' or '.join(str(count) for count in allowed)}"
        )
