"""A prepared data set: uint8 tensors with splits and normalisation constants, and its file format."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..storage.files import save_tensors
from .errors import DataError

__all__ = ["SPLITS", "ImageData", "channel_moments", "load", "save"]

SPLITS = ("train", "val", "test")

_FORMAT = "gwprune image data"
_VERSION = 1
_KEYS = ("images", "labels", "classes", "mean", "std", "name", "class_names", "fingerprint")


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images and labels of the splits 'train', 'val' and 'test'.

    Attributes:
        images: split -> uint8 (N, C, H, W), contiguous.
        labels: split -> int64 (N,), in 0..classes-1.
        classes: number of classes.
        mean, std: per channel, of the train split, in units where 255 is 1; a std of zero is stored as 1.
        name: data set name.
        class_names: one per class, or None.
        fingerprint: SHA-256 (hexadecimal) of all tensors and of the metadata above.
    """

    images: dict[str, Tensor]
    labels: dict[str, Tensor]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    class_names: list[str] | None
    fingerprint: str

    @classmethod
    def from_splits(
        cls,
        images: Mapping[str, Tensor],
        labels: Mapping[str, Tensor],
        *,
        classes: int,
        name: str,
        class_names: list[str] | None = None,
    ) -> ImageData:
        """Add normalisation constants and fingerprint to the tensors.

        Raises:
            DataError: when tensors do not fit each other (splits, types, shapes, label range).
        """
        images = {split: tensor.contiguous() for split, tensor in images.items()}
        labels = {split: tensor.contiguous() for split, tensor in labels.items()}
        problem = _problem(images, labels, classes, class_names)
        if problem:
            raise DataError(f"{name}: {problem}")
        mean, std = channel_moments(images["train"])
        metadata = (classes, mean, std, name, class_names)
        return cls(images, labels, *metadata, fingerprint=_fingerprint(images, labels, *metadata))


def channel_moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 (N, C, H, W), in units where 255 is 1.

    A deviation of exactly 0 is returned as 1, so that dividing by it is safe.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(1):
        # counts of the 256 levels are exact, so the result does not depend on any order of summation
        counts = torch.stack([torch.bincount(part.flatten(), minlength=256) for part in channel.split(4096)]).sum(0)
        share = counts.to(torch.float64) / counts.sum()
        mean = float(share @ levels)
        deviation = float(share @ (levels - mean) ** 2) ** 0.5
        means.append(mean)
        deviations.append(deviation if counts.count_nonzero() > 1 else 1.0)
    return tuple(means), tuple(deviations)


def _problem(images: Any, labels: Any, classes: Any, class_names: Any) -> str | None:
    """What does not fit, in words, or None."""
    if not isinstance(images, dict) or not isinstance(labels, dict):
        return "images and labels are not tables of splits"
    if set(images) != set(SPLITS) or set(labels) != set(SPLITS):
        return f"splits are {sorted(images)} and {sorted(labels)}, expected {', '.join(SPLITS)}"
    if class_names is not None and len(class_names) != classes:
        return f"{len(class_names)} class names for {classes} classes"
    for split in SPLITS:
        image, label = images[split], labels[split]
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.dim() != 4:
            return f"images of {split} are not a uint8 tensor (N, C, H, W)"
        if not isinstance(label, Tensor) or label.dtype != torch.int64 or label.shape != image.shape[:1]:
            return f"labels of {split} are not an int64 tensor of {len(image)} entries"
        if len(image) == 0:
            return f"split {split} is empty"
        if image.shape[1:] != images["train"].shape[1:]:
            return f"images of {split} have shape {tuple(image.shape[1:])}, not that of the train split"
        if not 0 <= int(label.min()) <= int(label.max()) < classes:
            return f"labels of {split} are not all in 0..{classes - 1}"
    return None


def _fingerprint(images: dict[str, Tensor], labels: dict[str, Tensor], *metadata: Any) -> str:
    digest = hashlib.sha256(json.dumps(metadata).encode())
    for split in SPLITS:
        for tensor in (images[split], labels[split]):
            digest.update(f"{split} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().data)
    return digest.hexdigest()


def save(data: ImageData, path: str | os.PathLike) -> None:
    """Write ``data`` to one file of plain tensors, atomically.

    Raises:
        OSError: when the file cannot be written.
    """
    content = {key: getattr(data, key) for key in _KEYS}
    content |= {"mean": list(data.mean), "std": list(data.std), "format": _FORMAT, "version": _VERSION}
    save_tensors(path, content)


def load(path: str | os.PathLike, *, verify: bool = True) -> ImageData:
    """Read a file of ``save``. The tensors are mapped from the file: pages are read when they are used.

    Args:
        verify: compare the fingerprint too, which reads the whole file once.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; prepare the data set first")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: empty file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many types for damaged and foreign files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: truncated, or not a file of prepared data ({reason})") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise DataError(f"{path}: a foreign file, not one of prepared data")
    if content.get("version") != _VERSION:
        raise DataError(
            f"{path}: format version {content.get('version')}, but this gwprune reads {_VERSION}; prepare it again"
        )
    missing = [key for key in _KEYS if key not in content]
    if missing:
        raise DataError(f"{path}: entries missing: {', '.join(missing)}")
    fields = {key: content[key] for key in _KEYS}
    problem = _problem(fields["images"], fields["labels"], fields["classes"], fields["class_names"])
    if problem:
        raise DataError(f"{path}: {problem}")
    data = ImageData(**fields | {"mean": tuple(fields["mean"]), "std": tuple(fields["std"])})
    if verify:
        found = _fingerprint(data.images, data.labels, data.classes, data.mean, data.std, data.name, data.class_names)
        if found != data.fingerprint:
            raise DataError(f"{path}: damaged, its content does not match the fingerprint stored in it")
    return data
