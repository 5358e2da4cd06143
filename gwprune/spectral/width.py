"""Random probes of a matrix, and its squared Gaussian width: Lanczos runs in, certified values out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..streams import numpy_stream
from .lanczos import Jacobi, as_product, iterate, operator_device, operator_dtype, rademacher
from .spectrum import CONFIDENCE, Estimate, ProbeSpectrum, Spectrum, crossing, first_rise

__all__ = [
    "CONFIDENCE",
    "Estimate",
    "ProbeSpectrum",
    "Spectrum",
    "crossing",
    "first_rise",
    "probe_spectra",
    "refine",
    "squared_width",
    "zero_rows",
]

_CHECK_EVERY = 8  # steps between looks at the interval: each costs a singular value decomposition


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
    semidefinite: bool = False,
    reorthogonalize: bool = True,
    storage: str = "device",
    zero: Tensor | None = None,
    progress: Callable[[int], None] | None = None,
    enough: Callable[[Spectrum], bool] | None = None,
) -> Spectrum:
    """Spectrum of ``operator`` (``shape`` and ``@``) from the Rademacher probes numbered ``probes`` of ``seed``.

    The probes leave out the rows that are exactly zero; :func:`zero_rows` finds them when ``zero`` is not given.

    Args:
        steps: Lanczos steps per probe.  reorthogonalize, storage: of the basis, see :class:`.Lanczos`.
        semidefinite: whether the matrix is known to be.
        progress: called with the number of steps done.
        enough: asked every few steps; the runs end when it is true of what is known by then.
    """
    dimension, dtype = operator.shape[0], operator_dtype(operator)
    zero = zero_rows(operator, seed) if zero is None else zero
    active = int(dimension - zero.sum())
    precision = float(torch.finfo(dtype).eps)

    def spectrum(results: Sequence[Jacobi]) -> Spectrum:
        return Spectrum(tuple(ProbeSpectrum(run, dimension, active, semidefinite, precision) for run in results))

    if active == 0:
        return spectrum([Jacobi(np.zeros(1), np.zeros(1)) for _ in probes])
    starts = []
    for probe in probes:
        start = rademacher(dimension, seed, probe).to(operator_device(operator), dtype)
        start[zero] = 0
        starts.append(start)
    runs = []
    steps = min(steps, active)
    for step, runs in enumerate(iterate(operator, starts, steps, reorthogonalize=reorthogonalize, storage=storage), 1):
        if progress is not None:
            progress(step)
        if enough is not None and step % _CHECK_EVERY == 0 and enough(spectrum([run.result() for run in runs])):
            break
    return spectrum([run.result() for run in runs])


def refine(
    operator: Any,
    threshold: Callable[[Spectrum], Estimate],
    tolerance: float,
    *,
    steps: int,
    probes: int,
    seed: int,
    **options: Any,
) -> tuple[Spectrum, bool]:
    """Steps and probes until the interval of ``threshold`` is at most ``tolerance`` wide, or the steps are spent.

    Starts with ``probes`` probes in one block. Once their rules leave less than half of the tolerance open, the rest is
    chance: further probes follow, each with as many steps as the first.

    Args:
        threshold: what is wanted, from a spectrum.
        steps: products to spend, in all.
        options: see :func:`probe_spectra`.

    Returns:
        The spectrum, and whether the tolerance was met.

    Raises:
        ValueError: for a tolerance that is not positive.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    options["zero"] = zero_rows(operator, seed)

    def widths(spectrum: Spectrum) -> tuple[float, float]:
        """Of the interval, and of the part of it that further steps can close."""
        found = threshold(spectrum)
        width = float(found.upper) - float(found.lower)
        return width, width - spectrum.chance_width(float(found.standard_error))

    def enough(spectrum: Spectrum) -> bool:
        width, open_to_steps = widths(spectrum)
        return width <= tolerance or open_to_steps <= tolerance / 2

    known = probe_spectra(
        operator, steps=max(1, steps // probes), probes=range(probes), seed=seed, enough=enough, **options
    )
    each = known.steps
    spent = each * probes
    while not (met := widths(known)[0] <= tolerance) and spent + each <= steps:
        number = len(known.probes)
        more = probe_spectra(operator, steps=each, probes=[number], seed=seed, **options)
        known, spent = Spectrum(known.probes + more.probes), spent + each
    return known, met


def squared_width(
    operator: Any, pruned_norm: float, epsilon: float, *, steps: int = 128, probes: int = 1, seed: int = 0
) -> tuple[float, float, float]:
    """Normalised squared Gaussian width ``1/D tr[2 eps / (2 eps + R^2 |A|)]`` of a symmetric matrix.

    Args:
        operator: anything with ``shape`` (D, D) and ``@``: a curvature operator, scipy LinearOperator, dense array.
        pruned_norm: R >= 0.  epsilon: the loss tolerance, positive.
        steps: Lanczos steps per probe.  probes: Rademacher probes.  seed: of the probes.

    Returns:
        (value, lower, upper) in [0, 1]; the interval combines quadrature bounds and the probes' 95% confidence.

    Raises:
        ValueError: not square, or a negative R, an epsilon, steps or probes that are not positive.
    """
    if not pruned_norm >= 0:
        raise ValueError(f"pruned_norm must not be negative, got {pruned_norm}")
    if probes < 1:
        raise ValueError(f"probes must be at least 1, got {probes}")
    spectrum = probe_spectra(
        operator,
        steps=steps,
        probes=range(probes),
        seed=seed,
        semidefinite=getattr(operator, "operator", "") == "ggn",
    )
    estimate = spectrum.width(pruned_norm, epsilon)
    return float(estimate.value), float(estimate.lower), float(estimate.upper)
