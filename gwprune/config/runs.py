"""Expansion of a configuration into runs: one network, one data set, one training recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ..files import config_hash
from .models import PPM, Config, Experiment

__all__ = ["Run", "chunk_token", "expand", "sparsity_token"]


def sparsity_token(sparsity: float) -> str:
    """A sparsity as it stands in file names: parts per million, six digits."""
    return f"{round(sparsity * PPM):06d}"


def chunk_token(sparsities: Sequence[float]) -> str:
    """Name of a job of these sparsities in file names: the only one's token, or those of both ends and a hash."""
    if len(sparsities) == 1:
        return sparsity_token(sparsities[0])
    tokens = [sparsity_token(sparsity) for sparsity in sparsities]
    return f"{tokens[0]}-{tokens[-1]}-{config_hash({'sparsities': tokens})[:6]}"


def _l1_token(l1: float) -> str:
    # 1e-4 rather than 1e-04; always part of the name, so that a second value renames nothing.
    return "0" if l1 == 0 else f"{Decimal(repr(l1)).normalize():e}".replace("e+", "e")


@dataclass(frozen=True)
class Run:
    """One run; ``name`` is the ``run`` column of every table."""

    name: str
    l1: float
    experiment: Experiment

    @property
    def dataset_key(self) -> str:
        """Name of the prepared data file: runs with the same data set and options share it."""
        dataset = self.experiment.dataset
        return dataset.name if not dataset.options else f"{dataset.name}_{config_hash(dataset.options)[:8]}"

    def section(self, name: str, *keys: str) -> dict[str, Any]:
        """Plain values of a section (all of it, or some keys): what a job depends on."""
        values = getattr(self.experiment, name).model_dump(mode="json")
        return {key: values[key] for key in keys or values}

    def recipe(self) -> dict[str, Any]:
        """The training section with this run's single l1 coefficient."""
        return {**self.section("training"), "l1": self.l1}

    def fine_tuning(self) -> dict[str, Any]:
        """The recipe of fine-tuning."""
        values = self.section("fine_tuning")
        return {**{k: v for k, v in values.items() if k not in ("methods", "sparsities", "chunk")}, "l1": self.l1}

    def chunks(self) -> dict[str, list[float]]:
        """Sparsities of each fine-tuning job of a method, by the token that names it."""
        section = self.experiment.fine_tuning
        size, all_ = section.chunk, section.sparsities
        parts = [all_[start : start + size] for start in range(0, len(all_), size)]
        return {chunk_token(part): part for part in parts}


def expand(config: Config) -> dict[str, Run]:
    """All runs of a configuration by name, in its order."""
    runs = {}
    for experiment in config.experiments:
        for l1 in experiment.training.l1:
            name = f"{experiment.label}_l1-{_l1_token(l1)}"
            runs[name] = Run(name, l1, experiment)
    return runs
