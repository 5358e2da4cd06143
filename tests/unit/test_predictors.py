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
    ("name", "measured", "model"),
    [
        ("quadratic", "loss_tolerance", "loss_tolerance"),
        ("quadratic", "control_loss_tolerance", "loss_tolerance"),
        ("quadratic", "objective_tolerance", "objective_tolerance"),
        ("quadratic", "control_objective_tolerance", "objective_tolerance"),
        ("quadratic", "control_accuracy_drop:1", "loss_tolerance"),
        ("width", "objective_tolerance", ""),
    ],
)
def test_a_measured_criterion_stands_beside_the_model_of_its_function(name: str, measured: str, model: str):
    assert PREDICTORS[name].criterion_for(measured) == model


def test_a_criterion_without_a_model_is_refused():
    problem = problem_of(np.eye(3), np.ones(3), gradient=torch.zeros(3))
    with pytest.raises(ValueError, match="predictor quadratic: criterion must be one of 'loss_tolerance', .*, got ''"):
        PREDICTORS["quadratic"].threshold(problem, 0.5, "")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("criterion", ["loss_tolerance", "objective_tolerance"])
def test_the_quadratic_model_is_that_of_the_dense_matrix_in_few_products(criterion: str, seed: int):
    rng = np.random.default_rng(seed)
    size, l1 = 1000, 0.02
    factor = rng.standard_normal((40, size)) / 40
    matrix = factor.T @ factor + np.diag(rng.uniform(0, 0.1, size))
    weights = rng.standard_normal(size) * 10.0 ** rng.uniform(-3, 0, size)
    gradient = -l1 * np.sign(weights) + 0.005 * rng.standard_normal(size)
    problem = problem_of(matrix, weights, gradient=torch.from_numpy(gradient), l1=l1)
    order = np.argsort(np.abs(weights))
    terms = (matrix * np.outer(weights, weights))[np.ix_(order, order)]
    linear = gradient * weights + (l1 * np.abs(weights) if criterion == "objective_tolerance" else 0)
    rise = np.append(0, terms.cumsum(0).cumsum(1).diagonal() / 2 - linear[order].cumsum())
    epsilon = 0.3 * rise.max()
    found = PREDICTORS["quadratic"].threshold(problem, epsilon, criterion)
    low, high = round(found.lower * size), round(found.upper * size)
    assert high == low + 1
    assert rise[low] < epsilon <= rise[high]
    # Halving alone takes 10.
    assert found.products <= 8


def test_products_serve_the_other_criterion_and_other_tolerances():
    rng = np.random.default_rng(0)
    problem = problem_of(np.eye(500), rng.standard_normal(500), gradient=torch.zeros(500).double(), l1=0.0)
    found = [
        PREDICTORS["quadratic"].threshold(problem, *of)
        for of in ((1.0, "loss_tolerance"), (1.0, "objective_tolerance"))
    ]
    assert found[0].value == found[1].value
    assert found[0].products > found[1].products == 0


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
