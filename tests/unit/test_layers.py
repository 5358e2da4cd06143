"""The tape: products through captured layers against double backward through PyTorch's own."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from gwprune.curvature.operator import OPERATORS, curvature_operator
from gwprune.curvature.tape import Tape
from gwprune.network.prunable import PrunableSet

from .helpers_networks import Net, normal

pytestmark = pytest.mark.filterwarnings("ignore:.*(deprecated|padding='same')")
tanh = torch.tanh
SAMPLES = 5


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


def dense(model: nn.Module, loss: Callable, inputs: tuple[Tensor, ...], targets: Tensor, kind: str) -> Tensor:
    """The Hessian or GGN by double backward, with no tape; the fused attention kernels could not do that."""
    parameters = PrunableSet(model).parameters
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


# --- networks ---------------------------------------------------------------------------------------------------


def convolution(kind: type[nn.Module], size: tuple[int, ...], *arguments, **options):
    """The convolution between two others of kernel 1, so that it has a derivative in its input too."""
    layer = kind(*arguments, **options)
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(size) - 1]
    channels, outputs = layer.in_channels, layer.out_channels
    model = nn.Sequential(plain(channels, channels, 1), nn.Tanh(), layer, nn.Softplus(), plain(outputs, 2, 1))
    return model, normal(SAMPLES, channels, *size), [0, 1, 2]


def two(function: Callable, uses: list[int], *shape: int, **layers: nn.Module):
    layers = {"a": nn.Linear(4, 3), "b": nn.Linear(3, 2)} | layers
    return Net(function, **layers), normal(SAMPLES, *(shape or (4,))), uses


def in_place_residual(net: Net, x: Tensor) -> Tensor:
    hidden = tanh(net.a(x))
    out = net.c(hidden)
    out += hidden
    F.relu(out, inplace=True)
    result = net.b(out)
    result[:, 0] *= 2
    return result


def force(net: Net, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(net.b(tanh(net.a(x))).square().sum(), x, create_graph=True)[0]


def second_derivative(net: Net, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(net.b(tanh(net.a(x))).square().sum(), x, create_graph=True)
    return torch.autograd.grad(first.pow(3).sum(), x, create_graph=True)[0]


def adapted(net: Net, x: Tensor) -> Tensor:
    """One gradient step inside the forward pass."""
    loss = sum(net.b(tanh(net.a(sample[None]))).square().sum() for sample in torch.eye(4, dtype=x.dtype))
    (gradient,) = torch.autograd.grad(loss, net.a.weight, create_graph=True)
    return net.b(tanh(F.linear(x, net.a.weight - 0.1 * gradient)))


def features_without_gradient(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        hidden = tanh(net.a(x))
    return net.b(net.c(hidden))


def scripted_source(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(torch.tanh(x), weight)


@cache
def scripted():
    return torch.jit.script(scripted_source)


def traced():
    module = torch.jit.trace(nn.Sequential(nn.Linear(3, 3), nn.Tanh()).double(), normal(2, 3))
    return two(lambda n, x: n.b(n.c(n.a(x))), [0, 1], c=module)


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    return model


def changed_by_hook() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    model[0].register_forward_hook(lambda module, inputs, output: output.square())
    model[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    return model


def parametrised(wrap: Callable):
    """The first layer's weight is computed, and so not prunable."""
    return nn.Sequential(wrap(nn.Linear(4, 3).double()), nn.Tanh(), nn.Linear(3, 2)), normal(SAMPLES, 4), [0]


def norms(**options):
    first, second = nn.BatchNorm1d(3, **options), nn.BatchNorm1d(2, **options)
    return nn.Sequential(nn.Linear(4, 3), first, nn.Tanh(), nn.Linear(3, 2), second), normal(SAMPLES, 4), [0, 1]


def transformer():
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 3, batch_first=True), 2, enable_nested_tensor=False
    )
    # The attention's own linear maps are inside a kernel; the other two of each layer are seen.
    return nn.Sequential(encoder, nn.Linear(4, 2)), normal(SAMPLES, 3, 4), [1, 2, 4, 5, 6]


