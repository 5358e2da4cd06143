"""One call from a network to its threshold: its options, its refusals, and what it leaves behind."""

from __future__ import annotations

import copy
import doctest
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import gwprune
from gwprune import predict
from gwprune.predict import Prediction, predict_threshold
from gwprune.spectral.lanczos import Lanczos
from gwprune.spectral.predictors import PREDICTORS

from .helpers_spectra import digits

EPSILON = 0.05


def small_net(dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 3)).to(
            dtype
        )


def small_data(samples: int = 300, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(samples, 6, generator=generator, dtype=torch.float64).to(dtype)
    return inputs, torch.randint(3, (samples,), generator=generator)


small_predict = partial(predict_threshold, loss_fn=F.cross_entropy, epsilon=EPSILON, steps=24)


def test_the_same_seed_gives_the_same_prediction_and_another_seed_another():
    net = digits()
    make = partial(predict_threshold, net.model, F.cross_entropy, net.data, epsilon=EPSILON, steps=8)
    first = make(seed=3)
    torch.manual_seed(17)
    again, other = make(seed=3), make(seed=4)
    assert (first.threshold, first.lower, first.upper) == (again.threshold, again.lower, again.upper)
    np.testing.assert_array_equal(first.width(0.9).value, again.width(0.9).value)
    assert float(first.width(0.9).value) != float(other.width(0.9).value)


def test_a_constant_loss_never_limits_where_checks_are_off():
    model, data = small_net(), small_data()
    for predictor in PREDICTORS:
        found = small_predict(
            model,
            data=data,
            loss_fn=lambda output, target: 0.0 * output.square().mean(),
            predictor=predictor,
            operator=PREDICTORS[predictor].operators[-1],
            checks=False,
        )
        assert (found.lower, found.threshold, found.upper) == (1.0, 1.0, 1.0)


def test_batch_std_is_the_deviation_over_full_batches_of_128():
    model, (inputs, targets) = small_net(), small_data(450)
    model.eval()
    parts = [slice(start, start + 128) for start in (0, 128, 256)]
    with torch.no_grad():
        losses = [float(F.cross_entropy(model(inputs[part]), targets[part])) for part in parts]
    found = predict_threshold(model, F.cross_entropy, (inputs, targets), steps=8)
    assert found.epsilon == pytest.approx(np.std(losses, ddof=1), rel=1e-9)
    explicit = predict_threshold(model, F.cross_entropy, (inputs, targets), steps=8, epsilon=found.epsilon)
    assert explicit.threshold == found.threshold


def test_batch_std_takes_the_batches_of_a_loader():
    model, data = small_net(), small_data(450)
    loader = DataLoader(TensorDataset(*data), batch_size=50)
    with torch.no_grad():
        losses = [float(F.cross_entropy(model.eval()(x), y)) for x, y in loader]
    found = predict_threshold(model, F.cross_entropy, loader, steps=4)
    assert found.epsilon == pytest.approx(np.std(losses, ddof=1), rel=1e-9)
    with pytest.raises(ValueError, match=r"needs at least 600 samples \(two batches of 300\), got 450"):
        predict_threshold(model, F.cross_entropy, DataLoader(TensorDataset(*data), batch_size=300))


def test_batch_std_needs_two_batches():
    with pytest.raises(ValueError, match=r"needs at least 256 samples \(two batches of 128\), got 255; give a number"):
        predict_threshold(small_net(), F.cross_entropy, small_data(255))
    assert predict_threshold(small_net(), F.cross_entropy, small_data(256), steps=4).epsilon > 0


def test_batch_std_carries_its_standard_error_and_few_batches_are_told(recwarn):
    with pytest.warns(UserWarning, match=r"comes from 3 batches of 128 samples alone: .* standard error of .*'5%'"):
        few = predict_threshold(small_net(), F.cross_entropy, small_data(450), steps=4)
    assert few.epsilon / 2 <= few.epsilon_standard_error <= few.epsilon
    recwarn.clear()
    loader = DataLoader(TensorDataset(*small_data(450)), batch_size=25)
    many = predict_threshold(small_net(), F.cross_entropy, loader, steps=4)
    assert not recwarn.list
    assert 0.1 * many.epsilon < many.epsilon_standard_error < 0.3 * many.epsilon
    assert many.samples == 450
    assert small_predict(small_net(), data=small_data()).epsilon_standard_error == 0


def test_percent_are_of_the_dense_loss():
    model, (inputs, targets) = small_net(), small_data()
    with torch.no_grad():
        loss = float(F.cross_entropy(model.eval()(inputs), targets))
    found = small_predict(model, data=(inputs, targets), epsilon="2.5%", batch_size=70)
    assert found.epsilon == pytest.approx(0.025 * loss, rel=1e-9)
    with pytest.raises(ValueError, match="epsilon='5%' needs a positive loss of the dense network, got -1"):
        small_predict(
            model, data=(inputs, targets), epsilon="5%", loss_fn=lambda o, t: F.cross_entropy(o, t) - loss - 1
        )


@pytest.mark.parametrize(
    "epsilon", [0, 0.0, -1.0, float("nan"), float("inf"), "relative", "0.1", "", "%", "-5%", "0%", "nan%", None, True]
)
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_other_tolerances_are_refused(epsilon, predictor: str):
    with pytest.raises(ValueError, match="epsilon must be 'batch_std', a positive number, percent of the loss"):
        small_predict(
            small_net(),
            data=small_data(),
            epsilon=epsilon,
            predictor=predictor,
            operator=PREDICTORS[predictor].operators[0],
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"operator": "fisher"}, "operator must be one of hessian, ggn, got 'fisher'"),
        ({"predictor": "magic"}, "predictor must be one of width, quadratic, .*, got 'magic'"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"probes": 0}, "probes must be a whole number of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"tolerance": "x"}, "tolerance must be between 0 and 1, got 'x'"),
        ({"method": "snip"}, "'snip' does not rank by the weights alone, .* measure_threshold takes it"),
        ({"device": "cdua"}, "device='cdua' cannot be used here"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        small_predict(small_net(), data=small_data(), **arguments)


def test_a_network_without_prunable_weights_is_refused():
    with pytest.raises(ValueError, match="no prunable weights"):
        small_predict(nn.BatchNorm1d(6).double(), data=small_data())


def test_a_random_network_is_refused_and_its_mode_comes_back():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return F.dropout(self.layer(inputs), 0.5, training=True)

    model = Noisy().double().train()
    with pytest.raises(gwprune.curvature.operator.NotDeterministicError, match="make its forward pass deterministic"):
        small_predict(model, data=small_data())
    assert model.training
    assert model.layer.training


@pytest.mark.parametrize(
    ("predictor", "operator"), [(name, operator) for name in PREDICTORS for operator in PREDICTORS[name].operators]
)
def test_network_is_left_as_it_was(predictor: str, operator: str):
    model = small_net().train()
    model[3].eval()
    model[0].weight.requires_grad_(False)
    model[4].bias.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    small_predict(model, data=small_data(), predictor=predictor, operator=operator, epsilon="batch_std")
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model[4].weight.grad, torch.ones_like(model[4].weight))
    assert model[1].weight.grad is None
    assert torch.equal(torch.get_rng_state(), random)


