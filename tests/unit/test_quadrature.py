"""Quadrature rules: exactness to their degrees, fixed nodes, dense oracles, hard cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gwprune.spectral.lanczos import Jacobi, lanczos, rademacher
from gwprune.spectral.quadrature import Rule, gauss, radau, squared

from .helpers_spectra import Sample, make_sample, samples


def unit_norm(sample: Sample) -> Sample:
    return Sample(sample.matrix / sample.norm)


def coefficients(sample: Sample, steps: int, seed: int = 0) -> Jacobi:
    return lanczos(torch.from_numpy(sample.matrix), [rademacher(sample.order, seed).double()], steps)[0]


def moments(sample: Sample, count: int, seed: int = 0) -> np.ndarray:
    """``v^T A^k v``, k = 0 to count - 1, by plain multiplication; v of unit length."""
    unit = rademacher(sample.order, seed).double().numpy() / np.sqrt(sample.order)
    values, vector = [], unit
    for _ in range(count):
        values.append(unit @ vector)
        vector = sample.matrix @ vector
    return np.array(values)


def rule_moments(rule: Rule, count: int) -> np.ndarray:
    return np.array([rule.weights @ rule.nodes**degree for degree in range(count)])


def check_probability(rule: Rule) -> None:
    assert rule.nodes.shape == rule.weights.shape
    assert np.isfinite(rule.nodes).all()
    assert (rule.weights >= 0).all()
    assert rule.weights.sum() == pytest.approx(1.0, abs=1e-12)


steps_and_seed = {"fraction": st.floats(0, 1), "seed": st.integers(0, 1000)}


# --- Gauss and Gauss-Radau --------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(sample=samples(40).map(unit_norm), **steps_and_seed)
def test_gauss_is_exact_to_degree_twice_the_nodes_minus_one(sample, fraction, seed):
    jacobi = coefficients(sample, max(1, round(fraction * sample.order)), seed)
    rule = gauss(jacobi)
    check_probability(rule)
    assert len(rule.nodes) == jacobi.steps
    count = 2 * jacobi.steps
    np.testing.assert_allclose(rule_moments(rule, count), moments(sample, count, seed), atol=1e-11)


@settings(max_examples=60)
@given(sample=samples(40, semidefinite=True).map(unit_norm), **steps_and_seed)
def test_radau_has_the_node_zero_and_is_exact_to_degree_twice_the_steps(sample, fraction, seed):
    jacobi = coefficients(sample, max(1, round(fraction * sample.order)), seed)
    rule = radau(jacobi)
    check_probability(rule)
    if jacobi.exact:
        assert len(rule.nodes) == jacobi.steps
    else:
        assert len(rule.nodes) == jacobi.steps + 1
        assert (rule.nodes == 0.0).any()
    count = 2 * jacobi.steps + 1
    np.testing.assert_allclose(rule_moments(rule, count), moments(sample, count, seed), atol=1e-10)


@pytest.mark.parametrize("node", [-1.5, -1.0000001, 1.25])
@pytest.mark.parametrize("steps", [1, 2, 5, 9])
def test_radau_takes_any_fixed_node(node: float, steps: int):
    sample = unit_norm(make_sample("indefinite", 20, 1))
    jacobi = coefficients(sample, steps)
    rule = radau(jacobi, node)
    check_probability(rule)
    assert len(rule.nodes) == steps + 1
    assert (rule.nodes == node).sum() == 1
    np.testing.assert_allclose(rule_moments(rule, 2 * steps + 1), moments(sample, 2 * steps + 1), atol=1e-10)
    assert np.abs(rule_moments(rule, 2 * steps + 2) - moments(sample, 2 * steps + 2))[-1] > 1e-12


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_gauss_and_radau_enclose_the_exponential(steps: int):
    sample = unit_norm(make_sample("indefinite", 30, 2))
    jacobi = coefficients(sample, steps)
    unit = rademacher(30, 0).double().numpy() / np.sqrt(30)
    values, vectors = np.linalg.eigh(sample.matrix)
    exact = np.exp(values) @ (vectors.T @ unit) ** 2
    below, above = gauss(jacobi), radau(jacobi, 1.0)
    assert np.exp(below.nodes) @ below.weights <= exact + 1e-13
    assert np.exp(above.nodes) @ above.weights >= exact - 1e-13


def test_one_step_by_hand():
    jacobi = Jacobi(np.array([2.0]), np.array([3.0]))
    rule = gauss(jacobi)
    assert (rule.nodes.tolist(), rule.weights.tolist()) == ([2.0], [1.0])
    # Mean 2 and second moment 4 + 9 with a node at 0: the other node is 13/2, its weight 4/13.
    np.testing.assert_allclose(np.sort(radau(jacobi).nodes), [0, 6.5], atol=1e-14)
    np.testing.assert_allclose(np.sort(radau(jacobi).weights), [4 / 13, 9 / 13], atol=1e-14)


def test_exact_measure_gives_its_own_rule_everywhere():
    jacobi = Jacobi(np.array([1.0, -2.0, 0.5]), np.array([0.7, 0.2, 0.0]))
    expected = gauss(jacobi)
    for rule in (radau(jacobi), radau(jacobi, -7.0)):
        np.testing.assert_array_equal(rule.nodes, expected.nodes)
        np.testing.assert_array_equal(rule.weights, expected.weights)
    for rule in squared(jacobi):
        for power in (1, 2, 5):
            assert rule.weights @ rule.nodes**power == pytest.approx(expected.weights @ np.abs(expected.nodes) ** power)


@pytest.mark.parametrize("steps", [1, 3, 5, 9])
def test_radau_survives_a_gauss_rule_that_has_the_node_already(steps: int):
    # A symmetric measure has the Gauss node 0 after an odd number of steps.
    off = np.linspace(1, 2, steps)
    jacobi = Jacobi(np.zeros(steps), off)
    below, rule = gauss(jacobi), radau(jacobi)
    check_probability(rule)
    finite = np.abs(rule.nodes) < 1e3
    assert finite.sum() == steps
    np.testing.assert_allclose(np.sort(rule.nodes[finite]), np.sort(below.nodes), atol=1e-8)
    np.testing.assert_allclose(np.sort(rule.weights[finite]), np.sort(below.weights), atol=1e-8)


# --- the squared operator ---------------------------------------------------------------------------------------


def resolvent(rule: Rule, shift: float) -> float:
    return rule.weights @ (1 / (shift + rule.nodes**2))


@settings(max_examples=80)
@given(sample=samples(40).map(unit_norm), **steps_and_seed)
def test_squared_rules_are_exact_in_the_square_to_their_degrees(sample, fraction, seed):
    jacobi = coefficients(sample, max(1, round(fraction * sample.order)), seed)
    lower, upper = squared(jacobi)
    m = jacobi.steps
    assert (len(lower.nodes), len(upper.nodes)) == (m, m + 1)
    assert (upper.nodes == 0.0).any()
    for rule, degree in ((lower, 2 * ((m - 1) // 2) + 1), (upper, 2 * (m // 2))):
        check_probability(rule)
        assert (rule.nodes >= 0).all()
        even = moments(sample, 2 * degree + 1, seed)[::2]
        squares = Rule(rule.nodes**2, rule.weights)
        np.testing.assert_allclose(rule_moments(squares, degree + 1), even, atol=1e-11)


def test_degrees_of_the_squared_rules_are_sharp():
    sample = unit_norm(make_sample("indefinite", 30, 3))
    for steps, degrees in ((8, (8, 9)), (9, (10, 9))):
        jacobi = coefficients(sample, steps)
        for rule, degree in zip(squared(jacobi), degrees, strict=True):
            squares = Rule(rule.nodes**2, rule.weights)
            missed = rule_moments(squares, degree + 1)[-1] - moments(sample, 2 * degree + 1)[-1]
            assert abs(missed) > 1e-9


@pytest.mark.parametrize("kind", ["indefinite", "low_rank"])
@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_squared_rules_compress_the_squared_matrix_to_the_krylov_space(kind: str, steps: int):
    sample = make_sample(kind, 40, 5)
    start = rademacher(40, 0).double().numpy() / np.sqrt(40)
    krylov = np.stack([np.linalg.matrix_power(sample.matrix / sample.norm, k) @ start for k in range(steps)], axis=1)
    basis, _ = np.linalg.qr(krylov)
    if steps > 5:  # powers have lost the digits; orthogonalise as they come
        basis = start[:, None]
        for _ in range(steps - 1):
            new = sample.matrix @ basis[:, -1]
            for _ in range(2):
                new -= basis @ (basis.T @ new)
            basis = np.column_stack([basis, new / np.linalg.norm(new)])
    small = basis.T @ sample.matrix @ sample.matrix @ basis
    jacobi = coefficients(sample, steps)
    lower, upper = squared(jacobi)
    image = sample.matrix @ start  # lies in the space from two steps on
    for shift in (0.3 * sample.norm**2, 1e-3 * sample.norm**2):
        inner = np.linalg.inv(shift * np.eye(steps) + small)
        compressed = (basis.T @ start) @ inner @ (basis.T @ start)
        assert resolvent(lower, shift) == pytest.approx(compressed, rel=1e-8)
        pulled = basis.T @ image
        assert resolvent(upper, shift) == pytest.approx((1 - pulled @ inner @ pulled) / shift, rel=1e-8)


@settings(max_examples=80)
@given(sample=samples(40).map(unit_norm), shift=st.floats(1e-4, 10), **steps_and_seed)
def test_squared_rules_are_the_ends_of_the_weyl_disc(sample, shift, fraction, seed):
    """Over every measure with these coefficients the resolvent takes the values between the two, and no others."""
    jacobi = coefficients(sample, max(1, round(fraction * sample.order)), seed)
    assume(not jacobi.exact)
    lower, upper = (resolvent(rule, shift) for rule in squared(jacobi))
    # One more step with any diagonal entry, and nothing beyond, is such a measure: the border of the disc. Its
    # resolvent is the imaginary part of a continued fraction at z = i sqrt(shift).
    z = 1j * np.sqrt(shift)
    fraction = np.tan(np.linspace(-1.57, 1.57, 4001)) - z
    for alpha, beta in zip(jacobi.alpha[::-1], jacobi.beta[::-1], strict=True):
        fraction = alpha - z - beta**2 / fraction
    border = (1 / fraction).imag / np.sqrt(shift)
    scale = 1 / shift
    assert min(border) >= lower - 1e-9 * scale
    assert max(border) <= upper + 1e-9 * scale
    assert min(border) <= lower + 1e-3 * (upper - lower) + 1e-9 * scale
    assert max(border) >= upper - 1e-3 * (upper - lower) - 1e-9 * scale


def test_one_step_of_the_square_by_hand():
    lower, upper = squared(Jacobi(np.array([3.0]), np.array([4.0])))
    np.testing.assert_allclose(lower.nodes, [5.0])
    # All the mass at the root of the second moment, or what keeps the first: 9/25 there, the rest at 0.
    np.testing.assert_allclose(upper.nodes, [5.0, 0.0])
    np.testing.assert_allclose(upper.weights, [9 / 25, 16 / 25])


def test_symmetric_spectrum_is_exact_in_the_square():
    # +-1 in equal parts: A^2 = I, whatever A still hides.
    jacobi = Jacobi(np.zeros(2), np.array([1.0, 1e-3]))
    for rule in squared(jacobi):
        check_probability(rule)
        np.testing.assert_allclose(rule.weights @ rule.nodes**2, 1.0, rtol=1e-12)
        assert rule.weights @ (1 / (1 + rule.nodes)) == pytest.approx(0.5, abs=1e-5)


def test_small_nodes_keep_their_digits():
    eigenvalues = np.array([1e-9, -3e-9, 1e-3, 1.0])
    jacobi = coefficients(Sample(np.diag(eigenvalues)), 8)
    assert jacobi.exact
    lower, _ = squared(jacobi)
    np.testing.assert_allclose(np.sort(lower.nodes), np.sort(np.abs(eigenvalues)), rtol=1e-3)
