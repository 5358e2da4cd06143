"""What the tests of training and jobs share: splits, networks, a recipe, ways to look and to stop, foreign files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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


def give_to_seed_1(path: Path) -> None:
    """Make a file between jobs one of seed 1, as if it were copied from that seed's folder."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        seeds = pa.array([1] * len(table), table.schema.field("seed").type)
        field = table.schema.field("seed")
        pq.write_table(table.set_column(table.schema.get_field_index("seed"), field, seeds), path)
    elif path.suffix == ".json":
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "owner": {**values["owner"], "seed": 1}}))
    elif path.suffix == ".npz":
        with np.load(path) as stored:
            entries = dict(stored)
        owner = {**json.loads(str(entries["owner"])), "seed": 1}
        with open(path, "wb") as stream:
            np.savez(stream, **{**entries, "owner": json.dumps(owner)})
    else:
        values = torch.load(path, weights_only=True)
        torch.save({**values, "owner": {**values["owner"], "seed": 1}}, path)
