"""The configuration as a whole: data sets, networks, experiments, resources; its sections stand in `sections`."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from .. import datasets, models, pruning
from ..options import listing, wording
from .sections import (
    Criteria,
    FineTuning,
    Named,
    Pruning,
    SparseTraining,
    Spectrum,
    Strict,
    Training,
    as_list,
    epsilon_rule,
    unique,
)

__all__ = ["SECTIONS", "Config", "Experiment", "Strict"]


class Dataset(Named):
    """Which images, and how they are split."""

    name: str = Field(description="data set: " + ", ".join(f"`{name}`" for name in datasets.names()))
    options: dict[str, Any] = Field(
        default={},
        description="`validation_fraction` (of the training part, 0.1), `split_seed` (0), `image_size` (pixels),"
        " `channels` (3 repeats grey), `train_limit` (keep so many training images); of `image_folder` also `path`, the"
        " root of the tree",
    )

    @model_validator(mode="after")
    def _known(self) -> Dataset:
        datasets.validate(self.name, self.options)
        return self


class Network(Named):
    """Which network."""

    name: str = Field(
        description="network: "
        + ", ".join(f"`{name}`" for name in models.names())
        + ", `torchvision:NAME`, or your own as `module:function`"
    )
    options: dict[str, Any] = Field(
        default={},
        description="options of that network, with their defaults: "
        + listing({name: network.options for name, network in models.NETWORKS.items()})
        + "; `torchvision:NAME`: `weights`; `module:function`: its parameters",
    )

    weights: str | None = Field(
        default=None,
        min_length=1,
        description="file of the `state_dict` of this network, trained, by torch.save or as safetensors. It is then not"
        " trained: of section `training` only `l1`, which must say what it was trained with, and `batch_size` count",
    )

    @field_validator("weights")
    @classmethod
    def _there(cls, value: str | None) -> str | None:
        path = value and os.path.expanduser(value)
        if path and not os.path.isfile(path):
            raise ValueError(f"there is no file {path!r} (seen from {os.getcwd()})")
        return path

    @model_validator(mode="after")
    def _known(self) -> Network:
        models.validate(self.name, self.options)
        return self


def _seeds(value: Any) -> Any:
    """The seeds as a list; a text that looks like a range or a list is answered with how to write one."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d+(\s*(-|:|,|;|\.\.|to|\s)\s*\d+)+\s*", value):
        numbers = [int(number) for number in re.findall(r"\d+", value)]
        if len(numbers) == 2 and not re.search("[,;]", value) and numbers[0] < numbers[1]:
            numbers = list(range(numbers[0], numbers[1] + 1))
        listed = str(numbers) if len(numbers) <= 10 else f"[{numbers[0]}, {numbers[1]}, ..., {numbers[-1]}]"
        raise ValueError(f"seeds are a list, here {listed}; got {value!r}")
    return as_list(value)


class Settings(Strict):
    """What each experiment may override, sections key by key."""

    training: Training = Field(default=Training(), description="dense training")
    spectrum: Spectrum = Field(default=Spectrum(), description="Lanczos")
    epsilon: Annotated[list[Any], BeforeValidator(as_list)] = Field(
        default=["batch_std"],
        min_length=1,
        description="sweep: loss tolerances: `batch_std`, `relative: x` (times the dense loss), `absolute: x` (nats)",
    )
    pruning: Pruning = Field(default=Pruning(), description="one-shot pruning")
    fine_tuning: FineTuning = Field(default=FineTuning(), description="fine-tuning")
    sparse_training: SparseTraining = Field(default=SparseTraining(), description="training of sparse networks")
    criteria: Criteria = Field(default=Criteria(), description="criteria of the empirical thresholds")
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], BeforeValidator(_seeds)] = Field(
        default=[0], min_length=1, description="sweep: seeds of initialisation, data order and probes"
    )

    _unique_seeds = field_validator("seeds")(unique)

    @field_validator("epsilon")
    @classmethod
    def _rules(cls, values: list[Any]) -> list[str]:
        return unique([epsilon_rule(value) for value in values])


SECTIONS = tuple(Settings.model_fields)


