"""Random probes of a matrix: a Lanczos run from each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..streams import numpy_stream
from .lanczos import Jacobi, Lanczos, as_product, iterate, operator_device, operator_dtype, rademacher
from .spectrum import ROUNDINGS, Estimate, ProbeSpectrum, Spectrum

__all__ = ["LARGEST_DENSE", "InterruptedSpectrum", "known_spectrum", "probe_spectra", "probe_until", "zero_rows"]

# Order up to which a matrix may be made dense: 70 MiB, and its eigenvalues in half a minute.
LARGEST_DENSE = 3000

# Steps from one look at the interval to the next: each costs singular value decompositions, dearer with every step.
_CHECK_AFTER = 8
_CHECK_GROWTH = 8  # and at least an eighth of the steps so far


class InterruptedSpectrum(KeyboardInterrupt):
    """An interrupt that came in the middle of Lanczos runs; it carries what they have found so far.

    Attributes:
        spectrum: from the whole steps.
    """

    def __init__(self, spectrum: Spectrum):
        super().__init__(f"after {spectrum.steps} steps")
        self.spectrum = spectrum


class _Active:
    """An operator on the coordinates ``index`` (n,) alone: all other rows are zero, and need no room in a basis."""

    def __init__(self, operator: Any, index: Tensor):
        self.device, self.shape = index.device, (len(index), len(index))
        self._product, self._index, self._dimension = as_product(operator), index, operator.shape[0]

    def __matmul__(self, other: Tensor) -> Tensor:
        full = other.new_zeros((self._dimension, *other.shape[1:]))
        full[self._index] = other
        return self._product(full)[self._index]


def zero_rows(operator: Any, seed: int) -> Tensor:
    """Which rows (D,) of ``operator`` are exactly zero (dead units), from one product with a random vector."""
    # A sign vector can cancel in a row of small integers; Gaussian numbers cannot.
    scan = numpy_stream(seed, "zero rows").standard_normal(operator.shape[0])
    return as_product(operator)(torch.from_numpy(scan).to(operator_device(operator), operator_dtype(operator))) == 0


def probe_spectra(
    operator: Any,
    *,
    steps: int,
    probes: Sequence[int],
    seed: int,
    semidefinite: bool | None = None,
    reorthogonalize: bool = True,
    storage: str = "device",
    zero: Tensor | None = None,
    progress: Callable[[int], None] | None = None,
    enough: Callable[[Spectrum], bool] | None = None,
) -> Spectrum:
    """Spectrum of a symmetric matrix from Rademacher probes, which leave out the rows that are exactly zero.

    Args:
        operator: the matrix; anything with ``shape`` (D, D) and ``@``. Its attribute ``roundings``, if it has one, is
            the error of a product that the bounds allow for, in machine epsilons; by default 32.
        steps: Lanczos steps per probe.
        probes: numbers of the probes; each one's signs are a function of (seed, number).
        seed: of the probes.
        semidefinite: whether the matrix is known to have no negative eigenvalue. By default the operator's own
            attribute of this name says so; without one it is not known.
        reorthogonalize: keep the basis and orthogonalise against it, see :class:`.Lanczos`.
        storage: where the basis lies, see :class:`.Lanczos`.
        zero: (D,), which rows are exactly zero; by default :func:`zero_rows` finds them, with one product.
        progress: called with the number of steps done.
        enough: asked after 8 steps, then every 8 or, of many, every eighth of the steps so far; the runs end when it
            is true of the spectrum so far.

    Raises:
        TypeError: for an operator without ``shape`` or ``@``.
        ValueError: for an operator that is not square, or steps below 1.
        InterruptedSpectrum: for a KeyboardInterrupt after the first step.
    """
    semidefinite = getattr(operator, "semidefinite", False) if semidefinite is None else semidefinite
    dimension, dtype = operator.shape[0], operator_dtype(operator)
    zero = zero_rows(operator, seed) if zero is None else zero
    active = int(dimension - zero.sum())
    errors = float(torch.finfo(dtype).eps), float(getattr(operator, "roundings", ROUNDINGS))

    def spectrum(results: Sequence[Jacobi]) -> Spectrum:
        return Spectrum(tuple(ProbeSpectrum(run, dimension, active, semidefinite, *errors) for run in results))

    if active == 0:
        return spectrum([Jacobi(np.zeros(1), np.zeros(1)) for _ in probes])
    index = (~zero).nonzero().flatten()
    starts = [rademacher(dimension, seed, probe).to(index.device, dtype)[index] for probe in probes]
    runs: list[Lanczos] = []
    due = _CHECK_AFTER
    steps = min(steps, active)
    matrix = operator if active == dimension else _Active(operator, index)
    products = iterate(matrix, starts, steps, reorthogonalize=reorthogonalize, storage=storage)
    try:
        for step, runs in enumerate(products, 1):
            if progress is not None:
                progress(step)
            if enough is not None and step >= due:
                if enough(spectrum([run.result() for run in runs])):
                    break
                due = step + max(_CHECK_AFTER, step // _CHECK_GROWTH)
    except KeyboardInterrupt as error:
        if not runs:
            raise
        results = [run.result() for run in runs]
        whole = max(result.steps for result in results) - (len({result.steps for result in results}) > 1)
        kept = [result.truncated(min(whole, result.steps)) for result in results]
        raise InterruptedSpectrum(spectrum(kept)) from error
    return spectrum([run.result() for run in runs])


def known_spectrum(
    operator: Any,
    *,
    steps: int,
    probes: Sequence[int],
    seed: int,
    progress: Callable[[int], None] | None = None,
    **basis: Any,
) -> Spectrum:
    """All eigenvalues where as many ``steps`` pay for them, else what probes tell, as of :func:`probe_spectra`.

    The dense matrix costs a product for each row that is not exactly zero. Where that is no more than the steps that
    are asked for, and at most ``LARGEST_DENSE``, nothing is left open and nothing is left to chance.

    Args:
        operator: the matrix, see :func:`probe_spectra`.
        steps: Lanczos steps per probe.
        probes: numbers of the probes.
        seed: of the probes.
        progress: called with the number of products done.
        **basis: ``reorthogonalize`` and ``storage``, see :class:`.Lanczos`.

    Raises:
        TypeError: for an operator without ``shape`` or ``@``.
        ValueError: for an operator that is not square, or steps below 1.
        FloatingPointError: when a product is not finite.
    """
    zero = zero_rows(operator, seed)
    index = (~zero).nonzero().flatten()
    order = len(index)
    if not 0 < order <= min(steps, LARGEST_DENSE):
        return probe_spectra(operator, steps=steps, probes=probes, seed=seed, zero=zero, progress=progress, **basis)
    product, dtype = as_product(operator), operator_dtype(operator)
    matrix = torch.empty(order, order, dtype=torch.float64)
    for number, coordinate in enumerate(index):
        unit = torch.zeros(len(zero), dtype=dtype, device=zero.device)
        unit[coordinate] = 1
        matrix[number] = product(unit)[index]
        if progress is not None:
            progress(number + 1)
    if not torch.isfinite(matrix).all():
        raise FloatingPointError("the operator's product is not finite")
    eigenvalues = np.linalg.eigvalsh(((matrix + matrix.t()) / 2).numpy())
    first = Jacobi(np.array([eigenvalues.mean()]), np.array([eigenvalues.std()]))
    errors = float(torch.finfo(dtype).eps), float(getattr(operator, "roundings", ROUNDINGS))
    semidefinite = getattr(operator, "semidefinite", False)
    return Spectrum((ProbeSpectrum(first, len(zero), order, semidefinite, *errors, eigenvalues),))


def probe_until(
    operator: Any,
    threshold: Callable[[Spectrum], Estimate],
    tolerance: float,
    *,
    steps: int,
    probes: int,
    seed: int,
    **options: Any,
) -> Spectrum:
    """Steps and probes until the interval of ``threshold`` is at most ``tolerance`` wide, or the steps are spent.

    Starts with ``probes`` probes in one block. Once their rules leave less than half of the tolerance open, the rest is
    chance: further probes follow, each with as many steps as the first.

    Args:
        operator: the matrix; anything with ``shape`` (D, D) and ``@``.
        threshold: what is wanted, from a spectrum.
        tolerance: width of its interval at which to stop.
        steps: products to spend, in all.
        probes: number of probes to start with.
        seed: of the probes.
        **options: see :func:`probe_spectra`.

    Raises:
        ValueError: for a tolerance that is not positive.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    options["zero"] = zero_rows(operator, seed)

    def widths(spectrum: Spectrum) -> tuple[float, float]:
        """Of the interval, and of the part of it that further steps can close."""
        estimate = threshold(spectrum)
        width = float(estimate.upper) - float(estimate.lower)
        return width, width - spectrum.chance_width(float(estimate.standard_error))

    def enough(spectrum: Spectrum) -> bool:
        width, open_to_steps = widths(spectrum)
        return width <= tolerance or open_to_steps <= tolerance / 2

    spectrum = probe_spectra(
        operator, steps=max(1, steps // probes), probes=range(probes), seed=seed, enough=enough, **options
    )
    each = spectrum.steps
    spent = each * probes
    while widths(spectrum)[0] > tolerance and spent + each <= steps:
        try:
            further = probe_spectra(operator, steps=each, probes=[len(spectrum.probes)], seed=seed, **options)
        except KeyboardInterrupt as error:
            raise InterruptedSpectrum(spectrum) from error
        spectrum, spent = Spectrum(spectrum.probes + further.probes), spent + each
    return spectrum
