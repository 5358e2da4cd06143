"""A network with the data that it is measured on, and the rows of table `sweep` that a measurement makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .. import datasets
from ..datasets import DeviceSplit
from ..network.prunable import PrunableSet
from ..training.multiply_adds import layer_nonzeros, multiply_adds, weight_uses
from .artifacts import load_network, weights_digest
from .dense import measure
from .job import Job

__all__ = ["SPLITS", "Laboratory"]

SPLITS = ("train", "val", "test")


class Laboratory:
    """A network file and a data file on a job's device.

    Attributes:
        model, prunable: the network and its prunable weights.
        splits: name -> split.
        ranked: owner of rankings that were made from this network.
        fingerprint: of the data.
    """

    def __init__(self, job: Job, data: str, network: str):
        self.job = job
        self.model = load_network(network, job.device, owner=job.key)
        self.prunable = PrunableSet(self.model)
        self.ranked = {**job.key, "weights": weights_digest(self.prunable)}
        images = datasets.load(data)
        self.fingerprint = images.fingerprint
        self.splits = {name: DeviceSplit.from_data(images, name, job.device) for name in SPLITS}
        self._uses = weight_uses(self.model, self.prunable, images.images["train"].shape[1:])

    def values(self, l1: float) -> dict[str, dict[str, float]]:
        """Split -> loss, objective and accuracies of the network as it is now."""
        return {name: measure(self.model, self.prunable, split, l1) for name, split in self.splits.items()}

    def rows(
        self,
        method: str,
        stage: str,
        sparsity: float,
        kept: Tensor,
        *,
        pruned_norm: float,
        epochs: float,
        values: Mapping[str, Mapping[str, float]],
    ) -> list[dict[str, Any]]:
        """Rows of table `sweep`, one a split, of the network under the mask ``kept`` (D,)."""
        nonzeros = layer_nonzeros(self.prunable, kept)
        common = {
            **self.job.key,
            "method": method,
            "stage": stage,
            "sparsity": sparsity,
            "nonzeros": sum(nonzeros),
            "empty_layers": nonzeros.count(0),
            "multiply_adds": multiply_adds(self._uses, nonzeros),
            "epochs": float(epochs),
            "pruned_norm": float(pruned_norm),
        }
        return [{**common, "split": split, **values[split]} for split in SPLITS]
