import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.sparse.linalg import aslinearoperator

import gwprune
from gwprune.spectral.lanczos import lanczos
from gwprune.spectral.projection import GaussianProbes, cone_dimension


def test_circular_cone_meets_its_closed_form():
    # Around a ball the cone is circular with half-angle alpha: D sin^2 alpha + cos 2 alpha.
    dimension, radius = 300, 3.0
    center = np.random.default_rng(0).normal(size=dimension)
    center *= radius / np.linalg.norm(center)
    for epsilon in (0.5, 2.0, 4.0):
        sine = 2 * epsilon / radius**2
        value, error = gwprune.statistical_dimension(np.eye(dimension), center, epsilon, steps=2, probes=400)
        assert abs(value - (sine + (1 - 2 * sine) / dimension)) < 4 * error


def projected_length(matrix, h, kappa, g):
    """Squared length of the projection of g on the cone, by a general convex solver from several starts."""

    def slack(x):
        return x @ h - np.sqrt(max(kappa * x @ matrix @ x, 1e-300))

    best = np.inf
    for start in (h, g + 2 * h, np.linalg.solve(matrix, h)):
        found = minimize(
            lambda x: np.sum((x - g) ** 2), start, method="SLSQP", tol=1e-14,
            constraints={"type": "ineq", "fun": slack}, options={"maxiter": 500},
        )  # fmt: skip
        if slack(found.x) > -1e-6:
            best = min(best, found.fun)
    return g @ g - min(best, g @ g)  # Moreau: |g|^2 = |projection|^2 + distance^2; the cone holds 0


@pytest.mark.parametrize("seed", range(6))
def test_projections_agree_with_a_general_convex_solver(seed):
    rng = np.random.default_rng(seed)
    dimension = 5
    basis = np.linalg.qr(rng.normal(size=(dimension, dimension)))[0]
    matrix = (basis * np.exp(rng.normal(size=dimension))) @ basis.T
    center = rng.normal(size=dimension)
    epsilon = 0.15 * center @ matrix @ center
    kappa, h = center @ matrix @ center - 2 * epsilon, matrix @ center
    vectors = torch.from_numpy(rng.normal(size=(4, dimension)))
    vectors *= np.sqrt(dimension) / vectors.norm(dim=1, keepdim=True)
    probes = GaussianProbes(vectors, lanczos(matrix, list(vectors), dimension), dimension)
    values, _ = cone_dimension(matrix, torch.from_numpy(center), epsilon, probes, dimension)
    for value, g in zip(values, vectors.numpy(), strict=True):
        expected = np.mean([projected_length(matrix, h, kappa, sign * g) for sign in (1, -1)]) / dimension
        assert value == pytest.approx(expected, abs=2e-4)


def test_inside_the_sublevel_set_everything_is_hit():
    center = np.full(20, 0.1)
    assert gwprune.statistical_dimension(np.eye(20), center, 0.2) == (1.0, 0.0)
    assert gwprune.statistical_dimension(np.eye(20), np.zeros(20), 0.2) == (1.0, 0.0)


def test_directions_of_zero_curvature_belong_to_the_cone():
    spectrum = np.r_[np.zeros(150), np.full(50, 1e4)]
    center = np.random.default_rng(1).normal(size=200)
    value, _ = gwprune.statistical_dimension(np.diag(spectrum), center, 1e-3, steps=10, probes=64)
    assert value == pytest.approx(0.75, abs=0.02)


def observed_transition(spectrum, center, epsilon, rng):
    """Codimension over D at which half of the random subspaces meet the ellipsoid."""
    dimension = len(spectrum)
    h = spectrum * center
    kappa = center @ h - 2 * epsilon

    def meets(size):
        hits = 0
        for _ in range(11):
            plane = rng.normal(size=(dimension, size))  # its span alone matters
            inner = plane.T @ h
            hits += inner @ np.linalg.solve(plane.T @ (spectrum[:, None] * plane), inner) >= kappa
        return hits >= 6

    low, high = 1, dimension
    while high - low > 2:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return 1 - high / dimension


@pytest.mark.parametrize("decay", [0.5, 1.5])
def test_random_subspaces_stop_meeting_the_ellipsoid_at_the_statistical_dimension(decay):
    rng = np.random.default_rng(3)
    dimension = 400
    spectrum = 1 / np.arange(1, dimension + 1) ** decay
    center = rng.normal(size=dimension)
    center *= 1.0 / np.linalg.norm(center)
    epsilon = 0.1 * center**2 @ spectrum
    value, _ = gwprune.statistical_dimension(np.diag(spectrum), center, epsilon, steps=120, probes=12)
    assert value == pytest.approx(observed_transition(spectrum, center, epsilon, rng), abs=0.025)


def test_any_operator_with_shape_and_product_will_do():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(30, 30))
    matrix, center = root @ root.T, rng.normal(size=30)
    expected = gwprune.statistical_dimension(matrix, center, 2.0)
    assert gwprune.statistical_dimension(aslinearoperator(matrix), center, 2.0) == pytest.approx(expected)
    tensors = torch.from_numpy(matrix), torch.from_numpy(center)
    assert gwprune.statistical_dimension(*tensors, 2.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.eye(3), np.ones(4), 1.0), r"shape \(3,\)"),
        ((np.eye(3), np.ones(3), 0.0), "epsilon"),
        ((np.ones((3, 2)), np.ones(3), 1.0), "square"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        gwprune.statistical_dimension(*arguments)
