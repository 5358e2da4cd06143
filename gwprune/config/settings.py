"""What each job is told beside its files: the fields of the settings class of its rule's function in `gwprune.jobs`.

A job runs again when they change, so they hold what its result depends on and nothing else.
"""

from __future__ import annotations

from typing import Any

from ..pruning import method_of
from ..spectral.predictors import PREDICTORS
from ..storage.files import config_hash
from ..tables.comparison import in_words
from ..tables.published import published_rows
from .models import Experiment
from .plan import RUN_FIGURES, Plan
from .sections import PPM

__all__ = ["provenance_of", "settings_of"]

_SAMPLES = ("samples", "batch_size", "memory_mb")
_BASIS = ("reorthogonalize", "basis")


def settings_of(plan: Plan, rule: str, at: Any) -> dict[str, Any]:
    """The settings of a job.

    Args:
        plan: of the configuration.
        rule: the job's rule.
        at: its wildcards, as attributes.
    """
    return _predicting(plan, rule, at) if rule in PREDICTORS else _SETTINGS[rule](plan, at)


def provenance_of(plan: Plan, at: Any) -> dict[str, Any]:
    """The settings that the tables of a run come from; of all runs, where ``at`` names none: all but places and
    resources."""
    config = plan.config
    if not hasattr(at, "run"):
        return config.model_dump(mode="json", exclude={"resources", "results", "data_dir"})
    run = plan.runs[at.run]
    return {"experiment": run.experiment.model_dump(mode="json"), "l1": run.l1}


def _experiment(plan: Plan, at: Any) -> Experiment:
    return plan.runs[at.run].experiment


def _criteria(plan: Plan, at: Any) -> dict[str, Any]:
    experiment = _experiment(plan, at)
    return {"epsilon_rules": experiment.epsilon, "accuracy_drops": experiment.criteria.accuracy_drop}


def _network(plan: Plan, at: Any) -> dict[str, Any]:
    return {"network": _experiment(plan, at).network.model_dump(include={"name", "options"})}


def _options(plan: Plan, at: Any) -> dict[str, Any]:
    experiment, name = _experiment(plan, at), plan.methods[at.method][0]
    section = experiment.sparse_training if method_of(name).when == "initialisation" else experiment.pruning
    return section.options.get(name, {})


def _ranked_here(plan: Plan, at: Any) -> dict[str, Any]:
    """The method of a job that ranks by itself, unless a file holds the ranking."""
    name = plan.methods[at.method][0]
    return {"method": name, "options": {} if method_of(name).needs else _options(plan, at)}


def _methods(plan: Plan, rule: str, at: Any) -> dict[str, Any]:
    """The one-shot methods that predictions are of, with the options of those that no file ranks."""
    options, names = _experiment(plan, at).pruning.options, plan.predicted_methods(rule, at)
    return {"methods": {name: {} if method_of(name).needs else options.get(name, {}) for name in names}}


def _prepare_data(plan: Plan, at: Any) -> dict[str, Any]:
    return {"dataset": plan.datasets[at.dataset]}


def _train(plan: Plan, at: Any) -> dict[str, Any]:
    run = plan.runs[at.run]
    if run.experiment.network.weights:
        return {**_network(plan, at), "recipe": {**run.section("training", "batch_size"), "l1": run.l1}}
    return {**_network(plan, at), "recipe": run.recipe(), "checkpoint": plan.checkpoint(at, "train.pt")}


def _snapshot(plan: Plan, at: Any) -> dict[str, Any]:
    checkpoint = plan.checkpoint(at, f"snapshot_{at.epoch}.pt")
    return {**_train(plan, at), "epoch": int(at.epoch), "checkpoint": checkpoint}


def _spectrum(plan: Plan, at: Any) -> dict[str, Any]:
    return {
        "operator": at.operator,
        "probe": int(at.probe),
        **plan.runs[at.run].section("spectrum", "steps", *_SAMPLES, *_BASIS),
        "checkpoint": plan.checkpoint(at, f"{at.operator}_probe{at.probe}.products"),
    }


def _predict(plan: Plan, at: Any) -> dict[str, Any]:
    experiment = _experiment(plan, at)
    return {
        "operators": experiment.spectrum.operators,
        "predictors": [name for name in experiment.spectrum.predictors if PREDICTORS[name].from_spectrum],
        "epsilon_rules": experiment.epsilon,
        "sparsities": experiment.pruning.sparsities,
        **_methods(plan, "predict", at),
    }


def _predicting(plan: Plan, rule: str, at: Any) -> dict[str, Any]:
    """Of the predictor that gives a rule its name."""
    run = plan.runs[at.run]
    predictor, operators = PREDICTORS[rule], plan.operators(at)
    lanczos = ("cone_steps", *_BASIS) if "spectrum" in predictor.needs else ()
    return {
        "predictor": rule,
        "operators": operators,
        "epsilon_rules": run.experiment.epsilon,
        "l1": run.l1,
        **_methods(plan, rule, at),
        **run.section("spectrum", *_SAMPLES, *lanczos),
        # A few products for each of several operators are not worth keeping, the surgeon's thousands fill a disk.
        "checkpoint": plan.checkpoint(at, f"{at.operator}_{rule}.products") if predictor.apart and lanczos else "",
    }


