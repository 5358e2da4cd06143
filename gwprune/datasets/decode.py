"""Image files to uint8 tensors, and resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .download import no_bar
from .errors import DataError

__all__ = ["decode_rgb", "file_fetcher", "resize"]


def resize(images: Tensor, size: int, chunk: int = 1024) -> Tensor:
    """Resize uint8 (N, C, H, W) to (N, C, size, size): bilinear, antialiased, rounded to whole levels."""
    if images.shape[-2:] == (size, size):
        return images
    result = torch.empty(*images.shape[:2], size, size, dtype=torch.uint8)
    for start in range(0, len(images), chunk):  # in chunks: the float copy is four times the size
        part = images[start : start + chunk].to(torch.float32)
        part = functional.interpolate(part, size=(size, size), mode="bilinear", antialias=True)
        result[start : start + chunk] = part.round_().clamp_(0, 255).to(torch.uint8)
    return result


def decode_rgb(path: Path) -> Tensor:
    """Decode one image file to uint8 (3, H, W); grey and palette images become RGB.

    Raises:
        DataError: naming the file, when it is missing or cannot be decoded.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: image file is missing") from error
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, ValueError and more
        raise DataError(f"{path}: image cannot be decoded ({error})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def file_fetcher(paths: Sequence[Path], size: int, *, resized: bool, label: str) -> Callable[[np.ndarray], Tensor]:
    """Make the ``fetch`` of a part whose images are files: indices (M,) -> uint8 (M, 3, size, size).

    Args:
        resized: resize each image; otherwise another size than ``size`` is an error.
        label: text of the progress bar.
    """

    def fetch(indices: np.ndarray) -> Tensor:
        from tqdm import tqdm

        images = torch.empty(len(indices), 3, size, size, dtype=torch.uint8)
        for place, index in enumerate(tqdm(indices, desc=label, unit="image", disable=no_bar())):
            image = decode_rgb(paths[index])
            if resized:
                image = resize(image[None], size)[0]
            elif image.shape[1:] != (size, size):
                height, width = image.shape[1:]
                raise DataError(f"{paths[index]}: image of {height}x{width} pixels, expected {size}x{size}")
            images[place] = image
        return images

    return fetch
