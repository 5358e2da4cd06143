"""One call from a network to its threshold: against the dense curvature."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gwprune.curvature.operator import curvature_operator
from gwprune.predict import Prediction, predict_threshold
from gwprune.spectral.predictors import PREDICTORS

from .helpers_spectra import digits, width_function

EPSILON = 0.05

DIMENSION = 1184
COMMON = [name for name, predictor in PREDICTORS.items() if predictor.default]


@pytest.fixture(scope="module")
def predictions() -> dict[tuple[str, str], Prediction]:
    """Every predictor with every operator on the digits network."""
    net = digits()
    return {
        (predictor, operator): predict_threshold(
            net.model,
            F.cross_entropy,
            net.data,
            operator=operator,
            predictor=predictor,
            epsilon=EPSILON,
            steps=200,
            probes=2,
        )
        for predictor in COMMON
        for operator in ("hessian", "ggn")
    }


def dense_threshold(curve: np.ndarray) -> float:
    return np.flatnonzero(curve >= np.arange(DIMENSION + 1) / DIMENSION).max() / DIMENSION


def scale(norms: np.ndarray) -> np.ndarray:
    return 2 * EPSILON / np.maximum(norms, 1e-12) ** 2


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_width_threshold_is_close_to_that_of_the_eigenvalues(predictions, operator: str):
    net, found = digits(), predictions["width", operator]
    exact = dense_threshold(net.curvature[operator].trace(width_function(scale(net.norms))) / DIMENSION)
    assert 0.5 < exact < 0.95
    assert found.lower <= exact <= found.upper
    assert found.threshold == pytest.approx(exact, abs=3 * found.standard_error)
    assert found.standard_error < 0.01
    assert found.upper - found.lower < 0.05


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_trace_bound_is_close_to_that_of_the_eigenvalues_and_below_the_width(predictions, operator: str):
    net, found = digits(), predictions["trace_bound", operator]
    mean = np.abs(net.curvature[operator].eigenvalues).mean()
    c = scale(net.norms)
    exact = dense_threshold(c / (c + mean))
    assert found.lower - 0.02 <= exact <= found.upper + 0.02
    assert found.threshold == pytest.approx(exact, abs=0.05)
    assert found.threshold < predictions["width", operator].threshold


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_quadratic_threshold_is_where_the_dense_model_reaches_epsilon(predictions, operator: str):
    net, found = digits(), predictions["quadratic", operator]
    weights = net.weights
    order = np.argsort(np.abs(weights), kind="stable")
    removed = weights[order]
    loss = F.cross_entropy(net.model(net.inputs), net.targets)
    parameters = [net.model[0].weight, net.model[2].weight]
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]).numpy()[order]
    curved = net.curvature[operator].matrix[np.ix_(order, order)] * np.outer(removed, removed)
    rise = np.cumsum(np.cumsum(curved, 0), 1).diagonal() / 2 - np.cumsum(gradient * removed)
    rise = np.append(0.0, rise)
    low, high = round(found.lower * DIMENSION), round(found.upper * DIMENSION)
    assert high == low + 1
    assert rise[low] < EPSILON <= rise[high]
    assert found.threshold == pytest.approx((low + high) / 2 / DIMENSION)
    if (rise[high:] >= EPSILON).all():
        assert low == np.flatnonzero(rise < EPSILON).max()


def test_quadratic_model_is_exact_for_a_quadratic_loss():
    model = nn.Linear(30, 1, bias=False).double()
    generator = torch.Generator().manual_seed(6)
    inputs = torch.randn(400, 30, generator=generator, dtype=torch.float64)
    targets = inputs @ torch.linspace(0.01, 1, 30, dtype=torch.float64)[:, None]
    with torch.no_grad():
        model.weight.copy_(torch.linspace(0.01, 1, 30) ** 2)
    dense = float(F.mse_loss(model(inputs), targets).detach())
    found = predict_threshold(model, F.mse_loss, (inputs, targets), predictor="quadratic", epsilon=1.0)

    def rise(sparsity: float) -> float:
        pruned = copy.deepcopy(model)
        with torch.no_grad():
            pruned.weight[0, : round(sparsity * 30)] = 0  # ascending: the first are the smallest
        return float(F.mse_loss(pruned(inputs), targets).detach()) - dense

    assert 0 < found.lower < found.upper < 1
    assert rise(found.lower) < 1.0 <= rise(found.upper)


def test_at_an_l1_optimum_the_penalty_makes_the_linear_term_of_the_data_loss_and_takes_it_from_the_objective():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(60, 20, dtype=torch.float64, generator=generator)
    targets = inputs[:, :8].sum(1, keepdim=True) + torch.randn(60, 1, dtype=torch.float64, generator=generator)
    matrix, l1, weights = 2 * inputs.T @ inputs / 60, 0.3, torch.zeros(20, 1, dtype=torch.float64)
    for _ in range(3000):  # proximal gradient steps
        moved = weights - (matrix @ weights - 2 * inputs.T @ targets / 60) / 6
        weights = moved.sign() * (moved.abs() - l1 / 6).clamp(min=0)
    assert 8 <= (weights != 0).sum() < 20
    model = nn.Linear(20, 1, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_(weights.T)
    operator = curvature_operator(model, F.mse_loss, (inputs, targets))
    gradient, dense, order = operator.gradient(), operator.loss(weights[:, 0]), weights[:, 0].abs().argsort()
    for count in range(1, 21):
        removed = torch.zeros(20, dtype=torch.float64)
        removed[order[:count]] = weights[order[:count], 0]
        curved, penalty = float(removed @ (operator @ removed) / 2), l1 * float(removed.abs().sum())
        assert -float(gradient @ removed) == pytest.approx(penalty, abs=1e-12)
        assert operator.loss(weights[:, 0] - removed) - dense == pytest.approx(curved + penalty, abs=1e-12)


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
@pytest.mark.parametrize("predictor", COMMON)
def test_result_is_ordered_and_says_what_it_is(predictions, predictor: str, operator: str):
    found = predictions[predictor, operator]
    assert 0 <= found.lower <= found.threshold <= found.upper <= 1
    assert (found.predictor, found.operator) == (predictor, operator)
    assert found.epsilon == EPSILON
    assert found.dimension == DIMENSION
    assert found.standard_error >= 0
    if predictor == "quadratic":
        assert found.probes == 0
        assert 2 < found.steps < 15
    else:
        assert found.probes == 2
        assert found.steps <= 200


@pytest.mark.parametrize("predictor", ["width", "trace_bound"])
@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_standard_error_is_that_of_the_threshold(operator: str, predictor: str):
    net = digits()
    found = [
        predict_threshold(
            net.model,
            lambda output, target, unit=unit: unit * F.cross_entropy(output, target),
            net.data,
            operator=operator,
            predictor=predictor,
            epsilon=EPSILON * unit,
            steps=16,
        )
        for unit in (1.0, 100.0)
    ]
    assert found[0].threshold == pytest.approx(found[1].threshold, abs=1 / DIMENSION)
    # A sparsity has no unit: the loss in other units changes neither the threshold nor its error.
    assert found[0].standard_error == pytest.approx(found[1].standard_error, rel=1e-3)


def test_pruned_norm_is_that_of_the_smallest_weights(predictions):
    net, found = digits(), predictions["width", "hessian"]
    sparsity = np.array([[0.0, 0.25], [0.5, 1.0]])
    norms = found.pruned_norm(sparsity)
    assert norms.shape == (2, 2)
    np.testing.assert_allclose(norms, net.norms[(sparsity * DIMENSION).astype(int)], rtol=1e-12)
    assert float(found.pruned_norm(0.5)) == norms[1, 0]


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_width_is_that_of_the_eigenvalues_and_crosses_at_the_threshold(predictions, operator: str):
    net, found = digits(), predictions["width", operator]
    sparsity = np.linspace(0.5, 1, 11)
    width = found.width(sparsity)
    c = scale(found.pruned_norm(sparsity))
    expected = net.curvature[operator].trace(width_function(c)) / DIMENSION
    assert (np.abs(width.value - expected) <= 4 * width.standard_error + 0.02).all()
    assert ((width.lower <= width.value) & (width.value <= width.upper)).all()
    assert float(found.width(found.threshold).value) >= found.threshold
    following = found.threshold + 1 / DIMENSION
    assert float(found.width(following).value) < following


def test_width_outside_zero_to_one_is_refused(predictions):
    for sparsity in (-0.1, 1.1, [0.5, 2.0]):
        with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\]"):
            predictions["width", "hessian"].width(sparsity)


def test_curve_has_the_columns_of_the_table(predictions):
    found = predictions["width", "hessian"]
    curve = found.curve(33)
    assert list(curve) == ["sparsity", "pruned_norm", "width", "width_lower", "width_upper"]
    assert {values.shape for values in curve.values()} == {(33,)}
    assert curve["sparsity"][0] == 0
    assert curve["sparsity"][-1] == pytest.approx(0.9999)
    remaining = np.log(1 - curve["sparsity"])
    np.testing.assert_allclose(np.diff(remaining), np.diff(remaining)[0], rtol=1e-6)
    assert (np.diff(curve["pruned_norm"]) >= 0).all()
    assert (np.diff(curve["width"]) <= 1e-12).all()
    assert curve["width"][0] == pytest.approx(1.0)
    assert (curve["width_lower"] <= curve["width"] + 1e-12).all()
    assert (curve["width"] <= curve["width_upper"] + 1e-12).all()
    np.testing.assert_array_equal(curve["width"], found.width(curve["sparsity"]).value)
    assert len(found.curve()["sparsity"]) == 81


def test_trace_bound_carries_a_width_and_quadratic_does_not(predictions):
    assert 0 < float(predictions["trace_bound", "ggn"].width(0.8).value) < 1
    with pytest.raises(ValueError, match="'quadratic' computes no width"):
        predictions["quadratic", "ggn"].width(0.8)
    with pytest.raises(ValueError, match="'quadratic' computes no width"):
        predictions["quadratic", "ggn"].curve()
    assert float(predictions["quadratic", "ggn"].pruned_norm(1.0)) == pytest.approx(digits().norms[-1])


def test_a_larger_tolerance_allows_more_pruning():
    net = digits()
    for predictor in COMMON:
        thresholds = [
            predict_threshold(
                net.model, F.cross_entropy, net.data, predictor=predictor, epsilon=epsilon, steps=16
            ).threshold
            for epsilon in (0.005, 0.05, 0.5)
        ]
        assert thresholds[0] < thresholds[1] < thresholds[2]


def test_more_steps_give_an_interval_inside():
    net = digits()
    few, more = (
        predict_threshold(net.model, F.cross_entropy, net.data, epsilon=EPSILON, steps=steps) for steps in (16, 96)
    )
    assert (few.steps, more.steps) == (16, 96)
    assert more.upper - more.lower < 0.7 * (few.upper - few.lower)
    assert few.lower - 0.01 <= more.lower <= more.upper <= few.upper + 0.01
