"""Curvature of the data loss on the prunable set: Hessian and generalised Gauss-Newton operators.

Products never form the matrix. For a mini-batch loss ``l(w)`` with gradient ``g(w)`` the Hessian product is
``H v = d/dw (g(w)^T v)`` (Pearlmutter 1994, Fast exact multiplication by the Hessian). The Gauss-Newton product is
``J^T (d2 l / d out2) J v`` with the network's Jacobian J (Schraudolph 2002); ``J v`` comes from differentiating
``J^T u`` with respect to the dummy u, so every module that can be differentiated twice works.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..names import whole_number
from ..network.losses import BatchLoss, mean_gradient
from ..network.matrices import Choice
from ..network.modes import check_network, differentiable, eval_mode, frozen, moved
from ..network.prunable import PrunableSet
from ..network.samples import Batch, Samples, read_samples
from ..spectral.spectrum import ROUNDINGS
from .checks import NotDeterministicError, check_curvature, explained
from .graphs import GaussNewtonGraph, HessianGraph, saved_bytes
from .tape import Tape

__all__ = ["OPERATORS", "CurvatureOperator", "NotDeterministicError", "ProductOperator", "curvature_operator"]

OPERATORS = ("hessian", "ggn")
_PROBE_SAMPLES = 8
_DEFAULT_MEMORY_MB = 3072
# On a CPU larger batches fall out of the caches (and their memory is fetched anew for every product); smaller ones
# leave the kernels too little to do.
_CPU_BATCH_BYTES = 32 * 2**20
_CPU_BATCHES = (32, 2048)
_UNKNOWN_BATCH = 32  # where the memory of a graph cannot be known

_KINDS = {"hessian": HessianGraph, "ggn": GaussNewtonGraph}


class ProductOperator(ABC):
    """A square matrix that is known by its products: ``@`` takes torch or numpy, vectors or blocks.

    Attributes:
        shape: (D, D).
        device: where it multiplies.
        dtype: of its products.
    """

    shape: tuple[int, int]
    device: torch.device
    dtype: torch.dtype

    @abstractmethod
    def multiply(self, columns: list[Tensor]) -> list[Tensor]:
        """Products with ``columns``, vectors (D,) on the operator's device and in its dtype."""

    def __matmul__(self, other: Tensor | np.ndarray) -> Tensor | np.ndarray:
        """Product with a vector (D,) or a block (D, k); torch or numpy in, the same out, floats in the caller's dtype.

        Raises:
            ValueError: naming both shapes, when they do not fit.
        """
        if other.ndim not in (1, 2) or other.shape[0] != self.shape[1]:
            raise ValueError(f"cannot multiply an operator of shape {self.shape} with {tuple(other.shape)}")
        block = torch.from_numpy(np.ascontiguousarray(other)) if isinstance(other, np.ndarray) else other
        block = block.to(self.device, self.dtype)
        columns = [block] if block.ndim == 1 else list(block.t().contiguous())
        results = self.multiply(columns)
        result = results[0] if block.ndim == 1 else torch.stack(results, dim=1)
        if isinstance(other, np.ndarray):
            result = result.cpu().numpy()
            return result.astype(other.dtype, copy=False) if other.dtype.kind == "f" else result
        return result.to(other.device, other.dtype if other.is_floating_point() else self.dtype)


class _WithLoss(nn.Module):
    """From a batch to its loss, so that weights can be exchanged in all that is called."""

    def __init__(self, model: nn.Module, batch_loss: BatchLoss):
        super().__init__()
        self.model, self.batch_loss = model, batch_loss

    def forward(self, batch: Batch) -> Tensor:
        return self.batch_loss(self.model, batch)


