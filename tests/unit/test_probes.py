"""Random probes: rows that are exactly zero, numbered probes, and runs until an interval is narrow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gwprune.spectral import probes as probes_module
from gwprune.spectral.lanczos import iterate, lanczos, rademacher
from gwprune.spectral.probes import probe_spectra, probe_until
from gwprune.spectral.spectrum import Estimate, Spectrum

from .helpers_spectra import (
    Sample,
    make_sample,
    network_like_spectrum,
    rotated,
    width_function,
)

EPSILON = 0.1


def network_like(n: int, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    return Sample(rotated(network_like_spectrum(n, rng), rng))


def at_one_norm(spectrum: Spectrum) -> Estimate:
    """A threshold that reads the width at one pruned norm: its interval is that of the width."""
    return spectrum.width(1.0, EPSILON)


def test_a_row_that_cancels_on_signs_is_not_taken_for_zero():
    matrix = np.array([[1.0, 1.0], [1.0, 1.0]])
    for seed in range(8):
        assert probe_spectra(matrix, steps=2, probes=[0], seed=seed).active == 2


def test_zero_rows_take_the_probes_variance_with_them():
    rng = np.random.default_rng(19)
    whole = np.diag(rng.permutation(np.repeat([0.0, 1.0], 50)))
    estimate = probe_spectra(whole, steps=5, probes=[0], seed=0).width(1.0, 0.5)
    # f = 1/2 on the identity and 1 on the rest: no probe can err.
    assert float(estimate.value) == pytest.approx(0.75, abs=1e-12)
    assert float(estimate.standard_error) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("probes", [[0], [0, 1]])
def test_zero_rows_need_no_room_in_the_basis(monkeypatch, probes: list[int]):
    inner = network_like(30).matrix
    whole = np.zeros((50, 50))
    places = np.random.default_rng(5).permutation(50)[:30]
    whole[np.ix_(places, places)] = inner
    lengths = []

    def seen(operator, starts, *arguments, **options):
        lengths.extend(map(len, starts))
        return iterate(operator, starts, *arguments, **options)

    monkeypatch.setattr(probes_module, "iterate", seen)
    found = probe_spectra(whole, steps=12, probes=probes, seed=3)
    assert lengths == [30] * len(probes)
    for number, probe in zip(probes, found.probes, strict=True):
        start = rademacher(50, 3, number).double()
        start[np.setdiff1d(np.arange(50), places)] = 0
        expected = lanczos(torch.from_numpy(whole), [start], 12)[0]
        np.testing.assert_allclose(probe.jacobi.alpha, expected.alpha, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(probe.jacobi.beta, expected.beta, rtol=1e-9, atol=1e-12)


def test_probes_of_one_spectrum_are_those_of_single_spectra():
    matrix = make_sample("clustered", 40, 23).matrix
    together = probe_spectra(matrix, steps=9, probes=[0, 3, 4], seed=7)
    assert together.steps == 9
    for number, probe in zip([0, 3, 4], together.probes, strict=True):
        alone = probe_spectra(matrix, steps=9, probes=[number], seed=7).probes[0]
        np.testing.assert_allclose(probe.jacobi.alpha, alone.jacobi.alpha, rtol=1e-7, atol=1e-9)


def test_precision_is_that_of_the_operator():
    matrix = network_like(60).matrix
    for dtype, expected in ((torch.float32, torch.float32), (torch.float64, torch.float64)):
        found = probe_spectra(torch.from_numpy(matrix).to(dtype), steps=4, probes=[0], seed=0)
        assert found.probes[0].precision == torch.finfo(expected).eps
    single = probe_spectra(matrix.astype(np.float32), steps=4, probes=[0], seed=0)
    assert single.probes[0].rounding > 1e6 * probe_spectra(matrix, steps=4, probes=[0], seed=0).probes[0].rounding


def test_the_error_that_an_operator_tells_of_its_products_widens_the_interval():
    class Rough:
        roundings = 500.0
        shape, dtype = (60, 60), torch.float32
        matrix = torch.from_numpy(network_like(60).matrix).float()

        def __matmul__(self, x: np.ndarray) -> np.ndarray:
            return self.matrix.numpy() @ x

    told = probe_spectra(Rough(), steps=12, probes=[0], seed=0).probes[0]
    assumed = probe_spectra(Rough.matrix.numpy(), steps=12, probes=[0], seed=0).probes[0]
    assert (told.roundings, assumed.roundings) == (500.0, 32.0)
    assert told.rounding > 10 * assumed.rounding


def test_looks_at_the_interval_grow_rarer_with_the_steps():
    asked = []

    def enough(spectrum: Spectrum) -> bool:
        asked.append(spectrum.steps)
        return False

    probe_spectra(network_like(300).matrix, steps=250, probes=[0], seed=0, enough=enough)
    assert asked[:8] == [8, 16, 24, 32, 40, 48, 56, 64]
    assert np.diff(asked).max() > 20
    assert np.diff(asked).max() <= 250 / 8


def test_runs_stop_when_the_interval_is_narrow_enough():
    sample = network_like(300)
    matrix = torch.from_numpy(sample.matrix)
    wide = probe_until(matrix, at_one_norm, 0.3, steps=200, probes=1, seed=0)
    found = wide.width(1.0, EPSILON)
    assert found.upper - found.lower <= 0.3
    assert wide.steps < 200


def test_probes_are_added_where_chance_keeps_the_interval_open():
    sample = network_like(300)
    matrix = torch.from_numpy(sample.matrix)
    one = probe_until(matrix, at_one_norm, 1e-9, steps=60, probes=1, seed=0)
    exact = probe_spectra(matrix, steps=300, probes=[0], seed=0).width(1.0, EPSILON)
    goal = 0.6 * (exact.upper - exact.lower)  # more than quadrature can give with one probe
    many = probe_until(matrix, at_one_norm, goal, steps=3000, probes=1, seed=0)
    found = many.width(1.0, EPSILON)
    assert len(many.probes) > 1
    assert found.upper - found.lower <= goal
    assert len({probe.jacobi.steps for probe in many.probes}) == 1
    assert sum(probe.jacobi.steps for probe in one.probes) <= 60
    assert np.abs(found.value - sample.trace(width_function(2 * EPSILON)) / 300).max() <= goal


def test_runs_end_when_the_steps_are_spent():
    matrix = torch.from_numpy(network_like(200).matrix)
    spectrum = probe_until(matrix, at_one_norm, 1e-6, steps=24, probes=2, seed=0)
    assert len(spectrum.probes) >= 2
    assert sum(probe.jacobi.steps for probe in spectrum.probes) <= 24


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan")])
def test_a_tolerance_that_is_not_positive_is_refused(tolerance: float):
    with pytest.raises(ValueError, match="tolerance must be positive"):
        probe_until(torch.eye(4), at_one_norm, tolerance, steps=4, probes=1, seed=0)
