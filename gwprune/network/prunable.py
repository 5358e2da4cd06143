"""The prunable set: which weights of a network the l1 penalty, the curvature and the masks all mean."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .matrices import Choice, Matrix, chosen, empty_message, matrices, named_parameters

__all__ = ["PrunableSet"]


# Below this share of the weights in a network's matrices, a prediction says what it leaves out.
_ENOUGH = 0.8


class PrunableSet:
    """The weights of a network that may be pruned, as one flat vector of size D.

    By default every ``weight`` of ``nn.Linear`` and ``nn.Conv*d``. Biases, normalisation and embeddings stay out, and
    so does an output layer that is tied to an embedding. A weight that several modules share counts once. The set, its
    order (that of ``model.named_modules``) and D are the same for the l1 penalty, the Hessian and the masks.

    Args:
        model: the network.
        prunable: what to take instead: names of parameters, patterns such as ``"*.in_proj_weight"`` (where ``*`` also
            stands for dots), a list of both, a function ``(name, parameter) -> bool``, or another set, for its names.
            Patterns and functions choose among the network's matrices: parameters with two or more axes longer than
            1, of which the first is one, outside embeddings and normalisation. ``"*"`` takes all of them. A full name
            takes any parameter, a vector too.

    Attributes:
        names: parameter names, e.g. ``"layers.0.weight"``.
        parameters: the tensors themselves, not copies.
        shapes: shape of each.
        sizes: number of elements of each.
        dimension: D.
        left_out: the network's other matrices, as :class:`gwprune.network.matrices.Matrix`.

    Raises:
        TypeError: for a model or ``prunable`` of another kind.
        ValueError: when there is no such weight, when a name or pattern meets nothing, and for a weight that is
            computed from other parameters (``weight_norm``, ``spectral_norm``, ``parametrize``,
            ``torch.nn.utils.prune``), unless ``prunable`` chooses others.
    """

    def __init__(self, model: nn.Module, prunable: Choice | PrunableSet | None = None):
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        named = named_parameters(model)
        for name, parameter, module in named:
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise ValueError(
                    f"{name} ({type(module).__name__}) has no shape yet: call the network once on some data first"
                )
        choice = prunable.names if isinstance(prunable, PrunableSet) else prunable
        weights = chosen(model, named, choice)
        others = matrices(named)
        for weight in weights:
            others.pop(id(weight.parameter), None)
        if not weights:
            raise ValueError(empty_message(model, named, choice))
        for name, parameter, _ in weights:
            if not parameter.is_floating_point():
                raise ValueError(
                    f"{name} holds {parameter.dtype}: prunable weights are real floating-point numbers; of a quantised"
                    " network take the one that it was made of"
                )
        self.names: list[str] = [weight.name for weight in weights]
        self.parameters: list[nn.Parameter] = [weight.parameter for weight in weights]
        self.shapes = [parameter.shape for parameter in self.parameters]
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.dimension = sum(self.sizes)
        total = self.dimension + sum(parameter.numel() for _, parameter, _ in others.values())
        self.left_out = tuple(
            Matrix(name, type(module).__name__, tuple(parameter.shape), parameter.numel(), parameter.numel() / total)
            for name, parameter, module in others.values()
        )

    def __repr__(self) -> str:
        return f"PrunableSet(dimension={self.dimension}, tensors={len(self.names)})"

    @property
    def signature(self) -> str:
        """Names and shapes in order, as one digest: files that speak of D weights say which ones they mean."""
        text = repr([(name, tuple(shape)) for name, shape in zip(self.names, self.shapes, strict=True)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check_values(self) -> None:
        """Refuse weights that have shapes but no values, or values that are no numbers or not their own.

        Raises:
            ValueError: naming the first on the meta device, or of which elements share memory.
            FloatingPointError: naming the first that holds NaN or infinite numbers.
        """
        for name, parameter in zip(self.names, self.parameters, strict=True):
            if parameter.is_meta:
                raise ValueError(
                    f"{name} is on the meta device, where weights have shapes but no values; load them first"
                )
            values = parameter.detach()
            if not bool(torch.isfinite(values).all()):
                kind = "NaN" if bool(torch.isnan(values).any()) else "infinite numbers"
                raise FloatingPointError(f"{name} of the network holds {kind}: it has diverged, or its file is damaged")

        self._check_memory()

    def _check_memory(self) -> None:
        """Pruning one of two weights in one place would prune both, and their curvature is not that of two."""
        places: dict[int, list[tuple[int, int, str]]] = {}
        for name, parameter in zip(self.names, self.parameters, strict=True):
            steps = [step for size, step in zip(parameter.shape, parameter.stride(), strict=True) if size > 1]
            if parameter.layout != torch.strided or not parameter.numel():
                continue
            if 0 in steps:
                raise ValueError(f"{name} is expanded, several of its elements are one: make it a parameter by clone()")
            last = sum((size - 1) * step for size, step in zip(parameter.shape, parameter.stride(), strict=True))
            start = parameter.data_ptr()
            # Subclasses may have none, and slices with gaps may lie between each other.
            if start and last + 1 == parameter.numel():
                place = (start, start + last * parameter.element_size(), name)
                places.setdefault(parameter.untyped_storage().data_ptr(), []).append(place)
        for each in places.values():
            each.sort()
            for (_, end, first), (start, _, second) in zip(each, each[1:], strict=False):
                if start <= end:
                    raise ValueError(
                        f"{first} and {second} are two parameters in one place of memory: tie them as one parameter,"
                        " second.weight = first.weight, or give one of them a clone()"
                    )

    def tell_left_out(self) -> None:
        """Warn when the set holds less than four fifths of the weights in the network's matrices."""
        share = self.dimension / (self.dimension + sum(matrix.weights for matrix in self.left_out))
        if share >= _ENOUGH:
            return
        groups: dict[tuple[str, str], list[Matrix]] = {}  # blocks of one kind differ in their numbers
        for matrix in self.left_out:
            groups.setdefault((re.sub(r"\d+", "*", matrix.name), matrix.module), []).append(matrix)
        parts = [
            f"{_pattern([matrix.name for matrix in group])} ({module}, {sum(matrix.share for matrix in group):.1%})"
            for (_, module), group in groups.items()
        ]
        warnings.warn(
            f"the prunable set holds {share:.0%} of the weights in the network's matrices; left out are"
            f" {', '.join(parts)}. prunable='*' takes all matrices, prunable=[...] names and patterns such as these",
            stacklevel=3,
        )

    def flatten(self, tensors: Sequence[Tensor] | None = None) -> Tensor:
        """Copy ``tensors`` (default: the weights; shaped like them) into one vector of shape (D,)."""
        tensors = self.parameters if tensors is None else tensors
        return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """Views of ``vector`` (shape (D,)) in the shapes of the weights.

        Raises:
            ValueError: naming both sizes, when ``vector`` does not have shape (D,).
        """
        if vector.shape != (self.dimension,):
            raise ValueError(f"expected a vector of shape ({self.dimension},), got {tuple(vector.shape)}")
        return [part.view(shape) for part, shape in zip(vector.split(self.sizes), self.shapes, strict=True)]

    @torch.no_grad()
    def assign(self, vector: Tensor) -> None:
        """Write ``vector`` (shape (D,)) into the weights in place."""
        for parameter, part in zip(self.parameters, self.unflatten(vector), strict=True):
            parameter.copy_(part)


def _pattern(names: list[str]) -> str:
    """What names that differ only in numbers have in common, with ``*`` for the rest."""
    columns = zip(*(re.split(r"(\d+)", name) for name in names), strict=True)
    return "".join(column[0] if len(set(column)) == 1 else "*" for column in columns)
