"""The data sets by name, and validation of their options, without an import of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model

from ..names import choice, function_of
from ..options import Count, Options, check
from .sizes import split_sizes

if TYPE_CHECKING:
    from .parts import Loaded

__all__ = ["DATASETS", "DatasetOptions", "DatasetSpec", "names", "training_images", "validate"]


class DatasetOptions(Options):
    """Options of every data set, see :func:`gwprune.datasets.prepare`; `image_folder` has `path` too."""

    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    split_seed: Annotated[int, Field(ge=0)] = 0
    image_size: Count | None = None
    channels: int | None = None
    train_limit: Annotated[int, Field(ge=2)] | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """One data set.

    Attributes:
        name: as used in configurations.
        classes: number of classes; None where the tree decides.
        channels: 1 (grey) or 3 (RGB) as loaded.
        size: native height = width in pixels; None where the tree decides.
        images: number of images of the training part; None where the tree decides.
        own_test: whether there is a test part of its own; None where the tree decides.
        module: module of this package with the loader ``load_<name>(folder, image_size)``.
        provenance: one sentence on where the files come from and what the test split is.
    """

    name: str
    classes: int | None
    channels: int
    size: int | None
    images: int | None
    own_test: bool | None
    module: str
    provenance: str

    @property
    def load(self) -> Callable[..., Loaded]:
        """The loader, (folder, image_size) -> what the files hold; its module is imported now."""
        return function_of("data set", f"{__package__}.{self.module}:load_{self.name}")

    @property
    def options(self) -> type[DatasetOptions]:
        """Names, types and defaults of the options of this data set."""
        own: dict[str, Any] = {"channels": (_Rgb if self.channels == 3 else _GreyOrRgb, None)}
        if self.size is None:
            own |= {"image_size": (Count, ...), "path": (Annotated[str, Field(min_length=1)], ...)}
        return create_model("Options", __base__=DatasetOptions, **own)


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # equals 1 for Python
        raise ValueError(f"a number is wanted, got {value!r}")
    return value


_Rgb = Annotated[Literal[3] | None, BeforeValidator(_number)]
_GreyOrRgb = Annotated[Literal[1, 3] | None, BeforeValidator(_number)]
_TORCHVISION = "torchvision downloads the files and checks their md5 sums; the test split is the published one."

_SPECS = (
    DatasetSpec(
        "digits", 10, 1, 8, 1_797, False, "digits",
        "The 1,797 optical digits inside scikit-learn's package, no download; there is no published test "
        "split, so a seeded stratified fifth is held out.",
    ),
    DatasetSpec("mnist", 10, 1, 28, 60_000, True, "mnist", f"MNIST (LeCun et al.); {_TORCHVISION}"),
    DatasetSpec(
        "fashion_mnist", 10, 1, 28, 60_000, True, "mnist",
        "Fashion-MNIST (Zalando) from Debian's package dataset-fashion-mnist when it is installed, otherwise "
        f"{_TORCHVISION}",
    ),
    DatasetSpec("kmnist", 10, 1, 28, 60_000, True, "mnist", f"Kuzushiji-MNIST (CODH); {_TORCHVISION}"),
    DatasetSpec("cifar10", 10, 3, 32, 50_000, True, "cifar", f"CIFAR-10 (Krizhevsky); {_TORCHVISION}"),
    DatasetSpec("cifar100", 100, 3, 32, 50_000, True, "cifar", f"CIFAR-100 with fine labels; {_TORCHVISION}"),
    DatasetSpec(
        "tiny_imagenet", 200, 3, 64, 100_000, True, "tiny_imagenet",
        "Tiny ImageNet of Stanford's CS231n, downloaded with its md5 sum checked; the labels of its test "
        "images are not public, so its validation part is the test split.",
    ),
    DatasetSpec(
        "image_folder", None, 3, None, None, None, "image_folder",
        "Your own tree path/train/<class>/<images>; the test split is path/test, else path/val, "
        "else a seeded stratified fifth of the training images.",
    ),
)  # fmt: skip

DATASETS: Mapping[str, DatasetSpec] = {spec.name: spec for spec in _SPECS}


def names() -> list[str]:
    """The known data sets, small ones first."""
    return list(DATASETS)


def training_images(name: str, options: Mapping[str, Any]) -> int | None:
    """Images of split 'train', known before any file is read.

    Args:
        name: one of ``names()``.
        options: those of the data set, valid ones.

    Returns:
        The number; for a tree of images the most that ``train_limit`` allows, or None without it.

    Raises:
        ValueError: when there are too few images for each split to have one.
    """
    spec, limit = DATASETS[name], options.get("train_limit")
    images = spec.images or limit
    if images is None:
        return None
    fraction = options.get("validation_fraction", DatasetOptions.model_fields["validation_fraction"].default)
    draw_test = spec.own_test is False
    sizes = split_sizes(images, validation_fraction=fraction, draw_test=draw_test, train_limit=limit)
    return sizes["train"]


def validate(name: str, options: Mapping[str, Any]) -> None:
    """Check a data set name and options of ``prepare`` (missing ones: its defaults).

    Args:
        name: the data set.
        options: by name.

    Raises:
        ValueError: naming the value, what is allowed, and the nearest known name.
    """
    spec = DATASETS[choice("data set", name, DATASETS)]
    if spec.size is None and "path" not in options:
        raise ValueError(
            f"data set {name!r} needs option 'path', the root of its tree <path>/train/<class>/<images> (the key"
            " data_dir is the directory of downloads)"
        )
    check(f"data set {name!r}", spec.options, options)
    try:
        training_images(name, options)
    except ValueError as error:
        raise ValueError(f"data set {name!r}: {error}") from None
