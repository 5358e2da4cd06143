"""Where a curve over the number of removed weights crosses a line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gwprune.spectral.crossings import crossing, first_rise

falling = st.lists(st.floats(0, 1), min_size=1, max_size=60).map(lambda values: [1.0, *sorted(values, reverse=True)])


@settings(max_examples=200)
@given(curve=falling)
@example(curve=[1.0, 1.0])
@example(curve=[1.0, 1.0, 1.0])
@example(curve=[1.0, 0.0])
@example(curve=[1.0, 0.5, 0.5])
@example(curve=[1.0, 1.0, 1.0, 0.999])
def test_crossing_is_the_largest_count_on_or_under_the_curve(curve: list[float]):
    dimension = len(curve) - 1
    expected = max(count for count in range(dimension + 1) if curve[count] >= count / dimension)
    assert crossing(lambda count: curve[count], dimension) == expected / dimension


def test_crossing_asks_a_logarithmic_number_of_times():
    asked = []
    dimension = 10**7
    found = crossing(lambda count: asked.append(count) or 1 - 0.5 * count / dimension, dimension)
    assert found == pytest.approx(2 / 3, abs=1 / dimension)
    assert len(asked) < 30


def brute_first(rise, dimension: int, epsilon: float) -> int | None:
    return next((count for count in range(dimension + 1) if rise(count) >= epsilon), None)


@settings(max_examples=150)
@given(
    dimension=st.integers(1, 3000),
    power=st.floats(0.2, 30),
    epsilon=st.floats(0.01, 1.2),
    resolution=st.sampled_from([1e-4, 1e-2]),
)
def test_first_rise_brackets_the_crossing_of_a_monotone_function(dimension, power, epsilon, resolution):
    def rise(count: int) -> float:
        return (count / dimension) ** power

    lower, upper, evaluations = first_rise(rise, dimension, epsilon, resolution)
    first = brute_first(rise, dimension, epsilon)
    if first is None:
        assert (lower, upper) == (1.0, 1.0)
        return
    assert lower < first / dimension <= upper + 1e-12
    low, high = round(lower * dimension), round(upper * dimension)
    assert high - low <= max(1, resolution * dimension)
    # Near 1 what counts is the fraction that remains.
    assert high - low <= max(1, 0.1 * (dimension - low))
    assert evaluations <= 60


@settings(max_examples=100)
@given(seed=st.integers(0, 10**6), dimension=st.integers(2, 2000))
def test_first_rise_on_any_function_ends_where_it_steps_over_epsilon(seed: int, dimension: int):
    values = np.random.default_rng(seed).uniform(0, 1, dimension + 1)
    values[0] = 0.0
    asked = []

    def rise(count: int) -> float:
        asked.append(count)
        return float(values[count])

    lower, upper, evaluations = first_rise(rise, dimension, 0.8)
    assert evaluations == len(asked) == len(set(asked))
    low, high = round(lower * dimension), round(upper * dimension)
    assert values[low] < 0.8
    if upper < 1 or values[dimension] >= 0.8:
        assert low < high
        assert values[high] >= 0.8
        assert all(values[count] < 0.8 for count in asked if count <= low)
        assert all(values[count] >= 0.8 for count in asked if high <= count <= max(asked) and count <= high)


@settings(max_examples=100)
@given(seed=st.integers(0, 10**6), dimension=st.integers(2, 5000), misled=st.booleans())
def test_guesses_good_or_bad_lead_to_a_bracket_as_narrow(seed: int, dimension: int, misled: bool):
    rng = np.random.default_rng(seed)
    truth = float(rng.uniform(0.01, 0.99)) * dimension

    def guess(low: int, high: int) -> float:
        return float(rng.uniform(low, high)) if misled else truth + rng.normal()

    lower, upper, evaluations = first_rise(lambda count: count / truth, dimension, 1.0, 1e-3, guess)
    low, high = round(lower * dimension), round(upper * dimension)
    assert low < truth <= high
    assert high - low <= max(1, 1e-3 * dimension)
    assert evaluations <= 60


def test_a_good_guess_needs_two_evaluations_beyond_the_scan():
    truth = 700_123.4
    bracket = first_rise(lambda count: count / truth, 10**6, 1.0, 1e-4, lambda low, high: truth)
    assert bracket[0] <= truth / 10**6 <= bracket[1]
    assert bracket[2] == 2 + 2


def test_first_rise_finds_the_first_of_several_crossings():
    # Up through epsilon at 0.8, down at 0.9, up again at 0.99: the first counts.
    def rise(count: int) -> float:
        s = count / 10_000
        return 1.0 if 0.8 <= s < 0.9 or s >= 0.99 else 0.0

    lower, upper, _ = first_rise(rise, 10_000, 0.5)
    assert lower < 0.8 <= upper <= 0.8002


def test_first_rise_that_never_comes():
    lower, upper, evaluations = first_rise(lambda count: -float(count), 1000, 0.1)
    assert (lower, upper) == (1.0, 1.0)
    assert 1 < evaluations <= 40
