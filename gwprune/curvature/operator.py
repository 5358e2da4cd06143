"""Curvature of the data loss on the prunable set: Hessian and generalised Gauss-Newton operators.

Products never form the matrix. For a mini-batch loss ``l(w)`` with gradient ``g(w)`` the Hessian product is
``H v = d/dw (g(w)^T v)`` (Pearlmutter 1994, Fast exact multiplication by the Hessian). The Gauss-Newton product is
``J^T (d2 l / d out2) J v`` with the network's Jacobian J (Schraudolph 2002); ``J v`` comes from differentiating
``J^T u`` with respect to the dummy u, so every module that can be differentiated twice works.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..network.prunable import PrunableSet
from ..network.samples import Batch, as_tensors, count_samples, take
from ..streams import stream
from .compaction import compact
from .graphs import GaussNewtonGraph, HessianGraph, saved_bytes
from .tape import Tape

__all__ = ["OPERATORS", "CurvatureOperator", "NotDeterministicError", "curvature_operator"]

OPERATORS = ("hessian", "ggn")
_PROBE_SAMPLES = 8
_TRIAL_SAMPLES = 32
_DEFAULT_MEMORY_MB = 3072
# On a CPU larger batches fall out of the caches (and their memory is fetched anew for every product); smaller ones
# leave the kernels too little to do.
_CPU_BATCH_BYTES = 32 * 2**20
_CPU_BATCHES = (32, 2048)


class NotDeterministicError(RuntimeError):
    """The network does not compute the same function twice, so it has no well-defined curvature operator."""


_KINDS = {"hessian": HessianGraph, "ggn": GaussNewtonGraph}


def _call(model: nn.Module, inputs: Any) -> Any:
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


class CurvatureOperator:
    """Curvature of a network's mean loss on its prunable weights, as a symmetric matrix known by its products.

    Made by :func:`curvature_operator`; see there. Attributes: ``shape`` (D, D), ``dtype``, ``device``,
    ``prunable`` (the :class:`PrunableSet`), ``samples``, ``batch_size``, ``products`` (how many so far).

    When the graphs of all batches fit into the memory budget they are kept, so that a product costs only its own
    backward pass: the forward and first backward pass are shared by all products of a Lanczos run. Otherwise each
    batch's graph is shared by the columns of one block.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        data: Any,
        *,
        operator: str = "hessian",
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        memory_mb: int = _DEFAULT_MEMORY_MB,
    ):
        if operator not in _KINDS:
            raise ValueError(f"operator must be one of {', '.join(_KINDS)}, got {operator!r}")
        training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
        if training:
            raise ValueError(
                f"the network is in training mode ({training[0]}): curvature needs model.eval(), or batch"
                " normalisation and dropout change the function from pass to pass"
            )
        if device is not None:
            model.to(device)
        self.model, self.loss_fn, self.operator = model, loss_fn, operator
        self.prunable = PrunableSet(model)
        first = self.prunable.parameters[0]
        self.device, self.dtype = first.device, first.dtype
        self.shape = (self.prunable.dimension, self.prunable.dimension)
        self._inputs, self._targets = as_tensors(data, self.device)
        self.samples = count_samples(self._inputs)
        self.products = 0
        self._graphs: list | None = None
        self._smaller: tuple[CurvatureOperator, Tensor] | None = None
        self._batch_given, self._memory_mb = batch_size is not None, memory_mb
        per_sample = self._graph_bytes()
        if batch_size is None:
            # A quarter of the budget per batch: the products' own temporaries need room beside the graph.
            batch_size = max(1, int(memory_mb * 2**20 / 4 / per_sample))
            if self.device.type == "cpu":
                low, high = _CPU_BATCHES
                batch_size = min(batch_size, max(low, min(high, int(_CPU_BATCH_BYTES / per_sample))))
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size = min(batch_size, self.samples)
        self._keep = per_sample * self.samples <= memory_mb * 2**20
        self._check_determinism()

    # -- passes over the data ----------------------------------------------------------------------------------

    @contextmanager
    def _differentiable(self) -> Iterator[None]:
        """Gradients on for the prunable weights alone, whatever the caller has frozen."""
        every = list(self.model.parameters())
        flags = [parameter.requires_grad for parameter in every]
        for parameter in every:
            parameter.requires_grad_(False)
        for parameter in self.prunable.parameters:
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad():
                yield
        finally:
            for parameter, flag in zip(every, flags, strict=True):
                parameter.requires_grad_(flag)

    @property
    def data(self) -> Batch:
        """All samples (input, target) on the device."""
        return self._inputs, self._targets

    def forward(self, inputs: Any) -> Any:
        """The network's output; a tuple of inputs is spread over its arguments."""
        return _call(self.model, inputs)

    def _graph(self, part: slice):
        inputs, targets = take(self._inputs, part), take(self._targets, part)
        return _KINDS[self.operator].build(
            Tape(self.prunable.parameters),
            lambda: self.forward(inputs),
            lambda output: self.loss_fn(output, targets),
            self.prunable.parameters,
        )

    def _batches(self) -> Iterator[tuple[slice, float]]:
        for start in range(0, self.samples, self.batch_size):
            part = slice(start, min(start + self.batch_size, self.samples))
            yield part, (part.stop - part.start) / self.samples

    def _graph_bytes(self) -> float:
        """Bytes per sample that one batch's graph holds: the growth from a few samples to twice as many."""
        few = max(1, min(_PROBE_SAMPLES, self.samples // 2))
        sizes = []
        for count in (few, 2 * few):
            with self._differentiable(), saved_bytes() as saved:
                graph = self._graph(slice(0, count))
            sizes.append(saved())
            del graph
        return max((sizes[1] - sizes[0]) / few, 1.0)

    def _check_determinism(self) -> None:
        """Two products on fresh graphs of a few samples must agree, or the matrix changes under Lanczos' feet."""
        generator = torch.Generator().manual_seed(0)
        vector = torch.randn(self.shape[0], generator=generator).to(self.device, self.dtype)
        part = slice(0, min(_TRIAL_SAMPLES, self.samples))
        results = []
        for _ in range(2):
            with self._differentiable():
                graph = self._graph(part)
                product = graph.product(self.prunable.parameters, self.prunable.unflatten(vector), False)
            results.append(self.prunable.flatten(product))
        if not torch.isfinite(results[0]).all():
            raise FloatingPointError("a curvature product is not finite: the network or its loss has diverged")
        difference = (results[0] - results[1]).norm()
        # CUDA reductions may differ in the last digits; a dropout mask differs at first order.
        if difference > 1e3 * torch.finfo(self.dtype).eps * results[0].norm():
            raise NotDeterministicError(
                "two products of the same operator and vector differ by"
                f" {(difference / results[0].norm()).item():.2g} of their norm: the network is random (active"
                " dropout, noise) or changes its state; make its forward pass deterministic in eval mode"
            )

    # -- products ------------------------------------------------------------------------------------------------

    def _multiply(self, columns: list[Tensor]) -> list[Tensor]:
        if self._smaller is not None:
            inner, index = self._smaller
            self.products += len(columns)
            return [
                torch.zeros_like(column).index_copy_(0, index, part)
                for column, part in zip(columns, inner._multiply([column[index] for column in columns]), strict=True)
            ]
        parameters = self.prunable.parameters
        vectors = [self.prunable.unflatten(column) for column in columns]
        sums = [torch.zeros_like(column) for column in columns]
        with self._differentiable():
            if self._keep and self._graphs is None:
                self._graphs = [self._graph(part) for part, _ in self._batches()]
            for index, (part, weight) in enumerate(self._batches()):
                graph = self._graphs[index] if self._graphs is not None else self._graph(part)
                for number, vector in enumerate(vectors):
                    keep = self._graphs is not None or number + 1 < len(vectors)
                    product = graph.product(parameters, vector, keep)
                    sums[number].add_(self.prunable.flatten(product), alpha=weight)
        self.products += len(columns)
        return sums

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
        results = self._multiply(columns)
        result = results[0] if block.ndim == 1 else torch.stack(results, dim=1)
        if isinstance(other, np.ndarray):
            result = result.cpu().numpy()
            return result.astype(other.dtype, copy=False) if other.dtype.kind == "f" else result
        return result.to(other.device, other.dtype if other.is_floating_point() else self.dtype)

    def gradient(self) -> Tensor:
        """Gradient of the mean loss with respect to the prunable weights, shape (D,)."""
        total = torch.zeros(self.shape[0], device=self.device, dtype=self.dtype)
        with self._differentiable():
            for part, weight in self._batches():
                inputs, targets = take(self._inputs, part), take(self._targets, part)
                value = self.loss_fn(self.forward(inputs), targets)
                gradient = torch.autograd.grad(value, self.prunable.parameters, materialize_grads=True)
                total.add_(self.prunable.flatten(gradient), alpha=weight)
        return total

    def release(self) -> None:
        """Give back the memory of kept graphs and forget :meth:`compact`; the next product starts from the weights."""
        self._graphs = self._smaller = None

    def compact(self, seed: int = 0) -> int:
        """Compute from now on with the network without its dead units: the same matrix to rounding, less work.

        Takes one product with a random vector, which shows the rows that are exactly zero, and one to compare. The
        smaller network is a copy: weights that change afterwards need :meth:`release`.

        Returns:
            The number of prunable weights that products still compute on: D when nothing could be taken out.
        """
        if self._smaller is not None:
            return self._smaller[0].shape[0]
        vector = torch.randn(self.shape[0], generator=stream(seed, "dead units"))
        vector = vector.to(self.device, self.dtype)
        keep, self._keep = self._keep, False
        expected = self._multiply([vector])[0]
        self._keep = keep

        def run(model: nn.Module) -> None:
            for part, _ in self._batches():
                _call(model, take(self._inputs, part))

        found = compact(self.model, self.prunable, expected == 0, run)
        if found is None:
            return self.shape[0]
        inner = CurvatureOperator(
            found.model,
            self.loss_fn,
            self.data,
            operator=self.operator,
            batch_size=self.batch_size if self._batch_given else None,
            memory_mb=self._memory_mb,
        )
        self.release()
        self._smaller = inner, found.index.to(self.device)
        difference = (self._multiply([vector])[0] - expected).norm()
        if difference > 300 * torch.finfo(self.dtype).eps * expected.norm():
            self._smaller = None
            warnings.warn(
                "the network without its dead units has another curvature (relative difference"
                f" {(difference / expected.norm()).item():.2g}); products stay on the full network",
                stacklevel=2,
            )
            return self.shape[0]
        return inner.shape[0]


def curvature_operator(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    data: Any,
    *,
    operator: str = "hessian",
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    memory_mb: int = _DEFAULT_MEMORY_MB,
) -> CurvatureOperator:
    """Hessian or Gauss-Newton operator of ``model`` on ``data``, restricted to the prunable weights.

    Args:
        model: any module in eval mode whose forward pass can be differentiated twice.
        loss_fn: ``loss_fn(output, target)``, the mean over the samples it is given; unequal batches are weighted.
        data: a pair (input, target), a Dataset or a DataLoader of pairs; inputs may be tuples. Read once.
        operator: ``"hessian"`` or ``"ggn"``.
        batch_size: samples per pass; by default as many as a quarter of ``memory_mb`` holds.
        device: where to compute (the model is moved); by default where the model is.
        memory_mb: memory in MiB for kept graphs.

    Returns:
        An operator with ``shape`` (D, D) and ``@`` on (D,) and (D, k).

    Raises:
        ValueError: unknown operator, training mode, no prunable weights, or no data.
        NotDeterministicError: when two products with one vector differ.

    Example: for least squares ``mean (x w - y)^2`` the Hessian is ``2 mean x x^T``.

        >>> import torch
        >>> linear = torch.nn.Linear(2, 1, bias=False).eval()
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
        >>> H = curvature_operator(linear, torch.nn.functional.mse_loss, (x, torch.zeros(2, 1)))
        >>> (H @ torch.eye(2)).tolist()
        [[2.0, 2.0], [2.0, 4.0]]
    """
    return CurvatureOperator(
        model, loss_fn, data, operator=operator, batch_size=batch_size, device=device, memory_mb=memory_mb
    )
