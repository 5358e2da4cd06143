"""The bounds of an integral: against dense eigenvalues, at every number of steps, for every kind of spectrum."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from gwprune.curvature.operator import curvature_operator
from gwprune.spectral.lanczos import Jacobi, lanczos, rademacher
from gwprune.spectral.probes import probe_spectra
from gwprune.spectral.spectrum import ProbeSpectrum, Spectrum

from .helpers_spectra import (
    EPS,
    KINDS,
    Sample,
    digits,
    make_sample,
    network_like_spectrum,
    rotated,
    samples,
    width_function,
)

# c = 2 eps / R^2 in units of the norm, and one that lies inside the cluster at 0.
RELATIVE = np.array([1e-5, 1e-3, 3e-2, 1.0, 30.0])

SIZES = np.array([1e-8])


def scales(sample: Sample) -> np.ndarray:
    return np.concatenate([RELATIVE * (sample.norm or 1.0), SIZES])


def tolerance(sample: Sample) -> np.ndarray:
    """1e-9, and what rounding of the matrix itself does to f: its slope at 0 is 1/c."""
    return 1e-9 + 100 * EPS * sample.norm / scales(sample)


def full_run(sample: Sample, seed: int, steps: int | None = None, **options) -> tuple[Jacobi, np.ndarray]:
    start = rademacher(sample.order, seed).double()
    steps = sample.order if steps is None else steps
    return lanczos(torch.from_numpy(sample.matrix), [start], steps, **options)[0], start.numpy()


def check_certificate(sample: Sample, seed: int, counts: list[int] | None, semidefinite: bool) -> None:
    jacobi, probe = full_run(sample, seed, None if counts is None else max(counts))
    function, slack, n = width_function(scales(sample)), tolerance(sample), sample.order
    exact = sample.quadratic_form(probe, function) / n
    best_lower, best_upper = np.zeros(len(exact)), np.ones(len(exact))
    for steps in counts or range(1, jacobi.steps + 1):
        if steps > jacobi.steps:
            break
        value, lower, upper = ProbeSpectrum(jacobi.truncated(steps), n, n, semidefinite).integrals(function)
        assert (lower <= value).all()
        assert (value <= upper).all()
        assert (lower <= exact + slack).all(), f"{steps} steps: lower bound above by {np.max(lower - exact)}"
        assert (upper >= exact - slack).all(), f"{steps} steps: upper bound below by {np.max(exact - upper)}"
        assert (lower >= best_lower - slack).all(), f"{steps} steps: lower bound fell"
        assert (upper <= best_upper + slack).all(), f"{steps} steps: upper bound rose"
        best_lower, best_upper = np.maximum(best_lower, lower), np.minimum(best_upper, upper)


@settings(max_examples=100)
@given(sample=samples(40), seed=st.integers(0, 10**6))
def test_bounds_enclose_the_probe_at_every_step_and_only_tighten(sample: Sample, seed: int):
    check_certificate(sample, seed, None, semidefinite=False)


@settings(max_examples=60)
@given(sample=samples(40, semidefinite=True), seed=st.integers(0, 10**6))
def test_semidefinite_bounds_enclose_the_probe_at_every_step_and_only_tighten(sample: Sample, seed: int):
    check_certificate(sample, seed, None, semidefinite=True)


@pytest.mark.parametrize("semidefinite", [False, True])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_bounds_enclose_the_probe_on_larger_matrices(kind: str, semidefinite: bool):
    sample = make_sample(kind, 150, 11, semidefinite=semidefinite)
    check_certificate(sample, 1, [1, 2, 3, 4, 9, 32, 75, 149, 150], semidefinite)


def test_bounds_enclose_the_probe_on_a_spectrum_like_that_of_a_network():
    rng = np.random.default_rng(12)
    sample = Sample(rotated(network_like_spectrum(300, rng), rng))
    check_certificate(sample, 0, [1, 2, 3, 8, 33, 64, 128, 200, 299], semidefinite=False)


def test_the_whole_run_is_exact_and_the_interval_closes():
    sample = make_sample("indefinite", 40, 13)
    jacobi, probe = full_run(sample, 0)
    function = width_function(scales(sample))
    value, lower, upper = ProbeSpectrum(jacobi, 40, 40).integrals(function)
    np.testing.assert_allclose(lower, upper, rtol=1e-11)  # rounding is all that is left
    np.testing.assert_allclose(value, sample.quadratic_form(probe, function) / 40, atol=1e-12)


def test_interval_shrinks_to_something_useful():
    rng = np.random.default_rng(14)
    sample = Sample(rotated(network_like_spectrum(300, rng), rng))
    jacobi, _ = full_run(sample, 0, 128)
    widths = []
    for steps in (8, 32, 128):
        _, lower, upper = ProbeSpectrum(jacobi.truncated(steps), 300, 300).integrals(width_function([1e-3]))
        widths.append(float((upper - lower)[0]))
    assert widths[0] > 2 * widths[1] > 4 * widths[2]
    assert widths[2] < 0.05


def test_knowing_that_the_matrix_is_semidefinite_tightens_both_sides():
    rng = np.random.default_rng(15)
    sample = Sample(rotated(np.abs(network_like_spectrum(300, rng)), rng))
    jacobi, _ = full_run(sample, 0, 40)
    function = width_function(np.array([1e-4, 1e-3, 1e-2]))
    _, lower, upper = ProbeSpectrum(jacobi, 300, 300).integrals(function)
    _, lower_psd, upper_psd = ProbeSpectrum(jacobi, 300, 300, True).integrals(function)
    assert (lower_psd > lower).all()
    assert (upper_psd < upper).all()


@pytest.mark.parametrize("kind", ["clustered", "outlier", "indefinite"])
def test_bounds_hold_without_reorthogonalisation(kind: str):
    sample = make_sample(kind, 60, 17)
    jacobi, probe = full_run(sample, 0, 60, reorthogonalize=False)
    c = np.array([1e-3, 1e-2, 1e-1]) * sample.norm
    exact = sample.quadratic_form(probe, width_function(c)) / 60
    for steps in range(1, jacobi.steps + 1):
        _, lower, upper = ProbeSpectrum(jacobi.truncated(steps), 60, 60).integrals(width_function(c))
        assert (lower <= exact + 1e-6).all(), f"{steps} steps"
        assert (upper >= exact - 1e-6).all(), f"{steps} steps"


@settings(max_examples=40)
@given(kind=st.sampled_from(sorted(KINDS)), n=st.integers(2, 60), seed=st.integers(0, 10**6))
def test_bounds_of_single_precision_products_hold_the_exact_value(kind: str, n: int, seed: int):
    sample = make_sample(kind, n, seed)
    start = rademacher(n, seed)
    jacobi = lanczos(torch.from_numpy(sample.matrix).float(), [start], n)[0]
    # The exact value is that of the matrix in double precision: storing it in single is rounding too.
    function = width_function(np.array([1e-4, 1e-2, 1.0]) * (sample.norm or 1.0))
    exact = sample.quadratic_form(start.double().numpy(), function) / n
    single = float(torch.finfo(torch.float32).eps)
    for steps in range(1, jacobi.steps + 1):
        probe = ProbeSpectrum(jacobi.truncated(steps), n, n, precision=single)
        _, lower, upper = probe.integrals(function)
        assert (lower <= exact + 1e-12).all(), f"{steps} steps: {np.max(lower - exact)}"
        assert (upper >= exact - 1e-12).all(), f"{steps} steps: {np.max(exact - upper)}"


@settings(max_examples=40)
@given(sample=samples(40), seed=st.integers(0, 1000))
def test_mean_curvature_encloses_the_probe_at_every_step(sample: Sample, seed: int):
    jacobi, probe = full_run(sample, seed)
    n = sample.order
    exact = float(sample.quadratic_form(probe, lambda size: size)) / n
    slack = 1e-9 * sample.norm
    for steps in range(1, jacobi.steps + 1):
        estimate = Spectrum((ProbeSpectrum(jacobi.truncated(steps), n, n),)).mean_curvature()
        spread = NormalDist().inv_cdf(0.975) * estimate.standard_error
        assert estimate.upper - spread >= exact - slack
        assert estimate.lower + spread <= exact + slack or estimate.lower == 0.0
        assert estimate.lower <= estimate.value <= estimate.upper
    assert estimate.value == pytest.approx(exact, abs=slack)


def with_zero_rows(block: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """``block`` on a random part of n coordinates, zero elsewhere."""
    matrix = np.zeros((n, n))
    where = np.sort(rng.choice(n, len(block), replace=False))
    matrix[np.ix_(where, where)] = block
    return matrix


@settings(max_examples=30)
@given(sample=samples(25), extra=st.integers(1, 25), seed=st.integers(0, 1000))
def test_zero_rows_are_found_and_count_as_one(sample: Sample, extra: int, seed: int):
    n = sample.order + extra
    block = sample.matrix + np.diag(np.where((sample.matrix == 0).all(1), 1e-3, 0.0))
    whole = Sample(with_zero_rows(block, n, np.random.default_rng(seed)))
    spectrum = probe_spectra(whole.matrix, steps=n, probes=[seed], seed=3)
    assert (spectrum.dimension, spectrum.active) == (n, sample.order)
    function, probe = width_function(scales(whole)), rademacher(n, 3, seed).double().numpy()
    value, lower, upper = spectrum.probes[0].integrals(function)
    expected = whole.quadratic_form(probe, function) / n
    np.testing.assert_allclose(value, expected, atol=tolerance(whole).max())
    assert (lower <= expected + tolerance(whole)).all()
    assert (upper >= expected - tolerance(whole)).all()
    assert (upper >= extra / n).all()


def test_leaving_zero_rows_out_tightens_the_bounds():
    rng = np.random.default_rng(18)
    block = rotated(network_like_spectrum(150, rng), rng)
    whole = Sample(with_zero_rows(block, 300, rng))
    function = width_function(np.array([1e-4, 1e-3, 1e-2]))
    aware = probe_spectra(whole.matrix, steps=48, probes=[0], seed=0).probes[0]
    assert aware.active == 150
    unaware = ProbeSpectrum(full_run(whole, 0, 48)[0], 300, 300)
    exact = whole.quadratic_form(rademacher(300, 0).double().numpy(), function) / 300
    (_, lower, upper), (_, plain_lower, plain_upper) = aware.integrals(function), unaware.integrals(function)
    assert (lower <= exact).all()
    assert (exact <= upper).all()
    assert (upper - lower < plain_upper - plain_lower).all()
    assert (lower > plain_lower).all()


@pytest.fixture(scope="module", params=["hessian", "ggn"])
def network(request: pytest.FixtureRequest) -> tuple[Sample, Spectrum, np.ndarray]:
    net = digits()
    operator = curvature_operator(net.model, F.cross_entropy, net.data, operator=request.param)
    spectrum = probe_spectra(operator, steps=254, probes=[0], seed=0, semidefinite=request.param == "ggn")
    return net.curvature[request.param], spectrum, net.norms


def test_network_has_the_dead_weights_that_its_matrix_shows(network):
    dense, spectrum, _ = network
    alive = int((dense.matrix != 0).any(1).sum())
    assert dense.order == spectrum.dimension == 1184
    assert spectrum.active == alive < 1000


def test_network_bounds_are_on_the_right_sides_of_the_same_probe(network):
    dense, spectrum, norms = network
    whole = spectrum.probes[0]
    function = width_function(2 * 0.02 / norms[[100, 400, 800, 1000, 1100, 1150, 1184]] ** 2)
    exact = dense.quadratic_form(rademacher(1184, 0).double().numpy(), function) / 1184
    gaps = []
    for steps in (1, 2, 3, 16, 32, 64, 128, 254):
        jacobi = whole.jacobi.truncated(min(steps, whole.jacobi.steps))
        probe = ProbeSpectrum(jacobi, whole.dimension, whole.active, whole.semidefinite)
        _, lower, upper = probe.integrals(function)
        assert (lower <= exact + 1e-9).all()
        assert (upper >= exact - 1e-9).all()
        gaps.append((upper - lower).max())
    assert (np.diff(gaps) <= 1e-9).all()
    assert gaps[-1] < (1e-6 if whole.semidefinite else 0.12)


def test_network_curve_agrees_with_the_eigenvalues(network):
    dense, spectrum, norms = network
    removed = np.linspace(1, 1184, 40).round().astype(int)
    epsilon = 0.02
    expected = dense.trace(width_function(2 * epsilon / norms[removed] ** 2)) / 1184
    estimate = spectrum.width(norms[removed], epsilon)
    assert (np.abs(estimate.value - expected) <= 4 * estimate.standard_error + 1e-9).all()
    assert np.abs(estimate.value - expected).max() < 0.02