class Experiment(Settings):
    """One network on one data set. Its sections start from the top-level ones."""

    name: str | None = Field(default=None, description="letters, digits, `_`; null: `<dataset>_<network>`")
    dataset: Dataset = Field(description="a name, or a mapping of `name` and `options`")
    network: Network = Field(description="a name, or a mapping of `name`, `options` and `weights`")

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        if self.name is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", self.name):
            raise ValueError(f"name {self.name!r} must start with a letter and hold letters, digits and '_' only")
        missing = [method for method in self.fine_tuning.methods if method not in self.pruning.methods]
        if missing:
            raise ValueError(
                f"fine_tuning.methods holds {', '.join(missing)}, which pruning.methods does not; allowed:"
                f" {', '.join(self.pruning.methods)}, or [] for no fine-tuning"
            )
        dense, sparse = self.training.epochs, self.sparse_training
        if self.fine_tuning.rewinding != "none" and self.fine_tuning.epochs > dense:
            raise ValueError(
                f"fine_tuning.rewinding goes back fine_tuning.epochs = {self.fine_tuning.epochs} epochs, but"
                f" dense training has training.epochs = {dense}"
            )
        for name in ("fine_tuning", "sparse_training"):
            section = getattr(self, name)
            if section.methods and not section.sparsities:
                raise ValueError(f"{name}.sparsities is empty: list some, or set {name}.methods to []")
        for section in (self.pruning, sparse):
            for name in section.methods:
                method = pruning.method_of(name)
                # Only a section that ranks a method holds its options.
                own = sparse if method.when in ("initialisation", "iterative") else self.pruning
                method.check_options(own.options.get(name, {}))
        for name in sparse.methods:
            method = pruning.method_of(name)
            if method.when == "trained" and name not in self.pruning.methods:
                raise ValueError(
                    f"sparse_training.methods holds {name}, a ranking of the trained network: list it in"
                    " pruning.methods too"
                )
            if method.when == "iterative":
                for sparsity in sparse.sparsities:
                    if not method.function(sparsity, self.epochs, **sparse.options.get(name, {})):
                        raise ValueError(f"sparse_training: method {name} has no level for sparsity {sparsity}")
        if sparse.methods:
            self._fits_sparse_training()
        if self.network.weights is not None:
            self._fits_weights()
        self._fits_images()
        return self

    def _fits_weights(self) -> None:
        """Refuse what cannot be had of a network whose training is not known."""
        if "l1" not in self.training.model_fields_set or len(self.training.l1) > 1:
            given = f"{self.training.l1} are given" if "l1" in self.training.model_fields_set else "none is given"
            raise ValueError(
                "network.weights is one network: training.l1 must be the one coefficient that it was trained with, 0"
                f" without a penalty; {given}"
            )
        if self.fine_tuning.rewinding != "none":
            raise ValueError(
                f"fine_tuning.rewinding {self.fine_tuning.rewinding!r} goes through the dense training once more, and"
                " that of network.weights is not known; allowed: none"
            )
        other = [name for name in self.sparse_training.methods if not self._goes_on_from_trained(name)]
        if other or self.sparse_training.controls:
            raise ValueError(
                f"sparse_training trains the untrained network ({', '.join(other or self.sparse_training.controls)}),"
                " and that of network.weights is not known; allowed: methods of your own whose levels begin with the"
                " trained network and do not rewind, or methods: []"
            )

    def _goes_on_from_trained(self, name: str) -> bool:
        """Whether a method of section `sparse_training` needs no weights but those of the trained network."""
        method, section = pruning.method_of(name), self.sparse_training
        if method.when != "iterative":
            return False
        options = section.options.get(name, {})
        chains = [method.function(sparsity, self.epochs, **options) for sparsity in section.sparsities]
        return all(
            chain[0].begins_with == "trained" and all(level.start == "before" for level in chain) for chain in chains
        )

    def _fits_sparse_training(self) -> None:
        """Dense training's recipe over the epochs of sparse training is a recipe too."""
        try:
            Training.model_validate(self.training.model_dump() | {"epochs": self.epochs.sparse})
        except ValidationError as error:
            texts = "; ".join(wording(fault) for fault in error.errors())
            raise ValueError(f"sparse_training has {self.epochs.sparse} epochs of section training: {texts}") from None

    def _fits_images(self) -> None:
        """Refuse batches that the data set cannot fill, where its size is known before its files are read."""
        images = datasets.training_images(self.dataset.name, self.dataset.options)
        if images is None:
            return
        tuned = self.fine_tuning.methods and self.fine_tuning.rewinding == "none"
        for name in ("training", "fine_tuning") if tuned else ("training",):
            size = getattr(self, name).batch_size
            if size > images:
                raise ValueError(f"{name}.batch_size is {size}, but there are {images} training images")
        if "batch_std" in self.epsilon and 2 * self.training.batch_size > images:
            raise ValueError(
                f"epsilon rule 'batch_std' needs two whole batches, but training.batch_size is"
                f" {self.training.batch_size} of {images} training images"
            )

    @property
    def epochs(self) -> pruning.Epochs:
        """Lengths of dense and of sparse training."""
        return pruning.Epochs(
            self.training.epochs, self.sparse_training.epochs or self.training.epochs + self.fine_tuning.epochs
        )

    @property
    def label(self) -> str:
        """The name, or one made of data set and network."""
        return self.name or re.sub(r"[^A-Za-z0-9_]+", "_", f"{self.dataset.name}_{self.network.name}")


