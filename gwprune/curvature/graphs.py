"""Autograd graphs of one batch, from which products with a Hessian or a Gauss-Newton matrix are differentiated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..network.losses import BatchLoss
from ..network.samples import Batch
from .tape import Tape, Use

__all__ = ["GaussNewtonGraph", "HessianGraph", "saved_bytes"]


@contextmanager
def saved_bytes() -> Iterator[Callable[[], int]]:
    """Yields a function that says how many bytes autograd has saved for backward passes since, each storage once."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage._cdata] = storage.nbytes()  # a zero tensor of forward-mode derivatives has no address
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(seen.values())


def _refuse_constant(value: Tensor, what: str) -> None:
    if not value.requires_grad:
        raise ValueError(
            f"the {what} does not depend on the prunable weights: detach(), torch.no_grad() or .item() cuts it off, or"
            " the network does not use them"
        )


@dataclass
class _Recorded:
    """What the derivative of one batch along a vector is made of.

    Attributes:
        uses: of the weights, from the tape.
        missed: (number of the weight, gradient) of what the tape missed.
    """

    uses: list[Use]
    missed: list[tuple[int, Tensor]]

    def outer(self, vector: list[Tensor], *, inputs: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Tensors through which ``g^T v`` depends on the rest of the graph, and its derivatives in them.

        Args:
            vector: v, in the shapes of the weights.
            inputs: whether the layers' inputs are among these tensors.
        """
        outputs, tangents = [], []
        for use in self.uses:
            if use.delta.requires_grad:
                outputs.append(use.delta)
                tangents.append(use.output_tangent(vector[use.number]))
            if inputs and use.x.requires_grad:
                outputs.append(use.x)
                tangents.append(use.input_tangent(vector[use.number]))
        for number, gradient in self.missed:
            if gradient.requires_grad:
                outputs.append(gradient)
                tangents.append(vector[number])
        return outputs, tangents


@dataclass
class HessianGraph(_Recorded):
    """Graph of one batch's derivative, ready to be differentiated along a vector."""

    @classmethod
    def build(cls, tape: Tape, model: nn.Module, loss: BatchLoss, batch: Batch, parameters: list):
        """Run the batch forwards and backwards on a new tape."""
        with tape:
            value = loss(model, batch)
        _refuse_constant(value, "loss")
        return cls(*tape.record(value, parameters))

    def product(self, parameters: list, vector: list[Tensor], keep: bool) -> Sequence[Tensor]:
        """Product with ``vector``, in the shapes of the weights; ``keep``: the graph is needed again."""
        with torch.no_grad():
            outputs, tangents = self.outer(vector, inputs=True)
        if not outputs:  # a loss that is linear in every weight
            return [torch.zeros_like(parameter) for parameter in parameters]
        return torch.autograd.grad(outputs, parameters, tangents, retain_graph=keep, materialize_grads=True)


@dataclass
class GaussNewtonGraph(_Recorded):
    """Graphs of one batch for products with its Gauss-Newton matrix.

    Attributes:
        output: of the network.
        dummy: u, in which the vector-Jacobian product ``J^T u`` is linear.
        head: the output, cut off from the network unless the network computes the loss.
        head_gradient: gradient of the loss in it.
    """

    output: Tensor
    dummy: Tensor
    head: Tensor
    head_gradient: Tensor

    @classmethod
    def build(cls, tape: Tape, model: nn.Module, loss: BatchLoss, batch: Batch, parameters: list):
        """Run the batch forwards and backwards on a new tape."""
        with tape:
            found, target = loss.run(model, batch)
            value = loss.of(found, target) if loss.loss_fn is None else None
        output = loss.head(found)
        _refuse_constant(output, "output")
        dummy = torch.zeros_like(output, requires_grad=True)
        recorded = tape.record(output, parameters, dummy)
        head = output.detach().requires_grad_() if value is None else output
        value = loss.of(head, target) if value is None else value
        _refuse_constant(value, "loss")
        (head_gradient,) = torch.autograd.grad(value, head, create_graph=True, materialize_grads=True)
        return cls(*recorded, output, dummy, head, head_gradient)

    def product(self, parameters: list, vector: list[Tensor], keep: bool) -> Sequence[Tensor]:
        """Product with ``vector``, in the shapes of the weights; ``keep``: the graphs are needed again."""
        with torch.no_grad():
            # Linear in the dummy, which does not reach the layers' inputs.
            outputs, tangents = self.outer(vector, inputs=False)
        if not outputs or not self.head_gradient.requires_grad:  # a loss that is linear in the output
            return [torch.zeros_like(parameter) for parameter in parameters]
        (tangent,) = torch.autograd.grad(outputs, self.dummy, tangents, retain_graph=True)
        (cotangent,) = torch.autograd.grad(
            self.head_gradient, self.head, tangent, retain_graph=keep, materialize_grads=True
        )
        return torch.autograd.grad(self.output, parameters, cotangent, retain_graph=keep, materialize_grads=True)
