"""Streams of random numbers: what they are drawn for, and how a seed becomes one. Imports nothing of the package.

Each purpose has numbers of its own, so that changing one option does not reshuffle what another one draws, and work
that was interrupted goes on with the numbers that it would have had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["PURPOSES", "numpy_stream", "stream", "stream_seed"]

# Every purpose, with the words that follow the seed in the entropy of NumPy's SeedSequence; they may depend on numbers
# that the caller gives, such as an epoch. No words: the purpose takes the seed itself. Published results depend on
# these words: a new purpose takes new ones, and none is changed.
PURPOSES: dict[str, Callable[..., tuple[int, ...]]] = {
    # data sets
    "test split": lambda: (0,),
    "train limit": lambda: (1,),
    "validation split": lambda: (2,),
    "order of splits": lambda: (3,),
    "subset of samples": lambda: (),
    # training
    "initial weights": lambda: (),
    "other initial weights": lambda: (2**31, 0x7261),  # of the control that draws them anew
    "epoch": lambda epoch: (epoch, 0x7261),  # dropout
    "order of an epoch": lambda epoch: (-epoch % 2**32, 0x7261),  # and its augmentation
    # pruning
    "random scores": lambda: (),
    "weights within layers": lambda: (),
    "first scores of a search": lambda: (0x67656D,),
    "order of a search epoch": lambda epoch: (epoch, 0x7261),
    # curvature
    "checks": lambda: (0x636865,),
    "probe": lambda probe: (probe,),
    "symmetry": lambda: (0x73796D,),
    "zero rows": lambda: (2**32,),
    "dead units": lambda: (),
    "directions to project": lambda: (),
}


def stream_seed(seed: int, purpose: str, *numbers: int) -> int:
    """Seed for one of PyTorch's generators.

    Args:
        seed: of the run.
        purpose: one of :data:`PURPOSES`.
        *numbers: what the purpose counts, such as the epoch or the probe.

    Raises:
        KeyError: for an unknown purpose.
        TypeError: when the purpose takes other numbers.
    """
    words = PURPOSES[purpose](*numbers)
    if not words:
        return seed
    low, high = map(int, np.random.SeedSequence([seed, *words]).generate_state(2, np.uint32))
    if purpose == "probe":  # since the first release
        low, high = high, low
    return (high << 32 | low) >> 1


def stream(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """PyTorch's generator on the CPU for a purpose; arguments and errors as :func:`stream_seed`."""
    import torch  # noqa: PLC0415 - splits of data sets need NumPy alone

    return torch.Generator().manual_seed(stream_seed(seed, purpose, *numbers))


def numpy_stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """NumPy's generator for a purpose; arguments and errors as :func:`stream_seed`."""
    return np.random.default_rng([seed, *PURPOSES[purpose](*numbers)])
