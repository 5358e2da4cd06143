"""One split held on the compute device as uint8; batches are normalised, and augmented, there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..streams import stream
from .augmentation import augmented, draw
from .image_data import SPLITS, ImageData

__all__ = ["DeviceSplit"]


class DeviceSplit:
    """Images and labels of one split on a device.

    Normalised means ``(value / 255 - mean) / std`` per channel, float32.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        mean, std: one number per channel, in units where 255 is 1.
        device: where the tensors are held and the work is done.

    Raises:
        ValueError: when the types or shapes are not these.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
    ) -> None:
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(f"labels must be int64 ({len(images)},), not {labels.dtype} {tuple(labels.shape)}")
        if not len(mean) == len(std) == images.shape[1]:
            raise ValueError(f"{len(mean)} means and {len(std)} deviations for {images.shape[1]} channels")
        self.device = torch.device(device)
        self.images = images.to(self.device)
        self.labels = labels.to(self.device)
        self.mean, self.std = tuple(mean), tuple(std)
        scale = 1 / (255 * torch.tensor(self.std, dtype=torch.float64))
        shift = -torch.tensor(self.mean, dtype=torch.float64) / torch.tensor(self.std, dtype=torch.float64)
        self._scale = scale.to(torch.float32).view(-1, 1, 1).to(self.device)
        self._shift = shift.to(torch.float32).view(-1, 1, 1).to(self.device)

    @classmethod
    def from_data(cls, data: ImageData, split: str, device: torch.device | str = "cpu") -> DeviceSplit:
        """The split 'train', 'val' or 'test' of ``data``.

        Raises:
            ValueError: for another split name.
        """
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is not known, allowed: {', '.join(SPLITS)}")
        return cls(data.images[split], data.labels[split], data.mean, data.std, device)

    def __len__(self) -> int:
        return len(self.images)

    def _normalised(self, images: Tensor) -> Tensor:
        return images.to(torch.float32).mul_(self._scale).add_(self._shift)

    def inputs(self, indices: Tensor | Sequence[int] | slice | None = None) -> Tensor:
        """Normalised inputs (B, C, H, W), float32, of the given samples; None: all."""
        if indices is None:
            return self._normalised(self.images)
        if not isinstance(indices, slice):
            indices = torch.as_tensor(indices, device=self.device)
        return self._normalised(self.images[indices])

    def as_tensors(self) -> tuple[Tensor, Tensor]:
        """All normalised inputs (N, C, H, W), float32, and labels (N,), int64."""
        return self.inputs(), self.labels

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate (inputs, labels) in stored order, not augmented; the last batch may be smaller.

        Raises:
            ValueError: when ``batch_size`` is below 1.
        """
        return (
            (self.inputs(slice(start, start + batch_size)), self.labels[start : start + batch_size])
            for start in self._starts(batch_size, drop_last=False)
        )

    def epoch(
        self, batch_size: int, generator: torch.Generator, augment: str = "none", drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate (inputs, labels) once in random order.

        All random numbers of the epoch are drawn by this call, so the generator's state afterwards does not
        depend on how far the iteration goes, and the order of the samples not on ``augment``.

        Args:
            generator: on the CPU, so that every device sees the same epoch.
            augment: 'none', 'flip', or 'crop_flip' (crop after padding with 4 black pixels, then flip).
            drop_last: leave out a last batch that is smaller.

        Raises:
            ValueError: when an argument is not one of these.
        """
        if generator.device.type != "cpu":
            raise ValueError(f"the generator must be on the CPU, not on {generator.device}")
        starts = self._starts(batch_size, drop_last)
        order = torch.randperm(len(self), generator=generator).to(self.device)
        draws = draw(augment, len(self), generator, self.device)

        def iterate() -> Iterator[tuple[Tensor, Tensor]]:
            for start in starts:
                part = slice(start, start + batch_size)
                chosen = order[part]
                images = self.images.index_select(0, chosen)  # eight times as fast as indexing on the CPU
                yield self._normalised(augmented(images, draws[part])), self.labels[chosen]

        return iterate()

    def _starts(self, batch_size: int, drop_last: bool) -> range:
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size} is not allowed, allowed: whole numbers from 1")
        return range(0, len(self) - (batch_size - 1 if drop_last else 0), batch_size)

    def subset(self, count: int | None, seed: int) -> DeviceSplit:
        """A fixed choice of ``count`` samples in stored order; all if ``count`` is None or large enough.

        Raises:
            ValueError: when ``count`` is below 1.
        """
        if count is None or count >= len(self):
            return self
        if count < 1:
            raise ValueError(f"count = {count} is not allowed, allowed: whole numbers from 1")
        order = torch.randperm(len(self), generator=stream(seed, "subset of samples"))
        chosen = order[:count].sort().values.to(self.device)
        return DeviceSplit(self.images[chosen], self.labels[chosen], self.mean, self.std, self.device)
