"""Expansion of a configuration into runs: one network, one data set, one training recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from itertools import pairwise
from math import ceil, log2
from typing import Any

from ..pruning import method_of
from ..pruning.iterative import Level
from ..storage.files import config_hash
from .models import Config, Experiment
from .sections import PPM

__all__ = ["Node", "Run", "chunk_token", "expand", "sparsity_token"]


def sparsity_token(sparsity: float) -> str:
    """A sparsity as it stands in file names: parts per million, six digits."""
    return f"{round(sparsity * PPM):06d}"


def chunk_token(sparsities: Sequence[float]) -> str:
    """Name of a job of these sparsities in file names: the only one's token, or those of both ends and a hash."""
    if len(sparsities) == 1:
        return sparsity_token(sparsities[0])
    tokens = [sparsity_token(sparsity) for sparsity in sparsities]
    return f"{tokens[0]}-{tokens[-1]}-{config_hash({'sparsities': tokens})[:6]}"


def _chunks(sparsities: Sequence[float], size: int) -> dict[str, list[float]]:
    parts = [list(sparsities[start : start + size]) for start in range(0, len(sparsities), size)]
    return {chunk_token(part): part for part in parts}


def _l1_token(l1: float) -> str:
    # 1e-4 rather than 1e-04; always part of the name, so that a second value renames nothing.
    return "0" if l1 == 0 else f"{Decimal(repr(l1)).normalize():e}".replace("e+", "e")


@dataclass(frozen=True)
class Node:
    """One job of an iterative method.

    Attributes:
        name: of the job, in file names.
        before: name of the job whose network it goes on with; None for the first of a chain.
        level: what it prunes and trains.
    """

    name: str
    before: str | None
    level: Level


@dataclass(frozen=True)
class Run:
    """One network on one data set with one training recipe.

    Attributes:
        name: column ``run`` of every table.
        l1: the coefficient of the penalty, one of those that the configuration lists.
        experiment: all its settings.
    """

    name: str
    l1: float
    experiment: Experiment

    @property
    def dataset_key(self) -> str:
        """Name of the prepared data file: runs with the same data set and options share it."""
        dataset = self.experiment.dataset
        return dataset.name if not dataset.options else f"{dataset.name}_{config_hash(dataset.options)[:8]}"

    def section(self, name: str, *keys: str) -> dict[str, Any]:
        """Plain values of a section.

        Args:
            name: of the section.
            *keys: which of its keys; none: all.
        """
        values = getattr(self.experiment, name).model_dump(mode="json")
        return {key: values[key] for key in keys or values}

    def recipe(self) -> dict[str, Any]:
        """The training section with this run's single l1 coefficient."""
        return {**self.section("training"), "l1": self.l1}

    def fine_tuning(self) -> dict[str, Any]:
        """The recipe of fine-tuning."""
        values = self.section("fine_tuning")
        if values["rewinding"] != "none":
            return self.recipe()
        other = ("methods", "sparsities", "chunk", "rewinding", "resolution")
        return {**{key: value for key, value in values.items() if key not in other}, "l1": self.l1}

    @property
    def dense_epochs(self) -> int:
        """Epochs of dense training; none where the network is given trained."""
        return 0 if self.experiment.network.weights else self.experiment.training.epochs

    @property
    def first_finetuned_epoch(self) -> int:
        """Epochs of the recipe that fine-tuning leaves out: none, or all but its own when it rewinds."""
        tuning = self.experiment.fine_tuning
        return 0 if tuning.rewinding == "none" else self.experiment.training.epochs - tuning.epochs

    def finetune_chunks(self, method: str) -> dict[str, list[float]]:
        """Sparsities of each job that fine-tunes a method, by the job's token.

        The first method has the control, 0, beside the asked ones: without a removed weight all methods are the same.
        """
        section = self.experiment.fine_tuning
        control = [0.0] if method == section.methods[0] else []
        return _chunks([*control, *(sparsity for sparsity in section.sparsities if sparsity > 0)], section.chunk)

    def sparse_chunks(self) -> dict[str, list[float]]:
        """Sparsities of each job of a method in section `sparse_training`, by the job's token."""
        section = self.experiment.sparse_training
        return _chunks(section.sparsities, section.chunk)

    def most_searched(self) -> int:
        """Most trainings of a search for fine-tuned thresholds: halvings of the widest step for each epsilon rule."""
        section = self.experiment.fine_tuning
        ends = [0.0, *section.sparsities, 1.0]
        widest = round(max(upper - lower for lower, upper in pairwise(ends)), 6)
        return len(self.experiment.epsilon) * max(1, ceil(log2(widest / section.resolution)))

    def sparse_recipe(self) -> dict[str, Any]:
        """The recipe of sparse training: that of dense training over its own number of epochs."""
        return {**self.recipe(), "epochs": self.experiment.epochs.sparse}

    def masked_methods(self) -> list[tuple[str, str]]:
        """(method, control or "") of what section `sparse_training` trains on a given mask."""
        section = self.experiment.sparse_training
        plain = [(name, "") for name in section.methods if method_of(name).when != "iterative"]
        return [*plain, *((name, control) for name in section.methods for control in section.controls)]

    def iterative_methods(self) -> list[str]:
        """Methods of section `sparse_training` that are chains of levels."""
        return [name for name in self.experiment.sparse_training.methods if method_of(name).when == "iterative"]

    def chain(self, method: str, sparsity: float) -> list[Node]:
        """Jobs of an iterative method up to a sparsity; chains that begin alike share them."""
        options = self.experiment.sparse_training.options.get(method, {})
        levels = method_of(method).function(sparsity, self.experiment.epochs, **options)
        values = [asdict(level) for level in levels]
        names = [
            f"{sparsity_token(level.sparsity)}-{number:02d}-{config_hash({'levels': values[:number]})[:6]}"
            for number, level in enumerate(levels, 1)
        ]
        return [Node(*item) for item in zip(names, [None, *names[:-1]], levels, strict=True)]

    def nodes(self, method: str) -> dict[str, Node]:
        """All jobs of an iterative method by name."""
        section = self.experiment.sparse_training
        return {node.name: node for sparsity in section.sparsities for node in self.chain(method, sparsity)}

    def snapshots(self) -> list[int]:
        """Epochs of dense training after which the network is needed again: where something rewinds to."""
        tuning = self.experiment.fine_tuning
        epochs = {self.first_finetuned_epoch} if tuning.rewinding == "weights" and tuning.methods else set()
        for name in self.iterative_methods():
            levels = [node.level for node in self.nodes(name).values()]
            epochs |= {level.first_epoch for level in levels if level.start == "rewound"}
        return sorted(epochs)


def expand(config: Config) -> dict[str, Run]:
    """All runs of a configuration by name, in its order."""
    runs = {}
    for experiment in config.experiments:
        for l1 in experiment.training.l1:
            name = f"{experiment.label}_l1-{_l1_token(l1)}"
            runs[name] = Run(name, l1, experiment)
    return runs
