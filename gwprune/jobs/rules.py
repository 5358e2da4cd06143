"""Which function does the work of each rule: ``work(job, inputs, outputs, settings)``.

``inputs`` and ``outputs`` are the rule's files by name, each a name or a list of names; ``settings`` is an instance of
the class that the function's annotation names, made of the rule's param ``settings``.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, get_type_hints

from ..spectral.predictors import PREDICTORS
from .job import Job, from_snakemake

__all__ = ["WORK", "Files", "run", "work_of"]

Files = Mapping[str, Any]

# Rule -> module of this package and function in it. It is imported in the job that needs it: a table needs no torch.
WORK = {
    "prepare_data": "dense:prepare_data",
    "train": "dense:train_dense",
    "snapshot": "dense:snapshot",
    "spectrum": "prediction:spectrum",
    "predict": "prediction:predict",
    **{name: "prediction:predict_with_products" for name, entry in PREDICTORS.items() if not entry.from_spectrum},
    "rank": "pruned:rank_weights",
    "mask": "pruned:mask_weights",
    "sweep": "pruned:sweep",
    "finetune": "masked:finetune",
    "bracket": "masked:bracket",
    "train_sparse": "masked:train_sparse",
    "level": "chains:level",
    "measure": "chains:measure_states",
    "collect": "results:collect",
    "aggregate": "results:aggregate",
    "run_figures": "results:draw",
    "threshold_figure": "results:draw",
}


def work_of(rule: str) -> tuple[Callable[[Job, Files, Files, Any], None], type]:
    """The function that does a rule's work, and the class of its settings."""
    module, _, name = WORK[rule].partition(":")
    function = getattr(import_module(f".{module}", __package__), name)
    return function, get_type_hints(function)["settings"]


def own_name(rule: str) -> str:
    """A rule's name in this workflow; in one that uses it as a module, ``as PREFIX_*``, something stands before it.

    Raises:
        ValueError: for a rule that ends in no name of this workflow.
    """
    if own := [name for name in WORK if rule == name or rule.endswith(f"_{name}")]:
        return own[0]  # none of the names ends in another one
    raise ValueError(
        f"rule {rule!r} is none of this workflow; use its rules as PREFIX_*, so that names end in {', '.join(WORK)}"
    )


def run(snakemake: Any) -> None:
    """Do the job of a script's ``snakemake`` object."""
    # A tenth of the time that an import of PyTorch takes: its objects stay anyway.
    gc.disable()
    with from_snakemake(snakemake) as job:
        work, settings = work_of(own_name(snakemake.rule))
        gc.freeze()
        gc.enable()
        inputs, outputs = (dict(files.items()) for files in (snakemake.input, snakemake.output))
        work(job, inputs, outputs, settings(**snakemake.params.settings))
