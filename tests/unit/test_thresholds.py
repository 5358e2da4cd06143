"""Loss tolerances, criteria, and measured thresholds with their brackets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwprune.storage.files import write_json
from gwprune.tables.thresholds import (
    Bracket,
    Criterion,
    bisect_bracket,
    criteria,
    criteria_of,
    empirical_threshold,
    epsilon_value,
    epsilons_of,
    search,
)

LOSS = Criterion("loss_tolerance", "batch_std", "train", "loss", 1, 1.0)
ACCURACY = Criterion("accuracy_drop:1", "", "val", "accuracy", -1, 90.0)

DENSE = {
    "train": {"loss": 0.5, "objective": 0.75, "accuracy": 99.0},
    "val": {"loss": 0.6, "objective": 0.85, "accuracy": 97.0},
}


def grid(losses: dict[float, float]) -> dict:
    """Sparsity -> split -> values, with the given training losses."""
    return {
        s: {"train": {"loss": loss}, "val": {"loss": 0.0}, "test": {"loss": math.nan}} for s, loss in losses.items()
    }


# --- tolerances ---------------------------------------------------------------------------------------------


def test_epsilon_rules():
    assert epsilon_value("batch_std", 0.5, 0.04) == 0.04
    assert epsilon_value("relative:0.1", 0.5, 0.04) == pytest.approx(0.05)
    assert epsilon_value("absolute:0.25", 0.5, 0.04) == 0.25


@pytest.mark.parametrize("rule", ["batchstd", "", "relative", "std:1"])
def test_an_unknown_rule_is_refused(rule):
    with pytest.raises(ValueError, match=r"allowed: batch_std, relative:x, absolute:x|could not convert"):
        epsilon_value(rule, 0.5, 0.04)


@pytest.mark.parametrize(
    ("rule", "loss", "batch_std"),
    [
        ("batch_std", 0.5, 0.0),
        ("batch_std", 0.5, math.nan),
        ("relative:0.1", 0.0, 1.0),
        ("relative:0.1", math.nan, 1.0),
    ],
)
def test_a_tolerance_that_is_not_positive_is_refused_by_its_rule(rule, loss, batch_std):
    with pytest.raises(ValueError, match=rf"epsilon rule '{rule}' gives .*not positive"):
        epsilon_value(rule, loss, batch_std)


def test_tolerances_come_from_the_dense_summary(tmp_path):
    write_json(tmp_path / "dense.json", {"splits": DENSE, "batch_std": 0.04})
    tolerances = epsilons_of(tmp_path / "dense.json", ["absolute:0.2", "batch_std", "relative:0.5"])
    assert tolerances == {
        "absolute:0.2": 0.2,
        "batch_std": 0.04,
        "relative:0.5": 0.25,
    }


# --- criteria -----------------------------------------------------------------------------------------------


def test_every_rule_gives_two_criteria_and_every_drop_one(tmp_path):
    expected = [
        Criterion("loss_tolerance", "batch_std", "train", "loss", 1, 0.75),
        Criterion("objective_tolerance", "batch_std", "train", "objective", 1, 1.0),
        Criterion("loss_tolerance", "absolute:1", "train", "loss", 1, 1.5),
        Criterion("objective_tolerance", "absolute:1", "train", "objective", 1, 1.75),
        Criterion("accuracy_drop:0.5", "", "val", "accuracy", -1, 96.5),
        Criterion("accuracy_drop:2", "", "val", "accuracy", -1, 95.0),
    ]
    assert criteria(DENSE, {"batch_std": 0.25, "absolute:1": 1.0}, [0.5, 2.0]) == expected
    assert {criterion.split for criterion in expected} == {"train", "val"}  # never test data
    write_json(tmp_path / "dense.json", {"splits": DENSE, "batch_std": 0.25})
    assert criteria_of(tmp_path / "dense.json", ["batch_std", "absolute:1"], [0.5, 2.0]) == expected


def test_two_accuracy_drops_have_two_names():
    """The name is a key of the tables: one name for both stops the last job of a workflow."""
    one, other = criteria(DENSE, {}, [1.0, 1.0000001])
    assert one.limit != other.limit
    assert one.name != other.name


def test_a_criterion_includes_its_limit():
    assert LOSS.met({"loss": 1.0})
    assert not LOSS.met({"loss": math.nextafter(1.0, 2)})
    assert LOSS.met({"loss": -5.0})
    assert ACCURACY.met({"accuracy": 90.0})
    assert not ACCURACY.met({"accuracy": math.nextafter(90.0, 0)})
    assert ACCURACY.met({"accuracy": 100.0})


def test_what_is_not_finite_never_meets_a_criterion():
    assert not any(LOSS.met({"loss": value}) for value in (math.nan, math.inf))
    assert not ACCURACY.met({"accuracy": math.nan})


def test_a_criterion_against_the_control_keeps_its_tolerance():
    control = {"train": {"loss": 0.25, "objective": 0.5}, "val": {"accuracy": 98.0}}
    held = [criterion.against(control) for criterion in criteria(DENSE, {"batch_std": 0.25}, [0.5])]
    assert held == [
        Criterion("control_loss_tolerance", "batch_std", "train", "loss", 1, 0.5),
        Criterion("control_objective_tolerance", "batch_std", "train", "objective", 1, 0.75),
        Criterion("control_accuracy_drop:0.5", "", "val", "accuracy", -1, 97.5),
    ]


# --- measured thresholds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "bracket"),
    [
        (
            {0.9: 3.0, 0.0: 0.5, 0.8: 1.0, 0.5: 0.6},
            Bracket(0.8, 0.9, True),
        ),  # between two points
        ({0.0: 0.5, 0.5: 0.6, 0.9: 1.0}, Bracket(0.9, 1.0, False)),  # never missed
        ({0.2: 2.0, 0.5: 0.1}, Bracket(0.0, 0.2, True)),  # missed at once
        ({0.0: 0.5, 0.2: 2.0}, Bracket(0.0, 0.2, True)),
        ({0.0: 5.0, 0.5: 0.1}, Bracket(0.5, 1.0, False)),  # the dense network counts as meeting it
        ({}, Bracket(0.0, 1.0, False)),
        ({0.0: 0.5, 0.3: 0.6, 0.4: 1.5, 0.5: 0.7, 0.6: 0.8, 0.7: 9.0}, Bracket(0.3, 0.4, True)),  # not monotone
        ({0.3: 0.6, 0.4: math.nan, 0.5: 0.7}, Bracket(0.3, 0.4, True)),
    ],
)
def test_a_threshold_is_known_to_its_bracket(losses, bracket):
    assert empirical_threshold(grid(losses), LOSS) == bracket


def test_a_criterion_looks_at_its_own_split_and_quantity():
    point = {"train": {"loss": 9.0, "accuracy": 0.0}, "val": {"loss": 9.0, "accuracy": 95.0}}
    assert empirical_threshold({0.5: point}, ACCURACY) == Bracket(0.5, 1.0, False)
    assert empirical_threshold({0.5: point}, LOSS) == Bracket(0.0, 0.5, True)


@given(
    st.dictionaries(st.integers(0, 999_999).map(lambda n: n / 1e6), st.floats(0, 2), min_size=1, max_size=12),
)
def test_a_bracket_is_what_a_plain_search_finds(losses):
    bracket = empirical_threshold(grid(losses), LOSS)
    positive = sorted(s for s in losses if s > 0)
    missed = [s for s in positive if losses[s] > 1.0]
    met = [s for s in positive if not missed or s < missed[0]]
    assert bracket == Bracket(met[-1] if met else 0.0, missed[0] if missed else 1.0, bool(missed))
    assert bracket.lower < bracket.upper


# --- bisection ---------------------------------------------------------------------------------------------


class Measure:
    """A network whose training loss passes the tolerance at ``limit``; counts what it is asked after ``given``."""

    def __init__(self, limit: float, given: list[float]):
        self.limit, self.further = limit, []
        self.grid = {sparsity: self.values(sparsity) for sparsity in given}

    def values(self, sparsity: float) -> dict:
        return grid({sparsity: 0.5 if sparsity <= self.limit else 2.0})[sparsity]

    def __call__(self, sparsity: float) -> dict:
        assert sparsity not in self.grid, f"{sparsity} was measured twice"
        assert round(sparsity, 6) == sparsity
        self.further.append(sparsity)
        return self.values(sparsity)

    def bisect(self, resolution: float, most: float, criterion: Criterion = LOSS) -> Bracket:
        bisect_bracket(self.grid, criterion, self, resolution, most)
        return empirical_threshold(self.grid, criterion)


@given(
    limit=st.floats(0.0005, 0.95),
    points=st.lists(st.integers(1, 980), min_size=1, max_size=8, unique=True),
    resolution=st.sampled_from([0.1, 0.01, 0.001, 0.0001]),
)
def test_bisection_narrows_the_bracket_to_the_resolution_with_few_measurements(limit, points, resolution):
    measure = Measure(limit, sorted({0.0, *(point / 1000 for point in points)}))
    before, most = empirical_threshold(measure.grid, LOSS), max(measure.grid)
    after = measure.bisect(resolution, most)
    assert after.reached == before.reached
    if not before.reached:
        assert measure.further == []
        return
    assert after.lower <= limit < after.upper
    assert before.lower <= after.lower < after.upper <= before.upper
    assert after.upper - after.lower <= resolution * (1 + 1e-6)
    needed = math.log2(max((before.upper - before.lower) / resolution, 1))
    assert len(measure.further) <= math.ceil(needed) + 1


def test_bisection_halves_and_a_second_criterion_uses_what_the_first_one_measured():
    measure = Measure(0.8328, [0.0, 0.5, 0.9])
    measure.bisect(0.001, 0.9)
    assert len(measure.further) == 9  # 0.4 / 2^9 < 0.001
    assert measure.further[:3] == [0.7, 0.8, 0.85]
    measure.bisect(0.001, 0.9, Criterion("objective_tolerance", "batch_std", "train", "loss", 1, 1.5))
    assert len(measure.further) == 9


@pytest.mark.parametrize(
    ("limit", "given_points", "most", "first"),
    [
        (0.5, [0.0, 0.5, 0.501], 0.501, []),  # narrow enough
        (0.99, [0.0, 0.5], 0.9, [0.9]),  # the grid ends below the largest sparsity
        (0.95, [0.0, 0.5, 0.9], 0.9, []),  # nothing above it
        (0.7, [0.0, 0.5], 0.9, [0.9, 0.7, 0.8]),  # and on below it
    ],
)
def test_bisection_goes_as_far_as_the_largest_sparsity(limit, given_points, most, first):
    measure = Measure(limit, given_points)
    bracket = measure.bisect(0.001, most)
    assert measure.further[:3] == first
    assert bracket.reached == (limit < most)
    assert bracket.lower <= limit < bracket.upper


def test_a_resolution_below_six_decimals_ends():
    measure = Measure(0.3000004, [0.0, 0.300001])
    bracket = measure.bisect(1e-9, 0.300001)
    assert (bracket.lower, bracket.upper) == (0.3, 0.300001)
    assert len(measure.further) <= 20


# --- bracket, grid, bracket ---------------------------------------------------------------------------------

CURVES = {
    "monotone": lambda s: 0.2 + s**8,
    "never missed": lambda s: 0.3,
    "missed at once": lambda s: 2.0 if s > 0 else 0.3,
    "steps": lambda s: 0.3 + 0.2 * math.floor(s * 7),
    "a miss at a grid point": lambda s: 1.5 if abs(s - 0.4) < 0.004 else 0.2 + s**8,
    "a miss between grid points": lambda s: 1.5 if 0.432 < s < 0.433 else 0.2 + s**8,
    "a wide miss, then better again": lambda s: 1.5 if 0.22 < s < 0.38 or s > 0.9 else 0.3,
    "NaN": lambda s: math.nan if s > 0.77 else 0.3,
    "waves": lambda s: 0.6 + s / 2 + 0.3 * math.sin(40 * s),
}
GRIDS = {
    "tenths": [i / 10 for i in range(1, 10)],
    "thousandths": [i / 1000 for i in range(1000)],
    "one point": [0.95],
    "uneven": [0.05, 0.4, 0.41, 0.9, 0.95, 0.98, 0.99],
}


class Curve:
    """Measurements from training losses by sparsity; notes every point, in order."""

    def __init__(self, loss):
        self.loss, self.asked = loss, []

    def __call__(self, points):
        for sparsity in points:
            assert sparsity not in self.asked, f"{sparsity} was measured twice"
            assert round(sparsity, 6) == sparsity
            self.asked.append(sparsity)
            yield grid({sparsity: self.loss(sparsity)})[sparsity]


@pytest.mark.parametrize("asked", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("loss", CURVES.values(), ids=CURVES)
def test_at_most_30_evaluations_bracket_a_threshold_within_a_thousandth(loss, asked):
    measure = Curve(loss)
    measured = search([LOSS], asked, measure, 0.001)
    assert len(set(measure.asked) - {0.0, *asked}) <= 30
    assert list(measured) == sorted(measure.asked)
    assert {0.0, *asked} <= set(measured)
    bracket = empirical_threshold(measured, LOSS)
    assert all(loss(s) <= 1 for s in measured if 0 < s <= bracket.lower)
    if bracket.reached:
        assert not loss(bracket.upper) <= 1
        assert bracket.upper - bracket.lower <= 0.001 * (1 + 1e-6)
    else:
        assert all(loss(s) <= 1 for s in measured if s > 0)
        assert bracket.lower == max(asked)


def test_a_threshold_is_bracketed_before_the_grid_is_measured():
    measure = Curve(CURVES["monotone"])
    asked = [*GRIDS["tenths"], 0.99]
    search([LOSS], asked, measure, 0.001)
    first = measure.asked.index(0.0)
    known = {s: grid({s: measure.loss(s)})[s] for s in measure.asked[:first]}
    bracket = empirical_threshold(known, LOSS)
    assert bracket.upper - bracket.lower <= 0.001 * (1 + 1e-6)
    assert len(known) <= 11
    assert measure.asked[first:] == [0.0, *sorted(set(asked) - set(known))]


def test_a_grid_that_shows_an_earlier_miss_is_bisected_there():
    measure = Curve(CURVES["a miss at a grid point"])
    bracket = empirical_threshold(search([LOSS], GRIDS["tenths"], measure, 0.001), LOSS)
    assert 0.395 <= bracket.lower < bracket.upper <= 0.397
    last = measure.asked[measure.asked.index(0.0) :][9:]
    assert last
    assert all(0.3 < s < 0.4 for s in last)


def test_criteria_share_their_points():
    measure = Curve(CURVES["monotone"])
    search([LOSS, LOSS, Criterion("loss_tolerance", "absolute:1", "train", "loss", 1, 1.0)], [0.99], measure, 0.001)
    assert len(measure.asked) <= 13


def test_every_criterion_is_narrow_at_the_end():
    """The points of the second criterion show an earlier miss of the first."""
    loss = CURVES["waves"]
    wanted = [Criterion("loss_tolerance", str(limit), "train", "loss", 1, limit) for limit in (1.0, 1.1, 0.95, 0.7)]
    measured = search(wanted, [0.3, 0.6, 0.9], Curve(loss), 0.001)
    for criterion in wanted:
        bracket = empirical_threshold(measured, criterion)
        assert bracket.reached
        assert bracket.upper - bracket.lower <= 0.001 * (1 + 1e-6)


def test_a_sweep_of_the_dense_network_alone_measures_it():
    measure = Curve(CURVES["monotone"])
    assert list(search([LOSS], [0.0], measure, 0.001)) == [0.0]
