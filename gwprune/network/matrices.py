"""The matrices of a network: what weights can be pruned from, which of them are meant, and which are not."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

__all__ = [
    "Choice",
    "Matrix",
    "Named",
    "chosen",
    "empty_message",
    "is_conv1d_of_transformers",
    "matrices",
    "named_parameters",
]

Choice = str | Sequence[str] | Callable[[str, nn.Parameter], bool]

_LOOKUPS = (nn.Embedding, nn.EmbeddingBag)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)
_SHOWN = 3


@dataclass(frozen=True)
class Matrix:
    """A matrix of a network that is not in its prunable set.

    Attributes:
        name: of the parameter, e.g. ``"blocks.0.attention.in_proj_weight"``.
        module: class of the module that holds it, e.g. ``"MultiheadAttention"``.
        shape: of the parameter.
        weights: number of its elements.
        share: of the weights of all matrices of the network.
    """

    name: str
    module: str
    shape: tuple[int, ...]
    weights: int
    share: float


class Named(NamedTuple):
    """One name of a parameter; a tied one has several.

    Attributes:
        name: e.g. ``"head.weight"``.
        parameter: the tensor itself.
        module: that it belongs to.
    """

    name: str
    parameter: nn.Parameter
    module: nn.Module

    @property
    def is_layer(self) -> bool:
        """Whether it is the weight of an ``nn.Linear`` or ``nn.Conv*d``."""
        return isinstance(self.module, nn.Linear | _ConvNd) and self.module._parameters.get("weight") is self.parameter

    @property
    def is_matrix(self) -> bool:
        """Whether the network multiplies by it, as far as its module and shape tell.

        A first axis of 1 is the samples': such a parameter is added to or multiplied with each of them alike.
        """
        if isinstance(self.module, (*_LOOKUPS, *_NORMS)):
            return False
        shape = self.parameter.shape
        if self.is_layer or isinstance(self.module, _RECURRENT):
            return len(shape) > 1
        return len(shape) > 1 and shape[0] > 1 and sum(size > 1 for size in shape) > 1


def is_conv1d_of_transformers(module: nn.Module) -> bool:
    """Whether it is the linear layer of Hugging Face's GPT-2, whose weight is (inputs, outputs)."""
    return type(module).__name__ == "Conv1D" and not isinstance(module, _ConvNd)


def named_parameters(model: nn.Module) -> list[Named]:
    """All names of all parameters, in the order of ``model.named_modules``."""
    found = []
    for path, module in model.named_modules(remove_duplicate=False):
        owner = module
        if isinstance(module, parametrize.ParametrizationList):  # it stands for a weight of the module around it
            owner = model.get_submodule(path[: path.rindex("parametrizations")].removesuffix("."))
        for key, parameter in module._parameters.items():
            if parameter is not None:
                found.append(Named(f"{path}.{key}" if path else key, parameter, owner))
    return found


def matrices(named: Iterable[Named]) -> dict[int, Named]:
    """Those among the parameters that are matrices: each once, under its first name as one, by identity.

    Two or more axes are longer than 1, and so is the first (of layers and recurrent cells any two axes will do);
    embeddings and normalisation are none. An output layer that is tied to an embedding is.
    """
    found: dict[int, Named] = {}
    for entry in named:
        if entry.is_matrix:
            found.setdefault(id(entry.parameter), entry)
    return found


def chosen(model: nn.Module, named: list[Named], choice: Choice | None) -> list[Named]:
    """The parameters that are meant, each once, in the order of ``named``.

    Args:
        model: the network.
        named: its parameters.
        choice: see :class:`gwprune.PrunableSet`.

    Raises:
        TypeError: for a choice that is no name, pattern, sequence of these, or function.
        ValueError: for a name or pattern that meets nothing, and for a weight that is computed from other parameters.
    """
    if choice is None:
        picked = _layers(named)
    elif callable(choice) and not isinstance(choice, type | nn.Module):
        picked = {key: entry for key, entry in matrices(named).items() if choice(entry.name, entry.parameter)}
    else:
        picked = _matching(model, named, [choice] if isinstance(choice, str) else choice)  # type: ignore[arg-type]
    # No parameter holds such a weight: its zeros would not be the network's.
    computed = list(_computed(model))
    if choice is not None:
        computed = [entry for entry in computed if any(id(part) in picked for part in entry.parts)]
    else:
        computed = [entry for entry in computed if entry.layer]
    if computed:
        raise ValueError(_computed_message(computed))
    return list(picked.values())


def _layers(named: list[Named]) -> dict[int, Named]:
    """The default: layers' weights, without an output layer that is tied to an embedding."""
    lookups = {id(entry.parameter) for entry in named if isinstance(entry.module, _LOOKUPS)}
    picked: dict[int, Named] = {}
    for entry in named:
        if entry.is_layer and id(entry.parameter) not in lookups:
            picked.setdefault(id(entry.parameter), entry)
    return picked


