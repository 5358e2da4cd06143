"""Products without dead units: the same values, as many weights as counted by hand, the model untouched."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import gwprune
from gwprune.curvature.compaction import CompactedOperator, compacted
from gwprune.curvature.dead_units import without_dead_units
from gwprune.curvature.operator import OPERATORS, curvature_operator
from gwprune.network.prunable import PrunableSet
from gwprune.spectral.lanczos import lanczos

from .helpers_dead_units import (
    BN2,
    C2,
    CASES,
    PRUNABLE,
    Linear,
    Net,
    alive,
    data,
    fc,
    lenet,
    loss,
    relu,
    targets_of,
    zeroed,
)
from .helpers_networks import normal


def weights_left(operator) -> int:
    """The number of weights that products compute on."""
    return operator.small.shape[0] if isinstance(operator, CompactedOperator) else operator.shape[0]


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("name", CASES)
def test_same_products_on_the_weights_counted_by_hand(name: str, kind: str):
    model, inputs, left = CASES[name]()
    next(model.parameters()).requires_grad_(False)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modules, flags = list(model.modules()), [parameter.requires_grad for parameter in model.parameters()]
    targets = targets_of(model, inputs)
    options = {"operator": kind, "batch_size": 8, "prunable": PRUNABLE.get(name)}
    full, small = (curvature_operator(model, loss, (inputs, targets), **options) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = compacted(small)
    assert weights_left(small) == left
    assert small.products == (2 if isinstance(small, CompactedOperator) else 1)
    block = normal(full.shape[0], 4, seed=2)
    expected, product = full @ block, small @ block
    assert expected.any()
    torch.testing.assert_close(product, expected, rtol=1e-10, atol=1e-13 * float(expected.norm()))
    torch.testing.assert_close(small @ block[:, 0], expected[:, 0], rtol=1e-10, atol=1e-13 * float(expected.norm()))
    assert not product[~expected.any(dim=1)].any()
    torch.testing.assert_close(small.gradient(), full.gradient(), rtol=0, atol=0)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(new is old for new, old in zip(model.modules(), modules, strict=True))
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


@pytest.mark.parametrize("name", ["fc", "lenet", "nested", "two_inputs", "defined_backwards", "all_dead"])
def test_smaller_network_is_the_same_function_with_the_weights_of_its_index(name: str):
    model, inputs, left = CASES[name]()
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    operator = curvature_operator(model, loss, (inputs, targets_of(model, inputs)))
    zero = (operator @ normal(operator.shape[0])) == 0
    smaller = without_dead_units(model, operator.prunable, zero, lambda module: module(*inputs))
    small = smaller.prunable
    assert small.names == PrunableSet(smaller.model).names
    assert small.dimension == len(smaller.index) == len(smaller.index.unique()) == left
    assert torch.equal(small.flatten(), operator.prunable.flatten()[smaller.index])
    assert not any(module.training for module in smaller.model.modules())
    torch.testing.assert_close(smaller.model(*inputs), model(*inputs), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("choice", [slice(1, None), slice(None, -1), slice(None, None, 2)])
@pytest.mark.parametrize("name", ["fc", "lenet", "residual_block", "tied", "zero_inputs", "unused_layer"])
def test_chosen_weights_have_their_part_of_the_matrix(name: str, choice: slice):
    model, inputs, _ = CASES[name]()
    targets = targets_of(model, inputs)
    full = curvature_operator(model, loss, (inputs, targets))
    part = curvature_operator(model, loss, (inputs, targets), prunable=full.prunable.names[choice])
    columns = full.prunable.unflatten(torch.arange(full.shape[0]))[choice]
    index = torch.cat([column.flatten() for column in columns])
    block = normal(len(index), 3)
    expected = (full @ torch.zeros(full.shape[0], 3, dtype=block.dtype).index_copy(0, index, block))[index]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smaller = compacted(part)
    assert isinstance(smaller, CompactedOperator) or name != "fc"
    found = smaller @ block
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13 * float(expected.norm()))


def test_nothing_to_take_out():
    model, inputs, _ = fc()
    prunable = PrunableSet(model)
    none = torch.zeros(prunable.dimension, dtype=torch.bool)
    assert without_dead_units(model, prunable, none, lambda module: module(inputs)) is None
    # Rows of zeros alone do not make a unit dead: it must have nothing to say on any sample.
    living = alive(nn.Sequential(Linear(5, 6), nn.ReLU(), Linear(6, 2)), {})
    prunable = PrunableSet(living)
    assert (
        without_dead_units(living, prunable, torch.ones(42, dtype=torch.bool), lambda module: module(data(5))) is None
    )


def test_a_unit_that_one_sample_sees_stays():
    model, inputs, left = fc()
    inputs[-1, 2] = 1e-3
    operator = curvature_operator(model, loss, (inputs, targets_of(model, inputs)), batch_size=8)
    assert weights_left(compacted(operator)) == left + 4


def unfaithful_root() -> nn.Module:
    model = fc()[0]
    model.register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


def unfaithful_gradients() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = relu(net.a(x))
        return net.c(relu(net.b(x)))

    return alive(Net(forward, a=Linear(5, 3), b=Linear(3, 3), c=Linear(3, 2)), {"b": [0]})


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("make", [unfaithful_root, unfaithful_gradients])
def test_a_network_that_its_trace_does_not_tell_stays_whole_with_a_warning(make: Callable, kind: str):
    model, inputs = make(), data(5)
    targets = targets_of(model, inputs)
    full, small = (curvature_operator(model, loss, (inputs, targets), operator=kind, checks=False) for _ in range(2))
    with pytest.warns(UserWarning, match="another curvature"):
        assert compacted(small) is small
    vector = normal(full.shape[0])
    torch.testing.assert_close(small @ vector, full @ vector, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("options", [{}, {"memory_mb": 0}, {"batch_size": 7}])
def test_batches_and_single_precision(options: dict, kind: str):
    model, inputs, left = lenet()
    targets = targets_of(model, inputs)
    full = curvature_operator(model, loss, (inputs, targets), operator=kind)
    vector = normal(full.shape[0])
    expected = full @ vector
    make = partial(curvature_operator, operator=kind, **options)
    double = make(model, loss, (inputs, targets))
    before = double @ vector
    double = compacted(double)
    assert weights_left(double) == left
    torch.testing.assert_close(double @ vector, before, rtol=1e-10, atol=1e-13)
    double.release()
    torch.testing.assert_close(double @ vector, before, rtol=1e-10, atol=1e-13)
    single = make(model.float(), loss, (inputs.float(), targets.float()))
    single = compacted(single)
    assert weights_left(single) == left
    assert (single @ vector - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("kind", OPERATORS)
def test_lanczos_and_width_are_the_same(kind: str):
    model, inputs, left = lenet()
    targets = targets_of(model, inputs)
    full, small = (curvature_operator(model, loss, (inputs, targets), operator=kind) for _ in range(2))
    small = compacted(small)
    assert weights_left(small) == left
    runs = [lanczos(operator, [normal(full.shape[0])], 12)[0] for operator in (full, small)]
    np.testing.assert_allclose(runs[1].alpha, runs[0].alpha, rtol=1e-7, atol=1e-10 * abs(runs[0].alpha).max())
    np.testing.assert_allclose(runs[1].beta, runs[0].beta, rtol=1e-7, atol=1e-10 * abs(runs[0].alpha).max())
    widths = [gwprune.squared_width(operator, 1.5, 0.02, steps=20, probes=2) for operator in (full, small)]
    np.testing.assert_allclose(widths[1], widths[0], rtol=1e-8)


def random_fc(widths: list[int], zeros: set[int]):
    layers = [part for a, b in zip(widths, widths[1:], strict=False) for part in (Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers, Linear(widths[-1], 2))
    return model, zeroed(data(widths[0]), *(zero for zero in zeros if 0 < zero < widths[0]))


def random_conv(widths: list[int], norm: bool, pool: bool):
    layers: list[nn.Module] = []
    for channels, more in zip([1, *widths[:-2]], widths[:-1], strict=True):
        layers += [C2(channels, more, 2), *([BN2(more)] if norm else []), nn.ReLU()]
    size = 5 - len(widths) + 1
    layers += [nn.MaxPool2d(2)] if pool and size > 1 else []
    size = size // 2 if pool and size > 1 else size
    layers += [nn.Flatten(), Linear(widths[-2] * size**2, widths[-1]), nn.ReLU(), Linear(widths[-1], 2)]
    return nn.Sequential(*layers), data(1, 5, 5)


@settings(max_examples=40)
@given(
    widths=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    draws=st.lists(st.integers(0, 3), min_size=0, max_size=8),
    conv=st.booleans(), norm=st.booleans(), pool=st.booleans(),
    kind=st.sampled_from(OPERATORS), seed=st.integers(0, 99),
)  # fmt: skip
def test_random_networks(widths, draws, conv, norm, pool, kind, seed):
    model, inputs = random_conv(widths, norm, pool) if conv else random_fc(widths, set(draws))
    acting = [index for index, module in enumerate(model) if isinstance(module, nn.ReLU)]
    dead = {str(index - 1): [] for index in acting}
    for place, unit in enumerate(draws):
        name = str(acting[place % len(acting)] - 1)
        dead[name].append(unit % len(model[int(name)].bias))
    model = alive(model, dead, seed)
    # Weights between living units: of every ReLU's outputs the channels that are ever at work, but never none.
    left, hidden, before = 0, inputs, inputs if not conv else None
    for module in model:
        if isinstance(module, Linear | C2):
            if before is None:
                columns = 1
            else:
                columns = int(before.transpose(0, 1).flatten(1).any(dim=1).sum()) or 1
                columns *= module.weight.shape[1] // before.shape[1]
            sizes = module.weight[0, 0].numel()
        hidden = module(hidden).detach()
        if isinstance(module, nn.ReLU) or module is model[-1]:
            rows = int(hidden.transpose(0, 1).flatten(1).any(dim=1).sum()) or 1
            left, before = left + rows * columns * sizes, hidden
    targets = targets_of(model, inputs)
    full, small = (curvature_operator(model, loss, (inputs, targets), operator=kind, checks=False) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = compacted(small)
    assert weights_left(small) == left
    block = normal(full.shape[0], 2, seed=seed)
    expected, product = full @ block, small @ block
    torch.testing.assert_close(product, expected, rtol=1e-9, atol=1e-12 * float(expected.norm()))
    assert not product[~expected.any(dim=1)].any()


def test_a_loss_that_reads_the_network_keeps_it_whole():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        model[0].bias[:2] = -1e3

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, target) + 1e-3 * model[0].weight.pow(2).sum()

    matrix = curvature_operator(model, loss, (torch.randn(30, 4), torch.randint(3, (30,))))
    # Every row has curvature, so nothing is dead.
    assert compacted(matrix) is matrix
