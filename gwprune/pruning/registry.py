"""The registry of pruning methods: what a method is given, what it needs, and how it is looked up."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..network.prunable import PrunableSet
from ..network.samples import as_tensors, count_samples, take

__all__ = ["METHODS", "Method", "Subject", "method_of", "names", "register"]

STAGES = ("trained", "initialisation", "any", "iterative")
NEEDS = (None, "input_shape", "labels")

_DEFAULT_BATCH = 256


@dataclass(frozen=True)
class Subject:
    """What a method looks at: the weights, and for some methods the network and data.

    Attributes:
        prunable: the weights to rank, D in all.
        seed: of every random number that a method draws.
        model: the network that ``prunable`` belongs to.
        data: a pair (inputs, labels) of tensors, a Dataset or a DataLoader of pairs; labels may be None. Held as
            tensors on the network's device.
        input_shape: shape of one input without the batch axis; by default that of ``data``.
        loss_fn: ``loss_fn(output, labels)``, the mean over the samples it is given.
        batch_size: samples per pass; scores do not depend on it beyond rounding. None: a default.

    Raises:
        ValueError: when ``prunable`` belongs to another network, or data has unequal lengths or no samples.
    """

    prunable: PrunableSet
    seed: int
    model: nn.Module | None = None
    data: Any = None
    input_shape: tuple[int, ...] | None = None
    loss_fn: Callable[[Any, Any], Tensor] = functional.cross_entropy
    batch_size: int | None = None

    def __post_init__(self):
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.model is not None:
            own = PrunableSet(self.model).parameters
            if [id(weight) for weight in own] != [id(weight) for weight in self.prunable.parameters]:
                raise ValueError("the prunable set holds the weights of another network than the one given as model")
        if self.data is not None:
            unlabelled = isinstance(self.data, tuple | list) and len(self.data) == 2 and self.data[1] is None
            data = (self.data[0], self.data[0]) if unlabelled else self.data
            inputs, labels = as_tensors(data, self.device)
            object.__setattr__(self, "data", (inputs, None if unlabelled else labels))
            if self.input_shape is None and isinstance(inputs, Tensor):
                object.__setattr__(self, "input_shape", tuple(inputs.shape[1:]))

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where methods compute."""
        return self.prunable.parameters[0].device

    @property
    def samples(self) -> int:
        """Number of samples in ``data``."""
        return count_samples(self.data[0])

    def batches(self, batch_size: int | None = None) -> Iterator[tuple[Any, Any]]:
        """(inputs, labels) in stored order, ``batch_size`` samples at a time; the last may be smaller."""
        size = batch_size or self.batch_size or _DEFAULT_BATCH
        for start in range(0, self.samples, size):
            part = slice(start, start + size)
            yield take(self.data[0], part), take(self.data[1], part)

    def forward(self, inputs: Any) -> Any:
        """The network's output; a tuple of inputs is spread over its arguments."""
        return self.model(*inputs) if isinstance(inputs, tuple) else self.model(inputs)


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        name: as in tables and configurations.
        function: ``function(subject, **options)`` gives scores (D,), low ones are removed first; when
            ``depends_on_sparsity``, ``function(subject, sparsity, **options)`` gives a boolean keep mask (D,); for an
            iterative method ``function(target, epochs, **options)`` gives the levels of its chain.
        when: ``"trained"`` or ``"initialisation"``: the network that the method's paper applies it to; ``"any"``: it
            does not look at the weights; ``"iterative"``: it prunes and trains in turn.
        needs: None, ``"input_shape"`` or ``"labels"``: what it needs beyond the weights.
        depends_on_sparsity: whether masks of two sparsities need not be nested, so that there is no one ranking.
    """

    name: str
    function: Callable[..., Tensor]
    when: str
    needs: str | None
    depends_on_sparsity: bool

    @property
    def options(self) -> dict[str, Any]:
        """Names and defaults of the method's own options, read from its signature."""
        parameters = list(inspect.signature(self.function).parameters.values())
        given = 2 if self.depends_on_sparsity or self.when == "iterative" else 1
        return {p.name: p.default for p in parameters[given:]}

    def refuse_unknown(self, options: Mapping[str, Any]) -> None:
        """Refuse options that the method does not have.

        Raises:
            ValueError: naming the unknown option and the known ones.
        """
        unknown = [name for name in options if name not in self.options]
        if unknown:
            known = ", ".join(self.options) or "none"
            raise ValueError(f"method {self.name} has no option {', '.join(unknown)}; its options: {known}")

    def check(self, subject: Subject, options: Mapping[str, Any]) -> None:
        """Refuse what the method cannot work with.

        Raises:
            ValueError: naming the method and what it needs, or the unknown option and the known ones.
        """
        self.refuse_unknown(options)
        if self.when == "iterative":
            raise ValueError(f"method {self.name} prunes and trains in turn: it has no ranking of a given network")
        if self.needs is not None and subject.model is None:
            raise ValueError(f"method {self.name} needs the network: pass model")
        if self.needs == "input_shape" and subject.input_shape is None:
            raise ValueError(f"method {self.name} needs the shape of an input: pass input_shape or data")
        if self.needs == "labels" and (subject.data is None or subject.data[1] is None):
            raise ValueError(f"method {self.name} needs samples with labels: pass data=(inputs, labels)")


METHODS: dict[str, Method] = {}


def register(
    *, when: str = "trained", needs: str | None = None, depends_on_sparsity: bool = False
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator: add a method under the name of its function; arguments as the attributes of :class:`Method`.

    Raises:
        ValueError: for a name that is taken, or an unknown ``when`` or ``needs``.
    """
    if when not in STAGES or needs not in NEEDS:
        raise ValueError(f"when must be one of {STAGES} and needs one of {NEEDS}, got {when!r} and {needs!r}")

    def add(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = function.__name__
        if name in METHODS:
            raise ValueError(f"pruning method {name!r} is registered twice")
        METHODS[name] = Method(name, function, when, needs, depends_on_sparsity)
        return function

    return add


def names(when: str | None = None) -> list[str]:
    """Names of all methods, or of those for ``when``, in the order of their definition.

    Methods for any network are among those for a trained one and among those for initialisation.
    """
    fits = {None: STAGES, "trained": ("trained", "any"), "initialisation": ("initialisation", "any")}.get(when, (when,))
    return [method.name for method in METHODS.values() if method.when in fits]


def method_of(name: str) -> Method:
    """The method called ``name``.

    Raises:
        ValueError: for an unknown one, with the known ones.
    """
    if name not in METHODS:
        raise ValueError(f"no pruning method is called {name!r}; there are {', '.join(METHODS)}")
    return METHODS[name]