C1, C2, T1, T2, Linear = nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear
# Network, inputs, and which prunable weights the tape sees, once for each use.
CASES: dict[str, Callable] = {
    "conv1d": partial(convolution, C1, (9,), 2, 3, 3, stride=2, dilation=2, bias=False),
    "conv1d_odd_same": lambda: (*convolution(C1, (5,), 2, 3, 4, padding="same")[:2], [0, 2]),
    "conv1d_circular": partial(convolution, C1, (5,), 2, 3, 3, padding=1, padding_mode="circular"),
    "conv2d_groups": partial(convolution, C2, (5, 4), 4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2),
    "conv2d_depthwise": partial(convolution, C2, (5, 5), 3, 6, 3, groups=3, padding="same", dilation=2),
    "conv2d_reflect": partial(convolution, C2, (4, 4), 2, 2, 3, padding=1, padding_mode="reflect"),
    "conv3d": partial(convolution, nn.Conv3d, (3, 3, 3), 2, 2, 2, padding="valid"),
    "transposed1d": partial(convolution, T1, (4,), 2, 3, 3, stride=2, padding=1, output_padding=1),
    "transposed2d": partial(convolution, T2, (3, 3), 4, 2, (3, 2), stride=2, groups=2, dilation=(1, 2)),
    "transposed3d": partial(convolution, nn.ConvTranspose3d, (2, 2, 2), 2, 2, 2, bias=False),
    "channels_last": lambda: two(
        lambda n, x: n.b(tanh(n.a(x.to(memory_format=torch.channels_last)))), [0, 1], 2, 4, 4,
        a=C2(2, 3, 2), b=C2(3, 2, 2),
    ),
    "unbatched_conv": lambda: two(
        lambda n, x: n.b(torch.stack([tanh(n.a(y)) for y in x]).flatten(1)), [1], 2, 5, a=C1(2, 1, 3)
    ),
    "linear_1d": lambda: two(lambda n, x: torch.stack([n.b(tanh(n.a(y))) for y in x]), []),
    "linear_3d": lambda: two(lambda n, x: n.b(tanh(n.a(x))), [0, 1], 2, 4),
    "keywords": lambda: two(
        lambda n, x: F.linear(weight=n.b.weight, input=tanh(F.linear(x, weight=n.a.weight, bias=n.a.bias))), [0, 1]
    ),
    "conv_keywords": lambda: two(
        lambda n, x: F.conv_transpose1d(
            input=tanh(F.conv1d(input=x, weight=n.a.weight, stride=[2])), weight=n.b.weight, padding=(1,)
        ),
        [0, 1], 2, 7, a=C1(2, 3, 2), b=T1(3, 2, 3),
    ),
    "used_twice": lambda: two(lambda n, x: n.b(tanh(n.c(tanh(n.c(tanh(n.a(x))))))), [0, 1, 2, 2], c=Linear(3, 3)),
    "module_and_function": lambda: two(
        lambda n, x: n.b(tanh(n.a(x))) + F.linear(x, n.a.weight * 2)[:, :2] ** 2, [0, 1]
    ),
    "weight_as_input": lambda: two(
        lambda n, x: x @ tanh(F.linear(n.b.weight, n.a.weight, n.b.weight[0])).t(), [0], a=Linear(4, 4), b=Linear(4, 3)
    ),
    "conv_bias_of_weight": lambda: two(
        lambda n, x: n.b(tanh(F.conv1d(x, n.a.weight, n.b.weight[0, :, 0]))), [0, 1], 2, 4, a=C1(2, 3, 2), b=C1(3, 2, 1)
    ),
    "tied": lambda: (tied(), normal(SAMPLES, 4), [0, 0, 1]),
    "hooks": lambda: (changed_by_hook(), normal(SAMPLES, 4), [0, 1]),
    "in_place_relu": lambda: (
        nn.Sequential(Linear(4, 5), nn.ReLU(True), Linear(5, 3), nn.ReLU(True), Linear(3, 2)),
        normal(SAMPLES, 4), [0, 1, 2],
    ),
    "in_place_residual": lambda: two(in_place_residual, [0, 1, 2], c=Linear(3, 3)),
    "batch_norm": norms,
    "batch_norm_plain": partial(norms, affine=False),
    "batch_norm_of_the_batch": partial(norms, track_running_stats=False),
    "attention": lambda: two(
        lambda n, x: n.b(n.a(x, x, x)[0]), [1], 3, 4, a=nn.MultiheadAttention(4, 2, batch_first=True), b=Linear(4, 2)
    ),
    "fused_attention": lambda: two(
        lambda n, x: n.b(F.scaled_dot_product_attention(n.a(x), x, x)), [0, 1], 3, 2, 4, a=Linear(4, 4), b=Linear(4, 2)
    ),
    "transformer": transformer,
    "lstm": lambda: two(
        lambda n, x: n.b(n.a(tanh(n.c(x)))[0]), [0, 1], 3, 4, a=nn.LSTM(4, 3, batch_first=True), c=Linear(4, 4)
    ),
    "force": lambda: two(force, [0, 1]),
    "conv_force": lambda: two(force, [0, 1], 2, 5, a=C1(2, 3, 3), b=T1(3, 2, 2, stride=2)),
    "conv_second_derivative": lambda: two(
        second_derivative, None, 2, 3, 3, a=C2(2, 4, 2, groups=2), b=T2(4, 2, 2, stride=2, groups=2)
    ),
    "adapted": lambda: two(adapted, None),
    "checkpoint": lambda: two(
        lambda n, x: n.b(checkpoint(n.c, n.a(x), use_reentrant=False)), [0, 1], 2, 4,
        a=C1(2, 2, 2), b=C1(2, 2, 1), c=nn.Sequential(nn.BatchNorm1d(2), nn.Tanh(), C1(2, 2, 2)),
    ),
    "vmap": lambda: two(lambda n, x: torch.vmap(lambda y: n.b(tanh(n.a(y[None])))[0])(x), []),
    "functional_call": lambda: two(
        lambda n, x: n.b(torch.func.functional_call(n.a, {"weight": tanh(n.a.weight)}, (x,))), [1]
    ),
    "no_grad": lambda: two(features_without_gradient, [1, 2], c=Linear(3, 3)),
    "unused_layer": lambda: two(lambda n, x: n.b(tanh(n.a(x))), [0, 1], c=Linear(3, 3)),
    "unused_output": lambda: two(lambda n, x: (n.c(n.a(x)), n.b(tanh(n.a(x))))[1], [0, 1], c=Linear(3, 3)),
    "scripted_function": lambda: two(lambda n, x: scripted()(n.a(x), n.b.weight), [0]),
    "traced_module": traced,
    "weight_norm": partial(parametrised, parametrizations.weight_norm),
    "spectral_norm": partial(parametrised, parametrizations.spectral_norm),
    "old_weight_norm": partial(parametrised, nn.utils.weight_norm),
    "control_flow": lambda: two(lambda n, x: n.b(tanh(n.a(x))) if float(n.a.weight.detach()[0, 0]) < 9 else x, [0, 1]),
}  # fmt: skip


