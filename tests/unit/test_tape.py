"""The tape: products through captured layers against double backward through PyTorch's own."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from gwprune.curvature import tape
from gwprune.curvature.operator import OPERATORS, curvature_operator
from gwprune.curvature.tape import Tape
from gwprune.network.prunable import PrunableSet

from .helpers_layers import C1, CASES, FORWARD_MODE, PRUNABLE, SAMPLES, Linear, made, tanh
from .helpers_networks import Net, normal

pytestmark = pytest.mark.filterwarnings("ignore:.*(deprecated|padding='same')")


def nonlinear(output: Tensor, target: Tensor) -> Tensor:
    return (tanh(output) - target).square().mean()


def linear_loss(output: Tensor, target: Tensor) -> Tensor:
    return (output * target).mean()


def matrix(outputs: Tensor, parameters: list[Tensor], again: bool = False) -> Tensor:
    """Jacobian of the flat ``outputs``, row by row, if need be to differentiate it again."""
    zeros = [torch.zeros_like(parameter) for parameter in parameters]
    rows = []
    for value in outputs:
        parts = zeros
        if value.requires_grad:
            found = torch.autograd.grad(value, parameters, retain_graph=True, create_graph=again, allow_unused=True)
            parts = [zero if part is None else part for part, zero in zip(found, zeros, strict=True)]
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    return torch.stack(rows)


def dense(
    model: nn.Module, loss: Callable, inputs: tuple[Tensor, ...], targets: Tensor, kind: str, prunable=None
) -> Tensor:
    """The Hessian or GGN by double backward, with no tape; the fused attention kernels could not do that."""
    parameters = PrunableSet(model, prunable).parameters
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    with sdpa_kernel(SDPBackend.MATH):
        output = model(*inputs)
        if kind == "hessian":
            (gradient,) = matrix(loss(output, targets)[None], parameters, True)
            return matrix(gradient, parameters).detach()
        jacobian = matrix(output.reshape(-1), parameters)
        head = output.detach().requires_grad_()
        (gradient,) = matrix(loss(head, targets)[None], [head], True)
        return (jacobian.t() @ matrix(gradient, [head]) @ jacobian).detach()


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("name", CASES)
def test_products_equal_double_backward(name: str, kind: str):
    model, inputs, targets, _ = made(name)
    expected = dense(model, nonlinear, inputs, targets, kind, PRUNABLE.get(name))
    assert expected.norm() > 1e-3
    whole = name.endswith("of_the_batch")
    refused = whole or name == "no_grad"
    make = partial(
        curvature_operator,
        model,
        nonlinear,
        (inputs[0], targets),
        operator=kind,
        checks=not refused,
        prunable=PRUNABLE.get(name),
    )
    kept, anew = make(), make(memory_mb=0, batch_size=SAMPLES if whole else 2)
    assert kept.keeps_graphs
    assert not anew.keeps_graphs
    block = torch.cat([torch.eye(len(expected), dtype=torch.float64), normal(len(expected), 1)], dim=1)
    for operator, part in ((kept, block), (anew, block[:, -3:])):
        close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-11 * expected.norm().item())
        close(operator @ part, expected @ part)
        close(operator @ part[:, -1], expected @ part[:, -1])  # after a block: what is kept is not used up


@pytest.mark.parametrize("name", [*CASES, *FORWARD_MODE])
def test_uses_and_what_was_missed_are_the_whole_gradient(name: str):
    model, inputs, targets, expected_uses = made(name)
    parameters = PrunableSet(model, PRUNABLE.get(name)).parameters
    vector = [normal(*parameter.shape, seed=2) for parameter in parameters]
    with sdpa_kernel(SDPBackend.MATH):
        gradient = torch.autograd.grad(nonlinear(model(*inputs), targets), parameters, materialize_grads=True)
    tape = Tape(parameters)
    with tape:
        value = nonlinear(model(*inputs), targets)
    uses, missed = tape.record(value, parameters)
    if expected_uses is not None:
        assert sorted(use.number for use in uses) == expected_uses
    found = torch.zeros(len(parameters), dtype=torch.float64)
    for use in uses:
        part = (use.delta * use.output_tangent(vector[use.number])).sum().detach()
        found[use.number] += part
        other = (use.x * use.input_tangent(vector[use.number])).sum().detach()
        torch.testing.assert_close(other, part, rtol=1e-9, atol=1e-13)
    for number, part in missed:
        found[number] += (part * vector[number]).sum().detach()
    expected = torch.stack([(part * along).sum() for part, along in zip(gradient, vector, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kind", OPERATORS)
def test_layers_and_biases_that_are_frozen_take_part(kind: str):
    model, inputs, targets, _ = made("conv2d_groups")
    expected = dense(model, nonlinear, inputs, targets, kind)
    model.requires_grad_(True)
    for parameter in (model[0].weight, model[2].bias, model[4].weight):
        parameter.requires_grad_(False)
    operator = curvature_operator(model, nonlinear, (inputs[0], targets), operator=kind)
    torch.testing.assert_close(operator @ torch.eye(len(expected), dtype=torch.float64), expected)
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, False, False, True]


@pytest.mark.parametrize("name", ["conv2d_groups", "transposed2d", "linear_3d", "in_place_residual"])
def test_loss_that_is_linear_in_the_output(name: str):
    model, inputs, targets, _ = made(name)
    expected = dense(model, linear_loss, inputs, targets, "hessian")
    make = partial(curvature_operator, model, linear_loss, (inputs[0], targets))
    hessian, ggn = make(), make(operator="ggn", checks=False)
    identity = torch.eye(len(expected), dtype=torch.float64)
    torch.testing.assert_close(hessian @ identity, expected, rtol=1e-9, atol=1e-12)
    assert expected.any()
    assert not (ggn @ identity).any()


@pytest.mark.parametrize("kind", OPERATORS)
def test_several_inputs(kind: str):
    model = Net(lambda n, x, y: n.c(tanh(n.a(x)) * n.b(y).mean(2)), a=Linear(4, 3), b=C1(2, 3, 2), c=Linear(3, 2))
    model, inputs, targets = model.double().eval(), (normal(5, 4), normal(5, 2, 4, seed=1)), normal(5, 2, seed=2)
    expected = dense(model, nonlinear, inputs, targets, kind)
    operator = curvature_operator(model, nonlinear, (inputs, targets), operator=kind, batch_size=3)
    torch.testing.assert_close(operator @ torch.eye(len(expected), dtype=torch.float64), expected)


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("name", ["conv2d_groups", "transposed1d", "batch_norm", "transformer"])
def test_single_precision(name: str, kind: str):
    model, inputs, targets, _ = made(name)
    expected = dense(model, nonlinear, inputs, targets, kind)
    operator = curvature_operator(model.float(), nonlinear, (inputs[0].float(), targets.float()), operator=kind)
    product = operator @ torch.eye(len(expected))
    assert product.dtype == torch.float32
    assert (product - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("kind", OPERATORS)
def test_autocast_in_the_forward_pass_is_switched_off(kind: str):
    def half(net: Net, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net.b(tanh(net.n(net.a(x)))).float()

    model = Net(lambda n, x: n.b(tanh(n.n(n.a(x)))), a=Linear(4, 3), n=nn.BatchNorm1d(3), b=Linear(3, 2)).eval()
    inputs, targets = normal(5, 4, dtype=torch.float32), normal(5, 2, seed=1, dtype=torch.float32)
    expected = dense(model, nonlinear, (inputs,), targets, kind)
    model.function = half
    with pytest.warns(UserWarning, match="autocast is on .* switch it off"):
        operator = curvature_operator(model, nonlinear, (inputs, targets), operator=kind)
    assert (operator @ torch.eye(len(expected)) - expected).norm() < 1e-5 * expected.norm()
    slope = operator.gradient()
    model.function = lambda n, x: n.b(tanh(n.n(n.a(x))))
    plain = curvature_operator(model, nonlinear, (inputs, targets), operator=kind)
    assert (slope - plain.gradient()).norm() < 1e-5 * slope.norm()
    # Around the call it would round the backward passes, too.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.warns(UserWarning, match="autocast is on"):
            around = curvature_operator(model, nonlinear, (inputs, targets), operator=kind)
        product = around @ torch.eye(len(expected))
        assert torch.is_autocast_enabled("cpu")
    assert around.roundings == plain.roundings
    assert (product - expected).norm() < 1e-5 * expected.norm()


def test_reentrant_checkpoint_is_refused_as_by_torch_itself():
    model = Net(lambda n, x: n.b(checkpoint(tanh, n.a(x), use_reentrant=True)), a=Linear(4, 3), b=Linear(3, 2)).eval()
    inputs, targets = normal(5, 4, dtype=torch.float32), normal(5, 2, dtype=torch.float32)
    with pytest.raises(RuntimeError, match="use_reentrant=True"):
        dense(model, nonlinear, (inputs,), targets, "hessian")
    with pytest.raises(RuntimeError, match="use_reentrant=True"):
        curvature_operator(model, nonlinear, (inputs, targets))


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("name", ["conv2d_groups", "batch_norm", "force", "transformer", "checkpoint"])
def test_graphs_built_anew_leave_no_tensor_behind(name: str, kind: str):
    model, inputs, targets, _ = made(name)
    operator = curvature_operator(model, nonlinear, (inputs[0], targets), operator=kind, memory_mb=0, batch_size=2)
    vector = torch.ones(operator.shape[0], 2, dtype=torch.float64)

    def tensors() -> int:
        operator @ vector
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    gc.collect()
    gc.freeze()  # only what comes from now on is looked at
    gc.disable()  # a circle would stay until the collector comes round
    try:
        counts = [tensors() for _ in range(4)]
    finally:
        gc.enable()
        gc.unfreeze()
    assert counts[1:] == counts[1:2] * 3


@pytest.mark.parametrize("kind", OPERATORS)
def test_kept_activations_go_with_release(kind: str):
    model, inputs, targets, _ = made("conv2d_groups")
    operator = curvature_operator(model, nonlinear, (inputs[0], targets), operator=kind)
    operator @ torch.ones(operator.shape[0], dtype=torch.float64)
    watched = [weakref.ref(tensor) for use in operator._graphs[0].uses for tensor in (use.x, use.delta)]
    assert len(watched) == 6
    gc.disable()
    try:
        operator.release()
        assert [reference() for reference in watched if reference() is not inputs[0]].count(None) >= 5
    finally:
        gc.enable()


def test_the_tape_is_clean_after_a_backward_pass_that_fails():
    model, inputs, targets, _ = made("conv2d_groups")
    parameters = PrunableSet(model).parameters
    tape = Tape(parameters)
    with tape:
        hidden = model[:4](inputs[0])
        value = nonlinear(model[4](hidden), targets)
    hidden.mul_(2)  # the layer's input is not what it was
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        tape.record(value, parameters)
    assert tape.uses == []
    assert not tape.recording


def test_gelu_is_that_of_torch_up_to_its_third_derivative():
    x = torch.linspace(-6, 6, 41, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(tape._gelu(x), functional.gelu(x), rtol=0, atol=1e-15)
    assert torch.autograd.gradcheck(tape._gelu, x)
    assert torch.autograd.gradgradcheck(tape._gelu, x)
    assert tape._gelu(x, "tanh") is None
    assert tape._gelu(x.bfloat16()) is None


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_products_through_gelu_are_those_of_double_backward(kind: str, approximate: str):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.GELU(approximate), nn.Linear(5, 3), nn.GELU(approximate)).double().eval()
    inputs, targets = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    expected = dense(model, nonlinear, (inputs,), targets, kind)
    operator = curvature_operator(model, nonlinear, (inputs, targets), operator=kind)
    found = operator @ torch.eye(operator.shape[0], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
