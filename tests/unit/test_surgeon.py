"""The model of the loss made least over the kept weights: dense oracles, and a network whose loss is its model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from gwprune import predict_threshold
from gwprune.spectral.predictors import PREDICTORS
from gwprune.spectral.surgeon import KeptModel

from .helpers_spectra import digits, problem_of, rotated, samples

SIZE = 40


def example(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positive definite matrix, gradient in its range, weights."""
    rng = np.random.default_rng(seed)
    matrix = rotated(np.exp(rng.normal(size=SIZE)), rng)
    return matrix, 0.3 * matrix @ rng.normal(size=SIZE), rng.normal(size=SIZE)


def problem(matrix, gradient, weights, **options):
    return problem_of(matrix, weights, gradient=torch.from_numpy(gradient), **options)


def dense_least(matrix: np.ndarray, gradient: np.ndarray, weights: np.ndarray, count: int) -> float:
    """The least value over the kept weights by least squares."""
    order = np.argsort(np.abs(weights), kind="stable")
    removed, kept = order[:count], order[count:]
    step = np.zeros(len(weights))
    step[removed] = -weights[removed]
    step[kept] = np.linalg.lstsq(matrix[np.ix_(kept, kept)], -(gradient + matrix @ step)[kept])[0]
    return float(gradient @ step + step @ matrix @ step / 2)


@pytest.mark.parametrize("rank", [SIZE, 15])
def test_the_least_value_and_its_step_are_those_of_the_dense_matrix(rank: int):
    matrix, gradient, weights = example()
    values, vectors = np.linalg.eigh(matrix)
    matrix = (vectors[:, -rank:] * values[-rank:]) @ vectors[:, -rank:].T
    gradient = matrix @ weights[::-1]
    model = KeptModel(problem(matrix, gradient, weights))
    order = np.argsort(np.abs(weights), kind="stable")
    step = None
    for count in (0, 25, 10, 39, 40):  # from the step of the one before, to a larger mask or a smaller one
        found, step = model.least(count, 0.0, start=step)
        assert model.least(count, 0.0)[0] == pytest.approx(found, rel=1e-9, abs=1e-12)
        assert found == pytest.approx(dense_least(matrix, gradient, weights, count), rel=1e-9, abs=1e-12)
        taken = step.numpy()
        assert found == pytest.approx(gradient @ taken + taken @ matrix @ taken / 2, rel=1e-9, abs=1e-12)
        np.testing.assert_array_equal(taken[order[:count]], -weights[order[:count]])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("epsilon", [0.05, 1.0, 5.0])
def test_the_threshold_is_the_last_mask_at_which_the_dense_model_is_below_epsilon(seed: int, epsilon: float):
    parts = example(seed)
    counts = [count for count in range(SIZE + 1) if dense_least(*parts, count) < epsilon]
    assert counts == list(range(len(counts)))
    found = PREDICTORS["surgeon"].threshold(problem(*parts), epsilon)
    assert (found.lower, found.upper) == (counts[-1] / SIZE, (counts[-1] + 1) / SIZE)


def test_without_a_gradient_the_least_value_is_a_schur_complement():
    matrix, _, weights = example()
    order = np.argsort(np.abs(weights), kind="stable")
    removed, kept = order[:25], order[25:]
    inner = np.linalg.solve(matrix[np.ix_(kept, kept)], matrix[np.ix_(kept, removed)])
    complement = matrix[np.ix_(removed, removed)] - matrix[np.ix_(removed, kept)] @ inner
    found, _ = KeptModel(problem(matrix, np.zeros(SIZE), weights)).least(25, 0.0)
    assert found == pytest.approx(weights[removed] @ complement @ weights[removed] / 2, rel=1e-9)


def test_kept_weights_cannot_make_good_for_others_when_the_matrix_is_diagonal():
    rng = np.random.default_rng(0)
    asked = problem(np.diag(rng.uniform(0.1, 2, SIZE)), np.zeros(SIZE), rng.normal(size=SIZE))
    still, moved = (PREDICTORS[name].threshold(asked, 0.5) for name in ("quadratic", "surgeon"))
    assert 0 < moved.lower == still.lower < 1


