"""What a prediction can be asked for: its table, its file, its figure, and whether it holds."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gwprune
from gwprune.measured import measure_threshold
from gwprune.predict import Prediction, load_prediction, predict_threshold
from gwprune.predicted import Check

from .helpers_networks import normal
from .helpers_spectra import digits

EPSILON = 0.05


@cache
def prediction(predictor: str = "width", steps: int = 24) -> Prediction:
    net = digits()
    return predict_threshold(
        net.model, F.cross_entropy, net.data, epsilon=EPSILON, predictor=predictor, steps=steps, probes=2
    )


@pytest.mark.parametrize(("predictor", "steps"), [("width", 24), ("width", 1184), ("quadratic", 24)])
def test_a_prediction_comes_back_from_its_file(predictor, steps, tmp_path):
    p = prediction(predictor, steps)
    assert (p.probes == 0) == (steps == 1184 or predictor == "quadratic")
    p.save(tmp_path / "p.npz")
    again = load_prediction(tmp_path / "p.npz")
    assert again.to_dict() == p.to_dict()
    assert again.checks == p.checks
    assert again == replace(p, _norms=again._norms, _spectrum=again._spectrum)
    np.testing.assert_array_equal(again.pruned_norm([0, 0.3, 1]), p.pruned_norm([0, 0.3, 1]))
    if predictor == "width":
        for name, values in p.curve().items():
            np.testing.assert_array_equal(again.curve()[name], values)
    else:
        with pytest.raises(ValueError, match="computes no width"):
            again.curve()
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        assert json.loads(str(file["header"]))["prediction"] == json.loads(json.dumps(p.to_dict()))


def test_other_files_are_no_predictions(tmp_path):
    prediction().save(tmp_path / "p.npz")
    (tmp_path / "half.npz").write_bytes((tmp_path / "p.npz").read_bytes()[:500])
    np.savez(tmp_path / "other.npz", norms=np.ones(3))
    for name in ("half.npz", "other.npz"):
        with pytest.raises(ValueError, match=f"{name} is no complete file of a prediction"):
            gwprune.load_prediction(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        gwprune.load_prediction(tmp_path / "none.npz")


def test_the_table_shows_what_there_is():
    p = prediction()
    text = str(p)
    assert f"{p.threshold:.4f} [{p.lower:.4f}, {p.upper:.4f}]" in text
    assert "1,184 prunable" in text
    assert "2 x 24, standard error" in text
    assert ", ".join(p.checks) in text
    assert "tolerance" not in text
    assert "not met" in str(replace(p, tolerance_met=False))
    assert "interrupted" not in text
    assert "interrupted" in str(replace(p, interrupted=True))
    assert f"products   {prediction('quadratic').steps}\n" in str(prediction("quadratic"))


def test_quadratic_stands_beside_the_width_and_says_which_to_go_by():
    p = prediction()
    weights = np.abs(np.concatenate([w.detach().numpy().ravel() for w in digits().model.parameters() if w.ndim > 1]))
    assert p.emptied == pytest.approx(np.mean(weights < weights.max() / 1000))
    assert p.quadratic == pytest.approx(prediction("quadratic").threshold, abs=1e-3)
    assert prediction("quadratic").quadratic is None
    assert "advice" not in str(prediction("quadratic"))
    plain = replace(p, threshold=0.8, quadratic=0.5, emptied=0.034)
    assert "quadratic  0.5000\nadvice     go by quadratic: only 3% of the weights are below" in str(plain)
    assert "advice     95% of the weights are below a thousandth of the largest, as l1" in str(replace(p, emptied=0.95))
    assert "advice     measure it: quadratic is above width" in str(replace(plain, quadratic=0.81))
    assert "advice" not in str(replace(plain, method="uniform_magnitude"))


def test_the_figure_shows_the_curve_and_its_crossing(tmp_path):
    p = prediction()
    figure = p.plot(tmp_path / "p.svg")
    axes = figure.axes[0]
    curve = axes.lines[0].get_xydata()
    np.testing.assert_array_equal(curve, np.column_stack([p.curve()["sparsity"], p.curve()["width"]]))
    # The drawn point lies on the drawn curve and on the diagonal.
    crossing = next(line.get_xydata() for line in axes.lines if line.get_marker() == "o")
    assert crossing == pytest.approx(np.full((1, 2), p.threshold))
    assert np.interp(p.threshold, *curve.T) == pytest.approx(p.threshold, abs=0.01)
    assert f"{p.threshold:.4f} [{p.lower:.4f}" in (tmp_path / "p.svg").read_text()
    # The layers' bars, weighted with their sizes, make the threshold.
    for drawn, limit in ((figure, p), (prediction("quadratic").plot(), prediction("quadratic"))):
        bars = [bar.get_width() for bar in drawn.axes[-1].patches]
        assert np.average(bars, weights=[1024, 160]) == pytest.approx(limit.threshold, abs=1 / 1184)


def test_a_check_is_the_measured_loss_at_the_limit_and_its_ends():
    net = digits()
    before = copy.deepcopy(net.model.state_dict())
    p = prediction("quadratic")
    found = p.check(net.model, F.cross_entropy, net.data)
    assert all(torch.equal(value, before[name]) for name, value in net.model.state_dict().items())
    measured = measure_threshold(net.model, F.cross_entropy, net.data, EPSILON)
    assert found.dense_loss == pytest.approx(measured.dense_loss)
    assert found.sparsities == (p.lower, p.threshold, p.upper)
    for sparsity, rise in zip(found.sparsities, found.rises, strict=True):
        assert (rise <= EPSILON) == (sparsity <= measured.threshold)
    twin = copy.deepcopy(net.model)
    gwprune.prune(twin, p.threshold)
    assert found.rises[1] == pytest.approx(
        float(F.cross_entropy(twin(net.inputs), net.targets).detach()) - found.dense_loss
    )


def test_the_local_model_holds_for_a_quadratic_loss_and_not_far_from_it():
    """Least squares of a linear network is its own local model; a steeper loss elsewhere is not."""
    model = nn.Linear(40, 30, bias=False).double()
    model.weight.data = normal(30, 40, seed=2) / 6
    inputs = normal(300, 40)
    data = (inputs, model(inputs).detach() + 0.02 * normal(300, 30, seed=1))
    p = predict_threshold(model, F.mse_loss, data, epsilon=0.05, predictor="quadratic")
    found = p.check(model, F.mse_loss, data)
    assert found.holds
    assert found.inside
    assert found.rises[1] == pytest.approx(0.05, rel=0.05)
    assert "holds at the predicted threshold" in str(found)
    for loss_fn, words in (
        (lambda y, t: F.mse_loss(y, t) + 99 * (y - t).pow(4).mean(), "breaks before"),
        (lambda y, t: (y - t).square().mean(1).sqrt().mean(), "pruned further"),
    ):
        p = predict_threshold(model, loss_fn, data, epsilon=0.1, predictor="quadratic")
        found = p.check(model, loss_fn, data)
        assert not found.holds
        assert words in str(found)


@pytest.mark.parametrize(
    ("rises", "upper", "holds", "words"),
    [
        ((0.01, 0.02, 0.2), 0.9, True, "holds at"),  # breaks between the ends
        ((0.15, 0.19, 0.3), 0.9, True, "holds at"),  # before them, by less than a factor 2
        ((0.15, 0.21, 0.3), 0.9, False, "breaks before"),
        ((0.01, 0.02, 0.03), 0.9, False, "further"),
        ((0.01, 0.02, 0.03), 1.0, True, "holds at"),  # there is no further
        ((float("nan"),) * 3, 0.9, False, "breaks before"),
    ],
)
def test_what_a_check_says(rises, upper, holds, words):
    check = Check(0.1, 0.5, (0.7, 0.8, upper), rises)
    assert check.holds == holds
    assert words in str(check)


def test_a_check_prunes_what_was_prunable():
    net = digits()
    p = predict_threshold(net.model, F.cross_entropy, net.data, epsilon=EPSILON, steps=8, prunable="2.weight")
    twin = copy.deepcopy(net.model)
    gwprune.prune(twin, p.threshold, prunable=["2.weight"])
    found = p.check(net.model, F.cross_entropy, net.data)
    assert found.rises[1] == pytest.approx(F.cross_entropy(twin(net.inputs), net.targets).item() - found.dense_loss)


def test_a_check_prunes_by_the_method_of_the_prediction():
    net = digits()
    p = predict_threshold(net.model, F.cross_entropy, net.data, epsilon=EPSILON, predictor="quadratic", method="random")
    twin = copy.deepcopy(net.model)
    gwprune.prune(twin, p.threshold, "random")
    found = p.check(net.model, F.cross_entropy, net.data)
    assert found.rises[1] == pytest.approx(F.cross_entropy(twin(net.inputs), net.targets).item() - found.dense_loss)
    assert "random pruning" in str(p)


def test_sensitivities_are_those_of_the_dense_hessian_and_their_parts_add_up():
    net, p = digits(), prediction("quadratic")
    found = p.sensitivity(net.model, F.cross_entropy, net.data, probes=16)
    hessian = net.curvature["hessian"].matrix
    parameters = [net.model[0].weight, net.model[2].weight]
    loss = F.cross_entropy(net.model(net.inputs), net.targets)
    gradient = torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, parameters)]).numpy()
    order = np.argsort(np.abs(net.weights), kind="stable")[: sum(layer.removed for layer in p.layers)]
    removed = np.zeros(1184)
    removed[order] = net.weights[order]
    parts = removed * (hessian @ removed / 2 - gradient)
    for layer, part in zip(found.layers, (slice(0, 1024), slice(1024, None)), strict=True):
        assert layer.rise == pytest.approx(parts[part].sum(), rel=1e-8)
        assert layer.trace == pytest.approx(np.trace(hessian[part, part]), abs=4 * layer.trace_standard_error)
        assert layer.trace_standard_error < 0.2 * layer.trace
        assert layer.removed == np.count_nonzero(removed[part])
    assert sum(layer.share for layer in found.layers) == pytest.approx(1)
    # The model reaches epsilon with the last weight of the mask.
    removed[order[-1]] = 0
    assert removed @ (hessian @ removed / 2 - gradient) < EPSILON <= found.rise
    assert found.measured == pytest.approx(p.check(net.model, F.cross_entropy, net.data).rises[1])
    assert f"{found.rise:.3g}" in str(found).splitlines()[-2]
    with pytest.raises(ValueError, match="probes must be at least 2"):
        p.sensitivity(net.model, F.cross_entropy, net.data, probes=1)


def test_another_network_is_refused():
    net, p = digits(), prediction()
    twin = copy.deepcopy(net.model)
    gwprune.prune(twin, 0.5)
    other = nn.Sequential(nn.Linear(64, 10)).double()
    for model in (twin, other):
        with pytest.raises(ValueError, match="not the weights of the prediction"):
            p.check(model, F.cross_entropy, net.data)


def test_a_check_by_a_loss_that_is_no_mean_is_refused():
    net, p = digits(), prediction()
    with pytest.raises(ValueError, match="no mean over samples"):
        p.check(net.model, nn.CrossEntropyLoss(reduction="sum"), net.data)
    assert replace(p, checks=()).check(net.model, nn.CrossEntropyLoss(reduction="sum"), net.data).dense_loss > 0
