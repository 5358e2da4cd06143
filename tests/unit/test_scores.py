"""Scores of the weights, the gradient and the Hessian: by hand, by formula and against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from gwprune import models
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import METHODS, Subject, rank
from gwprune.spectral.lanczos import rademacher

from .helpers_networks import normal

mse = nn.functional.mse_loss


def stack(*layers: list, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Linear layers without biases, with the given weights."""
    modules = []
    for rows in layers:
        weight = torch.tensor(rows, dtype=dtype)
        module = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=dtype)
        module.weight = nn.Parameter(weight)
        modules.append(module)
    return nn.Sequential(*modules)


def scores(method: str, model: nn.Module, seed: int = 0, options: dict | None = None, **given) -> list[float]:
    subject = Subject(PrunableSet(model), seed, model=model, **given)
    return METHODS[method].function(subject, **(options or {})).tolist()


def by_hand() -> dict:
    """f = c (a x_1 + b x_2) at a, b, c = 2, 1, -1 with the loss (f - y)^2.

    x = (1, 3), y = 1:  f = -5, dL/df = -12, g = (12, 36, -60), H = [[2, 6, -22], [6, 18, -66], [-22, -66, 50]]
    x = (-1, 0), y = 0: f = 2, dL/df = 4, g = (4, 0, -8), H = [[2, 0, -8], [0, 0, 0], [-8, 0, 8]]
    mean: g = (8, 18, -34), H = [[2, 3, -15], [3, 9, -33], [-15, -33, 29]]
    """
    inputs = torch.tensor([[1.0, 3.0], [-1.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    return {"model": stack([[2.0, 1.0]], [[-1.0]]), "data": (inputs, labels), "loss_fn": mse}


def network(dtype: torch.dtype = torch.float64) -> dict:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    return {"model": model, "data": (normal(12, 4, dtype=dtype), torch.arange(12) % 3)}


def dense_hessian(model: nn.Module, data: tuple, loss_fn=nn.functional.cross_entropy) -> torch.Tensor:
    prunable = PrunableSet(model)

    def loss(vector):
        weights = dict(zip(prunable.names, prunable.unflatten(vector), strict=True))
        return loss_fn(functional_call(model, weights, (data[0],)), data[1])

    return hessian(loss)(prunable.flatten()).detach()


# --- lamp ---------------------------------------------------------------------------------------------------


def test_lamp_by_hand():
    model = stack([[1.0, -3.0, 2.0]], [[0.1], [-0.2]])
    np.testing.assert_allclose(scores("lamp", model), [1 / 14, 1, 4 / 13, 0.2, 1], rtol=1e-12)
    assert rank("lamp", PrunableSet(model), 0).ranks.tolist() == [0, 3, 2, 1, 4]


def test_lamp_is_its_formula_and_keeps_the_order_of_each_layer():
    torch.manual_seed(0)
    prunable = PrunableSet(models.build("lenet5", (1, 12, 12), 3, channels=(2, 3)).double())
    prunable.assign(normal(prunable.dimension))
    found = METHODS["lamp"].function(Subject(prunable, 0))
    for weight, part in zip(prunable.parameters, prunable.unflatten(found), strict=True):
        squares = weight.detach().double().flatten() ** 2
        expected = squares / torch.stack([squares[squares >= square].sum() for square in squares])
        torch.testing.assert_close(part.flatten(), expected, rtol=1e-12, atol=0)
        assert torch.equal(part.flatten().argsort(stable=True), weight.detach().abs().flatten().argsort(stable=True))


def test_lamp_empties_no_layer_while_another_has_two_weights():
    model = stack([[100.0, 90.0, 80.0]] * 4, [[1e-6, 2e-6, 3e-6, 4e-6]], [[1e-9]])
    prunable = PrunableSet(model)
    kept = rank("lamp", prunable, 0).kept(prunable.dimension - 3)
    assert [int(part.sum()) for part in kept.split(prunable.sizes)] == [1, 1, 1]


def test_lamp_of_a_zero_layer_is_zero():
    assert scores("lamp", stack([[0.0, 0.0], [0.0, 0.0]], [[3.0, 0.0]])) == [0, 0, 0, 0, 1, 0]


# --- first order --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["taylor", "snip"])
def test_first_order_scores_by_hand(method):
    np.testing.assert_allclose(scores(method, **by_hand()), [16, 18, 34], rtol=1e-12)


def test_taylor_is_the_first_order_change_of_the_loss():
    given = network()
    prunable, step = PrunableSet(given["model"]), 1e-6
    weights = prunable.flatten()

    def loss() -> float:
        return nn.functional.cross_entropy(given["model"](given["data"][0]), given["data"][1]).item()

    changes = []
    for index in range(prunable.dimension):
        ends = []
        for sign in (1, -1):
            moved = weights.clone()
            moved[index] *= 1 + sign * step
            prunable.assign(moved)
            ends.append(loss())
        changes.append(abs(ends[0] - ends[1]) / (2 * step))
    prunable.assign(weights)
    np.testing.assert_allclose(scores("taylor", **given), changes, rtol=1e-5, atol=1e-9)


# --- second order -------------------------------------------------------------------------------------------


def test_grasp_by_hand():
    found = scores("grasp", **by_hand(), options={"temperature": 1.0})
    np.testing.assert_allclose(found, [1160, 1308, 1700], rtol=1e-12)


def test_grasp_is_the_derivative_of_half_the_squared_gradient_by_a_multiplier_of_each_weight():
    given = network()
    prunable, subject = PrunableSet(given["model"]), {}
    subject["weights"] = prunable.flatten().requires_grad_()
    tensors = dict(zip(prunable.names, prunable.unflatten(subject["weights"]), strict=True))
    output = functional_call(given["model"], tensors, (given["data"][0],)) / 7.0
    loss = nn.functional.cross_entropy(output, given["data"][1])
    gradient = torch.autograd.grad(loss, subject["weights"], create_graph=True)[0]
    derivative = torch.autograd.grad(gradient.square().sum() / 2, subject["weights"])[0]
    expected = (subject["weights"] * derivative).tolist()
    assert min(expected) < 0 < max(expected)
    np.testing.assert_allclose(scores("grasp", **given, options={"temperature": 7.0}), expected, rtol=1e-9, atol=1e-15)


def test_obd_by_hand():
    """h = (2, 9, 29) gives (4, 4.5, 14.5); the estimate's error is sqrt(sum_{j != i} h_ij^2 / probes)."""
    probes = 4000
    found = np.array(scores("obd", **by_hand(), options={"probes": probes}))
    off = np.array([[0, 3, -15], [3, 0, -33], [-15, -33, 0]])
    errors = np.sqrt((off**2).sum(1) / probes) * np.array([4, 1, 1]) / 2
    assert (np.abs(found - [4, 4.5, 14.5]) < 4 * errors).all()
    assert (errors < [0.5, 0.3, 0.3]).all()


@pytest.mark.parametrize("probes", [1, 7, 20])
def test_obd_is_the_mean_over_its_probes(probes):
    given = network()
    matrix, weights = dense_hessian(given["model"], given["data"]), PrunableSet(given["model"]).flatten()
    signs = torch.stack([rademacher(len(weights), 3, index).double() for index in range(probes)], dim=1)
    expected = 0.5 * (signs * (matrix @ signs)).mean(1).abs() * weights**2
    found = scores("obd", seed=3, **given, options={"probes": probes})
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9, atol=1e-15)


def test_obd_with_many_probes_is_the_diagonal_of_the_hessian():
    given = network()
    matrix, weights = dense_hessian(given["model"], given["data"]), PrunableSet(given["model"]).flatten()
    diagonal = matrix.diagonal()
    off = (matrix - torch.diag(diagonal)).square().sum(1).sqrt()
    few, many = (
        (torch.tensor(scores("obd", **given, options={"probes": n})) - 0.5 * diagonal.abs() * weights**2).abs()
        for n in (10, 4000)
    )
    assert (many <= 5 * 0.5 * off * weights**2 / 4000**0.5 + 1e-15).all()
    assert many.norm() < few.norm() / 5


def test_obd_counts_the_size_of_a_negative_curvature():
    """f = c (a x), so h_aa = 2 c^2 x^2 > 0; with the loss -f^2 it is negative and as large."""
    given = {"model": stack([[2.0]]), "data": (torch.ones(1, 1).double() * 3, torch.zeros(1, 1).double())}
    plus = scores("obd", **given, loss_fn=lambda output, labels: (output**2).mean())
    minus = scores("obd", **given, loss_fn=lambda output, labels: -(output**2).mean())
    np.testing.assert_allclose(plus, [0.5 * 18 * 4], rtol=1e-12)
    assert plus == minus


def test_obd_on_the_gauss_newton_matrix():
    """By hand: the Gauss-Newton matrix is 2 mean (grad f)(grad f)^T with grad f = (-1, -3, 5) and (1, 0, -2)."""
    matrix = torch.tensor([[2.0, 3, -7], [3, 9, -15], [-7, -15, 29]]).double()
    signs = torch.stack([rademacher(3, 0, index).double() for index in range(6)], dim=1)
    expected = 0.5 * (signs * (matrix @ signs)).mean(1).abs() * torch.tensor([4.0, 1, 1])
    found = scores("obd", **by_hand(), options={"probes": 6, "operator": "ggn"})
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)


# --- the empirical Fisher matrix ----------------------------------------------------------------------------


def fisher(model: nn.Module, data: tuple, damping: float) -> np.ndarray:
    """damping I + mean g g^T over single samples, one backward pass each."""
    prunable, matrix = PrunableSet(model), 0
    for inputs, label in zip(*data, strict=True):
        loss = nn.functional.cross_entropy(model(inputs[None]), label[None])
        gradient = prunable.flatten(torch.autograd.grad(loss, prunable.parameters)).double().numpy()
        matrix = matrix + np.outer(gradient, gradient) / len(data[0])
    return matrix + damping * np.eye(prunable.dimension)


def test_wood_fisher_by_hand_with_blocks_of_one():
    """w^2 (damping + mean g^2) / 2 with g = (12, 36, -60) and (4, 0, -8)."""
    found = scores("wood_fisher", **by_hand(), options={"block_size": 1, "damping": 1.0})
    np.testing.assert_allclose(found, [162, 324.5, 916.5], rtol=1e-12)


@pytest.mark.parametrize("damping", [1e-5, 0.1])
def test_wood_fisher_with_one_block_is_the_saliency_of_the_optimal_brain_surgeon(damping):
    """The least of 1/2 d^T F d over all d with w_i + d_i = 0, from its Karush-Kuhn-Tucker system."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    data = normal(20, 4), torch.arange(20) % 3
    matrix, weights = fisher(model, data, damping), PrunableSet(model).flatten().numpy()
    least = []
    for index, weight in enumerate(weights):
        row = np.eye(12)[index]
        system = np.block([[matrix, row[:, None]], [row[None], np.zeros((1, 1))]])
        change = np.linalg.solve(system, np.append(np.zeros(12), -weight))[:12]
        least.append(change @ matrix @ change / 2)
    found = scores("wood_fisher", model, data=data, options={"block_size": 100, "damping": damping})
    np.testing.assert_allclose(found, least, rtol=1e-7)
    inverse = np.linalg.inv(matrix).diagonal()
    np.testing.assert_allclose(found, weights**2 / (2 * inverse), rtol=1e-7)


@pytest.mark.parametrize("block_size", [1, 4, 7, 15, 20])
def test_wood_fisher_inverts_each_block_of_each_layer(block_size):
    given = network()
    matrix, weights = fisher(given["model"], given["data"], 1e-3), PrunableSet(given["model"]).flatten().numpy()
    expected, start = np.empty(35), 0
    for size in (20, 15):
        for first in range(start, start + size, block_size):
            part = slice(first, min(first + block_size, start + size))
            expected[part] = weights[part] ** 2 / (2 * np.linalg.inv(matrix[part, part]).diagonal())
        start += size
    found = scores("wood_fisher", **given, options={"block_size": block_size, "damping": 1e-3})
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_wood_fisher_of_a_convolution_in_single_precision():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3))
    data = normal(6, 1, 3, 3, dtype=torch.float32), torch.arange(6) % 3
    found = scores("wood_fisher", model.train(), data=data, options={"block_size": 8, "damping": 1e-2})
    model.eval()
    matrix, weights = fisher(model, data, 1e-2), PrunableSet(model).flatten().double().numpy()
    blocks = [slice(start, start + 8) for start in (0, 8, 16, 24)]
    inverse = np.concatenate([np.linalg.inv(matrix[part, part]).diagonal() for part in blocks])
    np.testing.assert_allclose(found, weights**2 / (2 * inverse), rtol=1e-3)


def test_wood_fisher_refuses_blocks_over_the_budget():
    torch.manual_seed(0)
    model = nn.Linear(1000, 100)
    given = {"model": model, "data": (torch.zeros(1, 1000), torch.zeros(1, dtype=torch.long))}
    prunable = PrunableSet(model)
    with pytest.raises(ValueError, match=r"wood_fisher: .*15\d\d MiB for 100000 weights.*memory_mb = 100; lower block"):
        rank("wood_fisher", prunable, 0, **given, options={"block_size": 2000, "memory_mb": 100})
    rank("wood_fisher", prunable, 0, **given, options={"block_size": 10, "memory_mb": 100})


def test_a_sample_whose_gradient_is_not_finite_is_refused():
    given = network()
    given["data"][0][7, 2] = torch.inf
    with pytest.raises(FloatingPointError, match="wood_fisher: the gradient of a sample"):
        rank("wood_fisher", PrunableSet(given["model"]), 0, **given)
