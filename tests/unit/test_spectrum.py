"""Estimates from random probes: width, mean curvature, thresholds, and their standard errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwprune.spectral.lanczos import Jacobi
from gwprune.spectral.probes import probe_spectra
from gwprune.spectral.spectrum import CONFIDENCE, ProbeSpectrum, Spectrum
from gwprune.spectral.width import squared_width

from .helpers_spectra import (
    KINDS,
    Sample,
    make_sample,
    rotated,
    samples,
    width_function,
)


def formula(matrix: np.ndarray, norm: float, epsilon: float) -> float:
    return float(np.mean(2 * epsilon / (2 * epsilon + norm**2 * np.abs(np.linalg.eigvalsh(matrix)))))


def test_estimate_is_the_mean_over_probes():
    matrix = make_sample("indefinite", 40, 24).matrix
    spectra = [probe_spectra(matrix, steps=40, probes=[number], seed=0) for number in range(3)]
    joined = Spectrum(tuple(spectrum.probes[0] for spectrum in spectra))
    norms = np.array([[0.5, 1.0], [2.0, 4.0]])
    values = [spectrum.width(norms, 0.1).value for spectrum in spectra]
    assert values[0].shape == (2, 2)
    np.testing.assert_allclose(joined.width(norms, 0.1).value, np.mean(values, axis=0), rtol=1e-12)
    errors = [spectrum.width(norms, 0.1).standard_error for spectrum in spectra]
    np.testing.assert_allclose(
        joined.width(norms, 0.1).standard_error, np.sqrt(np.mean(np.square(errors), axis=0) / 3), rtol=1e-9
    )


def test_spectrum_refuses_no_probes_and_probes_of_different_matrices():
    jacobi = Jacobi(np.array([1.0]), np.array([0.0]))
    with pytest.raises(ValueError, match="at least one probe, all of the same matrix"):
        Spectrum(())
    for other in (ProbeSpectrum(jacobi, 4, 3), ProbeSpectrum(jacobi, 3, 2), ProbeSpectrum(jacobi, 3, 3, True)):
        with pytest.raises(ValueError, match="all of the same matrix"):
            Spectrum((ProbeSpectrum(jacobi, 3, 3), other))


@settings(max_examples=30)
@given(sample=samples(30), steps=st.integers(1, 30))
def test_width_falls_with_the_norm_rises_with_epsilon_and_stays_within_its_interval(sample: Sample, steps: int):
    spectrum = probe_spectra(sample.matrix, steps=steps, probes=range(2), seed=0)
    norms = np.append(0.0, np.logspace(-3, 4, 30))
    width = spectrum.width(norms, 0.1)
    assert (width.value[0], width.upper[0]) == pytest.approx((1.0, 1.0), abs=1e-12)
    assert (np.diff(width.value) <= 1e-12).all()
    assert ((width.lower >= 0) & (width.lower <= width.value)).all()
    assert ((width.value <= width.upper) & (width.upper <= 1)).all()
    assert (spectrum.width(norms, 0.2).value >= width.value - 1e-12).all()
    # omega depends on eps / R^2 alone.
    np.testing.assert_allclose(spectrum.width(2 * norms, 0.4).value, width.value, rtol=1e-9)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_mean_curvature_is_the_mean_of_the_absolute_eigenvalues(kind: str):
    sample = make_sample(kind, 60, 25)
    expected = float(np.abs(sample.eigenvalues).mean())
    estimate = probe_spectra(sample.matrix, steps=60, probes=range(20), seed=0).mean_curvature()
    assert estimate.lower <= expected <= estimate.upper
    assert estimate.value == pytest.approx(expected, abs=4 * estimate.standard_error + 1e-12)
    assert estimate.standard_error < 0.25 * expected


def test_mean_curvature_of_a_diagonal_matrix_is_its_mean_whatever_the_probe():
    eigenvalues = np.linspace(-2, 5, 30)
    estimate = probe_spectra(np.diag(eigenvalues), steps=30, probes=[0], seed=4).mean_curvature()
    assert estimate.value == pytest.approx(np.abs(eigenvalues).mean(), abs=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_zero_matrix_has_width_one(dtype: type):
    spectrum = probe_spectra(np.zeros((7, 7), dtype), steps=3, probes=range(2), seed=0)
    assert spectrum.active == 0
    estimate = spectrum.width(np.array([0.0, 1.0, 1e6]), 0.1)
    for part in (estimate.value, estimate.lower, estimate.upper):
        np.testing.assert_array_equal(part, np.ones(3))
    np.testing.assert_array_equal(estimate.standard_error, np.zeros(3))
    assert spectrum.mean_curvature().value == 0.0
    assert spectrum.width_threshold(np.arange(8.0), 0.1).value == 1.0


@pytest.mark.parametrize("c", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("kind", ["indefinite", "clustered", "outlier", "low_rank"])
def test_reported_standard_error_covers_the_spread_over_probes(kind: str, c: float):
    sample = make_sample(kind, 24, 26)
    spectrum = probe_spectra(sample.matrix, steps=24, probes=range(400), seed=1)
    values = np.array([float(probe.integrals(width_function(c))[0]) for probe in spectrum.probes])
    reported = float(spectrum.width(1.0, c / 2).standard_error) * np.sqrt(400)
    spread = values.std(ddof=1)
    assert spread <= 1.15 * reported
    exact = float(sample.trace(width_function(c))) / 24
    assert values.mean() == pytest.approx(exact, abs=4 * reported / 20)
    # Hutchinson's variance, 2 sum_{i != j} F_ij^2, is what the spread estimates.
    eigenvalues, vectors = np.linalg.eigh(sample.matrix)
    entries = (vectors * (c / (c + np.abs(eigenvalues)))) @ vectors.T
    truth = np.sqrt(2 * (np.sum(entries**2) - np.sum(np.diag(entries) ** 2))) / 24
    assert spread == pytest.approx(truth, rel=0.15)


def test_reported_standard_error_is_not_wasteful_on_a_rotated_matrix():
    sample = make_sample("indefinite", 100, 27)
    spectrum = probe_spectra(sample.matrix, steps=40, probes=range(200), seed=1)
    values = np.array([float(probe.integrals(width_function(0.3))[0]) for probe in spectrum.probes])
    reported = float(spectrum.width(1.0, 0.15).standard_error) * np.sqrt(200)
    assert values.std(ddof=1) > 0.8 * reported


def test_standard_error_falls_with_the_root_of_the_probes():
    matrix = make_sample("indefinite", 60, 28).matrix
    few, many = (
        float(probe_spectra(matrix, steps=20, probes=range(count), seed=0).width(1.0, 0.1).standard_error)
        for count in (4, 64)
    )
    assert few / many == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("probes", [1, 4])
@pytest.mark.parametrize("kind", ["indefinite", "clustered"])
def test_interval_covers_the_truth_as_often_as_it_says(kind: str, probes: int):
    assert CONFIDENCE == 0.95
    sample = make_sample(kind, 60, 29)
    norm, epsilon = 2.0, 0.2
    exact = formula(sample.matrix, norm, epsilon)
    covered = 0
    for seed in range(200):
        _, lower, upper = squared_width(sample.matrix, norm, epsilon, steps=20, probes=probes, seed=seed)
        covered += lower <= exact <= upper
    assert covered / 200 >= 0.93


def outlier_spectrum() -> tuple[Sample, np.ndarray]:
    """One eigenvalue that dominates the trace, as the top of a network's Hessian does."""
    rng = np.random.default_rng(32)
    eigenvalues = np.append(rng.uniform(-0.02, 0.02, 99), 10.0)
    return Sample(rotated(eigenvalues, rng)), eigenvalues


