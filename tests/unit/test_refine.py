"""Intervals on demand, where the basis lies, what rounding does, and the certificate on large random matrices."""

from __future__ import annotations

import os
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from gwprune import predict_threshold
from gwprune.spectral.lanczos import Lanczos, lanczos, rademacher
from gwprune.spectral.spectrum import ProbeSpectrum
from gwprune.spectral.probes import probe_spectra, probe_until

from .helpers_spectra import EPS, KINDS, Sample, make_sample, network_like_spectrum, rotated, width_function

EPSILON = 0.1


def network_like(n: int, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    return Sample(rotated(network_like_spectrum(n, rng), rng))


def falling(n: int):
    """A threshold that reads the width at one pruned norm: its interval is that of the width."""
    return lambda spectrum: spectrum.width(1.0, EPSILON)


# --- tolerance --------------------------------------------------------------------------------------------------


def test_refine_stops_when_the_interval_is_narrow_enough():
    sample = network_like(300)
    matrix = torch.from_numpy(sample.matrix)
    wide, met_wide = refine(matrix, falling(300), 0.3, steps=200, probes=1, seed=0)
    found = wide.width(1.0, EPSILON)
    assert met_wide
    assert found.upper - found.lower <= 0.3
    assert wide.steps < 200


def test_refine_adds_probes_when_chance_keeps_the_interval_open():
    sample = network_like(300)
    matrix = torch.from_numpy(sample.matrix)
    one, _ = refine(matrix, falling(300), 1e-9, steps=60, probes=1, seed=0)
    exact = probe_spectra(matrix, steps=300, probes=[0], seed=0).width(1.0, EPSILON)
    goal = 0.6 * (exact.upper - exact.lower)  # more than quadrature can give with one probe
    many, met = refine(matrix, falling(300), goal, steps=3000, probes=1, seed=0)
    found = many.width(1.0, EPSILON)
    assert met
    assert len(many.probes) > 1
    assert found.upper - found.lower <= goal
    assert len({probe.jacobi.steps for probe in many.probes}) == 1
    assert sum(probe.jacobi.steps for probe in one.probes) <= 60
    assert np.abs(found.value - sample.trace(width_function(2 * EPSILON)) / 300).max() <= goal


def test_refine_says_that_the_steps_were_spent():
    matrix = torch.from_numpy(network_like(200).matrix)
    spectrum, met = refine(matrix, falling(200), 1e-6, steps=24, probes=2, seed=0)
    assert not met
    assert len(spectrum.probes) >= 2
    assert sum(probe.jacobi.steps for probe in spectrum.probes) <= 24


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan")])
def test_refine_refuses_a_tolerance_that_is_not_positive(tolerance: float):
    with pytest.raises(ValueError, match="tolerance must be positive"):
        refine(torch.eye(4), falling(4), tolerance, steps=4, probes=1, seed=0)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))
    data = torch.randn(256, 12), torch.randint(4, (256,))
    return model, functional.cross_entropy, data


def test_prediction_keeps_to_the_tolerance_and_says_so(network):
    loose = predict_threshold(*network, epsilon=0.05, steps=400, tolerance=0.2)
    assert loose.tolerance_met is True
    assert loose.upper - loose.lower <= 0.2
    tight = predict_threshold(*network, epsilon=0.05, steps=8, tolerance=1e-4)
    assert tight.tolerance_met is False
    assert tight.steps * tight.probes <= 8
    assert predict_threshold(*network, epsilon=0.05, steps=8).tolerance_met is None
    narrow = predict_threshold(*network, epsilon=0.05, steps=4000, tolerance=0.05)
    assert narrow.tolerance_met
    assert narrow.lower <= loose.upper
    assert loose.lower <= narrow.upper


def test_tolerance_of_the_quadratic_model_is_its_bracket(network):
    found = predict_threshold(*network, epsilon=0.05, predictor="quadratic", tolerance=0.01)
    assert found.tolerance_met
    assert found.upper - found.lower <= 0.01


@pytest.mark.parametrize("tolerance", [0.0, 1.0, -0.1, float("nan")])
def test_tolerance_out_of_range_is_named(network, tolerance: float):
    with pytest.raises(ValueError, match=f"tolerance must be between 0 and 1, got {tolerance}"):
        predict_threshold(*network, epsilon=0.05, tolerance=tolerance)


# --- where the basis lies ---------------------------------------------------------------------------------------


