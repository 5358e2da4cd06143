"""Random crop and flip of whole batches, on the device that holds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["AUGMENTATIONS", "PADDING", "Draws", "augmented", "draw"]

AUGMENTATIONS = ("none", "flip", "crop_flip")

#: Black pixels added on every side before a random crop.
PADDING = 4


@dataclass(frozen=True)
class Draws:
    """The random choices for N images; None where the augmentation has no such choice.

    Attributes:
        rows, columns: int64 (N,), corner of the crop in the padded image, 0..2*PADDING.
        flips: bool (N,), mirrored left to right.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None
    flips: Tensor | None = None

    def __getitem__(self, part: slice) -> Draws:
        chosen = (None if values is None else values[part] for values in (self.rows, self.columns, self.flips))
        return Draws(*chosen)


def draw(kind: str, count: int, generator: torch.Generator, device: torch.device | str) -> Draws:
    """Draw for ``count`` images. The numbers come from a CPU generator: the same ones for every device.

    Raises:
        ValueError: when ``kind`` is none of ``AUGMENTATIONS``.
    """
    if kind not in AUGMENTATIONS:
        raise ValueError(f"augmentation {kind!r} is not known, allowed: {', '.join(AUGMENTATIONS)}")

    def integers(end: int) -> Tensor:
        return torch.randint(end, (count,), generator=generator)

    if kind == "none":
        return Draws()
    flips = integers(2).to(device, torch.bool)
    if kind == "flip":
        return Draws(flips=flips)
    return Draws(integers(2 * PADDING + 1).to(device), integers(2 * PADDING + 1).to(device), flips)


def augmented(images: Tensor, draws: Draws) -> Tensor:
    """Crop (after padding with zeros), then mirror uint8 images (B, C, H, W) as drawn; same shape."""
    if draws.flips is None:
        return images
    if draws.rows is None or draws.columns is None:
        return torch.where(draws.flips[:, None, None, None], images.flip(-1), images)
    count, channels, height, width = images.shape
    padded = functional.pad(images, (PADDING,) * 4)
    row = draws.rows[:, None] + torch.arange(height, device=images.device)
    ascending = torch.arange(width, device=images.device)
    # mirroring after the crop is reading its columns backwards: one gather does both
    column = draws.columns[:, None] + torch.where(draws.flips[:, None], width - 1 - ascending, ascending)
    place = row[:, :, None] * padded.shape[-1] + column[:, None, :]
    place = place.view(count, 1, height * width).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, place).view(images.shape)
