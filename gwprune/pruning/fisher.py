"""WoodFisher: Optimal Brain Surgeon's saliency with a block-diagonal empirical Fisher matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from ..network.modes import undisturbed
from .subject import Subject

__all__ = ["inverse_diagonal", "sample_gradients", "wood_fisher"]

_MIB = 2**20


def sample_gradients(subject: Subject, inputs: Any, labels: Any) -> Tensor:
    """Gradient of each sample's own loss, (samples, D) in the network's dtype; the network must be in eval mode."""
    weights: dict[str, Tensor] = dict(zip(subject.prunable.names, subject.prunable.parameters, strict=True))

    def loss(weights: dict[str, Tensor], single: Any, label: Any) -> Tensor:
        output = functional_call(subject.model, weights, _batch_of_one(single))
        return subject.loss_fn(output, *_batch_of_one(label))

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(weights, inputs, labels)
    return torch.cat([gradients[name].flatten(1) for name in weights], dim=1)


def _batch_of_one(value: Any) -> tuple[Tensor, ...]:
    return tuple(part[None] for part in (value if isinstance(value, tuple) else (value,)))


def _blocks(sizes: Sequence[int], block_size: int) -> Iterator[tuple[slice, int]]:
    """Runs of equal blocks of consecutive weights, never across layers, as (their slice, width of a block)."""
    start = 0
    for size in sizes:
        rest = size % block_size
        if size > rest:
            yield slice(start, start + size - rest), block_size
        if rest:
            yield slice(start + size - rest, start + size), rest
        start += size


def inverse_diagonal(subject: Subject, block_size: int, damping: float, memory_mb: int) -> Tensor:
    """Diagonal of the inverse of ``damping I + 1/N sum_n g_n g_n^T``, block by block, float64 (D,).

    g_n is the gradient of sample n. The inverse starts as ``I / damping`` and takes k samples G (k, width) at a time by
    Woodbury's identity, ``F^-1 - F^-1 G^T (N I + G F^-1 G^T)^-1 G F^-1``: for k = 1 the recursion of the paper.
    """
    sizes, dimension = subject.prunable.sizes, subject.prunable.dimension
    runs = list(_blocks(sizes, block_size))
    held = sum(8 * (part.stop - part.start) * width for part, width in runs)
    # Per sample: its gradient in single and double precision, and three arrays of that size within the update.
    per_sample = 40 * dimension
    if held + per_sample > memory_mb * _MIB:
        raise ValueError(
            f"wood_fisher: the inverse blocks of up to {max(width for _, width in runs)} weights take"
            f" {(held + per_sample) / _MIB:.0f} MiB for {dimension} weights, over the budget memory_mb = {memory_mb};"
            f" lower block_size (now {block_size}) or raise memory_mb"
        )
    inverses = [
        (torch.eye(width, dtype=torch.float64, device=subject.device) / damping).repeat(
            (part.stop - part.start) // width, 1, 1
        )
        for part, width in runs
    ]
    together = min(block_size, (memory_mb * _MIB - held) // per_sample, subject.batch_size or subject.samples)
    with undisturbed(subject.model):
        for inputs, labels in subject.batches(together):
            gradients = sample_gradients(subject, inputs, labels)
            if not bool(torch.isfinite(gradients).all()):
                raise FloatingPointError("wood_fisher: the gradient of a sample is not finite")
            for (part, width), inverse in zip(runs, inverses, strict=True):
                rows = gradients[:, part].double().unflatten(1, (-1, width)).transpose(0, 1)
                moved = rows @ inverse
                inner = moved @ rows.mT
                inner.diagonal(dim1=1, dim2=2).add_(subject.samples)
                inverse.baddbmm_(moved.mT, torch.cholesky_solve(moved, torch.linalg.cholesky(inner)), alpha=-1)
    return torch.cat([inverse.diagonal(dim1=1, dim2=2).flatten() for inverse in inverses])


def wood_fisher(subject: Subject, block_size: int = 50, damping: float = 1e-5, memory_mb: int = 2048) -> Tensor:
    """``w_i^2 / (2 [F^-1]_ii)``: the loss rise when weight i goes to zero and the others of its block adapt.

    Singh and Alistarh, WoodFisher: efficient second-order approximation for neural network compression (arXiv
    2004.14340): the saliency of Optimal Brain Surgeon (Hassibi and Stork 1992) with the inverse of the damped empirical
    Fisher matrix F by Woodbury's identity, in blocks of consecutive weights of a layer; one ranking of all layers
    (their joint setting). Only the ranking is taken: kept weights are not updated, as for every other method here.

    Args:
        block_size: weights in a block; the memory is 8 bytes times D times this.
        damping: added to the diagonal of F; 1e-5 in the paper.
        memory_mb: budget in MiB.

    Raises:
        ValueError: when the blocks do not fit in the budget.
        FloatingPointError: for a sample whose gradient is not finite.
    """
    inverse = inverse_diagonal(subject, block_size, damping, memory_mb)
    return subject.prunable.flatten().double().square() / (2 * inverse)
