"""The measured one-shot limit of any network and loss: against a walk over every sparsity."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from gwprune.curvature.checks import NotDeterministicError
from gwprune.measured import PrunedLoss, measure_loss, measure_threshold
from gwprune.network.modes import eval_mode, frozen

from .helpers_networks import Net, labels, normal
from .helpers_spectra import digits

EPSILON = 0.05
METHODS = ["magnitude", "magnitude_layerwise", "lamp", "random", "random_erk", "taylor", "synflow"]


def pruned_copy(model: nn.Sequential, names: list[str], removed: np.ndarray) -> nn.Module:
    """By hand: a copy with the weights at these places of the flat vector set to 0."""
    twin = copy.deepcopy(model)
    parameters = dict(twin.named_parameters())
    flat = torch.cat([parameters[name].detach().reshape(-1) for name in names])
    flat[torch.as_tensor(removed)] = 0
    start = 0
    for name in names:
        size = parameters[name].numel()
        parameters[name].data = flat[start : start + size].reshape(parameters[name].shape)
        start += size
    return twin


def test_the_limit_is_that_of_a_walk_over_every_count():
    net = digits()
    order = np.argsort(np.abs(net.weights), kind="stable")
    with torch.no_grad():
        dense = float(F.cross_entropy(net.model(net.inputs), net.targets))
        walk = [
            float(F.cross_entropy(pruned_copy(net.model, net.names, order[:count])(net.inputs), net.targets))
            for count in range(0, len(order) + 1)
        ]
    first_miss = next(count for count, loss in enumerate(walk) if loss > dense + EPSILON)
    found = measure_threshold(net.model, F.cross_entropy, net.data, EPSILON)
    assert found.dense_loss == pytest.approx(dense, rel=1e-12)
    assert found.lower == found.threshold <= first_miss / len(order)
    assert found.upper >= (first_miss - 1) / len(order)
    assert found.upper - found.lower <= 0.001 * (1 + 1e-9)
    assert found.evaluations <= 30
    for sparsity, loss in found.losses.items():
        assert loss == pytest.approx(walk[math.ceil(round(sparsity * len(order), 6))], rel=1e-10)


def test_a_loss_that_breaks_and_recovers_is_limited_where_it_breaks_first(monkeypatch):
    net = digits()
    calls = []

    def loss(self, sparsity):
        calls.append(sparsity)
        return 9.0 if 0.35 < sparsity < 0.45 or sparsity > 0.92 else 0.1

    monkeypatch.setattr(PrunedLoss, "__call__", loss)
    monkeypatch.setattr(PrunedLoss, "dense", lambda self: 0.1)
    found = measure_threshold(net.model, F.cross_entropy, net.data, EPSILON)
    assert found.lower <= 0.35 < found.upper
    assert found.upper - found.lower <= 0.001 * (1 + 1e-9)
    assert len(calls) <= 27


@pytest.mark.parametrize("method", METHODS)
def test_any_one_shot_method_is_measured_and_the_network_left_as_it_was(method):
    net = digits()
    before = copy.deepcopy(net.model.state_dict())
    found = measure_threshold(net.model, F.cross_entropy, net.data, EPSILON, method=method, resolution=0.02)
    assert 0 <= found.lower < found.upper < 1
    assert found.method == method
    assert found.losses[found.lower] <= found.dense_loss + EPSILON < found.losses[found.upper]
    assert all(torch.equal(value, before[name]) for name, value in net.model.state_dict().items())


def test_a_loss_without_derivative_and_a_network_that_differentiates_its_inputs():
    net = digits()
    found = measure_threshold(
        net.model, lambda output, target: (output.argmax(1) != target).double().mean(), net.data, 0.1, resolution=0.01
    )
    assert 0.3 < found.threshold < 1
    assert found.losses[found.lower] <= found.dense_loss + 0.1 < found.losses[found.upper]

    def slope(net, x):
        x = x.requires_grad_()
        return torch.autograd.grad(net.a(x).tanh().sum(), x)[0]

    field = Net(slope, a=nn.Linear(3, 5).double())
    data = (normal(2048, 3), normal(2048, 3, seed=1))
    by_deviation = measure_threshold(field, F.mse_loss, data)
    expected = F.mse_loss(field(data[0].clone()), data[1])
    assert by_deviation.dense_loss == pytest.approx(float(expected), rel=1e-12)
    assert all(parameter.requires_grad for parameter in field.parameters())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_come_back_after_an_error_or_an_interrupt(error):
    net = digits()
    before = copy.deepcopy(net.model.state_dict())
    passes = []

    def loss_fn(output, target):
        passes.append(1)
        if len(passes) == 12:
            raise error
        return F.cross_entropy(output, target)

    with pytest.raises(error):
        measure_threshold(net.model, loss_fn, net.data, EPSILON)
    assert all(torch.equal(value, before[name]) for name, value in net.model.state_dict().items())


def test_the_mean_weighs_batches_by_their_samples_and_modes_come_back():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).double().train()
    inputs, targets = normal(70, 4), labels(70, 3)
    with eval_mode(model), frozen(model):
        expected = float(F.cross_entropy(model(inputs), targets).detach())
    assert model.training
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=32)
    for data, size in (((inputs, targets), None), ((inputs, targets), 9), (loader, None)):
        assert measure_loss(model, F.cross_entropy, data, batch_size=size) == pytest.approx(expected, rel=1e-12)
    assert all(module.training for module in model.modules())


def test_data_as_people_have_them_and_epsilon_in_percent():
    net = digits()
    inputs, targets = net.data
    plain = measure_threshold(net.model, F.cross_entropy, net.data, 0.05, resolution=0.01)
    forms = {
        "arrays": ((inputs.numpy(), targets.numpy()), {"loss_fn": F.cross_entropy}),
        "forward": (
            {"image": inputs, "y": targets},
            {"loss_fn": None, "forward": lambda model, batch: F.cross_entropy(model(batch["image"]), batch["y"])},
        ),
    }
    for data, given in forms.values():
        found = measure_threshold(net.model, data=data, epsilon=0.05, resolution=0.01, **given)
        assert found.losses == pytest.approx(plain.losses)
    percent = 100 * 0.05 / plain.dense_loss
    found = measure_threshold(net.model, F.cross_entropy, net.data, f"{percent}%", resolution=0.01)
    assert found.losses == plain.losses
    some = measure_threshold(net.model, F.cross_entropy, net.data, 0.05, samples=100, seed=3, resolution=0.1)
    assert some.dense_loss != plain.dense_loss
    data, given = forms["forward"]
    with pytest.raises(ValueError, match="method taylor needs data that are one"):
        measure_threshold(net.model, data=data, epsilon=0.05, method="taylor", **given)
    ignored = targets.clone()
    ignored[::3] = -100
    weight = {"weight": lambda y: (y != -100).sum()}
    found = measure_loss(net.model, F.cross_entropy, (inputs, ignored), batch_size=7, **weight)
    assert found == pytest.approx(F.cross_entropy(net.model(inputs), ignored).item(), rel=1e-12)


def test_only_chosen_weights_are_pruned():
    net = digits()
    found = measure_threshold(net.model, F.cross_entropy, net.data, EPSILON, prunable="2.weight", resolution=0.02)
    assert found.losses[1.0] == pytest.approx(
        F.cross_entropy(net.model[2].bias.expand(300, 10), net.targets).item(), rel=1e-12
    )
    assert (
        found.threshold != measure_threshold(net.model, F.cross_entropy, net.data, EPSILON, resolution=0.02).threshold
    )


def test_a_network_that_never_breaks_has_an_open_bracket():
    model = nn.Linear(4, 2, bias=False)
    found = measure_threshold(model, F.mse_loss, (torch.zeros(8, 4), torch.ones(8, 2)), 0.1)
    assert (found.threshold, found.lower, found.upper) == (1.0, 1.0, 1.0)
    assert "measured   1.0000 [1.0000, 1.0000]" in str(found)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"epsilon": "std"}, ValueError, "epsilon must be 'batch_std'"),
        ({"epsilon": -1.0}, ValueError, "epsilon must be"),
        ({"resolution": 0}, ValueError, "resolution must be at least"),
        ({"resolution": "x"}, ValueError, "resolution must be at least .*, got 'x'"),
        ({"batch_size": 0}, ValueError, "batch_size must be a whole number of at least 1, got 0"),
        ({"method": "imp"}, ValueError, "prunes and trains in turn"),
        ({"model": nn.Linear(64, 10).to("meta")}, ValueError, "weight is on the meta device"),
        (
            {"loss_fn": nn.CrossEntropyLoss},
            TypeError,
            r"loss_fn is the class CrossEntropyLoss; .* CrossEntropyLoss\(\)",
        ),
        ({"loss_fn": lambda output: output.sum()}, TypeError, r"loss_fn is called as loss_fn\(output, target\)"),
        ({"weight": lambda target: target != 0}, ValueError, r"weight must give one number .*Tensor of shape \("),
        ({"data": ((torch.ones(4, 2), torch.ones(4, 2)), labels(4, 10))}, TypeError, "data give the network 2 inputs"),
        ({"method": "magnitud"}, ValueError, "did you mean 'magnitude'"),
        ({"loss_fn": nn.CrossEntropyLoss(reduction="sum")}, ValueError, "the loss is no mean over samples"),
        (
            {"forward": lambda model, batch: (model(batch[0] + torch.randn_like(batch[0])), batch[1])},
            NotDeterministicError,
            "the same samples have the loss",
        ),
        ({"model": F.cross_entropy, "loss_fn": nn.Linear(2, 2)}, TypeError, "the order is model, loss_fn, data"),
        (
            {"data": (torch.full((8, 64), torch.nan, dtype=torch.float64), labels(8, 10))},
            FloatingPointError,
            "the data hold NaN",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(changed, error, message):
    net = digits()
    given = {"model": net.model, "loss_fn": F.cross_entropy, "data": net.data, "epsilon": EPSILON}
    with pytest.raises(error, match=message):
        measure_threshold(**(given | changed))


def test_a_loss_that_is_no_mean_is_not_given_as_one():
    net = digits()
    total = nn.CrossEntropyLoss(reduction="sum")
    with pytest.raises(ValueError, match="no mean over samples"):
        measure_loss(net.model, total, net.data)
    assert measure_loss(net.model, total, net.data, checks=False, batch_size=10**6) == pytest.approx(
        float(total(net.model(net.inputs), net.targets)), rel=1e-9
    )
