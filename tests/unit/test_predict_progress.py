"""A long prediction: announced, shown, interrupted, gone on with."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gwprune.curvature.operator import curvature_operator
from gwprune.predict import Prediction, predict_threshold
from gwprune.spectral.predictors import PREDICTORS

from .helpers_networks import labels, normal

EPSILON = 0.05


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


class Loss:
    """Cross-entropy that counts its calls, and ends the work at one of them."""

    def __init__(self, last: int | None = None, error: type[BaseException] = KeyboardInterrupt):
        self.calls, self.last, self.error = 0, last, error

    def __deepcopy__(self, memo) -> Loss:
        return self

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.last:
            raise self.error
        return F.cross_entropy(output, target)


def predict(loss: Loss, **options) -> Prediction:
    data = normal(96, 8, dtype=torch.float32), labels(96, 3)
    return predict_threshold(net(), loss, data, epsilon=EPSILON, batch_size=96, **{"steps": 24, **options})


def ends(found: Prediction) -> tuple[float, ...]:
    return found.threshold, found.lower, found.upper, found.standard_error


@pytest.fixture
def unkept(monkeypatch):
    """Graphs are built for every product, so that a product calls the loss."""
    monkeypatch.setitem(curvature_operator.__kwdefaults__, "memory_mb", 0)


@pytest.mark.parametrize("predictor", ["width", "quadratic", "trace_bound"])
def test_it_says_before_what_it_will_take_and_shows_a_bar(predictor: str, capsys, caplog):
    quiet = predict(Loss(), predictor=predictor)
    assert capsys.readouterr().err == ""  # no terminal
    shown = predict(Loss(), predictor=predictor, progress=True)
    assert ends(shown) == ends(quiet)
    said = capsys.readouterr().err
    head = r"gwprune: hessian on 176 prunable weights and 96 samples, batches of 96: a product takes about [\d.e-]+ s,"
    assert re.search(rf"{head} the graphs [\d.]+ MiB", said)
    assert said.index("gwprune: ") < said.rindex(f"{predictor}, hessian")
    basis = f"{24 * 176 * 4 / 2**20:.1f} MiB"
    assert (f"the basis up to {basis}" in said) == ("spectrum" in PREDICTORS[predictor].needs)
    if PREDICTORS[predictor].from_spectrum:
        # With the width comes `quadratic`, whose products are counted once they are there.
        assert f"up to {37 if predictor == 'width' else 25} products, about" in said
        made = re.findall(r"(\d+)/(\d+) \[", said)[-1]
        assert made[0] == made[1]
        assert (int(made[0]) > 25) == (predictor == "width")
    with caplog.at_level(logging.INFO, logger="gwprune"):
        predict(Loss(), predictor=predictor, progress=False)
    assert "hessian on 176 prunable weights" in caplog.text
    assert capsys.readouterr().err == ""


def test_an_interrupt_leaves_what_is_known_so_far(unkept):
    whole = Loss()
    full = predict(whole)
    assert not full.interrupted
    with pytest.warns(UserWarning, match=r"interrupted after 14 of 24 steps: the interval is what these tell$"):
        found = predict(Loss(whole.calls - 9))
    assert (found.interrupted, found.steps) == (True, 14)
    shorter = predict(Loss(), steps=14)
    assert ends(found) == ends(shorter)
    np.testing.assert_array_equal(found.width(0.8).value, shorter.width(0.8).value)
    assert found.upper - found.lower > full.upper - full.lower


@pytest.mark.parametrize("options", [{"tolerance": 0.001, "steps": 24}, {"probes": 3, "steps": 9}])
def test_an_interrupt_among_several_probes(unkept, options):
    whole = Loss()
    predict(whole, **options)
    with pytest.warns(UserWarning, match="interrupted after"):
        found = predict(Loss(whole.calls - 4), **options)
    assert found.interrupted
    assert 0 < found.lower <= found.threshold <= found.upper <= 1


def test_an_interrupt_before_anything_is_known_ends_the_call(unkept):
    whole = Loss()
    predict(whole)
    for last in (3, whole.calls - 24):
        with pytest.raises(KeyboardInterrupt):
            predict(Loss(last))
    whole = Loss()
    predict(whole, predictor="quadratic")
    with pytest.raises(KeyboardInterrupt):
        predict(Loss(whole.calls - 1), predictor="quadratic")


@pytest.mark.parametrize(
    ("predictor", "probes"), [("width", 1), ("width", 2), ("quadratic", 1), ("statistical_dimension", 1)]
)
def test_the_same_call_goes_on_where_it_was_killed(unkept, tmp_path, predictor: str, probes: int):
    whole, path = Loss(), tmp_path / "there" / "products"
    options = {"predictor": predictor, "probes": probes, "steps": 12}
    expected = predict(whole, **options)
    with pytest.raises(MemoryError):
        predict(Loss(whole.calls, MemoryError), checkpoint=path, **options)
    assert path.exists()
    rest = Loss()
    found = predict(rest, checkpoint=path, **options)
    assert ends(found) == ends(expected)
    assert found.steps == expected.steps
    products = 13 if "spectrum" in PREDICTORS[predictor].needs else expected.steps
    products += predictor == "width" and predict(Loss(), predictor="quadratic", tolerance=1e-3).steps
    # A checkpoint asks for the loss once; the product that failed and the last one are left.
    assert rest.calls <= whole.calls - products + 3
    assert not path.exists()


def test_an_interrupted_call_goes_on_from_its_checkpoint(unkept, tmp_path):
    path = tmp_path / "products"
    whole = Loss()
    expected = predict(whole)
    with pytest.warns(UserWarning, match=rf"the same call goes on from {path}"):
        predict(Loss(whole.calls - 9), checkpoint=path)
    assert ends(predict(Loss(), checkpoint=path, progress=True)) == ends(expected)


@pytest.mark.parametrize("other", ["loss", "data", "network"])
def test_a_checkpoint_of_other_work_is_not_used(unkept, tmp_path, other: str, caplog):
    path, whole = tmp_path / "products", Loss()
    predict(whole)
    with pytest.raises(MemoryError):
        predict(Loss(whole.calls - 5, MemoryError), checkpoint=path)
    model, data = net(), (normal(96, 8, dtype=torch.float32), labels(96, 3))
    loss = F.cross_entropy
    if other == "loss":

        def loss(output: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(output, target, label_smoothing=0.1)
    elif other == "data":
        data[0][50, 3] += 0.01
    else:
        with torch.no_grad():
            model[0].bias[2] += 0.01
    expected = predict_threshold(model, loss, data, epsilon=EPSILON, batch_size=96, steps=24)
    found = predict_threshold(model, loss, data, epsilon=EPSILON, batch_size=96, steps=24, checkpoint=path)
    assert ends(found) == ends(expected)
    assert "is set aside, and its work starts over" in caplog.text
