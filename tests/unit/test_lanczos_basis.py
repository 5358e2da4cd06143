"""The basis of a Lanczos run: what the lost orthogonality may and may not do, and where the basis lies."""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import gwprune
from gwprune.spectral import lanczos as lanczos_module
from gwprune.spectral.lanczos import Lanczos, lanczos, rademacher, storage_for
from gwprune.spectral.quadrature import gauss

from .helpers_spectra import (
    Sample,
    make_sample,
    network_like_spectrum,
    rotated,
    run,
    samples,
    start_for,
    tridiagonal,
    width_function,
)


def outliers() -> Sample:
    rng = np.random.default_rng(8)
    eigenvalues = np.concatenate([rng.uniform(0, 1, 190), 10.0 * 1.5 ** np.arange(10)])
    return Sample(rotated(eigenvalues, rng))


def test_without_reorthogonalisation_copies_appear_and_the_quadrature_survives():
    sample = outliers()
    with_basis, without = (run(sample.matrix, 90, reorthogonalize=flag) for flag in (True, False))
    top = sample.norm
    copies = [int((gauss(jacobi).nodes > 0.99 * top).sum()) for jacobi in (with_basis, without)]
    assert copies[0] == 1
    assert copies[1] > 1
    for c in (0.1, 1.0, 30.0):
        function = width_function(c)
        values = [float(function(np.abs(rule.nodes)) @ rule.weights) for rule in map(gauss, (with_basis, without))]
        exact = sample.quadratic_form(start_for(200).numpy(), function) / 200
        assert values[0] == pytest.approx(values[1], abs=1e-6)
        assert values[0] == pytest.approx(float(exact), abs=1e-6)


@pytest.mark.parametrize("kind", ["indefinite", "clustered", "outlier"])
def test_without_reorthogonalisation_a_run_of_full_length_does_not_claim_to_be_exact(kind: str):
    sample = make_sample(kind, 60, 1)
    jacobi = run(sample.matrix, 60, reorthogonalize=False)
    function = width_function(1e-3 * sample.norm)
    value = float(function(np.abs(gauss(jacobi).nodes)) @ gauss(jacobi).weights)
    exact = float(sample.quadratic_form(start_for(60).numpy(), function) / 60)
    assert not jacobi.exact or value == pytest.approx(exact, abs=1e-9)


def test_reorthogonalised_basis_is_orthonormal_to_rounding():
    matrix = torch.from_numpy(outliers().matrix)
    runner = Lanczos(start_for(200), 120)
    vectors = []
    while not runner.done:
        vectors.append(runner.vector.clone())
        runner.absorb(matrix @ runner.vector)
    basis = torch.stack(vectors)
    assert (basis @ basis.t() - torch.eye(120)).abs().max() < 1e-13
    residual = basis @ matrix @ basis.t() - torch.from_numpy(tridiagonal(runner.result()))
    assert residual.abs().max() < 1e-12 * float(matrix.norm())


def test_memory_is_two_vectors_without_reorthogonalisation():
    runner = Lanczos(torch.ones(10), 5, reorthogonalize=False)
    assert runner._basis is None
    runner = Lanczos(torch.ones(10), 5)
    assert runner._basis.shape == (5, 10)


@settings(max_examples=25)
@given(sample=samples(40))
def test_single_precision_keeps_the_nodes_to_single_precision(sample):
    start = rademacher(sample.order, 0)
    (jacobi,) = lanczos(torch.from_numpy(sample.matrix).float(), [start], sample.order)
    c = 0.1 * sample.norm
    function = width_function(c)
    rule = gauss(jacobi)
    exact = sample.quadratic_form(start.double().numpy(), function) / sample.order
    assert float(function(np.abs(rule.nodes)) @ rule.weights) == pytest.approx(float(exact), abs=1e-4)


def network_like(n: int, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    return Sample(rotated(network_like_spectrum(n, rng), rng))


def test_every_storage_gives_the_same_coefficients(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    matrix = torch.from_numpy(network_like(200).matrix)
    start = rademacher(200, 0).double()
    runs = {storage: lanczos(matrix, [start], 80, storage=storage)[0] for storage in ("device", "host", "disk")}
    for jacobi in runs.values():
        np.testing.assert_array_equal(jacobi.alpha, runs["device"].alpha)
        np.testing.assert_array_equal(jacobi.beta, runs["device"].beta)
    assert list(tmp_path.iterdir()) == []


def test_a_basis_in_blocks_is_as_orthogonal(monkeypatch):
    matrix, start = torch.from_numpy(network_like(200).matrix), rademacher(200, 0).double()
    whole = lanczos(matrix, [start], 80)[0]
    monkeypatch.setattr(lanczos_module, "_BLOCK_BYTES", 7 * 200 * 8)
    blocks = lanczos(matrix, [start], 80)[0]
    np.testing.assert_allclose(blocks.alpha, whole.alpha, rtol=0, atol=1e-10 * np.abs(whole.alpha).max())
    np.testing.assert_allclose(blocks.beta, whole.beta, rtol=0, atol=1e-10 * np.abs(whole.alpha).max())


@pytest.mark.parametrize(
    ("size", "device", "storage"),
    [(5, "cpu", "device"), (7, "cpu", "disk"), (1, "cuda", "device"), (5, "cuda", "host"), (80, "cuda", "disk")],
)
def test_a_basis_lies_in_the_fastest_place_with_room(size, device, storage, monkeypatch):
    monkeypatch.setattr(lanczos_module, "_free_memory", lambda: 10 * 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100 * 2**30))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * 2**30, 8 * 2**30))
    assert storage_for(size * 2**30, torch.device(device)) == storage
    with pytest.raises(MemoryError, match=r"basis takes 95.0 GiB; free are 10.0 GiB of memory and 100.0 in .*TMPDIR"):
        storage_for(95 * 2**30, torch.device(device))


def test_the_default_steps_on_a_vit_b_16_need_no_more_than_24_gb_of_memory(monkeypatch):
    default = inspect.signature(gwprune.predict_threshold).parameters
    assert default["storage"].default == "auto"
    basis = default["steps"].default * 86_000_000 * 4  # 44 GB
    monkeypatch.setattr(lanczos_module, "_free_memory", lambda: 24 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=60 * 10**9))
    assert storage_for(basis, torch.device("cpu")) == "disk"
    assert storage_for(basis // 4, torch.device("cpu")) == "device"


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
