"""Lanczos tridiagonalisation of a symmetric operator: arrays in, Jacobi coefficients out.

Golub and Meurant, Matrices, Moments and Quadrature with Applications (2010), chapter 4; Paige (1972) for the order of
the operations; "twice is enough" for the reorthogonalisation (Giraud, Langou, Rozloznik 2005).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Jacobi", "Lanczos", "as_product", "lanczos", "rademacher"]


@dataclass(frozen=True)
class Jacobi:
    """Jacobi coefficients of the spectral measure of (A, v), v scaled to unit length.

    ``alpha`` (m,) is the diagonal; ``beta`` (m,) the off-diagonal: ``beta[j]`` couples rows j and j+1, and the last
    one is the norm of the residual, zero when the Krylov space is invariant and the measure therefore exact.
    """

    alpha: np.ndarray
    beta: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.alpha)

    @property
    def exact(self) -> bool:
        """Whether the run ended in an invariant subspace."""
        return bool(self.beta[-1] == 0.0)

    def truncated(self, steps: int) -> Jacobi:
        """The coefficients as they were after the first ``steps`` steps."""
        if not 1 <= steps <= self.steps:
            raise ValueError(f"steps must be in 1..{self.steps}, got {steps}")
        return Jacobi(self.alpha[:steps], self.beta[:steps])


def rademacher(dimension: int, seed: int, probe: int = 0) -> Tensor:
    """Random signs, float32 of shape (dimension,) on the CPU: a function of (seed, probe) alone."""
    state = np.random.SeedSequence([seed, probe]).generate_state(2, np.uint32)
    generator = torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)
    return torch.randint(0, 2, (dimension,), generator=generator, dtype=torch.int8).float().mul_(2).sub_(1)


def as_product(operator: Any) -> Callable[[Tensor], Tensor]:
    """``operator @ x`` on torch tensors, for anything with ``shape`` and ``@``: torch, numpy, scipy, or our own.

    Raises:
        ValueError: when ``operator`` is not square.  TypeError: when it has no ``shape`` or no ``@``.
    """
    shape = getattr(operator, "shape", None)
    if shape is None or not hasattr(operator, "__matmul__"):
        raise TypeError(f"an operator needs .shape and @; {type(operator).__name__} lacks one")
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"an operator must be square, got shape {tuple(shape)}")
    if isinstance(operator, Tensor) and not operator.is_floating_point():
        operator = operator.double()
    if isinstance(operator, Tensor) or isinstance(getattr(operator, "device", None), torch.device):
        return lambda x: operator @ x
    return lambda x: torch.as_tensor(np.asarray(operator @ x.numpy()), dtype=x.dtype)


def operator_dtype(operator: Any) -> torch.dtype:
    """Floating dtype of the vectors to use with ``operator``: its own, float64 when it does not say."""
    dtype = getattr(operator, "dtype", None)
    if isinstance(dtype, torch.dtype):
        return dtype if dtype.is_floating_point else torch.float64
    return torch.float32 if dtype is not None and np.dtype(dtype) == np.float32 else torch.float64


def operator_device(operator: Any) -> torch.device:
    """Where ``operator`` multiplies: its own device when it is a torch one, else the CPU."""
    device = getattr(operator, "device", None)
    return device if isinstance(device, torch.device) else torch.device("cpu")


def _dot(a: Tensor, b: Tensor) -> float:
    # The coefficients are kept in float64 whatever the vectors are: float32 sums of 10^7 terms lose digits.
    return float(torch.dot(a.double(), b.double()))


class Lanczos:
    """One Lanczos run, a step at a time: multiply :attr:`vector` by the operator, hand the result to :meth:`absorb`.

    Several runs can so share one block product. ``reorthogonalize=False`` keeps two vectors, O(D) memory, and lets
    copies of converged Ritz values appear; their weights still add up (Greenbaum 1989), so quadratures survive.

    Args:
        start: vector (D,), not zero.
        steps: the most steps to take; never more than D.
        reorthogonalize: keep the basis and orthogonalise twice against all of it.
        storage: device of the kept basis; by default that of ``start``.

    Raises:
        ValueError: for a zero or non-finite start, or ``steps`` below 1.
    """

    def __init__(
        self, start: Tensor, steps: int, *, reorthogonalize: bool = True, storage: torch.device | str | None = None
    ):
        norm = float(start.double().norm())
        if not np.isfinite(norm) or norm == 0.0:
            raise ValueError("the start vector of a Lanczos run must be finite and not zero")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.norm, self.steps = norm, min(steps, len(start))
        self.vector = start / norm
        self.alpha: list[float] = []
        self.beta: list[float] = []
        self.done = False
        self._previous = torch.zeros_like(self.vector)
        self._basis: Tensor | None = None
        if reorthogonalize:
            self._basis = torch.empty(
                (self.steps, len(start)), dtype=start.dtype, device=start.device if storage is None else storage
            )

    def absorb(self, product: Tensor) -> None:
        """Take ``product = A @ self.vector``, extend the coefficients and move :attr:`vector` on.

        Raises:
            FloatingPointError: when the product is not finite.
        """
        step = len(self.alpha)
        residual = product.clone()
        if step:
            residual.sub_(self._previous, alpha=self.beta[-1])
        alpha = _dot(self.vector, residual)
        residual.sub_(self.vector, alpha=alpha)
        if self._basis is not None:
            self._basis[step] = self.vector
            kept = self._basis[: step + 1]
            for _ in range(2):
                local = residual.to(kept.device)
                residual.sub_((kept.t() @ (kept @ local)).to(residual.device))
        beta = float(residual.double().norm())
        if not np.isfinite(alpha) or not np.isfinite(beta):
            raise FloatingPointError(f"Lanczos step {step + 1}: the operator's product is not finite")
        self.alpha.append(alpha)
        # What rounding leaves of a vanished residual is no new direction.
        scale = max(np.abs(self.alpha).max(), max(self.beta, default=0.0), beta if step == 0 else 0.0)
        floor = 10 * torch.finfo(residual.dtype).eps * scale
        # D orthogonal vectors span the space; without reorthogonalisation they are not orthogonal.
        invariant = beta <= floor or (self._basis is not None and step + 1 == len(residual))
        self.beta.append(0.0 if invariant else beta)
        self.done = invariant or step + 1 == self.steps
        if self.done:
            self._basis = None
        else:
            self._previous, self.vector = self.vector, residual.div_(beta)

    def result(self) -> Jacobi:
        """The coefficients so far."""
        return Jacobi(np.array(self.alpha), np.array(self.beta))


def lanczos(
    operator: Any,
    starts: Sequence[Tensor],
    steps: int,
    *,
    reorthogonalize: bool = True,
    progress: Callable[[int], None] | None = None,
) -> list[Jacobi]:
    """Run Lanczos from each start vector (D,), in step with one another, so that an operator can share a block product.

    Args:
        operator: symmetric, with ``shape`` (D, D) and ``@``.
        progress: called with the number of steps done, after each one.

    Returns:
        The Jacobi coefficients of each start; a run that ends in an invariant subspace has fewer steps.
    """
    product = as_product(operator)
    runs = [Lanczos(start, steps, reorthogonalize=reorthogonalize) for start in starts]
    for step in range(max(run.steps for run in runs)):
        active = [run for run in runs if not run.done]
        if not active:
            break
        if len(active) == 1:
            active[0].absorb(product(active[0].vector))
        else:
            block = product(torch.stack([run.vector for run in active], dim=1))
            for run, column in zip(active, block.unbind(1), strict=True):
                run.absorb(column)
        if progress is not None:
            progress(step + 1)
    return [run.result() for run in runs]
