"""Curvature operators as matrices: dense oracles, closed forms, another library, and their own identities."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from curvlinops import GGNLinearOperator, HessianLinearOperator
from torch import Tensor, nn
from torch.nn import functional as F

from gwprune.curvature.operator import OPERATORS, curvature_operator

from .helpers_networks import (
    PROBLEMS,
    initialised,
    labels,
    matrix_of,
    normal,
    problem,
    tanh_mlp,
)
from .helpers_spectra import DENSE, dense_functions, dense_hessian


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_equals_the_dense_matrix(name: str, kind: str):
    model, names, inputs, targets = problem(name)
    expected = DENSE[kind](model, F.cross_entropy, inputs, targets, names)
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets), operator=kind)
    assert operator.prunable.names == names
    assert operator.shape == tuple(expected.shape)
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(matrix_of(operator), expected, rtol=1e-9, atol=1e-11)


def test_hessian_and_ggn_differ_where_they_should():
    model, _, inputs, targets = problem("tanh_mlp")
    hessian, ggn = (
        matrix_of(curvature_operator(model, F.cross_entropy, (inputs, targets), operator=kind)) for kind in OPERATORS
    )
    assert (hessian - ggn).norm() > 1e-2 * hessian.norm()
    assert torch.linalg.eigvalsh(hessian)[0] < -1e-3
    assert torch.linalg.eigvalsh(ggn)[0] > -1e-12


@pytest.mark.parametrize("kind", OPERATORS)
def test_tied_weights_are_one_variable(kind: str):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    model = initialised(model)
    inputs, targets = normal(9, 4), labels(9, 2)
    expected = DENSE[kind](model, F.cross_entropy, inputs, targets, ["0.weight", "4.weight"])
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets), operator=kind)
    torch.testing.assert_close(matrix_of(operator), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", OPERATORS)
def test_a_layer_that_the_forward_pass_leaves_out_has_zero_rows(kind: str):
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.spare, self.used = nn.Linear(3, 3), nn.Linear(4, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.used(inputs)

    model = initialised(Unused())
    dense = matrix_of(curvature_operator(model, F.cross_entropy, (normal(9, 4), labels(9, 2)), operator=kind))
    assert not dense[:9].any()
    assert not dense[:, :9].any()
    assert dense[9:, 9:].diagonal().min() > 0


@pytest.mark.parametrize(("kind", "other"), [("hessian", HessianLinearOperator), ("ggn", GGNLinearOperator)])
@pytest.mark.parametrize("name", PROBLEMS)
def test_agrees_with_curvlinops_on_the_same_weights(name: str, kind: str, other: type):
    model, names, inputs, targets = problem(name)
    weights = [dict(model.named_parameters())[parameter] for parameter in names]
    reference = other(model, nn.CrossEntropyLoss(), weights, [(inputs, targets)], check_deterministic=False)
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets), operator=kind)
    assert operator.shape == tuple(reference.shape)
    block = normal(operator.shape[0], 3, seed=2)
    torch.testing.assert_close(operator @ block, (reference @ block).detach(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", OPERATORS)
def test_linear_regression_has_hessian_two_mean_of_outer_products(kind: str):
    model = initialised(nn.Linear(4, 1))
    inputs = normal(15, 4)
    operator = curvature_operator(model, F.mse_loss, (inputs, normal(15, 1, seed=3)), operator=kind, batch_size=4)
    torch.testing.assert_close(matrix_of(operator), 2 * inputs.t() @ inputs / 15)


@pytest.mark.parametrize("kind", OPERATORS)
def test_softmax_regression_has_blocks_of_diag_p_minus_p_p(kind: str):
    model = initialised(nn.Linear(4, 3))
    inputs, targets = normal(15, 4), labels(15, 3)
    p = model(inputs).softmax(1).detach()
    head = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("nab,ni,nj->aibj", head, inputs, inputs).reshape(12, 12) / 15
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets), operator=kind)
    torch.testing.assert_close(matrix_of(operator), expected)


@pytest.mark.parametrize("kind", OPERATORS)
def test_logistic_regression_weights_samples_with_p_times_one_minus_p(kind: str):
    model = initialised(nn.Linear(4, 1))
    inputs, targets = normal(15, 4), labels(15, 2).double()[:, None]
    p = model(inputs).sigmoid().detach()
    operator = curvature_operator(model, F.binary_cross_entropy_with_logits, (inputs, targets), operator=kind)
    torch.testing.assert_close(matrix_of(operator), inputs.t() @ (p * (1 - p) * inputs) / 15)


def test_loss_that_is_linear_in_the_weights_has_zero_hessian():
    model = initialised(nn.Linear(4, 3))
    operator = curvature_operator(
        model, lambda output, target: (output * target).mean(), (normal(9, 4), normal(9, 3)), checks=False
    )
    product = operator @ normal(12)
    assert product.shape == (12,)
    assert not product.any()


def test_loss_that_is_linear_in_the_output_has_zero_ggn():
    model, _ = tanh_mlp()
    operator = curvature_operator(
        model,
        lambda output, target: (output * target).mean(),
        (normal(9, 5), normal(9, 3)),
        operator="ggn",
        checks=False,
    )
    product = operator @ normal(operator.shape[0])
    assert not product.any()


def test_loss_that_is_linear_in_the_output_keeps_the_hessian_of_the_network():
    model, names = tanh_mlp()
    inputs, targets = normal(9, 5), normal(9, 3)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output * target).mean()

    expected = dense_hessian(model, loss, inputs, targets, names)
    assert expected.norm() > 1e-2
    torch.testing.assert_close(matrix_of(curvature_operator(model, loss, (inputs, targets))), expected)


@pytest.mark.parametrize("memory_mb", [3072, 0])
@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_block_product_equals_single_products(name: str, kind: str, memory_mb: int):
    model, _, inputs, targets = problem(name)
    operator = curvature_operator(
        model, F.cross_entropy, (inputs, targets), operator=kind, batch_size=8, memory_mb=memory_mb
    )
    block = normal(operator.shape[0], 4, seed=2)
    single = torch.stack([operator @ column for column in block.unbind(1)], dim=1)
    product = operator @ block
    assert product.shape == block.shape
    torch.testing.assert_close(product, single, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_symmetric_and_linear(name: str, kind: str):
    model, _, inputs, targets = problem(name)
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets), operator=kind)
    u, v = normal(operator.shape[0], 2, seed=2).unbind(1)
    assert float(u @ (operator @ v)) == pytest.approx(float(v @ (operator @ u)), rel=1e-11)
    combined = operator @ (2 * u - 3 * v)
    torch.testing.assert_close(combined, 2 * (operator @ u) - 3 * (operator @ v), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, "wrong"), ("wrong",), ("right", 2, 1), ()])
def test_wrong_shapes_are_refused_naming_both(shape: tuple):
    model, _, inputs, targets = problem("tanh_mlp")
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets))
    size = {"wrong": operator.shape[0] + 1, "right": operator.shape[0]}
    shape = tuple(size.get(part, part) for part in shape)
    with pytest.raises(ValueError, match="cannot multiply") as error:
        operator @ torch.zeros(shape)
    assert str(shape) in str(error.value)
    assert str(operator.shape) in str(error.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [(), (3,)])
def test_numpy_in_numpy_out_in_the_same_dtype(dtype: type, columns: tuple[int, ...]):
    model, _, inputs, targets = problem("tanh_mlp")
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets))
    vector = normal(operator.shape[0], *columns, seed=2)
    product = operator @ vector.numpy().astype(dtype)
    assert isinstance(product, np.ndarray)
    assert product.dtype == dtype
    assert product.shape == vector.shape
    np.testing.assert_allclose(product, (operator @ vector).numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_in_torch_out_in_the_same_dtype(dtype: torch.dtype):
    model, _, inputs, targets = problem("tanh_mlp")
    operator = curvature_operator(model.float(), F.cross_entropy, (inputs.float(), targets))
    assert operator.dtype == torch.float32
    product = operator @ normal(operator.shape[0], dtype=dtype)
    assert product.dtype == dtype
    assert not product.requires_grad


def test_strided_numpy_block_is_read_right():
    model, _, inputs, targets = problem("tanh_mlp")
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets))
    block = normal(2, operator.shape[0], seed=2).numpy()
    expected = np.stack([operator @ row.copy() for row in block], axis=1)
    np.testing.assert_allclose(operator @ block.T, expected, rtol=1e-12, atol=0)
    np.testing.assert_allclose(operator @ block.T[:, ::-1], expected[:, ::-1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("make", [partial(torch.ones, dtype=torch.long), partial(np.ones, dtype=int)])
def test_an_integer_vector_is_not_answered_with_a_truncated_product(make):
    model, _, inputs, targets = problem("tanh_mlp")
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets))
    expected = operator @ np.ones(operator.shape[0])
    try:
        product = np.asarray(operator @ make(operator.shape[0]))
    except TypeError:
        return
    np.testing.assert_allclose(product, expected, rtol=1e-6, atol=1e-9)


def test_works_where_the_caller_has_gradients_off():
    model, _, inputs, targets = problem("tanh_mlp")
    vector = normal(3 * 4 + 6 * 4 + 5 * 6, seed=2)
    expected = curvature_operator(model, F.cross_entropy, (inputs, targets)) @ vector
    with torch.no_grad():
        product = curvature_operator(model, F.cross_entropy, (inputs, targets)) @ vector
    torch.testing.assert_close(product, expected, rtol=0, atol=0)


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("name", PROBLEMS)
def test_gradient_equals_autograd(name: str, batch_size: int | None):
    model, names, inputs, targets = problem(name)
    output, weights = dense_functions(model, names, inputs)
    weights.requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(output(weights), targets), weights)
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets), batch_size=batch_size)
    torch.testing.assert_close(operator.gradient(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_product_is_the_derivative_of_the_gradient(name: str):
    model, _, inputs, targets = problem(name)
    make = partial(curvature_operator, model, F.cross_entropy, (inputs, targets))
    operator = make()
    weights, vector = operator.prunable.flatten(), normal(operator.shape[0], seed=2)
    product = operator @ vector
    step, gradients = 1e-6, []
    for sign in (1, -1):
        operator.prunable.assign(weights + sign * step * vector)
        gradients.append(make().gradient())
    operator.prunable.assign(weights)
    torch.testing.assert_close((gradients[0] - gradients[1]) / (2 * step), product, rtol=1e-4, atol=1e-6)


def test_ggn_of_several_outputs_is_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(inputs), inputs

    data = normal(4, 5, dtype=torch.float32), labels(4, 3)
    with pytest.raises(TypeError, match="one tensor as output, got tuple"):
        curvature_operator(Two().eval(), lambda output, t: F.cross_entropy(output[0], t), data, operator="ggn")


def test_a_loss_linear_in_the_output_that_reads_a_weight_has_no_gauss_newton_curvature():
    model = nn.Sequential(nn.Linear(3, 2)).eval()
    data = torch.randn(6, 3), torch.zeros(6)
    matrix = curvature_operator(
        model, lambda output, _: (output * model[0].weight.sum()).mean(), data, operator="ggn", checks=False
    )
    assert (matrix @ torch.randn(6) == 0).all()
