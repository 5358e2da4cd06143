"""A network of one's own, pruned: its masks, its file, and what that gains."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .network.matrices import Choice, is_conv1d_of_transformers, named_parameters
from .network.prunable import PrunableSet
from .pruning import mask, rank
from .storage.files import write_json
from .storage.states import read_state, write_state
from .training.multiply_adds import multiply_adds, uses_for

__all__ = ["Mask", "PrunedFile", "check_path", "load_mask", "prune", "save_pruned"]

_FORMAT = 1
# Suffixes of formats that tensors are kept in, and these are not.
_OTHERS = (".csv", ".gguf", ".gz", ".h5", ".hdf5", ".json", ".npy", ".npz", ".onnx", ".txt", ".yaml", ".yml", ".zip")
_INPUTS_FIRST = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_INPUTS_SECOND = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase,
)  # fmt: skip


@dataclass(frozen=True)
class Mask:
    """Which weights of a network are left.

    Attributes:
        kept: name of each prunable parameter -> boolean tensor of its shape on the CPU, False where it is set to 0.
        method: pruning method.
        pattern: ``"N:M"``, or None.
        unfit: parameters that are left whole since the pattern does not fit them.
    """

    kept: Mapping[str, Tensor] = field(repr=False)
    method: str
    pattern: str | None = None
    unfit: tuple[str, ...] = ()

    @cached_property
    def dimension(self) -> int:
        """D, the number of prunable weights."""
        return sum(kept.numel() for kept in self.kept.values())

    @cached_property
    def removed(self) -> int:
        """Number of weights that are set to 0."""
        return self.dimension - sum(int(kept.sum()) for kept in self.kept.values())

    @property
    def sparsity(self) -> float:
        """Fraction of the D prunable weights that are set to 0."""
        return self.removed / self.dimension

    @cached_property
    def layers(self) -> dict[str, float]:
        """Name of each prunable parameter -> its own sparsity."""
        return {name: int((~kept).sum()) / kept.numel() for name, kept in self.kept.items()}

    def __str__(self) -> str:
        rows = [("all", self.dimension, self.sparsity)]
        rows += [(name, kept.numel(), self.layers[name]) for name, kept in self.kept.items()]
        longest = max(len(name) for name, _, _ in rows)
        head = f"{'':<{longest}} {'weights':>14} {'sparsity':>9}"
        return "\n".join([head, *(f"{name:<{longest}} {size:14,} {part:9.4f}" for name, size, part in rows)])

    def apply(self, model: nn.Module) -> None:
        """Set the removed weights of ``model`` to 0, in place. All others stay, bit for bit.

        Raises:
            ValueError: naming the parameter that the network lacks or that has another shape; nothing is changed then.
        """
        with torch.no_grad():
            for parameter, kept in self._pairs(model):
                parameter.masked_fill_(~kept.to(parameter.device), 0)

    def holds(self, model: nn.Module) -> bool:
        """Whether all removed weights of ``model`` are 0. Further training may have changed them."""
        return all(not bool(parameter[~kept.to(parameter.device)].any()) for parameter, kept in self._pairs(model))

    def _pairs(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        own = dict(model.named_parameters(remove_duplicate=False))
        for name, kept in self.kept.items():
            if name not in own:
                raise ValueError(f"{type(model).__name__} has no parameter {name}, which the mask is for")
            if own[name].shape != kept.shape:
                raise ValueError(f"{name} has shape {tuple(own[name].shape)}, its mask {tuple(kept.shape)}")
        return [(own[name].detach(), kept) for name, kept in self.kept.items()]

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold: method, pattern, counts, and the sparsity of every layer by its parameter's name."""
        return {
            "method": self.method,
            "pattern": self.pattern,
            "unfit": list(self.unfit),
            "weights": self.dimension,
            "zeros": self.removed,
            "sparsity": self.sparsity,
            "layers": self.layers,
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write the masks, for :func:`load_mask`, and :meth:`to_dict` as JSON beside them.

        Args:
            path: of the masks: ``mask.safetensors``, or any other suffix for a file of torch.save; the JSON is then
                ``mask.json``.

        Raises:
            ValueError: for a path whose suffix promises another format, as ``.json`` does.
        """
        path = check_path(path)
        head = {"gwprune": "mask", "format": _FORMAT, "method": self.method, "pattern": self.pattern}
        write_state(path, self.kept, {**head, "unfit": list(self.unfit)})
        write_json(path.with_suffix(".json"), self.to_dict())


def check_path(path: str | os.PathLike) -> Path:
    """Refuse the name of a file whose suffix promises another format.

    Raises:
        ValueError: naming it, as for ``.json`` or ``.onnx``.
    """
    path = Path(path)
    if path.suffix.lower() in _OTHERS:
        raise ValueError(f"{path}: tensors are written as .safetensors, or by torch.save with a suffix such as .pt")
    return path


def load_mask(path: str | os.PathLike) -> Mask:
    """Read what :meth:`Mask.save` wrote.

    Args:
        path: of the masks.

    Raises:
        ValueError: naming the file, when it is no complete file of masks of this version.
    """
    values = read_state(path)
    if values.get("gwprune") != "mask" or values.get("format") != _FORMAT:
        raise ValueError(f"{path} is no file of masks by this version of gwprune")
    return Mask(values["tensors"], values["method"], values["pattern"], tuple(values["unfit"]))


def prune(
    model: nn.Module,
    sparsity: float | None = None,
    method: str = "magnitude",
    *,
    pattern: str | None = None,
    data: Any = None,
    loss_fn: Callable[[Any, Any], Tensor] = functional.cross_entropy,
    options: Mapping[str, Any] | None = None,
    prunable: Choice | PrunableSet | None = None,
    seed: int = 0,
) -> Mask:
    """Set weights of ``model`` to 0, in place: the ones that a method ranks lowest.

    Zeros are stored and multiplied like any other number. They save memory or time only in a compressed file or with
    kernels for sparse matrices; see :func:`save_pruned` for what they gain.

    Args:
        model: any network.
        sparsity: fraction s of the D prunable weights: exactly ``ceil(s D)`` go, equal scores by index.
        method: a one-shot method of `gwprune.pruning.METHODS`, or ``module:function``.
        pattern: instead of a sparsity, ``"N:M"``: N of every M weights that follow each other along the input
            dimension (input channels of a convolution) stay, those that the method ranks highest. Parameters whose
            input dimension M does not divide stay whole, and so do those of modules that gwprune does not know; the
            mask names them.
        data: (input, target), a Dataset or a DataLoader, for a method that looks at samples.
        loss_fn: ``loss_fn(output, target)``, mean over samples, for a method that looks at the loss.
        options: the method's own, by name.
        prunable: which weights, see :class:`gwprune.PrunableSet`; a warning names what the default leaves out, when it
            is more than a fifth.
        seed: of the method.

    Returns:
        The mask; the dense weights are gone unless you keep them.

    Raises:
        ValueError: for both or none of sparsity and pattern, a sparsity outside [0, 1], a pattern of another form or
            that fits no layer, and what :func:`gwprune.pruning.rank` refuses.
        FloatingPointError: for weights or scores that are not finite.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(4, 2, bias=False)
        >>> net.weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0], [8.0, 7.0, 6.0, 5.0]])
        >>> prune(net, 0.5).sparsity, net.weight.tolist()
        (0.5, [[0.0, 0.0, 0.0, 0.0], [8.0, 7.0, 6.0, 5.0]])
        >>> prune(net, pattern="2:4").layers, net.weight.tolist()
        ({'weight': 0.5}, [[0.0, 0.0, 0.0, 0.0], [8.0, 7.0, 0.0, 0.0]])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if (sparsity is None) == (pattern is None):
        raise ValueError("give either a sparsity or a pattern")
    weights = PrunableSet(model, prunable)
    weights.check_values()
    if prunable is None:
        weights.tell_left_out()
    given = {"options": options, "model": model, "data": data, "loss_fn": loss_fn}
    unfit: tuple[str, ...] = ()
    if pattern is None:
        kept = weights.unflatten(mask(method, weights, seed, sparsity, **given))
    else:
        few, many = _pattern(pattern)
        ranks = weights.unflatten(rank(method, weights, seed, **given).ranks)
        axes = _input_axes(model, weights)
        fits = [axis is not None and part.shape[axis] % many == 0 for part, axis in zip(ranks, axes, strict=True)]
        if not any(fits):
            raise ValueError(f"pattern {pattern} fits no layer: {many} divides the input dimension of none")
        unfit = tuple(name for name, fit in zip(weights.names, fits, strict=True) if not fit)
        kept = [
            _highest(part, axis, few, many) if fit else torch.ones_like(part, dtype=torch.bool)
            for part, axis, fit in zip(ranks, axes, fits, strict=True)
        ]
    # Copies: views of the flat mask would each be saved with the whole of it.
    parts = (part.cpu().clone() for part in kept)
    result = Mask(dict(zip(weights.names, parts, strict=True)), method, pattern, unfit)
    result.apply(model)
    return result


