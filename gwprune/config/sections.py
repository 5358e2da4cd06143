"""Sections of the configuration that say what is done with a network: training, spectrum, pruning, criteria.

Defaults and descriptions stand here; schema and reference are generated from them."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .. import pruning
from ..names import choice
from ..options import listing
from ..spectral.predictors import PREDICTORS
from ..tables.thresholds import plain

__all__ = [
    "PPM",
    "Criteria",
    "FineTuning",
    "Named",
    "Pruning",
    "SparseTraining",
    "Spectrum",
    "Strict",
    "Training",
    "as_list",
    "epsilon_rule",
    "unique",
]

PPM = 1_000_000  # sparsities are whole parts per million, so that file names hold integers


def as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def unique(values: list) -> list:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{value!r} is listed twice")
    return values


class Strict(BaseModel):
    """Base of all sections: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values_as_numbers(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key, value in values.items():
                field = cls.model_fields.get(key)
                given = value if isinstance(value, list) else [value]
                if field and field.annotation is not bool and any(isinstance(item, bool) for item in given):
                    raise ValueError(f"{key}: a number or a name is wanted, got {value!r}")
        return values


class Named(Strict):
    """A name with options: YAML may give the name alone."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Optimisation(Strict):
    """What dense training and fine-tuning share: SGD and its schedule."""

    epochs: int = Field(default=30, ge=1, description="passes over the training split")
    batch_size: int = Field(default=128, ge=1, description="images per step")
    lr: float = Field(default=0.05, gt=0, description="learning rate of the first step after warm-up")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="SGD momentum")
    nesterov: StrictBool = Field(default=False, description="Nesterov momentum")
    weight_decay: float = Field(default=0.0, ge=0, description="l2 penalty on all parameters")
    schedule: Literal["constant", "cosine", "multistep"] = Field(
        default="cosine", description="learning-rate schedule; cosine falls to 0 with every step"
    )
    milestones: list[Annotated[int, Field(ge=1)]] = Field(
        default=[], description="epochs after which `multistep` multiplies lr by `gamma`"
    )
    gamma: float = Field(default=0.1, gt=0, description="factor of `multistep`")
    warmup_epochs: float = Field(default=0.0, ge=0, description="epochs of linear warm-up from 0")
    augmentation: Literal["none", "flip", "crop_flip"] = Field(
        default="none", description="random flips, or flips and crops with 4 pixels of padding, on the device"
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of each target that is spread over all classes, for the gradient only: reported losses and"
        " tolerances are of plain cross-entropy",
    )
    accumulation: int = Field(
        default=1,
        ge=1,
        description="each step's gradient is summed over so many equal parts of its batch, one after the other, to"
        " save memory; divides `batch_size`",
    )
    mixed_precision: StrictBool = Field(
        default=False, description="forward passes of training in bfloat16 (autocast), on CUDA only"
    )

    _unique_milestones = field_validator("milestones")(unique)

    @model_validator(mode="after")
    def _consistent(self) -> Optimisation:
        if self.schedule == "multistep" and not self.milestones:
            raise ValueError("schedule 'multistep' needs milestones (epochs)")
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} is longer than epochs, {self.epochs}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.batch_size % self.accumulation:
            raise ValueError(f"accumulation {self.accumulation} does not divide batch_size, {self.batch_size}")
        late = [milestone for milestone in self.milestones if milestone >= self.epochs]
        if self.schedule == "multistep" and late:
            raise ValueError(f"milestone {late[0]} is not before the end of the training, epochs = {self.epochs}")
        return self


class Training(Optimisation):
    """Dense training with an l1 penalty on the prunable weights."""

    l1: Annotated[list[Annotated[float, Field(ge=0)]], BeforeValidator(as_list)] = Field(
        default=[1e-4], min_length=1, description="sweep: l1 coefficient(s); each makes a run of its own"
    )

    _unique_l1 = field_validator("l1")(unique)


class Spectrum(Strict):
    """Lanczos runs on the curvature of the data loss."""

    operators: Annotated[list[Literal["hessian", "ggn"]], BeforeValidator(as_list)] = Field(
        default=["hessian", "ggn"], min_length=1, description="sweep: curvature operators"
    )
    steps: int = Field(
        default=128,
        ge=2,
        description="Lanczos steps (operator-vector products) per probe; as many as the curvature has rows that are not"
        " zero, if these are at most 3,000, make it dense: exact eigenvalues in place of a probe",
    )
    probes: int = Field(default=1, ge=1, description="random probes; each is a job of its own")
    samples: int | None = Field(
        default=10_000, ge=1, description="training images behind the operator, fixed by the seed; null: all"
    )
    batch_size: int | None = Field(default=None, ge=1, description="images per pass; null: by the memory budget")
    memory_mb: int = Field(default=3072, ge=1, description="MiB for autograd graphs that are kept between products")
    reorthogonalize: StrictBool = Field(
        default=True, description="keep the basis (steps x D numbers) and orthogonalise"
    )
    basis: Literal["device", "host", "disk"] = Field(
        default="device", description="where the basis lies; `disk`: the directory that TMPDIR names"
    )
    statistical_dimension: StrictBool = Field(
        default=True, description="false leaves predictor `statistical_dimension` out of `predictors`"
    )
    predictors: Annotated[list[str], BeforeValidator(as_list)] = Field(
        default=[name for name, predictor in PREDICTORS.items() if predictor.default],
        min_length=1,
        description="; ".join(f"`{name}`: {predictor.text}" for name, predictor in PREDICTORS.items()),
    )
    cone_steps: int = Field(
        default=64,
        ge=1,
        description="most Lanczos steps of `statistical_dimension` at each of the three or four sparsities that it"
        " tries for the first of `pruning.methods`. Each further method has a single run for each epsilon rule, shorter"
        " than a tenth of the products of the spectrum",
    )

    _unique_operators = field_validator("operators")(unique)

    @field_validator("predictors")
    @classmethod
    def _known_predictors(cls, values: list[str], info: ValidationInfo) -> list[str]:
        named = unique([choice("predictor", value, PREDICTORS) for value in values])
        if info.data.get("statistical_dimension") is False:
            named = [name for name in named if name != "statistical_dimension"]
        if not named:
            raise ValueError("no predictor is left: statistical_dimension is false")
        operators = info.data.get("operators")
        for name in named if operators else ():
            if not set(operators) & set(PREDICTORS[name].operators):
                known, asked = ", ".join(PREDICTORS[name].operators), ", ".join(operators)
                raise ValueError(f"{name} needs operator {known}, and spectrum.operators holds {asked}")
        return named


def epsilon_rule(value: Any) -> str:
    kinds = ["batch_std", "relative", "absolute"]
    if isinstance(value, dict) and len(value) == 1:
        kind, number = next(iter(value.items()))
    else:
        kind, _, number = str(value).partition(":")
    if re.fullmatch(r"[\d.]+(e[-+]?\d+)?\s*%?", str(value)):
        raise ValueError(f"{value!r} is a number without its rule: relative (times the dense loss) or absolute (nats)")
    choice("epsilon rule", str(kind).strip(), kinds)
    if kind == "batch_std":
        if number not in ("", None):
            raise ValueError("epsilon rule 'batch_std' takes no number")
        return "batch_std"
    try:
        amount = float(number)
    except (TypeError, ValueError):
        amount = math.nan
    if not (math.isfinite(amount) and amount > 0):
        raise ValueError(f"epsilon rule {kind!r} needs a positive number, e.g. '{kind}: 0.1', got {value!r}")
    return f"{kind}:{plain(amount)}"


def _sparsity(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"sparsity {value!r} is outside [0, 1)")
    if abs(value * PPM - round(value * PPM)) > 1e-6:
        raise ValueError(f"sparsity {value!r} has more than six decimals")
    return round(value * PPM) / PPM


Sparsities = Annotated[
    list[Annotated[float, Field(json_schema_extra={"minimum": 0, "exclusiveMaximum": 1})]], BeforeValidator(as_list)
]


def _options_of(*when: str) -> str:
    return listing({name: method.options for name, method in pruning.METHODS.items() if method.when in when})


def _listed(*when: str) -> str:
    return ", ".join(f"`{name}`" for name in pruning.names(*when))


_YOUR_OWN = "your own as `module:function`"


def _check_options(values: dict[str, dict[str, Any]], allowed: list[str], when: tuple[str, ...]) -> None:
    for name, options in values.items():
        method = pruning.method_of(name)
        if method.when not in when:
            other = "pruning" if method.when in ("trained", "any") else "sparse_training"
            raise ValueError(f"options of method {name} stand in section {other}; allowed here: {', '.join(allowed)}")
        method.check_options(options)


class Pruning(Strict):
    """One-shot pruning of the trained network."""

    methods: Annotated[list[str], BeforeValidator(as_list)] = Field(
        default=["magnitude"],
        min_length=1,
        description=f"sweep: {_listed('trained')}, or {_YOUR_OWN}",
    )
    options: dict[str, dict[str, Any]] = Field(
        default={},
        description="options of methods, e.g. `{obd: {probes: 30}}`: " + _options_of("trained"),
    )
    samples: int = Field(
        default=1000, ge=1, description="training images for the scores of methods that need data, fixed by the seed"
    )
    sparsities: Sparsities = Field(
        default=[0.5, 0.8, 0.9, 0.95, 0.98, 0.99], min_length=1, description="sweep: sparsities to evaluate, in [0, 1)"
    )
    resolution: float = Field(
        default=0.001, gt=0, lt=1, description="each threshold's bracket is narrowed to this by further evaluations"
    )

    @field_validator("methods")
    @classmethod
    def _known(cls, values: list[str]) -> list[str]:
        elsewhere = [value for value in values if pruning.method_of(value).when not in ("trained", "any")]
        if elsewhere:
            raise ValueError(
                f"{', '.join(elsewhere)} does not rank a trained network: list it in sparse_training.methods; allowed"
                f" here: {', '.join(pruning.names('trained'))}"
            )
        return unique(values)

    @field_validator("options")
    @classmethod
    def _known_options(cls, values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        _check_options(values, pruning.names("trained"), ("trained", "any"))
        return values

    @field_validator("sparsities")
    @classmethod
    def _in_range(cls, values: list[float]) -> list[float]:
        return sorted(unique([_sparsity(value) for value in values]))


_CHUNK = "sparsities that share one job, one after the other; its run time limit grows with them"


class FineTuning(Optimisation):
    """Training of the pruned network with its mask held; the l1 penalty is that of the run."""

    epochs: int = Field(default=5, ge=1, description="passes over the training split")
    lr: float = Field(default=0.01, gt=0, description="learning rate of the first step after warm-up")
    methods: Annotated[list[str], BeforeValidator(as_list)] = Field(
        default=["magnitude"], description="which of the pruning methods are fine-tuned; [] for none"
    )
    sparsities: Sparsities = Field(
        default=[0.8, 0.9, 0.95, 0.98, 0.99],
        description="sweep: sparsities to fine-tune; beside them always 0, the control: the dense network with the same"
        " further training, once for all methods",
    )
    rewinding: Literal["none", "learning_rate", "weights"] = Field(
        default="none",
        description="`learning_rate`: go through the last `epochs` epochs of the recipe of dense training once more;"
        " `weights`: and from the weights that the network had before them (Renda et al. 2020). The recipe of this"
        " section then counts no further",
    )
    chunk: int = Field(default=1, ge=1, description=_CHUNK)
    resolution: float = Field(
        default=0.005,
        gt=0,
        lt=1,
        description="the bracket of criterion `control_loss_tolerance` is narrowed to this for every epsilon rule, by"
        " further trainings in one job for each seed and method; other criteria are measured at the same points. Where"
        " the first of `sparsities` misses, it searches below, down to 0; where the last one meets, above, up to 1",
    )

    _methods = field_validator("methods")(Pruning._known.__func__)
    _sparsities = field_validator("sparsities")(Pruning._in_range.__func__)


class SparseTraining(Strict):
    """Networks that are trained while they are sparse, by the recipe and the l1 penalty of dense training: on masks
    found at initialisation, by methods that prune and train in turn, or on masks of the trained network."""

    methods: Annotated[list[str], BeforeValidator(as_list)] = Field(
        default=[],
        description=f"sweep: at initialisation {_listed('initialisation')}; iterative {_listed('iterative')}; or a"
        f" method of section `pruning`, whose mask of the trained network is trained from the start; or {_YOUR_OWN}",
    )
    sparsities: Sparsities = Field(default=[0.8, 0.9, 0.95, 0.98, 0.99], description="sweep: sparsities")
    epochs: int | None = Field(
        default=None,
        ge=1,
        description="of each training; null: those of dense training and fine-tuning together",
    )
    options: dict[str, dict[str, Any]] = Field(
        default={}, description="options of methods: " + _options_of("initialisation", "iterative")
    )
    controls: Annotated[list[Literal[*pruning.CONTROLS]], BeforeValidator(as_list)] = Field(
        default=[],
        description="each method's masks once more: with the weights of every layer shuffled, or on other initial"
        " weights; method `<method>_<control>` in the tables",
    )
    chunk: int = Field(default=1, ge=1, description=_CHUNK)

    _sparsities = field_validator("sparsities")(Pruning._in_range.__func__)
    _unique_controls = field_validator("controls")(unique)

    @field_validator("methods")
    @classmethod
    def _known(cls, values: list[str]) -> list[str]:
        for value in values:
            pruning.method_of(value)
        return unique(values)

    @field_validator("options")
    @classmethod
    def _known_options(cls, values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        own = [name for when in ("initialisation", "iterative") for name in pruning.names(when)]
        _check_options(values, own, ("initialisation", "iterative"))
        return values

    @model_validator(mode="after")
    def _one_control_once(self) -> SparseTraining:
        if "magnitude" in self.methods and "layerwise_shuffle" in self.controls:
            raise ValueError(
                "control layerwise_shuffle of method magnitude has the masks of method random_matched: list"
                " random_matched in pruning.methods and in sparse_training.methods instead (other methods may be"
                " shuffled in an experiment without magnitude in sparse_training.methods)"
            )
        return self


class Criteria(Strict):
    """What the pruned network must still meet, beside the loss and objective tolerance of every epsilon rule."""

    accuracy_drop: Annotated[list[Annotated[float, Field(gt=0, lt=100)]], BeforeValidator(as_list)] = Field(
        default=[1.0], description="allowed drop of the validation accuracy, percentage points"
    )

    _unique_drops = field_validator("accuracy_drop")(unique)