def _matching(model: nn.Module, named: list[Named], patterns: Sequence[str]) -> dict[int, Named]:
    if not isinstance(patterns, Sequence | set | frozenset) or not all(isinstance(item, str) for item in patterns):
        raise TypeError(
            "prunable must be a parameter's name, a pattern such as '*.in_proj_weight', a list of these, or a function"
            f" (name, parameter) -> bool, got {_described(patterns)}"
        )
    names = {entry.name for entry in named}
    every = set(matrices(named))
    met: set[str] = set()
    for pattern in patterns:
        found = {pattern} & names or {
            entry.name
            for entry in named
            if id(entry.parameter) in every and entry.is_matrix and fnmatchcase(entry.name, pattern)
        }
        if not found:
            raise ValueError(_nothing_message(model, pattern, named))
        met |= found
    picked: dict[int, Named] = {}
    for entry in named:
        if entry.name in met:
            picked.setdefault(id(entry.parameter), entry)
    return picked


def _described(value: object) -> str:
    """A value that is printed in one line, of others what they are."""
    text = repr(value)
    return text if "\n" not in text and not isinstance(value, type) else type(value).__name__


def _nothing_message(model: nn.Module, pattern: str, named: list[Named]) -> str:
    others = [entry.name for entry in named if fnmatchcase(entry.name, pattern)]
    if others:
        hint = (
            f"; it meets {_some(others)}: vectors, embeddings and normalisation are prunable only when they are asked"
            " for by their full names"
        )
    else:
        length = pattern.count(".") + 1
        tails: dict[str, list[str]] = {}
        for entry in named:
            tails.setdefault(".".join(entry.name.split(".")[-length:]), []).append(entry.name)
        close = difflib.get_close_matches(pattern.replace("*", ""), tails, n=_SHOWN, cutoff=0.6)
        near = [name for tail in close for name in tails[tail]]
        hint = f"; nearest are {_some(near)}" if near else _its_matrices([e.name for e in matrices(named).values()])
    return f"prunable: {pattern!r} meets no matrix of {type(model).__name__}{hint}"


def empty_message(model: nn.Module, named: list[Named], choice: Choice | None) -> str:
    """Why a prunable set would be empty."""
    name = type(model).__name__
    scripted = isinstance(model, torch.jit.ScriptModule)
    if scripted or any("quantized" in type(module).__module__ for module in model.modules()):
        state = "scripted or traced" if scripted else "quantised"
        return (
            f"{name} is {state}: its layers are no nn.Linear or nn.Conv*d any more; use the module that it was made of"
        )
    rule = "the default is the weights of nn.Linear and nn.Conv*d" if choice is None else "prunable chooses none"
    if not named:
        rule = "it has no parameters at all (the order of the arguments is model, loss_fn, data)"
    return f"{name} has no prunable weights: {rule}{_its_matrices([e.name for e in matrices(named).values()])}"


def _its_matrices(names: list[str]) -> str:
    return f"; its matrices are {_some(names)}: name some, or take all with prunable='*'" if names else ""


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


class _Computed(NamedTuple):
    """A weight that a module computes from other parameters.

    Attributes:
        name: e.g. ``"0.weight"``.
        parts: what it is computed from.
        layer: whether the module is an ``nn.Linear`` or ``nn.Conv*d``, so that the weight would be prunable.
        cause: what computes it.
        way_out: a call that makes it a plain parameter, if one is known.
    """

    name: str
    parts: list[nn.Parameter]
    layer: bool
    cause: str
    way_out: str


def _computed(model: nn.Module) -> Iterator[_Computed]:
    for path, module in model.named_modules():
        layer = isinstance(module, nn.Linear | _ConvNd)
        found, at = {}, f"model.get_submodule({path!r})" if path else "model"
        if parametrize.is_parametrized(module):
            for key, parts in module.parametrizations.items():
                cause = ", ".join(type(part).__name__.strip("_") for part in parts)
                way = f"torch.nn.utils.parametrize.remove_parametrizations({at}, {key!r})"
                found[key] = (list(parts.parameters()), cause, way)
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                ends: tuple[str, ...] = ("_g", "_v")
                way = f"torch.nn.utils.remove_weight_norm({at}, {hook.name!r})"
            elif isinstance(hook, SpectralNorm):
                ends, way = ("_orig",), f"torch.nn.utils.remove_spectral_norm({at}, {hook.name!r})"
            elif isinstance(hook, prune.BasePruningMethod):
                ends, way = ("_orig",), f"torch.nn.utils.prune.remove({at}, {hook._tensor_name!r})"
            else:
                continue
            key = hook._tensor_name if isinstance(hook, prune.BasePruningMethod) else hook.name
            parts = [module._parameters[key + end] for end in ends if module._parameters.get(key + end) is not None]
            cause = "torch.nn.utils.prune" if isinstance(hook, prune.BasePruningMethod) else type(hook).__name__
            found[key] = (parts, cause, way)
        if layer and "weight" not in found and module._parameters.get("weight") is None:
            found["weight"] = ([], type(module).__name__, "")
        for key, (parts, cause, way) in found.items():
            yield _Computed(f"{path}.{key}" if path else key, parts, layer and key == "weight", cause, way)


def _computed_message(computed: list[_Computed]) -> str:
    names = _some([f"{entry.name} ({entry.cause})" for entry in computed])
    ways = [entry.way_out for entry in computed if entry.way_out]
    way = f"make it a parameter again with {ways[0]}" if ways else "make it an nn.Parameter"
    return (
        f"{names}: computed from other parameters, so that no parameter holds the weights that pruning sets to zero;"
        f" {way}{', and likewise the others,' if len(computed) > 1 else ''} or choose other weights with prunable="
    )
