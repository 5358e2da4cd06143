"""Lanczos: moments, invariant subspaces, blocks, operators of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from torch import Tensor

from gwprune.spectral.lanczos import Lanczos, as_product, lanczos, operator_dtype, rademacher
from gwprune.spectral.quadrature import gauss

from .helpers_spectra import (
    EPS,
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


def test_rademacher_is_a_function_of_seed_and_probe():
    probe = rademacher(1000, 3, 5)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    torch.testing.assert_close(rademacher(1000, 3, 5), probe, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert probe.dtype == torch.float32
    assert probe.shape == (1000,)
    assert set(probe.tolist()) == {-1.0, 1.0}


def test_rademacher_probes_are_balanced_and_uncorrelated():
    probes = torch.stack([rademacher(4000, seed, probe) for seed in (0, 1, 2**31) for probe in range(4)])
    correlation = (probes @ probes.t() / 4000).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / np.sqrt(4000)
    assert probes.mean(1).abs().max() < 5 / np.sqrt(4000)


@settings(max_examples=60)
@given(sample=samples(40), seed=st.integers(0, 1000), fraction=st.floats(0, 1))
def test_moments_are_those_of_the_matrix_to_degree_twice_the_steps_minus_one(sample, seed, fraction):
    start = start_for(sample.order, seed)
    jacobi = run(sample.matrix, max(1, round(fraction * sample.order)), start)
    matrix, small = sample.matrix / sample.norm, tridiagonal(jacobi) / sample.norm
    unit = start.numpy() / np.sqrt(sample.order)
    left, right = unit, np.eye(jacobi.steps)[0]
    for _ in range(2 * jacobi.steps):  # degrees 0 to 2m - 1
        assert unit @ left == pytest.approx(right[0], abs=1e-11)
        left, right = matrix @ left, small @ right


@settings(max_examples=40)
@given(sample=samples(40), seed=st.integers(0, 1000))
def test_the_whole_run_has_the_eigenvalues_that_the_start_vector_sees(sample, seed):
    start = start_for(sample.order, seed)
    jacobi = run(sample.matrix, sample.order, start)
    assert jacobi.steps <= sample.order
    values, vectors = np.linalg.eigh(sample.matrix)
    nodes, weights = gauss(jacobi)
    for node, weight in zip(nodes, weights, strict=True):
        if weight > 1e-8:
            assert np.abs(values - node).min() < 1e-7 * sample.norm
    mass = (vectors.T @ start.numpy()) ** 2 / sample.order
    for value in values:
        near = np.abs(values - value) < 1e-6 * sample.norm
        wide = np.abs(nodes - value) < 2e-6 * sample.norm
        assert weights[wide].sum() >= mass[near].sum() - 1e-6


def test_all_steps_reproduce_the_spectrum():
    matrix = rotated(np.linspace(-1, 2, 30), np.random.default_rng(0))
    jacobi = run(matrix, 30)
    assert jacobi.steps == 30
    assert jacobi.exact
    np.testing.assert_allclose(np.linalg.eigvalsh(tridiagonal(jacobi)), np.linspace(-1, 2, 30), atol=1e-12)
    assert (jacobi.beta[:-1] > 0).all()


def test_last_beta_is_the_norm_of_the_residual():
    rng = np.random.default_rng(1)
    matrix = rotated(rng.standard_normal(20), rng)
    jacobi = run(matrix, 6)
    krylov = [start_for(20).numpy()]
    for _ in range(6):
        krylov.append(matrix @ krylov[-1])
    basis = np.linalg.qr(np.array(krylov).T)[0]
    assert abs(basis[:, 6] @ matrix @ basis[:, 5]) == pytest.approx(jacobi.beta[-1], rel=1e-8)
    assert jacobi.beta[-1] == pytest.approx(run(matrix, 12).beta[5], rel=1e-12)


def test_truncated_is_the_shorter_run():
    matrix = rotated(network_like_spectrum(60, np.random.default_rng(2)), np.random.default_rng(2))
    long = run(matrix, 30)
    for steps in (1, 2, 17, 30):
        short, cut = run(matrix, steps), long.truncated(steps)
        np.testing.assert_array_equal(cut.alpha, short.alpha)
        np.testing.assert_array_equal(cut.beta, short.beta)
    for steps in (0, 31, -1):
        with pytest.raises(ValueError, match=r"steps must be in 1\.\.30"):
            long.truncated(steps)


def test_scaling_of_the_start_vector_does_not_matter():
    matrix = make_sample("indefinite", 25, 3).matrix
    one, two = run(matrix, 10), run(matrix, 10, 1e-3 * start_for(25))
    np.testing.assert_allclose(one.alpha, two.alpha, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(one.beta, two.beta, rtol=1e-9, atol=1e-11)


def low_rank(rank: int, n: int = 80) -> tuple[np.ndarray, Tensor]:
    eigenvalues = np.zeros(n)
    eigenvalues[:rank] = np.linspace(1, 2, rank) * np.resize([1, -1], rank)
    return eigenvalues, torch.from_numpy(rotated(eigenvalues, np.random.default_rng(rank)))


@pytest.mark.parametrize("rank", [0, 1, 3, 7, 15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_low_rank_matrix_ends_the_run_exactly(rank: int, dtype: torch.dtype):
    eigenvalues, matrix = low_rank(rank)
    (jacobi,) = lanczos(matrix.to(dtype), [rademacher(80, 0).to(dtype)], 40)
    # Rounding in a small beta may make one more direction of weight zero.
    assert rank + 1 <= jacobi.steps <= rank + 2
    assert jacobi.exact
    assert jacobi.beta[-1] == 0.0
    nodes, weights = gauss(jacobi)
    heavy = weights > 1e-9
    distance = np.abs(nodes[heavy, None] - np.append(eigenvalues[:rank], 0.0)).min(1)
    assert heavy.sum() >= rank + 1
    assert distance.max() < 1e3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("rank", [0, 1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_low_rank_matrix_is_integrated_without_reorthogonalisation_too(rank: int, dtype: torch.dtype):
    eigenvalues, matrix = low_rank(rank)
    start = rademacher(80, 0)
    (jacobi,) = lanczos(matrix.to(dtype), [start.to(dtype)], 40, reorthogonalize=False)
    function = width_function(0.05)
    expected = float(Sample(matrix.numpy()).quadratic_form(start.double().numpy(), function)) / 80
    assert float(function(np.abs(gauss(jacobi).nodes)) @ gauss(jacobi).weights) == pytest.approx(
        expected, abs=1e3 * torch.finfo(dtype).eps
    )


def test_an_eigenvector_ends_the_run_in_one_step():
    jacobi = run(np.diag([2.0, 3.0, 5.0]), 3, torch.tensor([0.0, -4.0, 0.0], dtype=torch.float64))
    assert (jacobi.alpha.tolist(), jacobi.beta.tolist()) == ([3.0], [0.0])
    assert jacobi.exact


def test_involution_ends_in_two_steps():
    matrix = rotated(np.resize([1.0, -1.0], 30), np.random.default_rng(4))
    jacobi = run(matrix, 20)
    assert jacobi.steps == 2
    assert jacobi.exact
    np.testing.assert_allclose(gauss(jacobi).nodes, [-1, 1], atol=1e-14)


def test_more_steps_than_dimensions_stop_at_the_dimension():
    jacobi = run(make_sample("positive", 9, 5).matrix, 1000)
    assert jacobi.steps == 9
    assert jacobi.exact
    assert run(np.array([[4.0]]), 3).alpha.tolist() == [4.0]


def test_a_run_cut_short_is_not_exact():
    jacobi = run(make_sample("positive", 9, 5).matrix, 8)
    assert jacobi.steps == 8
    assert not jacobi.exact
    assert jacobi.beta[-1] > 0


@pytest.mark.parametrize("start", [torch.zeros(5), torch.tensor([1.0, float("nan")]), torch.tensor([float("inf")])])
def test_zero_or_non_finite_starts_are_refused(start: Tensor):
    with pytest.raises(ValueError, match="finite and not zero"):
        Lanczos(start, 3)


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_below_one_are_refused(steps: int):
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Lanczos(torch.ones(5), steps)


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("bad_step", [1, 3])
def test_non_finite_products_are_refused_naming_the_step(value: float, bad_step: int, reorthogonalize: bool):
    calls = []

    def matvec(x: np.ndarray) -> np.ndarray:
        calls.append(1)
        return np.full(8, value) if len(calls) == bad_step else np.arange(8) * x

    operator = LinearOperator((8, 8), matvec=matvec, dtype=float)
    with pytest.raises(FloatingPointError, match=f"step {bad_step}: the operator's product is not finite"):
        lanczos(operator, [start_for(8)], 5, reorthogonalize=reorthogonalize)


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_block_run_equals_single_runs(reorthogonalize: bool):
    matrix = make_sample("clustered", 50, 6).matrix
    starts = [start_for(50, seed) for seed in range(4)]
    block = lanczos(torch.from_numpy(matrix), starts, 12, reorthogonalize=reorthogonalize)
    for start, jacobi in zip(starts, block, strict=True):
        single = run(matrix, 12, start, reorthogonalize=reorthogonalize)
        np.testing.assert_allclose(jacobi.alpha, single.alpha, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(jacobi.beta, single.beta, rtol=1e-8, atol=1e-10)


def test_runs_of_a_block_end_separately_and_the_others_go_on():
    matrix = np.diag(np.arange(1.0, 11.0))
    starts = [torch.eye(10)[0].double(), start_for(10), torch.eye(10)[:3].sum(0).double()]
    columns = []

    def multiply(x: np.ndarray) -> np.ndarray:
        columns.append(1 if x.ndim == 1 else x.shape[1])
        return matrix @ x

    operator = LinearOperator((10, 10), matvec=multiply, matmat=multiply, dtype=float)
    runs = lanczos(operator, starts, 10)
    assert [jacobi.steps for jacobi in runs] == [1, 10, 3]
    assert columns == [3, 2, 2] + [1] * 7
    np.testing.assert_allclose(gauss(runs[2]).nodes, [1, 2, 3], atol=1e-13)


def test_start_vectors_and_products_are_not_overwritten():
    matrix = torch.from_numpy(make_sample("indefinite", 20, 7).matrix)
    start, before = start_for(20), start_for(20)
    products = []

    class Recording:
        shape, device, dtype = (20, 20), torch.device("cpu"), torch.float64

        def __matmul__(self, x: Tensor) -> Tensor:
            products.append((x.clone(), matrix @ x))
            return products[-1][1]

    lanczos(Recording(), [start], 8)
    assert torch.equal(start, before)
    assert len(products) == 8
    assert all(torch.equal(product, matrix @ x) for x, product in products)


class OwnOperator:
    shape = (12, 12)

    def __init__(self, matrix: np.ndarray):
        self.matrix = matrix

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        assert isinstance(x, np.ndarray)
        return self.matrix @ x


@pytest.mark.parametrize(
    "wrap",
    [
        np.asarray,
        torch.from_numpy,
        aslinearoperator,
        scipy.sparse.csr_array,
        scipy.sparse.csr_matrix,
        OwnOperator,
        lambda matrix: torch.from_numpy(matrix).to_sparse(),
        lambda matrix: LinearOperator((12, 12), matvec=lambda x: matrix @ x),
    ],
    ids=["numpy", "torch", "linear_operator", "sparse_array", "sparse_matrix", "own", "torch_sparse", "matvec_only"],
)
def test_every_kind_of_operator_gives_the_same_coefficients(wrap):
    matrix = make_sample("indefinite", 12, 9).matrix
    starts = [start_for(12, 0), start_for(12, 1)]
    expected = lanczos(torch.from_numpy(matrix), starts, 6)
    for jacobi, wanted in zip(lanczos(wrap(matrix), starts, 6), expected, strict=True):
        np.testing.assert_allclose(jacobi.alpha, wanted.alpha, atol=1e-10)
        np.testing.assert_allclose(jacobi.beta, wanted.beta, atol=1e-10)


@pytest.mark.parametrize(
    ("operator", "dtype"),
    [
        (np.eye(2), torch.float64),
        (np.eye(2, dtype=np.float32), torch.float32),
        (np.eye(2, dtype=int), torch.float64),
        (torch.eye(2), torch.float32),
        (torch.eye(2, dtype=torch.float64), torch.float64),
        (torch.eye(2, dtype=torch.int64), torch.float64),
        (OwnOperator(np.eye(12)), torch.float64),
    ],
)
def test_vectors_have_the_precision_of_the_operator_and_products_keep_it(operator, dtype: torch.dtype):
    assert operator_dtype(operator) == dtype
    vector = torch.ones(operator.shape[0], dtype=dtype)
    product = as_product(operator)(vector)
    assert product.dtype == dtype
    torch.testing.assert_close(product, vector, rtol=0, atol=0)


def test_things_that_are_no_operator_are_refused():
    with pytest.raises(ValueError, match=r"must be square, got shape \(2, 3\)"):
        as_product(np.ones((2, 3)))
    with pytest.raises(TypeError, match="must be real, got complex128"):
        as_product(np.eye(2) * 1j)
    with pytest.raises(ValueError, match="must be square"):
        as_product(np.ones(4))
    with pytest.raises(TypeError, match="list lacks one"):
        as_product([[1.0]])
    with pytest.raises(TypeError, match="lacks one"):
        as_product(LinearOperator)


def test_agrees_with_the_eigenvalues_of_scipy():
    jacobi = run(make_sample("indefinite", 30, 10).matrix, 12)
    nodes = eigh_tridiagonal(jacobi.alpha, jacobi.beta[:-1], eigvals_only=True)
    np.testing.assert_allclose(gauss(jacobi).nodes, nodes, atol=100 * EPS * np.abs(nodes).max())