@pytest.mark.parametrize("probes", [1, 3])
def test_interval_covers_the_truth_where_one_outlier_decides(probes: int):
    sample, eigenvalues = outlier_spectrum()
    exact, curvature = formula(sample.matrix, 0.1, 0.5), np.abs(eigenvalues).mean()
    covered = np.zeros(2)
    for seed in range(200):
        spectrum = probe_spectra(sample.matrix, steps=16, probes=range(probes), seed=seed)
        for index, (estimate, truth) in enumerate(
            ((spectrum.width(0.1, 0.5), exact), (spectrum.mean_curvature(), curvature))
        ):
            covered[index] += estimate.lower <= truth <= estimate.upper
    assert (covered / 200 >= 0.93).all(), f"width and mean curvature are covered in {covered / 2} percent"


def growing_norms(n: int, seed: int) -> np.ndarray:
    weights = np.random.default_rng(seed).standard_normal(n)
    return np.sqrt(np.append(0.0, np.cumsum(np.sort(weights**2))))


@settings(max_examples=60)
@given(sample=samples(40), seed=st.integers(0, 1000), epsilon=st.sampled_from([1e-3, 0.05, 1.0]))
def test_threshold_is_the_crossing_and_the_trace_bound_never_exceeds_it(sample: Sample, seed: int, epsilon: float):
    n, norms = sample.order, growing_norms(sample.order, seed)
    spectrum = probe_spectra(sample.matrix, steps=n, probes=[seed], seed=0)
    width = spectrum.width_threshold(norms, epsilon)
    trace = spectrum.trace_bound(norms, epsilon)
    curve = spectrum.width(norms, epsilon)
    for part in ("value", "lower", "upper"):
        on_or_under = np.flatnonzero(getattr(curve, part) >= np.arange(n + 1) / n)
        if part == "lower":  # need not fall everywhere: the crossing may be any
            assert round(width.lower * n) in on_or_under
        else:
            assert getattr(width, part) == on_or_under.max() / n
    assert 0 <= width.lower <= width.value <= width.upper <= 1
    assert 0 <= trace.lower <= trace.value <= trace.upper <= 1
    assert trace.value <= width.value + 1e-12
    assert trace.lower <= width.upper
    assert width.standard_error == pytest.approx(
        float(spectrum.width(norms[round(width.value * n)], epsilon).standard_error)
    )


