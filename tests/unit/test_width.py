"""The width and its certificate: against dense eigenvalues, at every number of steps, for every kind of spectrum."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator
from torch.nn import functional as F

import gwprune
from gwprune.curvature.operator import curvature_operator
from gwprune.spectral.lanczos import Jacobi, lanczos, rademacher
from gwprune.spectral.width import (
    CONFIDENCE,
    ProbeSpectrum,
    Spectrum,
    crossing,
    first_rise,
    probe_spectra,
    squared_width,
)

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


# --- the certificate --------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(sample=samples(60), seed=st.integers(0, 10**6))
def test_bounds_enclose_the_probe_at_every_step_and_only_tighten(sample: Sample, seed: int):
    check_certificate(sample, seed, None, semidefinite=False)


@settings(max_examples=120)
@given(sample=samples(60, semidefinite=True), seed=st.integers(0, 10**6))
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


def test_single_precision_bounds_hold_to_single_precision():
    rng = np.random.default_rng(16)
    sample = Sample(rotated(network_like_spectrum(200, rng), rng))
    matrix, start = torch.from_numpy(sample.matrix).float(), rademacher(200, 0)
    jacobi = lanczos(matrix, [start], 100)[0]
    c = np.array([1e-2, 1e-1, 1.0, 10.0])
    exact = sample.quadratic_form(start.double().numpy(), width_function(c)) / 200
    slack = 10 * np.finfo(np.float32).eps * sample.norm / c
    for steps in (1, 2, 5, 20, 60, jacobi.steps):
        _, lower, upper = ProbeSpectrum(jacobi.truncated(min(steps, jacobi.steps)), 200, 200).integrals(
            width_function(c)
        )
        assert (lower <= exact + slack).all()
        assert (upper >= exact - slack).all()


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


# --- rows that are exactly zero ---------------------------------------------------------------------------------


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


def test_zero_rows_take_the_probes_variance_with_them():
    rng = np.random.default_rng(19)
    whole = with_zero_rows(np.eye(50), 100, rng)
    estimate = probe_spectra(whole, steps=5, probes=[0], seed=0).width(1.0, 0.5)
    # f = 1/2 on the identity and 1 on the rest: no probe can err.
    assert float(estimate.value) == pytest.approx(0.75, abs=1e-12)
    assert float(estimate.standard_error) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_zero_matrix_has_width_one(dtype: type):
    spectrum = probe_spectra(np.zeros((7, 7), dtype), steps=3, probes=range(2), seed=0)
    assert spectrum.active == 0
    estimate = spectrum.width(np.array([0.0, 1.0, 1e6]), 0.1)
    for part in (estimate.value, estimate.lower, estimate.upper):
        np.testing.assert_array_equal(part, np.ones(3))
    np.testing.assert_array_equal(estimate.standard_error, np.zeros(3))
    assert spectrum.mean_curvature().value == 0.0
    assert spectrum.width_threshold(lambda count: 1.0 * count, 0.1).value == 1.0


def test_a_row_that_cancels_on_signs_is_not_taken_for_zero():
    matrix = np.array([[1.0, 1.0], [1.0, 1.0]])
    for seed in range(8):
        assert probe_spectra(matrix, steps=2, probes=[0], seed=seed).active == 2


# --- squared_width ----------------------------------------------------------------------------------------------


def formula(matrix: np.ndarray, norm: float, epsilon: float) -> float:
    return float(np.mean(2 * epsilon / (2 * epsilon + norm**2 * np.abs(np.linalg.eigvalsh(matrix)))))


@pytest.mark.parametrize(
    "wrap",
    [np.asarray, aslinearoperator, scipy.sparse.csr_array, torch.from_numpy],
    ids=["numpy", "linear_operator", "sparse", "torch"],
)
@pytest.mark.parametrize(("norm", "epsilon"), [(0.3, 0.01), (2.0, 0.1), (20.0, 0.05)])
def test_squared_width_agrees_with_the_eigenvalues(wrap, norm: float, epsilon: float):
    matrix = make_sample("indefinite", 80, 20).matrix
    value, lower, upper = squared_width(wrap(matrix), norm, epsilon, steps=40, probes=8, seed=2)
    assert all(type(part) is float for part in (value, lower, upper))
    expected = formula(matrix, norm, epsilon)
    assert 0 <= lower <= expected <= upper <= 1
    assert value == pytest.approx(expected, abs=0.03)
    assert upper - lower < 0.12
    reference = squared_width(matrix, norm, epsilon, steps=40, probes=8, seed=2)
    np.testing.assert_allclose((value, lower, upper), reference, atol=1e-9)


def test_squared_width_of_a_diagonal_matrix_is_exact_after_all_steps():
    eigenvalues = np.array([-3.0, 0.0, 1e-6, 0.2, 5.0, 80.0])
    value, _, _ = squared_width(np.diag(eigenvalues), 1.7, 0.2)
    assert value == pytest.approx(formula(np.diag(eigenvalues), 1.7, 0.2), abs=1e-13)


def test_squared_width_of_a_scaled_identity_needs_one_step():
    value, lower, upper = squared_width(4.0 * np.eye(20), 0.5, 0.5, steps=1)
    for part in (value, lower, upper):
        assert part == pytest.approx(0.5, abs=1e-7)


def test_squared_width_takes_integer_matrices():
    matrix = np.array([[2, 1, 0], [1, 3, 0], [0, 0, 0]])
    expected = squared_width(matrix.astype(float), 1.0, 0.5)
    assert squared_width(matrix, 1.0, 0.5) == expected
    assert squared_width(torch.from_numpy(matrix), 1.0, 0.5) == pytest.approx(expected)


def test_squared_width_at_the_ends():
    matrix = make_sample("positive", 12, 21).matrix
    value, lower, upper = squared_width(matrix, 0.0, 0.1)
    assert (value, lower, upper) == pytest.approx((1.0, 1.0, 1.0), abs=1e-12)
    assert lower <= value <= upper <= 1
    value, lower, upper = squared_width(matrix, 1e8, 0.1)
    assert 0.0 <= lower <= value <= upper < 1e-9


def test_squared_width_depends_on_the_seed_alone():
    matrix = make_sample("indefinite", 60, 22).matrix
    first = squared_width(matrix, 2.0, 0.1, steps=10, seed=5)
    torch.manual_seed(1)
    assert squared_width(matrix, 2.0, 0.1, steps=10, seed=5) == first
    assert squared_width(matrix, 2.0, 0.1, steps=10, seed=6) != first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pruned_norm": -1.0}, "pruned_norm must not be negative"),
        ({"pruned_norm": float("nan")}, "pruned_norm must not be negative"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"epsilon": -0.1}, "epsilon must be positive"),
        ({"epsilon": float("nan")}, "epsilon must be positive"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"probes": 0}, "probes must be at least 1"),
        ({"operator": np.ones((2, 3))}, "must be square"),
    ],
)
def test_squared_width_refuses_nonsense(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        squared_width(**{"operator": np.eye(3), "pruned_norm": 1.0, "epsilon": 0.1, **arguments})


def test_squared_width_is_exported():
    assert gwprune.squared_width is squared_width


# --- spectra ----------------------------------------------------------------------------------------------------


def test_probes_of_one_spectrum_are_those_of_single_spectra():
    matrix = make_sample("clustered", 40, 23).matrix
    together = probe_spectra(matrix, steps=9, probes=[0, 3, 4], seed=7)
    assert together.steps == 9
    for number, probe in zip([0, 3, 4], together.probes, strict=True):
        alone = probe_spectra(matrix, steps=9, probes=[number], seed=7).probes[0]
        np.testing.assert_allclose(probe.jacobi.alpha, alone.jacobi.alpha, rtol=1e-7, atol=1e-9)


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


# --- mean curvature ---------------------------------------------------------------------------------------------


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


# --- standard error ---------------------------------------------------------------------------------------------


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


# --- crossing ---------------------------------------------------------------------------------------------------


falling = st.lists(st.floats(0, 1), min_size=1, max_size=60).map(lambda values: [1.0, *sorted(values, reverse=True)])


@settings(max_examples=200)
@given(curve=falling)
@example(curve=[1.0, 1.0])
@example(curve=[1.0, 1.0, 1.0])
@example(curve=[1.0, 0.0])
@example(curve=[1.0, 0.5, 0.5])
@example(curve=[1.0, 1.0, 1.0, 0.999])
def test_crossing_is_the_largest_count_on_or_under_the_curve(curve: list[float]):
    dimension = len(curve) - 1
    expected = max(count for count in range(dimension + 1) if curve[count] >= count / dimension)
    assert crossing(lambda count: curve[count], dimension) == expected / dimension


def test_crossing_asks_a_logarithmic_number_of_times():
    asked = []
    dimension = 10**7
    found = crossing(lambda count: asked.append(count) or 1 - 0.5 * count / dimension, dimension)
    assert found == pytest.approx(2 / 3, abs=1 / dimension)
    assert len(asked) < 30


# --- first rise -------------------------------------------------------------------------------------------------


def brute_first(rise, dimension: int, epsilon: float) -> int | None:
    return next((count for count in range(dimension + 1) if rise(count) >= epsilon), None)


@settings(max_examples=150)
@given(
    dimension=st.integers(1, 3000),
    power=st.floats(0.2, 30),
    epsilon=st.floats(0.01, 1.2),
    resolution=st.sampled_from([1e-4, 1e-2]),
)
def test_first_rise_brackets_the_crossing_of_a_monotone_function(dimension, power, epsilon, resolution):
    def rise(count: int) -> float:
        return (count / dimension) ** power

    lower, upper, evaluations = first_rise(rise, dimension, epsilon, resolution)
    first = brute_first(rise, dimension, epsilon)
    if first is None:
        assert (lower, upper) == (1.0, 1.0)
        return
    assert lower < first / dimension <= upper + 1e-12
    low, high = round(lower * dimension), round(upper * dimension)
    assert high - low <= max(1, resolution * dimension)
    # Near 1 what counts is the fraction that remains.
    assert high - low <= max(1, 0.1 * (dimension - low))
    assert evaluations <= 60


@settings(max_examples=100)
@given(seed=st.integers(0, 10**6), dimension=st.integers(2, 2000))
def test_first_rise_on_any_function_ends_where_it_steps_over_epsilon(seed: int, dimension: int):
    values = np.random.default_rng(seed).uniform(0, 1, dimension + 1)
    values[0] = 0.0
    asked = []

    def rise(count: int) -> float:
        asked.append(count)
        return float(values[count])

    lower, upper, evaluations = first_rise(rise, dimension, 0.8)
    assert evaluations == len(asked) == len(set(asked))
    low, high = round(lower * dimension), round(upper * dimension)
    assert values[low] < 0.8
    if upper < 1 or values[dimension] >= 0.8:
        assert low < high
        assert values[high] >= 0.8
        assert all(values[count] < 0.8 for count in asked if count <= low)
        assert all(values[count] >= 0.8 for count in asked if high <= count <= max(asked) and count <= high)


def test_first_rise_finds_the_first_of_several_crossings():
    # Up through epsilon at 0.8, down at 0.9, up again at 0.99: the first counts.
    def rise(count: int) -> float:
        s = count / 10_000
        return 1.0 if 0.8 <= s < 0.9 or s >= 0.99 else 0.0

    lower, upper, _ = first_rise(rise, 10_000, 0.5)
    assert lower < 0.8 <= upper <= 0.8002


def test_first_rise_that_never_comes():
    lower, upper, evaluations = first_rise(lambda count: -float(count), 1000, 0.1)
    assert (lower, upper) == (1.0, 1.0)
    assert 1 < evaluations <= 40


# --- thresholds -------------------------------------------------------------------------------------------------


def growing_norms(n: int, seed: int) -> np.ndarray:
    weights = np.random.default_rng(seed).standard_normal(n)
    return np.sqrt(np.append(0.0, np.cumsum(np.sort(weights**2))))


@settings(max_examples=60)
@given(sample=samples(40), seed=st.integers(0, 1000), epsilon=st.sampled_from([1e-3, 0.05, 1.0]))
def test_threshold_is_the_crossing_and_the_trace_bound_never_exceeds_it(sample: Sample, seed: int, epsilon: float):
    n, norms = sample.order, growing_norms(sample.order, seed)
    spectrum = probe_spectra(sample.matrix, steps=n, probes=[seed], seed=0)
    width = spectrum.width_threshold(lambda count: norms[count], epsilon)
    trace = spectrum.trace_bound(lambda count: norms[count], epsilon)
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
    assert spectrum.width_threshold(lambda count: norms[count], 0.5).value == 3 / 12
    assert spectrum.trace_bound(lambda count: norms[count], 0.5).value == 3 / 12


def test_thresholds_do_not_depend_on_the_unit_of_the_loss():
    sample, norms = make_sample("indefinite", 50, 30), growing_norms(50, 30)
    results = []
    for unit in (1.0, 1000.0):
        spectrum = probe_spectra(unit * sample.matrix, steps=12, probes=[0], seed=0)
        results.append(
            [
                getattr(spectrum, method)(lambda count: norms[count], 0.1 * unit)
                for method in ("width_threshold", "trace_bound")
            ]
        )
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
        found = spectrum.width_threshold(lambda count: norms[count], 0.05)
        covered += found.lower <= exact <= found.upper
    assert covered >= 56


# --- a network whose curvature fits in memory -------------------------------------------------------------------


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