@given(sample=samples(30, semidefinite=True), seed=st.integers(0, 2**32 - 1), share=st.floats(0.01, 2))
@settings(max_examples=30, deadline=None)
def test_kept_weights_that_move_allow_no_less_than_kept_weights_that_stay(sample, seed, share):
    rng = np.random.default_rng(seed)
    weights, gradient = rng.normal(size=sample.order), sample.matrix @ rng.normal(size=sample.order)
    asked = problem(sample.matrix, gradient, weights)
    epsilon = share * float(np.abs(gradient @ weights) + weights @ sample.matrix @ weights) + 1e-6
    still, moved = (PREDICTORS[name].threshold(asked, epsilon) for name in ("quadratic", "surgeon"))
    assert moved.lower >= still.lower


def test_a_tolerance_that_is_not_positive_is_refused():
    asked = problem(*example(), loss=lambda weights: 0.0)
    for name in ("surgeon", "surgeon_step"):
        with pytest.raises(ValueError, match="epsilon must be positive, got 0"):
            PREDICTORS[name].threshold(asked, 0)


def test_a_negative_eigenvalue_is_refused():
    matrix, gradient, weights = example()
    with pytest.raises(ValueError, match="the operator has a negative eigenvalue"):
        KeptModel(problem(matrix - 0.5 * np.eye(SIZE), gradient, weights)).least(5, 0.0)
    net = digits()
    for name in ("surgeon", "surgeon_step"):
        with pytest.raises(ValueError, match=f"predictor '{name}' needs operator ggn, got 'hessian'"):
            predict_threshold(net.model, F.cross_entropy, net.data, predictor=name)


def test_every_product_is_counted_and_a_near_mask_starts_from_the_last_step():
    matrix, gradient, weights = example()
    model = KeptModel(problem(matrix, gradient, weights))
    _, step = model.least(20, 0.01)
    first = model.products
    model.least(21, 0.01, start=step)
    assert 1 < model.products - first < first
    multiplied = []

    class Counted:
        shape = matrix.shape

        def __matmul__(self, x):
            multiplied.append(1)
            return matrix @ x

    assert PREDICTORS["surgeon"].threshold(problem(Counted(), gradient, weights), 1.0).products == len(multiplied)


def test_a_loss_that_is_not_a_number_is_above_every_tolerance():
    asked = problem(*example(), loss=lambda weights: 0.0 if torch.count_nonzero(weights) > 10 else float("nan"))
    found = PREDICTORS["surgeon_step"].threshold(asked, 1.0)
    assert (found.lower, found.upper) == (29 / SIZE, 30 / SIZE)


def test_the_step_of_least_squares_does_what_its_model_says():
    torch.manual_seed(0)
    model = nn.Linear(30, 1, bias=False).double()
    inputs, noise = torch.randn(100, 30, dtype=torch.float64), torch.randn(100, 1, dtype=torch.float64)
    targets = inputs @ (model.weight.detach().T + 0.02 * torch.randn(30, 1, dtype=torch.float64)) + 0.1 * noise
    weights = model.weight.detach().clone().ravel()
    ranks = weights.abs().argsort()

    def fitted(count: int) -> float:
        kept = inputs[:, ranks[count:]]
        residual = targets - kept @ torch.linalg.lstsq(kept, targets).solution if count < 30 else targets
        return float(residual.square().mean()) - float((inputs @ weights[:, None] - targets).square().mean())

    for epsilon in (0.01, 0.1):
        expected = max(count for count in range(31) if fitted(count) < epsilon)
        assert 3 < expected < 28
        for name in ("surgeon", "surgeon_step"):
            found = predict_threshold(
                model, F.mse_loss, (inputs, targets), predictor=name, operator="ggn", epsilon=epsilon
            )
            assert (found.lower, found.upper) == (expected / 30, (expected + 1) / 30)
    assert torch.equal(model.weight.detach().ravel(), weights)


def test_on_a_network_the_measured_step_is_worse_than_its_model():
    net = digits()
    model, step = (
        predict_threshold(
            net.model, F.cross_entropy, net.data, predictor=name, operator="ggn", epsilon=0.1, tolerance=0.6
        )
        for name in ("surgeon", "surgeon_step")
    )
    assert step.upper < model.lower
