"""A drop of accuracy as epsilon: measured as it is, and predicted by a rise of the loss in its place."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gwprune

from .helpers_networks import labels, normal
from .helpers_spectra import digits

CALLS = [gwprune.predict_threshold, gwprune.measure_threshold]


def accuracy(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    with torch.no_grad():
        return 100 * float((model(inputs).argmax(1) == targets).double().mean())


def test_the_measured_limit_is_the_first_sparsity_that_loses_so_many_points():
    net = digits()
    state, dense = copy.deepcopy(net.model.state_dict()), accuracy(net.model, *net.data)
    m = gwprune.measure_threshold(net.model, F.cross_entropy, net.data, "accuracy: 2", resolution=0.01)
    for sparsity, found in m.accuracies.items():
        gwprune.prune(net.model, sparsity)
        assert found == pytest.approx(accuracy(net.model, *net.data), abs=1e-9)
        assert (found >= dense - 2 - 1e-9) == (sparsity <= m.lower)
        if sparsity == m.lower:
            risen = float(F.cross_entropy(net.model(net.inputs), net.targets)) - m.dense_loss
            assert m.epsilon == pytest.approx(risen, rel=1e-6)
        net.model.load_state_dict(state)
    assert 0 < m.upper - m.lower <= 0.01 * (1 + 1e-9)
    assert f"{dense:.2f}% dense, at most 2 points less" in str(m)


def test_a_network_that_is_linear_in_its_weights_is_translated_exactly():
    model = nn.Linear(12, 4).double()
    with torch.no_grad():
        model.weight.copy_(normal(4, 12) ** 3)
    inputs = normal(4000, 12, seed=1)
    data = inputs, (model(inputs) + normal(4000, 4, seed=2)).argmax(1)
    m = gwprune.measure_threshold(model, F.cross_entropy, data, "accuracy: 3", resolution=1e-4)
    p = gwprune.predict_threshold(model, F.cross_entropy, data, epsilon="accuracy: 3")
    ends = [m.losses[end] - m.dense_loss for end in (m.lower, m.upper)]
    assert p.epsilon == pytest.approx(sum(ends) / 2, rel=1e-6)  # 48 weights: the same two masks


def test_the_translation_is_near_the_rise_that_is_measured():
    net = digits()
    before = copy.deepcopy(net.model.state_dict())
    p = gwprune.predict_threshold(net.model, F.cross_entropy, net.data, epsilon="accuracy: 2", steps=8)
    m = gwprune.measure_threshold(net.model, F.cross_entropy, net.data, "accuracy: 2")
    assert p.epsilon == pytest.approx(m.epsilon, rel=0.25)
    assert all(torch.equal(value, before[name]) for name, value in net.model.state_dict().items())


def test_outputs_that_are_not_numbers_are_wrong():
    class Cosine(nn.Linear):
        def forward(self, x):
            return super().forward(x) / self.weight.norm()

    model = Cosine(5, 3, bias=False).double()
    data = normal(64, 5), torch.zeros(64, dtype=torch.long)  # the class that argmax gives of NaN
    m = gwprune.measure_threshold(model, F.cross_entropy, data, "accuracy: 99", resolution=0.1)
    assert m.accuracies[1.0] == 0 < m.accuracies[0.0]


def test_words_have_an_accuracy_too_and_those_that_do_not_count_are_left_out():
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    inputs = torch.randn(40, 5, 6)
    with torch.no_grad():
        targets = model(inputs).argmax(-1)
    targets[:, 4] = -100

    def words(output, target):
        return F.cross_entropy(output.flatten(0, 1), target.flatten())

    given = {"weight": lambda target: (target != -100).sum()}
    m = gwprune.measure_threshold(model, words, (inputs, targets), "accuracy: 10", resolution=0.05, **given)
    assert m.accuracies[0.0] == 100
    p = gwprune.predict_threshold(model, words, (inputs, targets), epsilon="accuracy: 10", **given)
    channels = gwprune.predict_threshold(
        model, F.cross_entropy, (inputs, targets), epsilon="accuracy: 10",
        forward=lambda model, batch: (model(batch[0]).movedim(-1, 1), batch[1]), weight=lambda b: (b[1] != -100).sum(),
    )  # fmt: skip
    assert p.epsilon == pytest.approx(channels.epsilon, rel=1e-5)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("loss_fn", "targets"),
    [(F.mse_loss, normal(64, 3)), (F.cross_entropy, normal(64, 3).softmax(1)), (F.mse_loss, labels(64, 3)[:, None])],
)
def test_what_has_no_classes_is_refused(call, loss_fn, targets):
    data = normal(64, 5), targets
    with pytest.raises(ValueError, match=r"needs a classifier.*\(64|needs a classifier.*\(32"):
        call(nn.Linear(5, 3).double(), loss_fn, data, epsilon="accuracy: 1")


@pytest.mark.parametrize("call", CALLS)
def test_labels_that_the_loss_shifts_are_noticed(call):
    model = nn.Linear(6, 5)
    inputs, targets = torch.randn(64, 9, 6), labels(64 * 9, 5).view(64, 9)

    def shifted(output, target):
        return F.cross_entropy(output[:, :-1].flatten(0, 1), target[:, 1:].flatten())

    with pytest.raises(ValueError, match="to the class in the targets, so that it is of others"):
        call(model, shifted, (inputs, targets), epsilon="accuracy: 1")


@pytest.mark.parametrize("call", CALLS)
def test_a_class_that_the_loss_ignores_is_not_counted_in_silence(call):
    model, inputs = nn.Linear(6, 3).double(), normal(64, 6)
    with torch.no_grad():
        targets = model(inputs).argmax(1)
    targets[:20] = 0
    given = {"weight": lambda target: (target != 0).sum()}
    with pytest.raises(ValueError, match=r"leaves out \d+ of 32 targets .* mark these targets -100"):
        call(model, nn.CrossEntropyLoss(ignore_index=0), (inputs, targets), epsilon="accuracy: 1", **given)


def test_a_prediction_needs_the_loss_apart_from_the_network():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x, labels=None):
            logits = self.layer(x)
            return {"logits": logits, "loss": F.cross_entropy(logits, labels)}

    model, x = Own(), torch.randn(64, 5)
    with torch.no_grad():
        data = {"x": x, "labels": model.layer(x).argmax(1)}
    assert gwprune.measure_threshold(model, None, data, "accuracy: 10", resolution=0.1).accuracies[0.0] == 100
    with pytest.raises(ValueError, match="needs a loss_fn of output and labels"):
        gwprune.predict_threshold(model, None, data, epsilon="accuracy: 10")


@pytest.mark.parametrize("text", ["accuracy", "accuracy: x", "accuracy: 0", "accuracy: 100", "accuracy: nan", "acc: 1"])
def test_other_words_are_refused(text):
    for call in CALLS:
        with pytest.raises(ValueError, match="as 'accuracy: 1', got"):
            call(nn.Linear(5, 3), F.cross_entropy, (torch.randn(8, 5), labels(8, 3)), epsilon=text)


def test_a_drop_that_is_never_reached_is_named():
    model = nn.Linear(5, 2).double()
    data = normal(64, 5), labels(64, 2)
    with pytest.raises(ValueError, match=r"the linearised network loses .* without all its weights, not 90 points"):
        gwprune.predict_threshold(model, F.cross_entropy, data, epsilon="accuracy: 90")
    assert math.isclose(gwprune.measure_threshold(model, F.cross_entropy, data, "accuracy: 90").upper, 1)