def _rank(plan: Plan, at: Any) -> dict[str, Any]:
    experiment, name = _experiment(plan, at), plan.methods[at.method][0]
    options = _options(plan, at)
    initial = _network(plan, at) if method_of(name).when == "initialisation" else {}
    return {"method": name, "options": options, "samples": experiment.pruning.samples, **initial}


def _mask(plan: Plan, at: Any) -> dict[str, Any]:
    return {**_rank(plan, at), "sparsity": int(at.sparsity) / PPM}


def _sweep(plan: Plan, at: Any) -> dict[str, Any]:
    run = plan.runs[at.run]
    return {
        **_ranked_here(plan, at),
        **run.section("pruning", "sparsities", "resolution"),
        **_criteria(plan, at),
        "l1": run.l1,
        "epochs": run.dense_epochs,
    }


def _tuned(plan: Plan, at: Any) -> dict[str, Any]:
    run = plan.runs[at.run]
    return {
        **_ranked_here(plan, at),
        "recipe": run.fine_tuning(),
        "first_epoch": run.first_finetuned_epoch,
        "epochs": run.dense_epochs,
    }


def _finetune(plan: Plan, at: Any) -> dict[str, Any]:
    checkpoint = plan.checkpoint(at, f"{at.method}_{at.chunk}")
    return {**_tuned(plan, at), "sparsities": plan.sparsities("finetune", at), "checkpoint": checkpoint}


def _bracket(plan: Plan, at: Any) -> dict[str, Any]:
    experiment = _experiment(plan, at)
    return {
        **_tuned(plan, at),
        "epsilon_rules": experiment.epsilon,
        "resolution": experiment.fine_tuning.resolution,
        "points": plan.placed(plan.file("points").format(run=at.run, seed=at.seed, method=at.method)),
        "checkpoint": plan.checkpoint(at, f"{at.method}_bracket"),
    }


def _train_sparse(plan: Plan, at: Any) -> dict[str, Any]:
    run = plan.runs[at.run]
    name, control = plan.methods[at.method]
    return {
        **_ranked_here(plan, at),
        **_network(plan, at),
        "control": control,
        "sparsities": plan.sparsities("train_sparse", at),
        "recipe": run.sparse_recipe(),
        # What the masks took before; the states of iterative methods tell it themselves.
        "epochs": run.dense_epochs if method_of(name).when == "trained" else 0,
        "checkpoint": plan.checkpoint(at, f"{at.method}_{at.chunk}_trained"),
    }


def _level(plan: Plan, at: Any) -> dict[str, Any]:
    run, level = plan.runs[at.run], plan.node(at).level
    return {
        **_network(plan, at),
        "level": vars(level),
        "recipe": {**run.recipe(), "epochs": level.epochs},
        "epochs": run.dense_epochs if level.begins_with == "trained" else 0,
        "checkpoint": plan.checkpoint(at, f"{at.method}_{at.node}.pt"),
    }


def _measure(plan: Plan, at: Any) -> dict[str, Any]:
    return {
        "method": plan.methods[at.method][0],
        "sparsities": _experiment(plan, at).sparse_training.sparsities,
        "l1": plan.runs[at.run].l1,
    }


def _collect(plan: Plan, at: Any) -> dict[str, Any]:
    experiment = _experiment(plan, at)
    network, dataset = experiment.network, experiment.dataset
    return {
        **_criteria(plan, at),
        "seeds": experiment.seeds,
        "facts": {
            "network": in_words(network.name, network.options),
            "dataset": in_words(dataset.name, dataset.options),
            "l1": plan.runs[at.run].l1,
        },
        "asked": {
            "one_shot": experiment.pruning.sparsities,
            "fine_tuned": experiment.fine_tuning.sparsities,
        },
        "benchmarks": plan.benchmarks(at.run),
    }


def _aggregate(plan: Plan, at: Any) -> dict[str, Any]:
    # Another digest of the published numbers, and the tables are made again.
    return {"benchmarks": plan.shared_benchmarks(), "published": config_hash({"rows": published_rows()})}


_SETTINGS = {
    "prepare_data": _prepare_data,
    "train": _train,
    "snapshot": _snapshot,
    "spectrum": _spectrum,
    "predict": _predict,
    "rank": _rank,
    "mask": _mask,
    "sweep": _sweep,
    "finetune": _finetune,
    "bracket": _bracket,
    "train_sparse": _train_sparse,
    "level": _level,
    "measure": _measure,
    "collect": _collect,
    "aggregate": _aggregate,
    "run_figures": lambda plan, at: {"figures": RUN_FIGURES},
    "threshold_figure": lambda plan, at: {"figures": {"predicted_vs_empirical": ["thresholds"]}},
}