def _pattern(pattern: str) -> tuple[int, int]:
    few, colon, many = pattern.partition(":") if isinstance(pattern, str) else ("", "", "")
    if not (colon and few.isdecimal() and many.isdecimal() and 0 < int(few) < int(many)):
        raise ValueError(f"pattern must be 'N:M' with 0 < N < M, such as '2:4', got {pattern!r}")
    return int(few), int(many)


def _input_axes(model: nn.Module, prunable: PrunableSet) -> list[int | None]:
    """The axis of each prunable tensor along which its layer sums; None where that is not known."""
    # By name: a tied output layer is an embedding under another one.
    modules = {named.name: named.module for named in named_parameters(model)}
    return [
        _input_axis(modules[name]) if parameter.ndim > 1 else None
        for name, parameter in zip(prunable.names, prunable.parameters, strict=True)
    ]


def _input_axis(module: nn.Module) -> int | None:
    if isinstance(module, _INPUTS_SECOND):
        return 1
    return 0 if isinstance(module, _INPUTS_FIRST) or is_conv1d_of_transformers(module) else None


def _highest(ranks: Tensor, axis: int, few: int, many: int) -> Tensor:
    """True at the ``few`` highest of every ``many`` ranks that follow each other along an axis."""
    last = ranks.movedim(axis, -1)
    groups = last.reshape(-1, many)
    # Ranks are distinct, so no more than these are as high as the lowest that stays.
    kept = groups >= groups.sort(dim=1).values[:, many - few, None]
    return kept.reshape(last.shape).movedim(-1, axis)


