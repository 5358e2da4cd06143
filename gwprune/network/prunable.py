"""The prunable set: which weights of a network the l1 penalty, the curvature and the masks all mean."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

__all__ = ["PrunableSet"]


class PrunableSet:
    """Every ``weight`` of ``nn.Linear`` and ``nn.Conv*d`` of a network, as one flat vector of size D.

    Biases, normalisation and embeddings stay out; a weight that several modules share counts once. The set, its
    order (that of ``model.named_modules``) and D are the same for the l1 penalty, the Hessian and the masks.

    Args:
        model: the network.

    Attributes:
        names: parameter names, e.g. ``"layers.0.weight"``.
        parameters: the tensors themselves, not copies.
        shapes: shape of each.
        sizes: number of elements of each.
        dimension: D.

    Raises:
        ValueError: when the network has no such weight.
    """

    def __init__(self, model: nn.Module):
        weights: dict[int, tuple[str, nn.Parameter]] = {}
        shared_elsewhere = {
            id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        }
        for prefix, module in model.named_modules():
            if not isinstance(module, nn.Linear | _ConvNd):
                continue
            weight = module.weight
            # An output layer tied to an embedding is the embedding.
            if isinstance(weight, nn.Parameter) and id(weight) not in shared_elsewhere:
                weights.setdefault(id(weight), (f"{prefix}.weight" if prefix else "weight", weight))
        if not weights:
            scripted = isinstance(model, torch.jit.ScriptModule)
            if scripted or any("quantized" in type(module).__module__ for module in model.modules()):
                state = "scripted or traced" if scripted else "quantised"
                raise ValueError(
                    f"{type(model).__name__} is {state}: its layers are no nn.Linear or nn.Conv*d any more; use the"
                    " module that it was made of"
                )
            raise ValueError(
                f"{type(model).__name__} has no prunable weights: none of its modules is an nn.Linear or nn.Conv*d"
            )
        self.names = [name for name, _ in weights.values()]
        self.parameters: list[nn.Parameter] = [parameter for _, parameter in weights.values()]
        self.shapes = [parameter.shape for parameter in self.parameters]
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.dimension = sum(self.sizes)

    def __repr__(self) -> str:
        return f"PrunableSet(dimension={self.dimension}, tensors={len(self.names)})"

    @property
    def signature(self) -> str:
        """Names and shapes in order, as one digest: files that speak of D weights say which ones they mean."""
        text = repr([(name, tuple(shape)) for name, shape in zip(self.names, self.shapes, strict=True)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

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