def test_mode_of_the_network_does_not_matter():
    data, model = small_data(), small_net()
    found = [small_predict(model.train(mode), data=data) for mode in (True, False)]
    assert (found[0].threshold, found[0].lower) == (found[1].threshold, found[1].lower)


def test_data_may_be_a_dataset_or_a_loader_and_batches_do_not_matter():
    model, data = small_net(), small_data()
    expected = small_predict(model, data=data)
    for other, batch_size in (
        (TensorDataset(*data), None),
        (DataLoader(TensorDataset(*data), batch_size=70), None),
        (data, 64),
    ):
        found = small_predict(model, data=other, batch_size=batch_size)
        assert found.threshold == expected.threshold
        assert found.lower == pytest.approx(expected.lower, abs=1 / found.dimension)


def test_single_precision_agrees_with_double():
    double, single = (
        small_predict(small_net(dtype), data=small_data(dtype=dtype)) for dtype in (torch.float64, torch.float32)
    )
    assert single.dimension == double.dimension == 108
    assert single.threshold == pytest.approx(double.threshold, abs=2 / 108)
    assert float(single.width(0.9).value) == pytest.approx(float(double.width(0.9).value), abs=1e-3)


def test_exported_and_its_example_runs():
    assert gwprune.predict_threshold is predict_threshold
    assert gwprune.Prediction is Prediction
    result = doctest.testmod(predict)
    assert result.attempted >= 5
    assert result.failed == 0


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))
    data = torch.randn(256, 12), torch.randint(4, (256,))
    return model, F.cross_entropy, data


