"""Lanczos tridiagonalisation of a symmetric operator: arrays in, Jacobi coefficients out.

Golub and Meurant, Matrices, Moments and Quadrature with Applications (2010), chapter 4; Paige (1972) for the order of
the operations; "twice is enough" for the reorthogonalisation (Giraud, Langou, Rozloznik 2005).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..streams import numpy_stream, stream

__all__ = ["STORAGES", "Jacobi", "Lanczos", "as_product", "iterate", "lanczos", "rademacher", "storage_for"]


@dataclass(frozen=True)
class Jacobi:
    """Jacobi coefficients of the spectral measure of (A, v), v scaled to unit length.

    Attributes:
        alpha: (m,), the diagonal.
        beta: (m,), the off-diagonal: ``beta[j]`` couples rows j and j + 1. The last one is the norm of the residual,
            zero when the Krylov space is invariant and the measure therefore exact.
    """

    alpha: np.ndarray
    beta: np.ndarray

    @property
    def steps(self) -> int:
        """m, the number of Lanczos steps."""
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
    generator = stream(seed, "probe", probe)
    return torch.randint(0, 2, (dimension,), generator=generator, dtype=torch.int8).float().mul_(2).sub_(1)


def as_product(operator: Any) -> Callable[[Tensor], Tensor]:
    """``operator @ x`` on torch tensors, for anything with ``shape`` and ``@``: torch, numpy, scipy, or our own.

    Raises:
        ValueError: when ``operator`` is not square.
        TypeError: when it has no ``shape`` or no ``@``.
    """
    shape = getattr(operator, "shape", None)
    if shape is None or not hasattr(operator, "__matmul__"):
        raise TypeError(f"an operator needs .shape and @; {type(operator).__name__} lacks one")
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"an operator must be square, got shape {tuple(shape)}")
    if "complex" in str(getattr(operator, "dtype", "")):
        raise TypeError(f"an operator must be real, got {operator.dtype}; of a matrix that is real in fact take A.real")
    if isinstance(operator, Tensor) and not operator.is_floating_point():
        operator = operator.double()
    if isinstance(operator, Tensor) or isinstance(getattr(operator, "device", None), torch.device):
        return lambda x: operator @ x
    return lambda x: torch.as_tensor(np.asarray(operator @ x.numpy()), dtype=x.dtype)


def check_symmetric(operator: Any, seed: int) -> None:
    """Refuse a matrix A that is not symmetric: for random u and v, ``u . A v = v . A u``. This takes two products.

    Raises:
        ValueError: when the two sides differ by more than rounding.
    """
    product, device, dtype = as_product(operator), operator_device(operator), operator_dtype(operator)
    drawn = numpy_stream(seed, "symmetry").standard_normal((2, operator.shape[0]))
    u, v = (torch.from_numpy(row).to(device, dtype) for row in drawn)
    left, right = product(v), product(u)
    scale = max(float(left.double().norm() * u.double().norm()), float(right.double().norm() * v.double().norm()))
    difference = abs(_dot(u, left) - _dot(v, right))
    if difference > 100 * torch.finfo(dtype).eps * scale:
        raise ValueError(
            f"the operator is not symmetric: u.Av and v.Au differ by {difference / scale:.2g} of |u| |Av| for random u"
            " and v; use (A + A.T) / 2, or an operator that multiplies by it"
        )


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


STORAGES = ("device", "host", "disk")
_BLOCK_BYTES = 2**28


def storage_for(size: int, device: torch.device) -> str:
    """The fastest of ``STORAGES`` that has room for a basis: at most 60% of the memory that is free, 90% of the disk.

    Args:
        size: of the basis, bytes.
        device: that computes.

    Raises:
        MemoryError: naming what is free and the ways out, when it fits nowhere.
    """
    host, disk = _free_memory(), shutil.disk_usage(tempfile.gettempdir()).free
    if device.type == "cuda" and size <= 0.6 * torch.cuda.mem_get_info(device)[0]:
        return "device"
    if size <= 0.6 * host:
        return "host" if device.type == "cuda" else "device"
    if size <= 0.9 * disk:
        return "disk"
    raise MemoryError(
        f"the Lanczos basis takes {size / 2**30:.1f} GiB; free are {host / 2**30:.1f} GiB of memory and"
        f" {disk / 2**30:.1f} in {tempfile.gettempdir()}. Take fewer steps, set TMPDIR to a larger disk, or"
        " reorthogonalize=False, which keeps no basis"
    )


def _free_memory() -> int:
    """Of the host, bytes; where the system does not tell, more than there can be."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        except (AttributeError, OSError, ValueError):
            return 2**62