def made(name: str) -> tuple[nn.Module, tuple[Tensor], Tensor, list[int] | None]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model, inputs, uses = (CASES | FORWARD_MODE)[name]()
    model = model.double().eval()
    for number, (_, buffer) in enumerate(model.named_buffers()):
        if buffer.ndim:  # running statistics: means of any sign would do, variances are positive
            buffer.copy_(0.5 + normal(*buffer.shape, seed=number).square())
    targets = normal(*model(inputs).shape, seed=1)
    return model, (inputs,), targets, uses


def dual(net: Net, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(net.b(tanh(net.a(forward_ad.make_dual(x, x.square()))))).tangent


FORWARD_MODE = {
    "jvp": lambda: two(lambda n, x: torch.func.jvp(lambda y: n.b(tanh(n.a(y))), (x,), (x,))[1], []),
    "dual_numbers": lambda: two(dual, []),
}


# --- products ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("name", CASES)
def test_products_equal_double_backward(name: str, kind: str):
    model, inputs, targets, _ = made(name)
    expected = dense(model, nonlinear, inputs, targets, kind)
    assert expected.norm() > 1e-3
    whole = name.endswith("of_the_batch")
    make = partial(curvature_operator, model, nonlinear, (inputs[0], targets), operator=kind)
    kept, anew = make(), make(memory_mb=0, batch_size=SAMPLES if whole else 2)
    assert kept._keep
    assert not anew._keep
    block = torch.cat([torch.eye(len(expected), dtype=torch.float64), normal(len(expected), 1)], dim=1)
    for operator, part in ((kept, block), (anew, block[:, -3:])):
        close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-11 * expected.norm().item())
        close(operator @ part, expected @ part)
        close(operator @ part[:, -1], expected @ part[:, -1])  # after a block: what is kept is not used up


@pytest.mark.parametrize("name", [*CASES, *FORWARD_MODE])
def test_uses_and_what_was_missed_are_the_whole_gradient(name: str):
    model, inputs, targets, expected_uses = made(name)
    parameters = PrunableSet(model).parameters
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
    hessian, ggn = (curvature_operator(model, linear_loss, (inputs[0], targets), operator=kind) for kind in OPERATORS)
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
def test_autocast_in_the_forward_pass(kind: str):
    def half(net: Net, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net.b(tanh(net.n(net.a(x)))).float()

    model = Net(half, a=Linear(4, 3), n=nn.BatchNorm1d(3), b=Linear(3, 2)).eval()
    inputs, targets = normal(5, 4, dtype=torch.float32), normal(5, 2, seed=1, dtype=torch.float32)
    expected = dense(model, nonlinear, (inputs,), targets, kind)
    operator = curvature_operator(model, nonlinear, (inputs, targets), operator=kind)
    # Between its layers everything is rounded to 8 bits, and the GGN comes by another route.
    assert (operator @ torch.eye(len(expected)) - expected).norm() < 2e-2 * expected.norm()


def test_reentrant_checkpoint_is_refused_as_by_torch_itself():
    model = Net(lambda n, x: n.b(checkpoint(tanh, n.a(x), use_reentrant=True)), a=Linear(4, 3), b=Linear(3, 2)).eval()
    inputs, targets = normal(5, 4, dtype=torch.float32), normal(5, 2, dtype=torch.float32)
    with pytest.raises(RuntimeError, match="use_reentrant=True"):
        dense(model, nonlinear, (inputs,), targets, "hessian")
    with pytest.raises(RuntimeError, match="use_reentrant=True"):
        curvature_operator(model, nonlinear, (inputs, targets))


# --- what stays behind ------------------------------------------------------------------------------------------


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
    gc.disable()  # a circle would stay until the collector comes round
    try:
        counts = [tensors() for _ in range(4)]
    finally:
        gc.enable()
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
