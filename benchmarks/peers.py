"""Ways to multiply a vector by the Hessian of a network's prunable weights, each behind one interface.

``make(model, loss_fn, inputs, targets, batch_size)`` returns ``product(vector) -> H vector``, both of shape (D,) in the
order of :class:`gwprune.PrunableSet`. ``loss_fn`` is a mean over samples. The network is in eval mode and
only its prunable weights require gradients (:func:`prepare`), so every way differentiates with respect to the same
weights; ``batch_size`` divides the number of samples, as hessian-eigenthings averages batches without weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import torch
from torch import Tensor, nn

from gwprune.curvature.graphs import saved_bytes
from gwprune.curvature.operator import curvature_operator
from gwprune.network.prunable import PrunableSet

REBUILT_MB = 1  # too little to keep any graph
Product = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def prepare(model: nn.Module) -> PrunableSet:
    """Eval mode, gradients for the prunable weights alone; returns these."""
    model.eval().requires_grad_(False)
    prunable = PrunableSet(model)
    for parameter in prunable.parameters:
        parameter.requires_grad_(True)
        parameter.grad = None
    return prunable


def split(inputs: Tensor, targets: Tensor, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """Equal batches.

    Raises:
        ValueError: when ``batch_size`` does not divide the number of samples.
    """
    if len(inputs) % batch_size:
        raise ValueError(f"batch size {batch_size} does not divide {len(inputs)} samples")
    return list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))


def graph_bytes(model: nn.Module, loss_fn: Loss, inputs: Tensor, targets: Tensor) -> float:
    """Bytes per sample that a graph of the gradient holds, from the growth between 2 and 4 samples."""
    parameters = prepare(model).parameters
    sizes = []
    for count in (2, 4):
        with saved_bytes() as saved:
            value = loss_fn(model(inputs[:count]), targets[:count])
            gradient = torch.autograd.grad(value, parameters, create_graph=True)
        sizes.append(saved())
        del gradient
    return (sizes[1] - sizes[0]) / 2


def _gwprune(**options: int) -> Callable[..., Product]:
    def make(model: nn.Module, loss_fn: Loss, inputs: Tensor, targets: Tensor, batch_size: int | None) -> Product:
        operator = curvature_operator(model, loss_fn, (inputs, targets), batch_size=batch_size, **options)
        return lambda vector: operator @ vector

    return make


def double_backward(model: nn.Module, loss_fn: Loss, inputs: Tensor, targets: Tensor, batch_size: int) -> Product:
    prunable = PrunableSet(model)
    parameters, data = prunable.parameters, split(inputs, targets, batch_size)

    def product(vector: Tensor) -> Tensor:
        parts, total = prunable.unflatten(vector), torch.zeros_like(vector)
        for x, y in data:
            gradient = torch.autograd.grad(loss_fn(model(x), y), parameters, create_graph=True)
            total += prunable.flatten(torch.autograd.grad(gradient, parameters, grad_outputs=parts))
        return total / len(data)

    return product


def jvp_of_grad(model: nn.Module, loss_fn: Loss, inputs: Tensor, targets: Tensor, batch_size: int) -> Product:
    prunable, data = PrunableSet(model), split(inputs, targets, batch_size)
    weights = {name: p.detach() for name, p in zip(prunable.names, prunable.parameters, strict=True)}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss_fn(torch.func.functional_call(model, values, (x,)), y)

    def product(vector: Tensor) -> Tensor:
        tangents = dict(zip(prunable.names, prunable.unflatten(vector), strict=True))
        total = torch.zeros_like(vector)
        for x, y in data:
            gradient = torch.func.grad(lambda values, x=x, y=y: loss(values, x, y))
            _, tangent = torch.func.jvp(gradient, (weights,), (tangents,))
            total += prunable.flatten([tangent[name] for name in prunable.names])
        return total / len(data)

    return product


def curvlinops(model: nn.Module, loss_fn: Loss, inputs: Tensor, targets: Tensor, batch_size: int) -> Product:
    from curvlinops import HessianLinearOperator

    operator = HessianLinearOperator(
        model,
        loss_fn,
        PrunableSet(model).parameters,
        split(inputs, targets, batch_size),
        check_deterministic=False,
        num_data=len(inputs),
    )
    return lambda vector: (operator @ vector).detach()


def pyhessian_operator(model: nn.Module, loss_fn: Loss, **data):
    """PyHessian's own object, on ``data=`` one batch or ``dataloader=`` several."""
    from pyhessian import hessian

    # PyHessian's loss.backward(create_graph=True) warns of the reference cycle that zero_grad breaks later.
    warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
    return hessian(model, loss_fn, cuda=False, **data)


