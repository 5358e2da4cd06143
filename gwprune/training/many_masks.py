"""Loss and accuracy under many masks of one ranking: what neighbouring masks share is computed once.

For a chain of linear layers on a CPU the activations under the mask before stay in memory, as (units, samples). With D
the weights that the next mask removes from a layer of weights W and input A, and dA the change of that input,

    Z <- Z - D A,    Z <- Z + (W - D) dA :

the first is a sparse product, and the second takes only the columns of the units that changed: in the second layer
those that lost a weight in the first. Layers behind the second and the last one start afresh, by a sparse product where
few weights are left. Any other network is evaluated mask by mask.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..datasets import DeviceSplit
from ..network.prunable import PrunableSet
from ..pruning import Ranking
from .evaluation import Evaluation, Tally, evaluate, pruned, removed_between

__all__ = ["evaluate_masks"]

# Masks between two computations from scratch: rounding adds up over no more than these.
_BLOCK = 100
# Samples whose activations are worked on at once: most of what a mask changes of them stays in cache.
_SAMPLES = 1024
# Bytes of activations to keep at once.
_MEMORY = 2**29
# MKL's sparse product takes as long as a dense one at about this density.
_SPARSE = 0.1
# With no more than this share of a layer's weights left, masks start afresh: what is then exactly zero, for want of
# incoming weights, would be rounding if it were a difference.
_FEW = 0.02
# From this share of changed units on, a product from scratch takes as long as one with the change.
_MANY = 0.8


def evaluate_masks(
    model: nn.Module, prunable: PrunableSet, ranking: Ranking, counts: Sequence[int], splits: Sequence[DeviceSplit]
) -> Iterator[list[Evaluation]]:
    """One evaluation per split with each of ``counts`` weights removed, in turn; fastest when the counts ascend.

    The weights are pruned in place, and dense again whenever a result is handed out. The values are those of
    :func:`.evaluate` up to the rounding of sums in another order: of a loss below 1e-5 in single
    precision (1e-7 on trained networks).

    Raises:
        ValueError: when the ranking belongs to a network of another size.
    """
    layers = _chain(model, prunable)
    if layers is not None:
        _silence()
        latest = _latest(prunable, ranking)
    for start in range(0, len(counts), _BLOCK):
        block = counts[start : start + _BLOCK]
        if layers is None or len(block) == 1:
            yield from _one_by_one(model, prunable, ranking, block, splits)
            continue
        tallies = [[Tally(split.device) for split in splits] for _ in block]
        for parts in _passes(layers, splits):
            with pruned(prunable, ranking, block) as pruning:
                running = _Running(layers, parts)
                before = None
                for count, row in zip(block, tallies, strict=True):
                    removed = None
                    if before is not None and before <= count <= latest:
                        removed = _differences(layers, prunable, ranking, before, count)
                    before = next(pruning)
                    running.advance(removed)
                    for part in parts:
                        logits = part.outputs[-1]
                        # Over rows of few classes it would take several times as long.
                        row[part.split].add(logits.t().contiguous(), part.labels, logits.log_softmax(0).t())
        for count, row in zip(block, tallies, strict=True):
            found = [tally.evaluation() for tally in row]
            if all(math.isfinite(evaluation.loss) for evaluation in found):
                yield found
            else:  # the difference of infinite activations is not what a pruned network has
                yield from _one_by_one(model, prunable, ranking, [count], splits)


def _one_by_one(
    model: nn.Module, prunable: PrunableSet, ranking: Ranking, counts: Sequence[int], splits: Sequence[DeviceSplit]
) -> Iterator[list[Evaluation]]:
    for count in counts:
        with pruned(prunable, ranking, [count]) as pruning:
            next(pruning)
            found = [evaluate(model, split) for split in splits]
        yield found


def _chain(model: nn.Module, prunable: PrunableSet) -> list[nn.Linear] | None:
    """The layers of Flatten, Linear, ReLU, ..., Linear in single precision on a CPU; None for any other network."""

    def leaves(module: nn.Module) -> Iterator[nn.Module]:
        if type(module) is nn.Sequential:
            for child in module:
                yield from leaves(child)
        elif type(module) not in (nn.Identity, nn.Dropout):
            yield module

    first, *steps = leaves(model)
    layers = steps[::2]
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    if (
        hooked
        or not torch.backends.mkl.is_available()  # without it sparse products are slow, or missing
        or type(first) is not nn.Flatten
        or (first.start_dim, first.end_dim) != (1, -1)
        or any(type(layer) is not nn.Linear for layer in layers)
        or any(type(step) is not nn.ReLU for step in steps[1::2])
        or len(steps) % 2 == 0
        or [id(layer.weight) for layer in layers] != [id(parameter) for parameter in prunable.parameters]
        or any(p.dtype != torch.float32 or p.device.type != "cpu" for p in model.parameters())
    ):
        return None
    return layers


@dataclass
class _Part:
    """Some samples of a split with, per layer, their inputs and outputs (before ReLU), each (units, samples)."""

    split: int
    labels: Tensor
    inputs: list[Tensor]
    outputs: list[Tensor]


def _passes(layers: list[nn.Linear], splits: Sequence[DeviceSplit]) -> Iterator[list[_Part]]:
    """All samples of all splits, as many parts at once as the memory holds."""
    held = sum(layer.in_features + layer.out_features for layer in layers) * _SAMPLES * layers[0].weight.element_size()
    parts: list[_Part] = []
    for number, split in enumerate(splits):
        for images, labels in split.batches(_SAMPLES):
            inputs = images.flatten(1).t().contiguous()
            hidden = [inputs.new_empty(layer.in_features, len(labels)) for layer in layers[1:]]
            outputs = [inputs.new_empty(layer.out_features, len(labels)) for layer in layers]
            parts.append(_Part(number, labels, [inputs, *hidden], outputs))
            if (len(parts) + 1) * held > _MEMORY:
                yield parts
                parts = []
    if parts:
        yield parts


def _latest(prunable: PrunableSet, ranking: Ranking) -> int:
    """The largest count that leaves every layer more than the share `_FEW` of its weights."""
    if ranking.dimension != prunable.dimension:
        return 0  # `pruned` says so
    parts = [part.flatten() for part in prunable.unflatten(ranking.ranks)]
    return min(int(part.kthvalue(max(1, len(part) - math.ceil(_FEW * len(part)))).values) for part in parts)


def _differences(
    layers: list[nn.Linear], prunable: PrunableSet, ranking: Ranking, start: int, end: int
) -> list[Tensor | None]:
    """Per layer the weights of ranks ``start`` to ``end - 1``, as they are, in a sparse matrix; None: no weight."""
    found = []
    for layer, positions in zip(layers, removed_between(prunable, ranking, start, end), strict=True):
        rows, columns = torch.unravel_index(positions, layer.weight.shape)
        starts = torch.searchsorted(rows.contiguous(), torch.arange(layer.out_features + 1))
        values = layer.weight.detach()[rows, columns]
        matrix = torch.sparse_csr_tensor(starts, columns, values, layer.weight.shape, check_invariants=False)
        found.append(matrix if len(rows) else None)
    return found


class _Running:
    """The activations of ``parts`` under the present mask."""

    def __init__(self, layers: list[nn.Linear], parts: list[_Part]):
        self.layers, self.parts = layers, parts
        # Fresh memory costs more than the arithmetic on it.
        self._buffers = torch.empty(2, max(layer.out_features for layer in layers) * _SAMPLES)

    @torch.no_grad()
    def advance(self, removed: list[Tensor | None] | None) -> None:
        """Go to the mask that has just removed the weights ``removed``; None: start afresh."""
        self._removed = removed or [None] * len(self.layers)
        self._rows = [
            torch.arange(0) if matrix is None else matrix.crow_indices().diff().nonzero().flatten()
            for matrix in self._removed
        ]
        self._matrices: dict[tuple[int, bool], Tensor] = {}
        for part in self.parts:
            self._forward(part, afresh=removed is None)

    def _forward(self, part: _Part, afresh: bool) -> None:
        # Which inputs of the present layer have changed (None: all), and by how much.
        units, change = (None if afresh else torch.arange(0)), None
        for number, layer in enumerate(self.layers):
            z, last = part.outputs[number], number + 1 == len(self.layers)
            if units is None or last:
                z[:] = 0.0 if layer.bias is None else layer.bias[:, None]
                torch.addmm(z, self._matrix(number, None), part.inputs[number], out=z)
            else:
                if number == 0:
                    self._remove(part, 0)
                if len(units):
                    torch.addmm(z, self._matrix(number, units), change, out=z)
            if last:
                return
            if units is None or len(units):
                units = None
                torch.clamp(z, min=0, out=part.inputs[number + 1])
            else:
                self._remove(part, number + 1)
                units, change = self._activate(part, number)

    def _remove(self, part: _Part, number: int) -> None:
        """Take out what the removed weights of a layer contributed, while its inputs are still the old ones."""
        if self._removed[number] is not None:
            z = part.outputs[number]
            torch.addmm(z, self._removed[number], part.inputs[number], alpha=-1, out=z)

    def _activate(self, part: _Part, number: int) -> tuple[Tensor | None, Tensor | None]:
        """Renew the outputs that lost a weight as inputs of the next layer: which of those changed, and by how much."""
        rows, inputs = self._rows[number], part.inputs[number + 1]
        size = len(rows), inputs.shape[1]
        new, change = (buffer[: math.prod(size)].view(size) for buffer in self._buffers)
        torch.index_select(part.outputs[number], 0, rows, out=new).clamp_(min=0)
        torch.index_select(inputs, 0, rows, out=change)
        torch.sub(new, change, out=change)
        inputs.index_copy_(0, rows, new)
        changed = (change.amax(1) != 0) | (change.amin(1) != 0)
        count = int(changed.sum())
        if count > _MANY * len(inputs):
            return None, None
        if count > _MANY * len(rows):
            return rows, change
        return rows[changed], change[changed]

    def _matrix(self, number: int, units: Tensor | None) -> Tensor:
        """Columns ``units`` (None: all) of a layer's weights, made once a mask where parts share them."""
        shared, key = units is None or units is self._rows[number - 1], (number, units is None)
        if shared and key in self._matrices:
            return self._matrices[key]
        weight = self.layers[number].weight.detach()
        matrix = _compressed(weight if units is None else weight.index_select(1, units))
        if shared:
            self._matrices[key] = matrix
        return matrix


@functools.cache
def _silence() -> None:
    """The first sparse matrix of a process warns that the format is young; that says nothing to those who read logs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        torch.zeros(1, 1).to_sparse_csr()


def _compressed(matrix: Tensor) -> Tensor:
    """``matrix`` in the format in which its product is faster, judged by some of its rows."""
    sample = matrix[::16]
    return matrix.to_sparse_csr() if int(sample.count_nonzero()) < _SPARSE * sample.numel() else matrix
