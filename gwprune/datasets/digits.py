"""The 1,797 handwritten digits (8x8, grey) that scikit-learn carries inside its package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .parts import Loaded, array_part

__all__ = ["load_digits"]


def load_digits(data_dir: Path, image_size: int | None) -> Loaded:
    """Read the digits; values 0..16 become round(v * 255 / 16). No file of ``data_dir`` is used."""
    from sklearn import datasets

    bunch = datasets.load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    return Loaded(array_part(images, bunch.target), None, [str(digit) for digit in range(10)])
