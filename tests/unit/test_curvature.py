"""Curvature operators against dense oracles, closed forms, another library, and their own identities."""

from __future__ import annotations

import doctest
from functools import partial

import numpy as np
import pytest
import torch
from curvlinops import GGNLinearOperator, HessianLinearOperator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import gwprune
from gwprune.curvature import operator as curvature
from gwprune.curvature.operator import OPERATORS, NotDeterministicError, curvature_operator

from .helpers_spectra import DENSE, dense_functions, dense_hessian


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def labels(samples: int, classes: int, seed: int = 7) -> Tensor:
    return torch.randint(classes, (samples,), generator=seeded(seed))


def initialised(model: nn.Module, seed: int = 5) -> nn.Module:
    """Float64, in eval mode, every parameter and running statistic random but the same in each run."""
    model = model.double().eval()
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model


def tanh_mlp() -> tuple[nn.Module, list[str]]:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    return initialised(model), ["0.weight", "2.weight", "4.weight"]


def conv_net() -> tuple[nn.Module, list[str]]:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(3, 2, 2),
        nn.BatchNorm2d(2),
        nn.Softplus(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, 3),
    )
    return initialised(model), ["0.weight", "4.weight", "10.weight"]


def problem(name: str, samples: int = 20) -> tuple[nn.Module, list[str], Tensor, Tensor]:
    if name == "tanh_mlp":
        return *tanh_mlp(), normal(samples, 5), labels(samples, 3)
    return *conv_net(), normal(samples, 2, 6, 6), labels(samples, 3)


PROBLEMS = ("tanh_mlp", "conv_net")


def matrix_of(operator) -> Tensor:
    return operator @ torch.eye(operator.shape[0], dtype=operator.dtype)


def flags(model: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in model.parameters()]


# --- dense oracles ----------------------------------------------------------------------------------------------


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


# --- closed forms -----------------------------------------------------------------------------------------------


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
    operator = curvature_operator(model, lambda output, target: (output * target).mean(), (normal(9, 4), normal(9, 3)))
    product = operator @ normal(12)
    assert product.shape == (12,)
    assert not product.any()


def test_loss_that_is_linear_in_the_output_has_zero_ggn():
    model, _ = tanh_mlp()
    operator = curvature_operator(
        model, lambda output, target: (output * target).mean(), (normal(9, 5), normal(9, 3)), operator="ggn"
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


# --- batches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_mb", [3072, 0])
@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_unequal_last_batch_is_weighted(name: str, kind: str, memory_mb: int):
    model, _, inputs, targets = problem(name)
    make = partial(curvature_operator, model, F.cross_entropy, (inputs, targets), operator=kind)
    vector = normal(make().shape[0], seed=2)
    whole, parts = make(batch_size=20), make(batch_size=7, memory_mb=memory_mb)
    assert (whole.batch_size, parts.batch_size, parts.samples) == (20, 7, 20)
    torch.testing.assert_close(parts @ vector, whole @ vector, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(parts.gradient(), whole.gradient(), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", OPERATORS)
def test_order_of_the_samples_does_not_matter(kind: str):
    model, _, inputs, targets = problem("conv_net", 40)
    model, inputs = model.float(), inputs.float()
    order = torch.randperm(40, generator=seeded(4))
    make = partial(curvature_operator, model, F.cross_entropy, operator=kind, batch_size=16)
    straight, shuffled = make((inputs, targets)), make((inputs[order], targets[order]))
    vector = normal(straight.shape[0], seed=2, dtype=torch.float32)
    expected = straight @ vector
    assert ((shuffled @ vector) - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("kind", OPERATORS)
def test_kept_graphs_equal_graphs_built_anew(kind: str):
    model, _, inputs, targets = problem("tanh_mlp", 4000)
    make = partial(curvature_operator, model, F.cross_entropy, (inputs, targets), operator=kind)
    kept, anew = make(), make(memory_mb=1)
    assert kept._keep
    assert not anew._keep
    assert anew.batch_size < kept.batch_size <= kept.samples
    block = normal(kept.shape[0], 3, seed=2)
    for _ in range(2):
        torch.testing.assert_close(anew @ block, kept @ block, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(anew @ block[:, 0], kept @ block[:, 0], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", OPERATORS)
def test_release_gives_graphs_back_and_the_next_product_builds_them(kind: str):
    model, _, inputs, targets = problem("conv_net")
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets), operator=kind)
    vector = normal(operator.shape[0], seed=2)
    before = operator @ vector
    operator.release()
    assert operator._graphs is None
    torch.testing.assert_close(operator @ vector, before, rtol=0, atol=0)


def test_graphs_are_built_once_when_they_are_kept():
    model, _, inputs, targets = problem("tanh_mlp")
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets), batch_size=7)
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        operator @ torch.ones(operator.shape[0])
    assert len(calls) == 3
    handle.remove()


def test_products_are_counted_by_column():
    model, _, inputs, targets = problem("tanh_mlp")
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets))
    assert operator.products == 0
    operator @ torch.ones(operator.shape[0])
    operator @ torch.ones(operator.shape[0], 3)
    assert operator.products == 4