def _allocate(shape: tuple[int, int], like: Tensor, storage: str) -> Tensor:
    if storage != "disk":
        return torch.empty(shape, dtype=like.dtype, device=like.device if storage == "device" else "cpu")
    directory = tempfile.gettempdir()
    wanted, free = shape[0] * shape[1] * like.element_size(), shutil.disk_usage(directory).free
    if wanted > free:
        raise OSError(f"{directory} has {free >> 20} MiB free, the Lanczos basis needs {wanted >> 20}; set TMPDIR")
    with tempfile.NamedTemporaryFile(dir=directory, prefix="gwprune-basis-") as file:
        # The mapping outlives the name, and nothing is left behind when the process ends, however it ends.
        return torch.from_file(file.name, shared=True, size=shape[0] * shape[1], dtype=like.dtype).view(shape)


class Lanczos:
    """One Lanczos run, a step at a time: multiply :attr:`vector` by the operator, hand the result to :meth:`absorb`.

    Several runs can so share one block product. ``reorthogonalize=False`` keeps two vectors, O(D) memory, and lets
    copies of converged Ritz values appear; their weights still add up (Greenbaum 1989), so quadratures survive.

    Args:
        start: vector (D,), not zero.
        steps: the most steps to take; never more than D.
        reorthogonalize: keep the basis and orthogonalise against all of it, twice where once is not enough.
        storage: where the kept basis lies: ``"device"`` (that of ``start``), ``"host"`` memory, or ``"disk"`` (an
            unlinked file in the directory for temporary files, which TMPDIR sets).

    Raises:
        ValueError: for a zero or non-finite start, ``steps`` below 1, or an unknown storage.
        OSError: naming the directory, when the disk cannot hold the basis.
    """

    def __init__(self, start: Tensor, steps: int, *, reorthogonalize: bool = True, storage: str = "device"):
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
        if storage not in STORAGES:
            raise ValueError(f"storage must be one of {', '.join(STORAGES)}, got {storage!r}")
        self._basis: Tensor | None = None
        if reorthogonalize:
            self._basis = _allocate((self.steps, len(start)), start, storage)

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
            self._orthogonalise(residual, self._basis[: step + 1])
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

    @staticmethod
    def _orthogonalise(residual: Tensor, kept: Tensor) -> None:
        before = float(residual.double().norm())
        rows = max(1, _BLOCK_BYTES // (residual.element_size() * len(residual)))
        for _ in range(2):
            local = residual.to(kept.device)
            # Block after block, so that a pass reads a basis on disk once and not twice.
            for block in kept.split(rows):
                local.addmv_(block.t(), block @ local, alpha=-1)
            if local is not residual:
                residual.copy_(local)
            after = float(residual.double().norm())
            # A pass that took little away left nothing behind (Daniel, Gragg, Kaufman, Stewart 1976).
            if not after < 0.7 * before:
                break
            before = after

    def result(self) -> Jacobi:
        """The coefficients so far; an interrupted step is none."""
        return Jacobi(np.array(self.alpha[: len(self.beta)]), np.array(self.beta))


def iterate(
    operator: Any,
    starts: Sequence[Tensor],
    steps: int,
    *,
    reorthogonalize: bool = True,
    storage: str = "device",
) -> Iterator[list[Lanczos]]:
    """Lanczos from each start, in step with one another, so that an operator can share a block product.

    Args:
        operator: symmetric, with ``shape`` (D, D) and ``@``.
        starts: vectors (D,), not zero.
        steps: the most steps to take.
        reorthogonalize: see :class:`Lanczos`.
        storage: see :class:`Lanczos`.

    Yields:
        The runs, after each step; ends when every run is done.
    """
    product = as_product(operator)
    runs = [Lanczos(start, steps, reorthogonalize=reorthogonalize, storage=storage) for start in starts]
    while active := [run for run in runs if not run.done]:
        if len(active) == 1:
            active[0].absorb(product(active[0].vector))
        else:
            block = product(torch.stack([run.vector for run in active], dim=1))
            for run, column in zip(active, block.unbind(1), strict=True):
                run.absorb(column)
        yield runs


def lanczos(operator: Any, starts: Sequence[Tensor], steps: int, **basis: Any) -> list[Jacobi]:
    """Run :func:`iterate` to its end.

    Args:
        operator: symmetric, with ``shape`` (D, D) and ``@``.
        starts: vectors (D,), not zero.
        steps: the most steps to take.
        **basis: ``reorthogonalize`` and ``storage``, see :class:`Lanczos`.

    Returns:
        The Jacobi coefficients of each start; a run that ends in an invariant subspace has fewer steps.
    """
    *_, runs = iterate(operator, starts, steps, **basis)
    return [run.result() for run in runs]
