"""What the tests of training share: two small splits, two networks, a recipe, and ways to look and to stop."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from gwprune.datasets import DeviceSplit
from gwprune.network.prunable import PrunableSet
from gwprune.training.train import EpochRecord, Recipe


def split(count: int, seed: int) -> DeviceSplit:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return DeviceSplit(images, torch.randint(0, 3, (count,), generator=generator), [0.5], [0.3])


TRAIN, VAL = split(26, 0), split(9, 1)


def network(seed: int = 0) -> nn.Sequential:
    """Dropout draws random numbers and batch normalisation keeps state: both must survive an interruption."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def plain(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


RECIPE = Recipe(epochs=4, batch_size=6, lr=0.1, momentum=0.9, weight_decay=1e-3, l1=1e-3)


def state(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in model.state_dict().items()}


def without_time(records: list[EpochRecord]) -> list[EpochRecord]:
    return [replace(record, seconds=0.0) for record in records]


def random_mask(model: nn.Module, seed: int = 0) -> torch.Tensor:
    return torch.rand(PrunableSet(model).dimension, generator=torch.Generator().manual_seed(seed)) < 0.4


class StopError(Exception):
    pass


def stop_after(epoch: int):
    def progress(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise StopError

    return progress
