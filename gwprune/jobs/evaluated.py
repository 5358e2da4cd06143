"""A network with the data that it is evaluated on, and the rows of table `sweep` that an evaluation makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..datasets import DeviceSplit, ImageData
from ..network.prunable import PrunableSet
from ..training.evaluation import evaluate, l1_norm
from ..training.multiply_adds import layer_nonzeros, multiply_adds, weight_uses
from .dense import columns_of
from .job import Job

__all__ = ["SPLITS", "EvaluatedNetwork"]

SPLITS = ("train", "val", "test")


class EvaluatedNetwork:
    """A network and its data on a job's device.

    Args:
        job: says where to compute, and the run and seed of the rows.
        model: the network, on that device.
        images: the data.

    Attributes:
        job: as given.
        model: as given.
        prunable: its prunable weights.
        splits: name -> split.
        fingerprint: of the data.
    """

    def __init__(self, job: Job, model: nn.Module, images: ImageData):
        self.job, self.model = job, model
        self.prunable = PrunableSet(model)
        self.fingerprint = images.fingerprint
        self.splits = {name: DeviceSplit.from_data(images, name, job.device) for name in SPLITS}
        self._uses = weight_uses(model, self.prunable, images.images["train"].shape[1:])

    def values(self, l1: float) -> dict[str, dict[str, float]]:
        """Split -> loss, objective and accuracies of the network as it is now."""
        penalty = l1 * l1_norm(self.prunable)
        return {name: columns_of(evaluate(self.model, split), penalty) for name, split in self.splits.items()}

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
        """Rows of table `sweep`, one a split, of the network under a mask.

        Args:
            method: column of that name.
            stage: column of that name.
            sparsity: column of that name.
            kept: boolean mask (D,).
            pruned_norm: 2-norm of the removed weights.
            epochs: of all training behind the network.
            values: split -> columns, as :meth:`values` has them.
        """
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