def pyhessian(model: nn.Module, loss_fn: Loss, inputs: Tensor, targets: Tensor, batch_size: int) -> Product:
    """Its way for many batches: every product builds the graph of each batch anew."""
    prunable, data = prepare(model), split(inputs, targets, batch_size)
    operator = pyhessian_operator(model, loss_fn, dataloader=data)
    return lambda vector: prunable.flatten(operator.dataloader_hv_product(prunable.unflatten(vector))[1])


def pyhessian_one_batch(model: nn.Module, loss_fn: Loss, inputs: Tensor, targets: Tensor, batch_size: int) -> Product:
    """Its way for one batch of data: the graph of the gradient is built once and shared by all products."""
    from pyhessian.utils import hessian_vector_product

    prunable = prepare(model)
    operator = pyhessian_operator(model, loss_fn, data=(inputs, targets))

    def product(vector: Tensor) -> Tensor:
        return prunable.flatten(hessian_vector_product(operator.gradsH, operator.params, prunable.unflatten(vector)))

    return product


def _eigenthings(method: str) -> Callable[..., Product]:
    def make(model: nn.Module, loss_fn: Loss, inputs: Tensor, targets: Tensor, batch_size: int) -> Product:
        from hessian_eigenthings import HessianOperator, match_names, supervised_loss

        operator = HessianOperator(
            model,
            split(inputs, targets, batch_size),
            supervised_loss(loss_fn),
            param_filter=match_names(*PrunableSet(model).names),
            method=method,
        )
        return operator.matvec

    return make


@dataclass(frozen=True)
class Contender:
    """A way to form the product.

    Attributes:
        make: see the module.
        distribution: the package that it comes from.
        batches: who chooses the batch size: ``"search"`` the benchmark, ``"own"`` the operator itself (it is given
            None), ``"all"`` one batch holds all samples.
        keeps: it keeps graphs, so that products after the first may be cheaper.
        exact: up to rounding; otherwise its error is reported instead of checked.
        ours: not a peer.
    """

    make: Callable[..., Product]
    distribution: str = "torch"
    batches: str = "search"
    keeps: bool = False
    exact: bool = True
    ours: bool = False

    @property
    def version(self) -> str | None:
        """Installed version of its package, None when it is not installed."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None


CONTENDERS: dict[str, Contender] = {
    "gwprune": Contender(_gwprune(), "gwprune", batches="own", keeps=True, ours=True),
    "gwprune_rebuilt": Contender(_gwprune(memory_mb=REBUILT_MB), "gwprune", ours=True),
    "double_backward": Contender(double_backward),
    "jvp_of_grad": Contender(jvp_of_grad),
    "curvlinops": Contender(curvlinops, "curvlinops-for-pytorch"),
    "pyhessian": Contender(pyhessian, "PyHessian"),
    "pyhessian_one_batch": Contender(pyhessian_one_batch, "PyHessian", batches="all", keeps=True),
    "hessian_eigenthings": Contender(_eigenthings("autograd"), "hessian-eigenthings"),
    "hessian_eigenthings_differences": Contender(_eigenthings("finite_difference"), "hessian-eigenthings", exact=False),
}