def test_threshold_of_a_scaled_identity_by_hand():
    # omega = 1 / (1 + R^2 lambda / (2 eps)), R^2 = k: k/n = 1/(1 + k) at n = 12 gives k = 3.
    spectrum = probe_spectra(np.eye(12), steps=3, probes=[0], seed=0)
    norms = np.sqrt(np.arange(13))
    assert spectrum.width_threshold(norms, 0.5).value == 3 / 12
    assert spectrum.trace_bound(norms, 0.5).value == 3 / 12


def test_thresholds_do_not_depend_on_the_unit_of_the_loss():
    sample, norms = make_sample("indefinite", 50, 30), growing_norms(50, 30)
    results = []
    for unit in (1.0, 1000.0):
        spectrum = probe_spectra(unit * sample.matrix, steps=12, probes=[0], seed=0)
        results.append([getattr(spectrum, method)(norms, 0.1 * unit) for method in ("width_threshold", "trace_bound")])
    for one, other in zip(*results, strict=True):
        assert (one.value, one.lower, one.upper) == (other.value, other.lower, other.upper)
        assert one.standard_error == pytest.approx(other.standard_error, rel=1e-6)


def test_threshold_interval_covers_the_truth():
    sample, norms = make_sample("clustered", 60, 31), growing_norms(60, 31)
    curve = sample.trace(width_function(2 * 0.05 / np.maximum(norms, 1e-9) ** 2)) / 60
    exact = np.flatnonzero(curve >= np.arange(61) / 60).max() / 60
    covered = 0
    for seed in range(60):
        spectrum = probe_spectra(sample.matrix, steps=20, probes=[0], seed=seed)
        found = spectrum.width_threshold(norms, 0.05)
        covered += found.lower <= exact <= found.upper
    assert covered >= 56
