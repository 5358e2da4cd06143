"""The squared Gaussian width of any matrix, against its eigenvalues."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import aslinearoperator

import gwprune
from gwprune.spectral.width import squared_width

from .helpers_spectra import (
    make_sample,
)


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
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"probes": 0}, "probes must be a whole number of at least 1, got 0"),
        ({"operator": np.ones((2, 3))}, "must be square"),
    ],
)
def test_squared_width_refuses_nonsense(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        squared_width(**{"operator": np.eye(3), "pruned_norm": 1.0, "epsilon": 0.1, **arguments})


@pytest.mark.parametrize("argument", [{"epsilon": "5%"}, {"pruned_norm": None}, {"steps": 1.5}, {"probes": True}])
def test_squared_width_names_the_argument_of_another_kind(argument: dict):
    ((name, value),) = argument.items()
    with pytest.raises(TypeError, match=f"{name} must be a .*number.*, got {value!r}"):
        squared_width(**{"operator": np.eye(3), "pruned_norm": np.array(1.0), "epsilon": 0.1, **argument})


def test_squared_width_is_exported():
    assert gwprune.squared_width is squared_width