@dataclass(frozen=True)
class PrunedFile:
    """What a pruned network takes, and what pruning gains. See :func:`save_pruned`.

    Attributes:
        path: of the file.
        parameters: number of all parameters.
        weights: number of the prunable ones.
        zeros: number of these that are 0.
        bytes: size of the file, which is that of the dense network's.
        compressed_bytes: size of the file when zlib has compressed it.
        dense_multiply_adds: for one input, in the prunable weights of the dense network; None without ``inputs``.
        multiply_adds: the same where kernels leave zeros out.
        uncounted: prunable parameters that no linear or convolution layer used, and that these do not count.
    """

    path: str
    parameters: int
    weights: int
    zeros: int
    bytes: int
    compressed_bytes: int
    dense_multiply_adds: int | None
    multiply_adds: int | None
    uncounted: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            ("file", self.path),
            ("zeros", f"{self.zeros:,} of {self.weights:,} prunable weights, {self.parameters:,} parameters in all"),
            ("bytes", f"{self.bytes:,}, as dense; {self.compressed_bytes:,} when compressed"),
        ]
        if self.dense_multiply_adds is not None:
            without = f", not counting {', '.join(self.uncounted)}" if self.uncounted else ""
            counts = f"{self.dense_multiply_adds:,} dense, {self.multiply_adds:,} without zeros, for one input{without}"
            lines.append(("multiply-adds", counts))
        lines.append(("speed", "dense kernels multiply zeros too: the network runs no faster with them"))
        return "\n".join(f"{name:<14} {text}" for name, text in lines)


def save_pruned(model: nn.Module, mask: Mask, path: str | os.PathLike, *, inputs: Any = None) -> PrunedFile:
    """Write the ``state_dict`` of a pruned network, and say what pruning gains.

    Any program reads it: ``model.load_state_dict(torch.load(path))``, or safetensors' ``load_model(model, path)`` where
    the suffix is ``.safetensors``. No gwprune is needed.

    Args:
        model: the network, pruned.
        mask: its mask.
        path: of the file.
        inputs: some inputs, as the network takes them (a tuple is spread), to count multiply-adds with.

    Raises:
        ValueError: when removed weights are not 0, the mask is another network's, or for a path whose suffix promises
            another format, as ``.json`` does.
    """
    path = check_path(path)
    if not isinstance(model, nn.Module) or not isinstance(mask, Mask):
        raise TypeError(
            f"save_pruned takes a torch.nn.Module and the Mask that prune returned, in this order, got"
            f" {type(model).__name__} and {type(mask).__name__}"
        )
    if not mask.holds(model):
        raise ValueError("some removed weights are not 0; call mask.apply(model) first")
    dense = sparse = None
    uncounted: tuple[str, ...] = ()
    if inputs is not None:
        prunable = PrunableSet(model, list(mask.kept))
        uses = uses_for(model, prunable, inputs)
        uncounted = tuple(name for name, use in zip(prunable.names, uses, strict=True) if not use)
        dense = multiply_adds(uses, prunable.sizes)
        sparse = multiply_adds(uses, [int(parameter.count_nonzero()) for parameter in prunable.parameters])
    write_state(path, model.state_dict())
    zeros = mask.dimension - sum(int(parameter.count_nonzero()) for parameter, _ in mask._pairs(model))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size, compressed = path.stat().st_size, _compressed_bytes(path)
    return PrunedFile(str(path), parameters, mask.dimension, zeros, size, compressed, dense, sparse, uncounted)


def _compressed_bytes(path: Path) -> int:
    compressor, size = zlib.compressobj(), 0
    with open(path, "rb") as stream:
        while block := stream.read(2**20):
            size += len(compressor.compress(block))
    return size + len(compressor.flush())