def test_single_sample_works():
    model, names, inputs, targets = problem("tanh_mlp", 1)
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets))
    expected = dense_hessian(model, F.cross_entropy, inputs, targets, names)
    torch.testing.assert_close(matrix_of(operator), expected, rtol=1e-9, atol=1e-11)


# --- the matrix as a matrix -------------------------------------------------------------------------------------


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


# --- gradient ---------------------------------------------------------------------------------------------------


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


# --- what the network is left with ------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_mb", [3072, 0])
@pytest.mark.parametrize("kind", OPERATORS)
def test_frozen_parameters_take_part_and_their_flags_come_back(kind: str, memory_mb: int):
    model, _, inputs, targets = problem("conv_net")
    make = partial(curvature_operator, model, F.cross_entropy, (inputs, targets), operator=kind, memory_mb=memory_mb)
    vector = normal(make().shape[0], seed=2)
    expected, gradient = make() @ vector, make().gradient()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 == 1)
    before = flags(model)
    assert not model[0].weight.requires_grad
    operator = make()
    for _ in range(2):
        torch.testing.assert_close(operator @ vector, expected, rtol=1e-12, atol=1e-14)
        assert flags(model) == before
    torch.testing.assert_close(operator.gradient(), gradient, rtol=1e-12, atol=1e-14)
    assert flags(model) == before


def test_flags_come_back_after_an_error_in_the_loss():
    model, _, inputs, targets = problem("tanh_mlp")
    model[0].requires_grad_(False)
    before = flags(model)

    def broken(output: Tensor, target: Tensor) -> Tensor:
        raise KeyError("no such loss")

    with pytest.raises(KeyError, match="no such loss"):
        curvature_operator(model, broken, (inputs, targets))
    assert flags(model) == before


@pytest.mark.parametrize("kind", OPERATORS)
def test_weights_buffers_gradients_and_random_state_are_left_alone(kind: str):
    model, _, inputs, targets = problem("conv_net")
    model[0].weight.grad = torch.full_like(model[0].weight, 3.0)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets), operator=kind)
    operator @ torch.ones(operator.shape[0])
    operator.gradient()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model[0].weight.grad.unique().tolist() == [3.0]
    assert model[10].weight.grad is None
    assert torch.equal(torch.get_rng_state(), random)


# --- data -------------------------------------------------------------------------------------------------------


