"""The point estimate of an integral: inside the certified bounds, and nearer than their middle where it leaves it."""

from __future__ import annotations

import numpy as np
import pytest

from gwprune.spectral.lanczos import Jacobi, lanczos, rademacher
from gwprune.spectral.spectrum import ProbeSpectrum

from .helpers_spectra import signs, width_function

ORDER = 2000


class Diagonal:
    """Of these eigenvalues; the quadratic form of random signs is then the trace, whatever the signs."""

    def __init__(self, eigenvalues: np.ndarray):
        self.eigenvalues, self.shape = eigenvalues, (len(eigenvalues),) * 2

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        return self.eigenvalues * x


def emptied_by_l1(rng: np.random.Generator) -> np.ndarray:
    """Half of them 0, a cluster of both signs near 0 with a heavy tail, outliers."""
    tail = signs(ORDER // 2 - 10, rng) * np.exp(2.5 * rng.standard_normal(ORDER // 2 - 10) - 9)
    return np.concatenate([np.zeros(ORDER // 2), tail, np.geomspace(1, 40, 10)])


SPECTRA = {
    "emptied by l1": emptied_by_l1,
    "every order of magnitude": lambda rng: signs(ORDER, rng) * 10.0 ** rng.uniform(-8, 0, ORDER),
    "heavy tail": lambda rng: np.clip(1e-3 * rng.standard_t(2, ORDER), -5, 5),
    # Here the fraction of the interval falls with every step, and a straight line leads too far.
    "power law": lambda rng: signs(ORDER, rng) * np.arange(1, ORDER + 1) ** -1.5,
}
SIZES = np.geomspace(1e-6, 1, 13)  # of c in c / (c + |lambda|)


def run_of(name: str) -> tuple[Jacobi, np.ndarray]:
    """The longest run, and the exact traces for every c."""
    matrix = Diagonal(SPECTRA[name](np.random.default_rng(3)))
    (jacobi,) = lanczos(matrix, [rademacher(ORDER, 0).double()], 128)
    return jacobi, width_function(SIZES)(np.abs(matrix.eigenvalues)).mean(-1)


def estimates(jacobi: Jacobi, steps: int, **options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value, middle of the bounds, and their distance."""
    probe = ProbeSpectrum(jacobi.truncated(steps), ORDER, ORDER, **options)
    value, lower, upper = probe.integrals(width_function(SIZES))
    return value, (lower + upper) / 2, upper - lower


@pytest.mark.parametrize("name", [name for name in SPECTRA if name != "power law"])
def test_it_is_nearer_than_the_middle_where_the_interval_is_short(name: str):
    jacobi, exact = run_of(name)
    errors = []
    for steps in (32, 64, 96, 128):
        value, middle, gap = estimates(jacobi, steps)
        short = (gap < 0.2) & (gap > 1e-6)
        assert short.any()
        errors += list(zip(*(np.abs(x - exact)[short] / gap[short] for x in (value, middle)), strict=True))
    own, of_middle = np.array(errors).T
    assert own.mean() < 0.7 * of_middle.mean()


@pytest.mark.parametrize("name", SPECTRA)
def test_it_stays_within_a_quarter_of_the_bounds_from_their_middle(name: str):
    jacobi, _ = run_of(name)
    for steps in (8, 12, 33, 128):
        value, middle, gap = estimates(jacobi, steps)
        assert (np.abs(value - middle) <= gap / 4 + 1e-9).all()


def test_it_is_the_middle_where_there_is_nothing_to_go_by():
    jacobi, _ = run_of("every order of magnitude")
    value, middle, gap = estimates(jacobi, 7)
    np.testing.assert_allclose(value, middle, atol=1e-9)
    value, middle, gap = estimates(jacobi, 64)
    assert (gap > 0.3).any()
    np.testing.assert_allclose(value[gap > 0.3], middle[gap > 0.3], atol=1e-9)


def test_it_is_the_gauss_rule_where_that_is_exact():
    jacobi, exact = run_of("heavy tail")
    ended = Jacobi(jacobi.alpha[:20], np.append(jacobi.beta[:19], 0.0))
    value, _, gap = estimates(ended, 20)
    rule = ProbeSpectrum(ended, ORDER, ORDER).rules["gauss"]
    np.testing.assert_allclose(value, width_function(SIZES)(np.abs(rule.nodes)) @ rule.weights, rtol=1e-12)
    assert gap.max() < 1e-6