class CurvatureOperator(ProductOperator):
    """Curvature of a network's mean loss on its prunable weights, as a symmetric matrix known by its products.

    Made by :func:`curvature_operator`; see there for the arguments.

    When the graphs of all batches fit into the memory budget they are kept, so that a product costs only its own
    backward pass: the forward and first backward pass are shared by all products of a Lanczos run. Otherwise each
    batch's graph is shared by the columns of one block.

    Attributes:
        shape: (D, D).
        dtype: of the weights.
        device: of the weights.
        operator: ``"hessian"`` or ``"ggn"``.
        prunable: the :class:`PrunableSet`.
        batch_loss: of a batch.
        data: the samples.
        samples: number of samples.
        batch_size: samples per pass.
        products: number of products so far.
        seconds: that the last product took, without graphs that are kept; 0 before the first.
        graph_bytes: that the graphs take which are there at a time.
        keeps_graphs: whether the graphs of all batches fit into the memory budget, and are kept.
        options: operator, batch size and memory budget as they were given.
        checks: names of the checks that it passed.
        roundings: relative error of a product, in machine epsilons, that bounds should allow for: as the checks
            measured it, see `gwprune.curvature.checks`.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: BatchLoss,
        data: Any,
        *,
        samples: int | None = None,
        seed: int = 0,
        operator: str = "hessian",
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        memory_mb: int = _DEFAULT_MEMORY_MB,
        prunable: Choice | PrunableSet | None = None,
    ):
        if operator not in _KINDS:
            raise ValueError(f"operator must be one of {', '.join(_KINDS)}, got {operator!r}")
        check_network(model)
        seed = whole_number("seed", seed, 0)
        if batch_size is not None:
            batch_size = whole_number("batch_size", batch_size, 1)
        training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
        if training:
            raise ValueError(
                f"the network is in training mode ({training[0]}): curvature needs model.eval(), or batch"
                " normalisation and dropout change the function from pass to pass"
            )
        moved(model, device)
        self.model, self.batch_loss, self.operator = model, loss, operator
        self.prunable = PrunableSet(model, prunable)
        self.prunable.check_values()
        first = self.prunable.parameters[0]
        for name, parameter in zip(self.prunable.names, self.prunable.parameters, strict=True):
            if parameter.dtype != first.dtype:
                raise ValueError(
                    f"the prunable weights have different dtypes: {self.prunable.names[0]} is {first.dtype}, {name} is"
                    f" {parameter.dtype}; use model.float()"
                )
        self.device, self.dtype = first.device, first.dtype
        self.shape = (self.prunable.dimension, self.prunable.dimension)
        self.data = data
        if not isinstance(data, Samples):
            self.data = read_samples(
                data, self.device, dtype=self.dtype, samples=samples, seed=seed, any_form=loss.forward is not None
            )
        self.samples = len(self.data)
        self.products, self.seconds = 0, 0.0
        self.checks: tuple[str, ...] = ()
        self.roundings = ROUNDINGS
        self._graphs: list | None = None
        self.options = {"operator": operator, "batch_size": batch_size, "memory_mb": memory_mb}
        per_sample = self._graph_bytes()
        if batch_size is None:
            # A quarter of the budget per batch: the products' own temporaries need room beside the graph.
            batch_size = max(1, int(memory_mb * 2**20 / 4 / per_sample))
            if self.device.type == "cpu":
                low, high = _CPU_BATCHES
                batch_size = min(batch_size, max(low, min(high, int(_CPU_BATCH_BYTES / per_sample))))
        self.batch_size = min(batch_size, self.samples)
        self.keeps_graphs = per_sample * self.samples <= memory_mb * 2**20
        self.graph_bytes = per_sample * (self.samples if self.keeps_graphs else self.batch_size)
        self._places = loss.shares(self.data, self.batch_size)

    # -- passes over the data ----------------------------------------------------------------------------------

    @property
    def semidefinite(self) -> bool:
        """Whether the matrix has no negative eigenvalue for every convex loss: the Gauss-Newton matrix."""
        return self.operator == "ggn"

    def _graph(self, batch: Batch):
        parameters = self.prunable.parameters
        return _KINDS[self.operator].build(Tape(parameters), self.model, self.batch_loss, batch, parameters)

    @property
    def shares(self) -> list[float]:
        """Share of each batch in the mean loss, in stored order."""
        return [share for _, share in self._places]

    def batches(self) -> Iterator[tuple[Batch, float]]:
        """(batch on the device, its share in the mean loss), in stored order."""
        return ((self.data.batch(place), share) for place, share in self._places)

    def _graph_bytes(self) -> float:
        """Bytes per sample that one batch's graph holds: the growth from a few samples to twice as many."""
        few = max(1, min(_PROBE_SAMPLES, self.data.counts[0] // 2))
        sizes = []
        for count in (few, 2 * few):
            try:
                with differentiable(self.model, self.prunable), saved_bytes() as saved:
                    graph = self._graph(self.data.some(count))
            except RuntimeError as error:  # torch.func in a forward pass bears no one who counts
                if "saved tensor hooks" not in str(error):
                    raise
                return self.options["memory_mb"] * 2**20 / 4 / _UNKNOWN_BATCH
            sizes.append(saved())
            del graph
        # A batch that cannot be divided was the same twice.
        return max((sizes[1] - sizes[0]) / few, sizes[0] / self.data.counts[0] * (sizes[0] == sizes[1]), 1.0)

    # -- products ------------------------------------------------------------------------------------------------

    def multiply(self, columns: list[Tensor]) -> list[Tensor]:
        parameters = self.prunable.parameters
        vectors = [self.prunable.unflatten(column) for column in columns]
        sums = [torch.zeros_like(column) for column in columns]
        with differentiable(self.model, self.prunable):
            if self.keeps_graphs and self._graphs is None:
                self._graphs = [self._graph(batch) for batch, _ in self.batches()]
            start = self._clock()
            for index, (place, weight) in enumerate(self._places):
                graph = self._graphs[index] if self._graphs is not None else self._graph(self.data.batch(place))
                for number, vector in enumerate(vectors):
                    keep = self._graphs is not None or number + 1 < len(vectors)
                    product = graph.product(parameters, vector, keep)
                    sums[number].add_(self.prunable.flatten(product), alpha=weight)
            self.seconds = (self._clock() - start) / len(columns)
        self.products += len(columns)
        return sums

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def gradient(self) -> Tensor:
        """Gradient of the mean loss with respect to the prunable weights, shape (D,)."""
        with Tape(()):  # which switches off autocast in the forward pass
            return mean_gradient(self.model, self.batch_loss, self.batches(), self.prunable, self.dtype)

    def loss(self, weights: Tensor) -> float:
        """Mean loss of the network with other prunable weights; the network and kept graphs stay as they are.

        Args:
            weights: (D,), on the operator's device.

        Raises:
            ValueError: for weights of another size.
        """
        parts = self.prunable.unflatten(weights.to(self.dtype))
        values = {f"model.{name}": part for name, part in zip(self.prunable.names, parts, strict=True)}
        network = _WithLoss(self.model, self.batch_loss)
        with eval_mode(self.model), frozen(self.model):
            losses = ((torch.func.functional_call(network, values, (b,)), share) for b, share in self.batches())
            return sum(share * float(loss.detach()) for loss, share in losses)

    def release(self) -> None:
        """Give back the memory of kept graphs; the next product starts from the weights."""
        self._graphs = None


def curvature_operator(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor] | None,
    data: Any,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    weight: Callable[[Any], Any] | None = None,
    samples: int | None = None,
    seed: int = 0,
    operator: str = "hessian",
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    memory_mb: int = _DEFAULT_MEMORY_MB,
    checks: bool = True,
    prunable: Choice | PrunableSet | None = None,
) -> CurvatureOperator:
    """Hessian or Gauss-Newton operator of ``model`` on ``data``, restricted to the prunable weights.

    Args:
        model: any module in eval mode whose forward pass can be differentiated twice.
        loss_fn: ``loss_fn(output, target)``, the mean over the samples it is given; unequal batches are weighted. Of an
            output that has ``logits`` it is given these. None: the loss is the network's own, its output's ``loss``.
        data: a pair (input, target) or a dict of tensors or NumPy arrays, with the samples along axis 0; a Dataset of
            such samples, a DataLoader or another iterable of such batches. A tuple of inputs is spread over the
            network's arguments, a dict over their names; in a dict ``labels`` are the target. It is read once and stays
            where it is; batches of it are moved to the device.
        forward: for any other data, ``forward(model, batch)`` that returns (output, target) for ``loss_fn``, or the
            loss itself with ``loss_fn=None``; as in ``lambda model, batch: (model(batch["image"]), batch["y"])``.
        weight: of a batch in the mean over batches, ``weight(target)`` (with ``forward``: ``weight(batch)``), for a
            loss that is a mean over something else than samples: the number of targets that ``ignore_index`` leaves
            is ``lambda y: (y != -100).sum()``. None: the number of samples.
        samples: number of samples to draw; no more are read. None: all.
        seed: of the draw.
        operator: ``"hessian"`` or ``"ggn"``.
        batch_size: samples per pass; by default as many as a quarter of ``memory_mb`` holds.
        device: where to compute (the model is moved); by default where the model is.
        memory_mb: memory in MiB for kept graphs.
        checks: whether to refuse what gives a wrong number, see `gwprune.curvature.checks`.
        prunable: names, patterns or a function that choose the weights, see :class:`gwprune.PrunableSet`. By default
            the weights of linear and convolution layers; a warning names what that leaves out, when it is more than
            a fifth.

    Returns:
        An operator with ``shape`` (D, D) and ``@`` on (D,) and (D, k).

    Raises:
        TypeError: for data, a loss or an output of another form.
        ValueError: for an unknown operator, a network in training mode, no data or more than the host's memory holds,
            or what :class:`gwprune.PrunableSet` refuses.
        FloatingPointError: when a product is not finite.
        NotDeterministicError: when two products with one vector differ.
        CurvatureError: for a loss that is no mean over samples, a product that autograd gets wrong or does not have,
            or a matrix that is exactly zero.

    Examples:
        For least squares ``mean (x w - y)^2`` the Hessian is ``2 mean x x^T``.

        >>> import torch
        >>> linear = torch.nn.Linear(2, 1, bias=False).eval()
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
        >>> H = curvature_operator(linear, torch.nn.functional.mse_loss, (x, torch.zeros(2, 1)))
        >>> (H @ torch.eye(2)).tolist()
        [[2.0, 2.0], [2.0, 4.0]]
    """
    loss = BatchLoss(loss_fn, forward, weight)
    with explained():
        matrix = CurvatureOperator(
            model,
            loss,
            data,
            samples=samples,
            seed=seed,
            operator=operator,
            batch_size=batch_size,
            device=device,
            memory_mb=memory_mb,
            prunable=prunable,
        )
        if prunable is None:
            matrix.prunable.tell_left_out()
        if checks:
            matrix.checks, matrix.roundings = check_curvature(matrix)
    return matrix