class JobResources(Strict):
    """What one job of a stage asks of the machine; memory and run time grow with each retry."""

    threads: int = Field(default=1, ge=1, description="processor threads")
    mem_mb: int = Field(default=2000, ge=1, description="memory, MB")
    runtime: int = Field(default=30, ge=1, description="run time limit, minutes")


def _for(description: str, **asked: int) -> Any:
    return Field(default=JobResources(**asked), description=description)


class Resources(Strict):
    """Resources of each kind of job."""

    prepare: JobResources = _for("reading a data set")
    train: JobResources = _for("dense training", mem_mb=3000, runtime=240)
    spectrum: JobResources = _for("Lanczos, quadratic model", mem_mb=8000, runtime=240)
    sweep: JobResources = _for("rankings and one-shot sweeps", mem_mb=3000, runtime=120)
    finetune: JobResources = _for("fine-tuning", mem_mb=3000, runtime=120)
    sparse_training: JobResources = _for(
        "training of sparse networks, levels of iterative methods", mem_mb=3000, runtime=240
    )
    tables: JobResources = _for("width curves, tables, figures")


class Config(Settings):
    """The whole configuration."""

    experiments: list[Experiment] = Field(min_length=1, description="networks on data sets; a list of mappings")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="`auto`: CUDA when present; `cpu`: no job asks for a GPU"
    )
    results: str = Field(default="results", min_length=1, description="directory of all outputs; `~` is your home")
    data_dir: str = Field(default="data", min_length=1, description="directory of downloaded data sets")
    resources: Resources = Field(default=Resources(), description="what the jobs of each stage ask for")

    @field_validator("results")
    @classmethod
    def _directory(cls, value: str) -> str:
        if set("{}") & set(value):
            raise ValueError(f"braces would be wildcards of the workflow's files, got {value!r}")
        if not value.strip():
            raise ValueError("a name of a directory is wanted, got blanks")
        directory = os.path.normpath(os.path.expanduser(value))
        if directory.startswith("~"):
            raise ValueError(f"no home directory is known for {value!r}")
        if os.path.exists(directory) and not os.path.isdir(directory):
            raise ValueError(f"{value!r} is a file: a directory is wanted")
        return directory

    @model_validator(mode="before")
    @classmethod
    def _merge_sections(cls, values: Any) -> Any:
        """Lay every experiment's sections over the top-level ones."""
        if not isinstance(values, dict) or not isinstance(values.get("experiments"), list):
            return values
        merged = []
        for experiment in values["experiments"]:
            if isinstance(experiment, dict):
                shared = {key: values[key] for key in SECTIONS if key in values}
                if "epsilon" in shared:
                    shared["epsilon"] = as_list(shared["epsilon"])
                experiment = deep_merge(shared, experiment)
            merged.append(experiment)
        return {**values, "experiments": merged}

    @model_validator(mode="after")
    def _distinct_names(self) -> Config:
        labels = [experiment.label for experiment in self.experiments]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two experiments are called {label!r}; give each a name of its own")
        return self


def deep_merge(below: Any, above: Any) -> Any:
    """``above`` laid over ``below``: mappings key by key, anything else replaced."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {key: deep_merge(below.get(key), above[key]) if key in above else below[key] for key in below | above}
    return above
