"""Where the statistical dimension meets the sparsity, against dense oracles; what a search costs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

import gwprune
from gwprune.predict import reranked
from gwprune.pruning import Ranking
from gwprune.spectral.cones import Cones
from gwprune.spectral.crossings import crossing
from gwprune.spectral.predictors import PREDICTORS
from gwprune.spectral.probes import probe_spectra
from gwprune.spectral.spectrum import Estimate

from .helpers_spectra import digits, make_sample, problem_of, rotated


class Counted:
    """A dense matrix that counts its products."""

    def __init__(self, matrix: np.ndarray):
        self.matrix, self.shape, self.products = matrix, matrix.shape, 0

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        self.products += 1
        return self.matrix @ x


def ranks_of(weights: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(weights), int)
    ranks[np.argsort(np.abs(weights), kind="stable")] = np.arange(len(weights))
    return ranks


def cones(
    matrix, weights: np.ndarray, *, probes: int = 1, spectrum_steps: int = 400, resolution: float = 1e-4, **options
) -> Cones:
    known = probe_spectra(
        matrix, steps=spectrum_steps, probes=range(probes), seed=0, semidefinite=options.pop("semidefinite", False)
    )
    return Cones(problem_of(matrix, weights, spectrum=known, **{"steps": 400, **options}), resolution)


def threshold(matrix, weights, epsilon: float, *, steps: int = 128, seed: int = 0, **options) -> Estimate:
    known = probe_spectra(matrix, steps=steps, probes=[0], seed=seed)
    return PREDICTORS["statistical_dimension"].threshold(
        problem_of(matrix, weights, spectrum=known, **options), epsilon
    )


def dense_dimension(matrix: np.ndarray, center: np.ndarray, epsilon: float, eigen: tuple | None = None) -> float:
    """The trace formula by dense eigenvalues, per D."""
    values, vectors = eigen or np.linalg.eigh(matrix)
    sizes = np.abs(values)
    energy = (vectors.T @ center) ** 2 * sizes
    if energy.sum() <= 2 * epsilon:
        return 1.0
    log_t = brentq(lambda log_t: np.sum(energy / (1 + np.exp(log_t) * sizes)) - 2 * epsilon, -40, 40)
    return float(np.mean(1 / (1 + np.exp(log_t) * sizes)))


def absolute_of(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.abs(values)) @ vectors.T


def last_count(dimension_at, size: int) -> int:
    return max(count for count in range(size + 1) if dimension_at(count) >= count / size)


def example(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, float]:
    """Diagonal matrix, weights and tolerance. Rademacher probes know the traces of a diagonal matrix exactly."""
    rng = np.random.default_rng(seed)
    spectrum = 1 / np.arange(1, size + 1)
    weights = rng.normal(size=size) * np.exp(0.5 * rng.normal(size=size))
    return np.diag(spectrum), weights, 0.1 * float(weights**2 @ spectrum)


# --- the dimension at one count -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["positive", "indefinite", "low_rank"])
def test_the_trace_is_the_mean_projection_up_to_about_one_weight(kind):
    size = 80
    matrix = make_sample(kind, size, 3).matrix
    absolute = absolute_of(matrix)
    weights = np.random.default_rng(1).normal(size=size)
    found = cones(matrix, weights, probes=100)
    center = np.where(ranks_of(weights) < 70, weights, 0)
    for share in (0.1, 0.4):
        epsilon = share * center @ absolute @ center / 2
        trace = found.dimension_at(70, epsilon)
        assert trace.value == pytest.approx(dense_dimension(matrix, center, epsilon), abs=4 * trace.standard_error)
        value, error = gwprune.statistical_dimension(matrix, center, epsilon, steps=size, probes=16)
        assert 0.05 < value < 0.95
        assert abs(trace.value - value) < 1.2 / size + 3 * np.hypot(error, trace.standard_error)


def test_the_dimension_is_1_inside_and_never_below_the_width():
    matrix, weights, epsilon = example(200)
    found = cones(matrix, weights)
    assert found.dimension_at(0, epsilon).value == 1.0
    for count in (50, 120, 160, 180, 199):
        radius = np.linalg.norm(np.where(ranks_of(weights) < count, weights, 0))
        width = float(found.spectrum.width(radius, epsilon).value)
        assert found.dimension_at(count, epsilon).value >= width > 0
    assert found.dimension_at(50, epsilon).value == 1.0
    assert found.dimension_at(199, epsilon).value < 0.9


def test_the_dimension_is_the_width_where_the_removed_vector_is_stiff():
    rng = np.random.default_rng(0)
    curvature = rng.uniform(0.1, 2, 100)
    curvature[0] = 1e7
    weights = np.r_[0.5, rng.uniform(1, 2, 99)]  # the first goes first
    found = cones(np.diag(curvature), weights)
    width = np.mean(2 * 0.1 / (2 * 0.1 + 0.5**2 * curvature))
    assert 0.3 < width < 0.7
    assert found.dimension_at(1, 0.1).value == pytest.approx(width, rel=1e-5)


@pytest.mark.parametrize("kind", ["indefinite", "clustered", "outlier"])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_short_runs_enclose_the_dimension(kind, steps):
    size = 90
    matrix = make_sample(kind, size, 5).matrix
    absolute = absolute_of(matrix)
    weights = np.random.default_rng(2).normal(size=size)
    center = np.where(ranks_of(weights) < 75, weights, 0)
    epsilon = 0.05 * center @ absolute @ center
    found = cones(matrix, weights, probes=50, steps=steps).dimension_at(75, epsilon)
    assert found.lower - 1e-9 <= dense_dimension(matrix, center, epsilon) <= found.upper + 1e-9


# --- the threshold ------------------------------------------------------------------------------------------------


def test_the_threshold_is_where_projections_at_every_count_say():
    size = 36
    matrix, weights, epsilon = example(size)
    ranks = ranks_of(weights)

    def projected(count: int) -> float:
        center = np.where(ranks < count, weights, 0)
        return gwprune.statistical_dimension(matrix, center, epsilon, steps=size, probes=16)[0]

    expected = last_count(projected, size)
    assert 0.5 * size < expected < 0.95 * size
    found = threshold(matrix, weights, epsilon)
    assert abs(found.value * size - expected) <= 1.01


@pytest.mark.parametrize("seed", range(5))
def test_a_small_search_ends_at_the_last_count_that_holds(seed):
    matrix, weights, epsilon = example(150, seed)
    found = cones(matrix, weights)
    result = found.threshold(epsilon)
    assert result.value == last_count(lambda count: found.dimension_at(count, epsilon).value, 150) / 150
    assert result.lower <= result.value <= result.upper


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_the_threshold_of_a_network_lies_in_its_interval(operator):
    net = digits()
    matrix, ranks = net.curvature[operator].matrix, ranks_of(net.weights)

    def dense(count: int, epsilon: float) -> float:
        return dense_dimension(matrix, np.where(ranks < count, net.weights, 0), epsilon)

    size = len(net.weights)
    for epsilon in (0.02, 0.1):
        found = threshold(matrix, net.weights, epsilon)
        assert dense(int(found.lower * size), epsilon) >= found.lower - 1 / size
        assert dense(int(np.ceil(found.upper * size)), epsilon) < found.upper + 1 / size
        assert abs(dense(round(found.value * size), epsilon) - found.value) < 2.5 * found.standard_error + 0.005
        assert found.upper - found.lower < 0.12


def test_a_coarse_resolution_ends_sooner_and_near():
    matrix, weights, epsilon = example(1000)
    fine = cones(matrix, weights, spectrum_steps=100, steps=100, resolution=1e-5).threshold(epsilon)
    coarse = cones(matrix, weights, spectrum_steps=100, steps=100, resolution=0.01).threshold(epsilon)
    assert abs(coarse.value - fine.value) <= 0.01
    assert coarse.products < fine.products


def test_a_tolerance_that_pruning_never_reaches_gives_1():
    matrix, weights, _ = example(60)
    assert threshold(matrix, weights, 1e6).value == 1.0
    # No weight lies where the curvature is, though the width, which does not look, breaks early.
    curvature = np.diag(np.r_[np.zeros(30), np.full(30, 1e3)])
    weights = np.r_[weights[:30], np.zeros(30)]
    found = cones(curvature, weights)
    result = found.threshold(0.01)
    assert float(found.spectrum.width_threshold(found.problem.norms, 0.01).value) < 0.8
    assert (result.value, result.upper) == (1.0, 1.0)


def test_a_matrix_without_curvature_gives_1():
    assert threshold(np.zeros((10, 10)), np.arange(1.0, 11), 0.1).value == 1.0


def test_rows_that_are_zero_count_as_dimensions_and_add_no_noise():
    rng = np.random.default_rng(0)
    small = rotated(np.exp(rng.normal(size=30)), rng)
    matrix = np.zeros((75, 75))
    matrix[:30, :30] = small
    weights = rng.normal(size=75)
    center = np.where(np.arange(75) < 25, weights, 0.0)
    epsilon = 0.05 * float(center @ matrix @ center)
    inner, inner_error = gwprune.statistical_dimension(small, center[:30], epsilon, steps=30, probes=40)
    value, error = gwprune.statistical_dimension(matrix, center, epsilon, steps=30, probes=40)
    assert abs(75 * value - (45 + 30 * inner)) < 3 * np.hypot(75 * error, 30 * inner_error)
    assert 75 * error == pytest.approx(30 * inner_error, rel=0.2)
    # Of the removed vector, too, only the part on the other rows matters.
    shifted = center + np.where(np.arange(75) >= 30, 100.0, 0.0)
    assert gwprune.statistical_dimension(matrix, shifted, epsilon, steps=30, probes=40)[0] == pytest.approx(value)


# --- what it costs ------------------------------------------------------------------------------------------------


def test_every_product_is_counted_and_none_is_made_twice():
    matrix, weights, epsilon = example(300)
    operator = Counted(matrix)
    found = cones(operator, weights, spectrum_steps=50, steps=30)
    before = operator.products
    first = found.threshold(epsilon)
    assert first.products == operator.products - before
    assert found.threshold(epsilon).products == 0
    assert operator.products == before + first.products
    # Another tolerance makes its own runs, the first one's again none.
    second = found.threshold(3 * epsilon)
    assert second.value > first.value
    assert second.products == operator.products - before - first.products
    assert found.threshold(epsilon).products == found.threshold(3 * epsilon).products == 0
    # The runs of a near tolerance tell where to start.
    assert found.threshold(1.001 * epsilon).products < first.products


def test_a_run_ends_when_its_dimension_has_settled_and_goes_on_for_a_harder_tolerance():
    rng = np.random.default_rng(0)
    matrix = np.diag(np.r_[np.full(200, 1e-3), np.linspace(1, 2, 100)])
    weights = rng.normal(size=300)
    found = cones(Counted(matrix), weights, semidefinite=True, steps=40, resolution=0.01)
    found.dimension_at(250, 1e3)
    assert found.products == 1  # inside, as the first coefficient of a semi-definite matrix shows
    found.dimension_at(250, 1.0)
    again = found.products
    assert 2 < again < 30
    found.dimension_at(250, 1.0)
    assert found.products == again


def test_no_basis_is_needed():
    net = digits()
    matrix = net.curvature["ggn"].matrix
    with_basis, without = (threshold(matrix, net.weights, 0.05, reorthogonalize=keep) for keep in (True, False))
    assert without.value == pytest.approx(with_basis.value, abs=0.003)


def test_single_precision_is_enough():
    net = digits()
    matrix = torch.from_numpy(net.curvature["ggn"].matrix)
    wide = threshold(matrix, net.weights, 0.05)
    narrow = threshold(matrix.float(), torch.from_numpy(net.weights).float(), 0.05)
    assert narrow.value == pytest.approx(wide.value, abs=0.003)


# --- a further method -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
@pytest.mark.parametrize("method", ["saliency", "random"])
def test_a_further_method_takes_under_a_tenth_of_the_spectrum_and_meets_the_dense_threshold(operator, method):
    net = digits()
    matrix, weights, size = net.curvature[operator].matrix, torch.from_numpy(net.weights), len(net.weights)
    counted = Counted(matrix)
    options = {"semidefinite": operator == "ggn"}
    known = probe_spectra(counted, steps=96, probes=range(2), seed=0, **options)
    first = problem_of(counted, net.weights, spectrum=known)
    scores = {
        "saliency": weights**2 * torch.from_numpy(np.abs(np.diag(matrix))),
        "random": torch.from_numpy(np.random.default_rng(0).random(size)),
    }[method]
    ranking = Ranking.of_scores(scores)
    further = reranked(first, ranking)
    predictor, eigen = PREDICTORS["statistical_dimension"], np.linalg.eigh(matrix)

    def dense(count: int, epsilon: float) -> float:
        return dense_dimension(matrix, np.where(ranking.ranks.numpy() < count, net.weights, 0), epsilon, eigen)

    epsilon = {"hessian": 0.02, "ggn": 0.1}[operator]
    predictor.threshold(first, epsilon)
    before = counted.products
    found = predictor.threshold(further, epsilon)
    assert 0 < found.products == counted.products - before < 0.1 * 2 * known.steps
    expected = crossing(lambda count: dense(count, epsilon), size)
    assert abs(found.value - expected) < 0.01 + 2 * found.standard_error
    assert found.lower - 1 / size <= expected <= found.upper + 1 / size
    assert predictor.threshold(further, epsilon) == replace(found, products=0)


def test_beside_itself_a_short_run_has_the_value_of_the_long_one():
    matrix = make_sample("outlier", 300, 1).matrix
    weights = np.random.default_rng(0).normal(size=300)
    epsilon = 1e-3 * weights @ absolute_of(matrix) @ weights
    found = cones(matrix, weights, spectrum_steps=200, steps=100)
    full = found.threshold(epsilon)
    again = Cones(replace(found.problem, steps=5), first=found)
    short = again.threshold(epsilon)
    assert (short.products, short.value) == (5, pytest.approx(full.value, abs=1 / 300))
    alone = Cones(replace(found.problem, steps=5)).threshold(epsilon)
    assert abs(alone.value - full.value) > 3 / 300
    assert short.lower <= full.value <= short.upper
    assert short.upper - short.lower > full.upper - full.lower


def test_a_further_method_that_removes_zeros_first_has_a_run_from_weights_that_are_not():
    matrix, weights, epsilon = example(100)
    weights[:40] = 0
    first = problem_of(matrix, weights, spectrum=probe_spectra(matrix, steps=60, probes=[0], seed=0))
    predictor = PREDICTORS["statistical_dimension"]
    for scores in (np.abs(weights), np.arange(100.0)):
        for own in (first, reranked(first, Ranking.of_scores(torch.from_numpy(scores)))):
            assert 0.4 < predictor.threshold(own, epsilon).value < 1
    nothing = replace(first, weights=torch.zeros(100), norms=np.zeros(101), first=first)
    assert predictor.threshold(nothing, epsilon).value == 1


# --- random probes ------------------------------------------------------------------------------------------------


def test_one_probe_knows_its_standard_error():
    rng = np.random.default_rng(4)
    size = 150
    matrix = rotated(np.exp(2 * rng.normal(size=size)), rng)
    center = rng.normal(size=size)
    epsilon = 0.1 * float(center @ matrix @ center)
    found = [gwprune.statistical_dimension(matrix, center, epsilon, steps=60, probes=1, seed=n) for n in range(40)]
    values, errors = np.array(found).T
    assert 0.6 < np.mean(errors) / values.std(ddof=1) < 1.7
    assert errors.std() < 0.3 * errors.mean()


def test_the_threshold_of_one_probe_is_as_near_as_its_standard_error_says():
    net = digits()
    matrix = net.curvature["ggn"].matrix
    found = [threshold(matrix, net.weights, 0.05, steps=64, seed=n) for n in range(8)]
    spread = np.std([one.value for one in found], ddof=1)
    error = np.mean([one.standard_error for one in found])
    assert 0.15 * error < spread < 1.5 * error


# --- bad arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.0, float("nan")])
def test_an_epsilon_that_is_not_positive_is_refused(epsilon: float):
    with pytest.raises(ValueError, match=f"epsilon must be positive, got {epsilon}"):
        threshold(np.eye(3), np.ones(3), epsilon)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"resolution": 0.0}, r"resolution must be in \(0, 1\), got 0.0"),
        ({"resolution": 1.0}, r"resolution must be in \(0, 1\), got 1.0"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        cones(np.eye(3), np.ones(3), **changes)