def test_every_storage_gives_the_same_coefficients(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    matrix = torch.from_numpy(network_like(200).matrix)
    start = rademacher(200, 0).double()
    runs = {storage: lanczos(matrix, [start], 80, storage=storage)[0] for storage in ("device", "host", "disk")}
    for run in runs.values():
        np.testing.assert_array_equal(run.alpha, runs["device"].alpha)
        np.testing.assert_array_equal(run.beta, runs["device"].beta)
    assert list(tmp_path.iterdir()) == []


def test_every_run_of_the_statistical_dimension_keeps_to_the_storage(network, monkeypatch):
    seen = []

    class Watched(Lanczos):
        def __init__(self, *arguments, **options):
            seen.append(options["storage"])
            super().__init__(*arguments, **options)

    monkeypatch.setattr("gwprune.spectral.lanczos.Lanczos", Watched)
    monkeypatch.setattr("gwprune.spectral.cones.Lanczos", Watched)
    predict_threshold(*network, epsilon=0.05, predictor="statistical_dimension", storage="host", steps=32)
    assert len(seen) > 1
    assert set(seen) == {"host"}


def test_unknown_storage_is_named():
    with pytest.raises(ValueError, match="storage must be one of device, host, disk, got 'tape'"):
        Lanczos(torch.ones(3), 2, storage="tape")


def test_a_disk_that_is_too_small_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    free = os.statvfs(tmp_path)
    start = torch.ones(1_000_000)
    steps = free.f_bavail * free.f_frsize // 4_000_000 + 1000
    with pytest.raises(OSError, match=f"{tmp_path} has .* MiB free, the Lanczos basis needs .*; set TMPDIR"):
        Lanczos(start, min(steps, 1_000_000), storage="disk")


def test_one_pass_of_reorthogonalisation_keeps_the_basis_orthogonal():
    sample = make_sample("outlier", 200, 3)
    matrix = torch.from_numpy(sample.matrix)
    run, vectors = Lanczos(rademacher(200, 1).double(), 150), []
    while not run.done:
        vectors.append(run.vector.clone())
        run.absorb(matrix @ run.vector)
    basis = torch.stack(vectors)
    gram = basis @ basis.t()
    assert (gram - torch.eye(len(basis), dtype=gram.dtype)).abs().max() < 1e-10


# --- rounding ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), n=st.integers(2, 120), seed=st.integers(0, 10**6))
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


def test_precision_is_that_of_the_operator():
    matrix = network_like(60).matrix
    for dtype, expected in ((torch.float32, torch.float32), (torch.float64, torch.float64)):
        found = probe_spectra(torch.from_numpy(matrix).to(dtype), steps=4, probes=[0], seed=0)
        assert found.probes[0].precision == torch.finfo(expected).eps
    single = probe_spectra(matrix.astype(np.float32), steps=4, probes=[0], seed=0)
    assert single.probes[0].rounding > 1e6 * probe_spectra(matrix, steps=4, probes=[0], seed=0).probes[0].rounding


# --- the certificate --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(210))
def test_certificate_on_random_matrices_at_every_step(seed: int):
    """Order up to 300, every kind in turn: containment of the probe's exact value, and monotone bounds."""
    rng = np.random.default_rng(1000 + seed)
    kind, n = (
        sorted(KINDS)[seed % len(KINDS)],
        300 if seed % 70 == 0 else int(np.exp(rng.uniform(np.log(3), np.log(150)))),
    )
    sample = make_sample(kind, n, seed, semidefinite=bool(seed % 2))
    start = rademacher(n, seed).double()
    jacobi = lanczos(torch.from_numpy(sample.matrix), [start], n)[0]
    c = np.array([1e-3, 3e-2, 1.0]) * (sample.norm or 1.0)
    function = width_function(c)
    exact, slack = sample.quadratic_form(start.numpy(), function) / n, 1e-12 + 10 * EPS * sample.norm / c
    before = np.zeros(len(c)), np.ones(len(c))
    for steps in range(1, jacobi.steps + 1):
        probe = ProbeSpectrum(jacobi.truncated(steps), n, n, semidefinite=bool(seed % 2))
        _, lower, upper = probe.integrals(function)
        assert (lower <= exact + slack).all()
        assert (upper >= exact - slack).all()
        assert (lower >= before[0] - 100 * slack).all()
        assert (upper <= before[1] + 100 * slack).all()
        before = lower, upper