class Pairs(nn.Module):
    """Two inputs and an interaction of both."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.tanh(self.left(left)) * torch.tanh(self.right(right)))


class PairSet(Dataset):
    def __init__(self, left: Tensor, right: Tensor, targets: Tensor):
        self.parts = left, right, targets

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, index: int):
        left, right, targets = self.parts
        return (left[index], right[index]), int(targets[index])


@pytest.mark.parametrize("kind", OPERATORS)
def test_tuple_inputs_are_spread_over_the_arguments(kind: str):
    model = initialised(Pairs())
    left, right, targets = normal(11, 3), normal(11, 2, seed=1), labels(11, 3)
    names = ["left.weight", "right.weight", "head.weight"]
    expected = DENSE[kind](model, F.cross_entropy, (left, right), targets, names)
    make = partial(curvature_operator, model, F.cross_entropy, operator=kind, batch_size=4)
    pairs = PairSet(left, right, targets)
    for data in (((left, right), targets), pairs, DataLoader(pairs, batch_size=3)):
        operator = make(data)
        assert operator.samples == 11
        torch.testing.assert_close(matrix_of(operator), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda pair: list(pair),
        lambda pair: TensorDataset(*pair),
        lambda pair: DataLoader(TensorDataset(*pair), batch_size=7),
        lambda pair: DataLoader(TensorDataset(*pair), batch_size=7, shuffle=True, generator=seeded(9)),
        lambda pair: [(x, int(y)) for x, y in zip(*pair, strict=True)],
    ],
    ids=["list", "dataset", "loader", "shuffled_loader", "list_of_samples"],
)
def test_every_kind_of_data_gives_the_same_operator(wrap, request: pytest.FixtureRequest):
    model, _, inputs, targets = problem("conv_net")
    data = wrap((inputs, targets))
    if request.node.callspec.id == "list_of_samples":
        with pytest.raises(TypeError, match="a Dataset or a DataLoader, got list"):
            curvature_operator(model, F.cross_entropy, data)
        return
    expected = curvature_operator(model, F.cross_entropy, (inputs, targets))
    operator = curvature_operator(model, F.cross_entropy, data)
    vector = normal(operator.shape[0], seed=2)
    assert operator.samples == 20
    torch.testing.assert_close(operator @ vector, expected @ vector, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(operator @ vector, operator @ vector, rtol=0, atol=0)


def test_a_shuffling_loader_is_read_once():
    model, _, inputs, targets = problem("tanh_mlp")
    random = seeded(9)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=7, shuffle=True, generator=random)
    operator = curvature_operator(model, F.cross_entropy, loader, batch_size=7)
    state = random.get_state()
    first = operator @ torch.ones(operator.shape[0])
    torch.testing.assert_close(operator @ torch.ones(operator.shape[0]), first, rtol=0, atol=0)
    assert torch.equal(random.get_state(), state)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((normal(3, 5), labels(4, 3)), ValueError, "3 inputs but 4 targets"),
        ((normal(0, 5), labels(0, 3)), ValueError, "no samples"),
        (DataLoader(TensorDataset(normal(2, 5), labels(2, 3)), batch_size=3, drop_last=True), ValueError, "no samples"),
        (normal(3, 5), TypeError, "got Tensor"),
        ((normal(3, 5), labels(3, 3), labels(3, 3)), TypeError, "got tuple"),
        ((normal(3, 5).numpy(), labels(3, 3)), TypeError, "got ndarray"),
        (({"x": normal(3, 5)}, labels(3, 3)), TypeError, "got dict"),
    ],
    ids=["lengths", "empty", "empty_loader", "tensor", "triple", "numpy", "mapping"],
)
def test_other_data_is_refused(data, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        curvature_operator(tanh_mlp()[0], F.cross_entropy, data)


# --- refusals ---------------------------------------------------------------------------------------------------


def test_training_mode_is_refused_naming_the_module():
    model, _, inputs, targets = problem("conv_net")
    model[1].train()
    with pytest.raises(ValueError, match=r"network is in training mode \(1\): curvature needs model\.eval\(\)"):
        curvature_operator(model, F.cross_entropy, (inputs, targets))
    with pytest.raises(ValueError, match=r"training mode \(Sequential\)"):
        curvature_operator(model.train(), F.cross_entropy, (inputs, targets))


class ActiveDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(5, 20), nn.Linear(20, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(F.dropout(torch.tanh(self.layer(inputs)), 0.5, training=True))


class Drifting(nn.Module):
    """A state that every pass changes."""

    def __init__(self):
        super().__init__()
        self.layer, self.passes = nn.Linear(5, 3), 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes += 1
        return self.layer(inputs) * (1 + 0.01 * self.passes)


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("network", [ActiveDropout, Drifting])
def test_a_network_that_is_not_deterministic_is_refused(network: type[nn.Module], kind: str):
    model = network().eval()
    data = normal(20, 5, dtype=torch.float32), labels(20, 3)
    with pytest.raises(NotDeterministicError, match="differ by"):
        curvature_operator(model, F.cross_entropy, data, operator=kind)


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_is_not_finite_is_refused(value: float, kind: str):
    model, _, inputs, targets = problem("tanh_mlp")
    with torch.no_grad():
        model[4].weight[0, 0] = value
    with pytest.raises(FloatingPointError, match="not finite"):
        curvature_operator(model, F.cross_entropy, (inputs, targets), operator=kind)


def test_unknown_operator_and_bad_batch_size_are_refused():
    model, _, inputs, targets = problem("tanh_mlp")
    with pytest.raises(ValueError, match="hessian, ggn, got 'fisher'"):
        curvature_operator(model, F.cross_entropy, (inputs, targets), operator="fisher")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        curvature_operator(model, F.cross_entropy, (inputs, targets), batch_size=0)


def test_a_network_without_prunable_weights_is_refused():
    with pytest.raises(ValueError, match="no prunable weights"):
        curvature_operator(nn.BatchNorm1d(5).eval(), F.cross_entropy, (normal(4, 5), labels(4, 3)))


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


# --- documentation ----------------------------------------------------------------------------------------------


def test_exported_and_its_example_runs():
    assert gwprune.curvature_operator is curvature_operator
    result = doctest.testmod(curvature)
    assert result.attempted >= 4
    assert result.failed == 0


def test_a_loss_linear_in_the_output_that_reads_a_weight_has_no_gauss_newton_curvature():
    model = nn.Sequential(nn.Linear(3, 2)).eval()
    data = torch.randn(6, 3), torch.zeros(6)
    matrix = curvature_operator(model, lambda output, _: (output * model[0].weight.sum()).mean(), data, operator="ggn")
    assert (matrix @ torch.randn(6) == 0).all()


def test_release_forgets_the_smaller_network_and_follows_the_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        model[0].bias[:2] = -1e3
    data = torch.randn(30, 4), torch.randint(3, (30,))
    matrix = curvature_operator(model, F.cross_entropy, data)
    assert matrix.compact() == 4 * 4 + 4 * 3
    matrix.prunable.assign(1.5 * matrix.prunable.flatten())
    matrix.release()
    vector = torch.randn(matrix.shape[0])
    expected = curvature_operator(model, F.cross_entropy, data) @ vector
    torch.testing.assert_close(matrix @ vector, expected)


def test_a_loss_that_reads_the_network_keeps_it_whole():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        model[0].bias[:2] = -1e3

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, target) + 1e-3 * model[0].weight.pow(2).sum()

    matrix = curvature_operator(model, loss, (torch.randn(30, 4), torch.randint(3, (30,))))
    # Every row has curvature, so nothing is dead.
    assert matrix.compact() == matrix.shape[0]
