"""Small problems exactly: where the steps pay for the dense matrix, all eigenvalues are known."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gwprune.curvature.operator import curvature_operator
from gwprune.predict import predict_threshold
from gwprune.spectral import probes
from gwprune.spectral.probes import known_spectrum
from gwprune.spectral.width import squared_width

from .helpers_networks import labels, normal
from .helpers_spectra import Sample, dense_ggn, dense_hessian, make_sample, width_function

EPSILON = 0.05


class Counted:
    """A matrix that counts its products."""

    def __init__(self, matrix: np.ndarray):
        self.matrix, self.shape, self.products = matrix, matrix.shape, 0

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        self.products += 1
        return self.matrix @ x


def with_zero_rows() -> np.ndarray:
    matrix = np.zeros((60, 60))
    matrix[10:50, 10:50] = make_sample("clustered", 40, 3).matrix
    return matrix


def test_as_many_steps_as_rows_give_the_trace_exactly():
    matrix = Counted(with_zero_rows())
    spectrum = known_spectrum(matrix, steps=40, probes=range(3), seed=0)
    assert matrix.products == 41  # and the one that finds the zero rows
    assert (spectrum.steps, spectrum.random_probes, spectrum.active, spectrum.dimension) == (40, 0, 40, 60)
    norms = np.array([0.0, 0.1, 1.0, 30.0])
    found = spectrum.width(norms, EPSILON)
    dense = Sample(matrix.matrix)
    expected = [1.0, *dense.trace(width_function(2 * EPSILON / norms[1:] ** 2)) / 60]
    np.testing.assert_allclose(found.value, expected, rtol=1e-12)
    np.testing.assert_allclose(found.upper - found.lower, 0, atol=1e-10)
    np.testing.assert_array_equal(found.standard_error, 0)
    mean = spectrum.mean_curvature()
    assert mean.value == pytest.approx(np.abs(dense.eigenvalues).sum() / 60)
    assert mean.upper - mean.lower < 1e-10


def test_fewer_steps_leave_it_to_the_probes(monkeypatch):
    matrix = Counted(with_zero_rows())
    spectrum = known_spectrum(matrix, steps=39, probes=range(2), seed=0)
    assert not spectrum.exact
    assert spectrum.random_probes == 2
    monkeypatch.setattr(probes, "LARGEST_DENSE", 39)
    assert not known_spectrum(matrix, steps=40, probes=[0], seed=0).exact


def test_a_matrix_of_zeros_and_one_that_is_not_finite():
    assert float(known_spectrum(np.zeros((5, 5)), steps=9, probes=[0], seed=0).width(1.0, EPSILON).value) == 1
    with pytest.raises(FloatingPointError, match="product is not finite"):
        known_spectrum(torch.full((5, 5), torch.inf), steps=9, probes=[0], seed=0)


def test_squared_width_of_a_small_matrix_does_not_depend_on_the_seed():
    sample = make_sample("indefinite", 100, 4)
    exact = float(sample.trace(width_function(2 * EPSILON / 0.7**2))) / 100
    for seed in range(3):
        assert squared_width(sample.matrix, 0.7, EPSILON, seed=seed) == pytest.approx((exact,) * 3, rel=1e-10)


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    return model.eval(), (normal(60, 8, dtype=torch.float64), labels(60, 3))


@pytest.mark.parametrize(("operator", "dense"), [("hessian", dense_hessian), ("ggn", dense_ggn)])
def test_predictions_of_a_small_network_have_no_width(network, operator: str, dense):
    model, data = network
    matrix = Sample(dense(model, F.cross_entropy, *data, ["0.weight", "2.weight"]).numpy())
    size = matrix.order
    for predictor in ("width", "trace_bound", "statistical_dimension"):
        found = predict_threshold(
            model, F.cross_entropy, data, epsilon=0.01, steps=size, predictor=predictor, operator=operator
        )
        assert (found.probes, found.standard_error) == (0, 0)
        assert found.steps <= size
        assert found.upper - found.lower <= 1.01 / size, predictor
    width = predict_threshold(model, F.cross_entropy, data, epsilon=0.01, steps=size, operator=operator)
    weights = torch.cat([model[index].weight.detach().flatten() for index in (0, 2)]).numpy()
    removed, norms = np.arange(1, size + 1), np.sqrt(np.cumsum(np.sort(weights**2)))
    curve = matrix.trace(width_function(0.02 / norms**2)) / size
    assert width.threshold == removed[curve >= removed / size].max() / size


def test_single_precision_leaves_its_rounding_open(network):
    model, (inputs, targets) = network
    single = copy.deepcopy(model).float()
    operator = curvature_operator(single, F.cross_entropy, (inputs.float(), targets))
    found = known_spectrum(operator, steps=operator.shape[0], probes=[0], seed=0).width(3.0, 0.01)
    assert 0 < found.upper - found.lower < 0.02