def test_prediction_keeps_to_the_tolerance_and_says_so(network):
    loose = predict_threshold(*network, epsilon=0.05, steps=400, tolerance=0.2)
    assert loose.tolerance_met is True
    assert loose.upper - loose.lower <= 0.2
    tight = predict_threshold(*network, epsilon=0.05, steps=8, tolerance=1e-4)
    assert tight.tolerance_met is False
    assert tight.steps * tight.probes <= 8
    assert predict_threshold(*network, epsilon=0.05, steps=8).tolerance_met is None
    narrow = predict_threshold(*network, epsilon=0.05, steps=4000, tolerance=0.05)
    assert narrow.tolerance_met
    assert narrow.lower <= loose.upper
    assert loose.lower <= narrow.upper


def test_tolerance_of_the_quadratic_model_is_its_bracket(network):
    found = predict_threshold(*network, epsilon=0.05, predictor="quadratic", tolerance=0.01)
    assert found.tolerance_met
    assert found.upper - found.lower <= 0.01


def test_the_prediction_is_of_the_weights_that_the_method_removes(network):
    few = {"epsilon": 0.05, "steps": 20}
    width = predict_threshold(*network, **few)
    for method in ("random", "magnitude_layerwise"):
        other = predict_threshold(*network, **few, method=method)
        assert other.pruned_norm(0.5) > width.pruned_norm(0.5)
        assert other.pruned_norm(1.0) == pytest.approx(width.pruned_norm(1.0))
        assert other.threshold < width.threshold
    with pytest.raises(ValueError, match="method 'taylor' does not rank by the weights alone"):
        predict_threshold(*network, **few, method="taylor")


@pytest.mark.parametrize("tolerance", [0.0, 1.0, -0.1, float("nan")])
def test_tolerance_out_of_range_is_named(network, tolerance: float):
    with pytest.raises(ValueError, match=f"tolerance must be between 0 and 1, got {tolerance}"):
        predict_threshold(*network, epsilon=0.05, tolerance=tolerance)


def test_every_run_of_the_statistical_dimension_keeps_to_the_storage(network, monkeypatch):
    seen = []

    class Watched(Lanczos):
        def __init__(self, *arguments, **options):
            seen.append(options["storage"])
            super().__init__(*arguments, **options)

    monkeypatch.setattr("gwprune.spectral.lanczos.Lanczos", Watched)
    monkeypatch.setattr("gwprune.spectral.cones.Lanczos", Watched)
    predict_threshold(*network, epsilon=0.05, predictor="statistical_dimension", storage="host", steps=32)
    assert len(seen) > 1
    assert set(seen) == {"host"}


def test_the_place_of_the_basis_is_chosen_for_runs_from_removed_vectors_too(network, monkeypatch):
    sizes = []
    monkeypatch.setattr("gwprune.predict.storage_for", lambda size, device: sizes.append(size) or "device")
    for predictor, vectors in (("width", 16), ("statistical_dimension", 64)):
        found = predict_threshold(*network, epsilon=0.05, predictor=predictor, steps=16)
        assert sizes.pop() == vectors * found.dimension * 4
