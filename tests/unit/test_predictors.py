"""The registry of predictors: light to read, and the only place that a further predictor has to be named in."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gwprune import predict_threshold
from gwprune.spectral.predictors import PREDICTORS, Predictor
from gwprune.spectral.probes import probe_spectra
from gwprune.spectral.spectrum import Estimate

from .helpers_spectra import problem_of


def norm_share(problem, epsilon: float) -> Estimate:
    """A toy: the sparsity up to which the removed weights have less than the share ``epsilon`` of the norm."""
    count = int(np.searchsorted(problem.norms, epsilon * problem.norms[-1], side="right")) - 1
    return Estimate(count / problem.dimension, 0.0, 1.0)


@pytest.fixture
def toy(monkeypatch) -> Predictor:
    predictor = Predictor("norm_share", ("spectrum",), False, "a toy", f"{__name__}:norm_share")
    monkeypatch.setitem(PREDICTORS, predictor.name, predictor)
    return predictor


def test_a_registered_predictor_is_one_of_predict_threshold(toy):
    model = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.0, 0.1, 1.0], [2.0, 3.0, 4.0, 5.0]]))
    data = torch.randn(40, 4), torch.randint(2, (40,))
    found = predict_threshold(model, F.cross_entropy, data, predictor="norm_share", epsilon=0.2, steps=3)
    assert (found.threshold, found.lower, found.upper) == (4 / 8, 0.0, 1.0)
    assert found.predictor == "norm_share"
    assert 0 < float(found.width(0.9).value) <= 1
    with pytest.raises(ValueError, match="norm_share"):
        predict_threshold(model, F.cross_entropy, data, predictor="nothing")


def test_reading_the_registry_imports_neither_torch_nor_numpy():
    program = (
        "import sys; from gwprune.spectral.predictors import PREDICTORS;"
        "print(*PREDICTORS, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [*PREDICTORS, "False", "False"]


def test_every_predictor_is_described_in_one_line_and_can_be_imported():
    spectrum = probe_spectra(np.eye(4), steps=2, probes=[0], seed=0)
    gradient = torch.zeros(4, dtype=torch.float64)
    options = {"spectrum": spectrum, "gradient": gradient, "loss": lambda weights: 0.0}
    problem = problem_of(np.eye(4), np.arange(1.0, 5), **options)
    for name, predictor in PREDICTORS.items():
        assert predictor.name == name
        assert 0 < len(predictor.text) < 120
        assert "\n" not in predictor.text
        result = predictor.threshold(problem, 0.5)
        assert 0 <= result.lower <= result.value <= result.upper <= 1
        assert (result.products > 0) == ("products" in predictor.needs)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("width", "spectrum"),
        ("quadratic", "operator"),
        ("statistical_dimension", "spectrum"),
        ("surgeon_step", "operator"),
    ],
)
def test_what_a_problem_lacks_is_named(name: str, missing: str):
    with pytest.raises(ValueError, match=f"predictor {name} needs the {missing}"):
        PREDICTORS[name].threshold(problem_of(None, np.ones(3)), 0.5)


def test_an_unknown_need_is_refused():
    with pytest.raises(ValueError, match="needs must be some of spectrum, products, gradient, loss, got {'luck'}"):
        Predictor("x", ("luck",), False, "", ".width:x")


def test_a_predictor_that_leaves_operators_out_must_have_jobs_of_its_own():
    with pytest.raises(ValueError, match="predictor x leaves operators out, so it must be computed apart"):
        Predictor("x", ("spectrum",), False, "", ".width:x", operators=("ggn",))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"ranks": torch.arange(2)}, r"ranks must have shape \(3,\), got \(2,\)"),
        ({"norms": np.ones(3)}, r"norms must have shape \(4,\), got \(3,\)"),
        ({"operator": np.ones((3, 2))}, r"operator must have shape \(3, 3\), got \(3, 2\)"),
        ({"gradient": torch.ones(4)}, r"gradient must have shape \(3,\), got \(4,\)"),
        ({"spectrum": probe_spectra(np.eye(4), steps=2, probes=[0], seed=0)}, "of order 4, the network has 3 weights"),
    ],
)
def test_parts_of_another_size_are_refused(part: dict, message: str):
    problem = problem_of(np.eye(3), np.ones(3))
    with pytest.raises(ValueError, match=message):
        type(problem)(**{"weights": problem.weights, "ranks": problem.ranks, "norms": problem.norms, **part})
