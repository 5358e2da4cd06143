"""Curvature operators: batches, data of every kind, what the network is left with, refusals."""

from __future__ import annotations

import copy
import doctest
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import gwprune
from gwprune.curvature import operator as curvature
from gwprune.curvature.operator import OPERATORS, NotDeterministicError, curvature_operator
from gwprune.network.prunable import PrunableSet

from .helpers_networks import (
    PROBLEMS,
    flags,
    initialised,
    labels,
    matrix_of,
    normal,
    problem,
    seeded,
    tanh_mlp,
)
from .helpers_spectra import DENSE, dense_hessian


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
    assert kept.keeps_graphs
    assert not anew.keeps_graphs
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


@pytest.mark.parametrize("name", ["tanh_mlp", "conv_net"])
def test_the_loss_with_other_weights_is_that_of_a_network_that_has_them(name: str):
    model, _, inputs, targets = problem(name)
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets), batch_size=4)  # the last one is shorter
    vector = normal(operator.shape[0], seed=2)
    before, state = operator @ vector, copy.deepcopy(model.state_dict())
    other = copy.deepcopy(model)
    weights = operator.prunable.flatten() + 0.3 * vector
    PrunableSet(other).assign(weights)
    with torch.no_grad():
        expected = float(F.cross_entropy(other(inputs), targets))
    assert operator.loss(weights) == pytest.approx(expected, rel=1e-12)
    assert operator.loss(operator.prunable.flatten()) != pytest.approx(expected, rel=1e-3)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert operator._graphs is not None
    torch.testing.assert_close(operator @ vector, before, rtol=0, atol=0)
    with pytest.raises(ValueError, match=rf"shape \({operator.shape[0]},\), got \(3,\)"):
        operator.loss(weights[:3])


def test_a_tied_weight_is_replaced_wherever_it_is_used():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    model = initialised(model)
    inputs, targets = normal(9, 4), labels(9, 2)
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets))
    weights = normal(operator.shape[0], seed=3)
    found = operator.loss(weights)
    operator.prunable.assign(weights)
    with torch.no_grad():
        assert found == pytest.approx(float(F.cross_entropy(model(inputs), targets)), rel=1e-12)


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
        with pytest.raises(TypeError, match="a list of 20; of batches give iter.data., of samples a DataLoader"):
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
        (normal(3, 5), TypeError, "got Tensor; for any other, forward= says"),
        ((normal(3, 5), labels(3, 3), labels(3, 3)), TypeError, "got a tuple of 3; for any other, forward= says"),
        ((normal(3, 5), 1), TypeError, "got a tuple of 2 that do not both hold tensors"),
        (3, TypeError, "got int"),
        ("data.csv", TypeError, "got str"),
        ({"x": normal(3, 5)}, ValueError, "with the keys x has no 'labels', which loss_fn takes"),
    ],
    ids=["lengths", "empty", "empty_loader", "tensor", "triple", "number", "int", "path", "unlabelled"],
)
def test_other_data_is_refused(data, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        curvature_operator(tanh_mlp()[0], F.cross_entropy, data)


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
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "4.weight of the network holds NaN"),
        (float("inf"), "4.weight of the network holds infinite numbers"),
    ],
)
def test_a_network_that_is_not_finite_is_refused(value: float, message: str, kind: str):
    model, _, inputs, targets = problem("tanh_mlp")
    with torch.no_grad():
        model[4].weight[0, 0] = value
    with pytest.raises(FloatingPointError, match=message):
        curvature_operator(model, F.cross_entropy, (inputs, targets), operator=kind)


@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_nested_tensors_are_named():
    model, _, inputs, targets = problem("tanh_mlp")
    nested = torch.nested.nested_tensor(list(inputs))
    with pytest.raises(ValueError, match="the data are nested tensors"):
        curvature_operator(model, F.cross_entropy, (nested, targets))


def test_two_batches_in_a_list_are_no_pair():
    model, _, inputs, targets = problem("tanh_mlp")
    batches = [(inputs[:10], targets[:10]), (inputs[10:], targets[10:])]
    with pytest.raises(TypeError, match="a list of 2; of batches give iter"):
        curvature_operator(model, F.cross_entropy, batches)
    assert curvature_operator(model, F.cross_entropy, iter(batches)).samples == 20


@pytest.mark.parametrize(
    ("loss_fn", "change", "error", "message"),
    [
        (F.cross_entropy, lambda y: y + 2, ValueError, "hold class [34], which the network's output does not have"),
        (F.cross_entropy, lambda y: F.one_hot(y, 3), ValueError, "cannot take the targets of the data"),
        (F.binary_cross_entropy_with_logits, lambda y: F.one_hot(y, 3), ValueError, "dtype of the targets"),
        (lambda o, y: F.cross_entropy(o, y).to(torch.cfloat), lambda y: y, TypeError, "must be a real number"),
    ],
)
def test_targets_that_the_loss_cannot_take_are_named(loss_fn, change, error, message):
    model, _, inputs, targets = problem("tanh_mlp")
    with pytest.raises(error, match=message):
        curvature_operator(model, loss_fn, (inputs, change(targets)))


def test_unknown_operator_and_bad_batch_size_are_refused():
    model, _, inputs, targets = problem("tanh_mlp")
    with pytest.raises(ValueError, match="hessian, ggn, got 'fisher'"):
        curvature_operator(model, F.cross_entropy, (inputs, targets), operator="fisher")
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
        curvature_operator(model, F.cross_entropy, (inputs, targets), batch_size=0)


def test_a_network_without_prunable_weights_is_refused():
    with pytest.raises(ValueError, match="no prunable weights"):
        curvature_operator(nn.BatchNorm1d(5).eval(), F.cross_entropy, (normal(4, 5), labels(4, 3)))


def test_exported_and_its_example_runs():
    assert gwprune.curvature_operator is curvature_operator
    result = doctest.testmod(curvature)
    assert result.attempted >= 4
    assert result.failed == 0
