import json

import numpy as np
import pytest
from scipy.linalg import null_space
from scipy.stats import beta

import gwprune
from benchmarks import coverage, ellipsoids, phase_transition, reporting, theory_figure
from benchmarks.ellipsoids import Case, Ellipsoid, critical_codimension, ellipsoid, smallest_rises
from benchmarks.known import Known, width_function
from gwprune.spectral.lanczos import rademacher

# --- ellipsoids -------------------------------------------------------------------------------------------------


def constrained_minimum(shape, constraints):
    """``min 1/2 (x - w)^T H (x - w)`` subject to ``constraints @ x = 0``, from the equations of Lagrange."""
    count, dimension = constraints.shape
    system = np.block([[shape.matrix, constraints.T], [constraints, np.zeros((count, count))]])
    right = np.append(shape.matrix @ shape.center, np.zeros(count))
    x = np.linalg.lstsq(system, right, rcond=None)[0][:dimension]
    return 0.5 * (x - shape.center) @ shape.matrix @ (x - shape.center)


@pytest.mark.parametrize("spectrum", ["power law 1", "low rank"])
def test_smallest_rises_solve_the_constrained_problem_at_every_codimension(spectrum):
    rng = np.random.default_rng(0)
    dimension = 40
    shape = ellipsoid(Case(spectrum, "random", 3.0), dimension, rng)
    vectors = rng.standard_normal((dimension, dimension))
    rises = smallest_rises(shape, vectors)
    for kept in range(1, dimension):
        expected = constrained_minimum(shape, null_space(vectors[:, :kept].T).T)
        assert rises[kept] == pytest.approx(expected, abs=1e-10 * rises[0])


def test_whole_space_meets_the_ellipsoid_exactly_and_the_origin_is_as_far_as_was_asked():
    rng = np.random.default_rng(1)
    shape = ellipsoid(Case("exponential", "soft", 5.0), 50, rng)
    rises = smallest_rises(shape, rng.standard_normal((50, 50)))
    assert rises[-1] == 0.0
    assert rises[0] == pytest.approx(shape.epsilon * 5.0**2)
    assert np.all(np.diff(rises) <= 0)


def test_fewer_vectors_than_the_rank_leave_a_rest():
    rng = np.random.default_rng(2)
    shape = ellipsoid(Case("log-uniform", "random", 3.0), 50, rng)
    vectors = rng.standard_normal((50, 50))
    np.testing.assert_allclose(smallest_rises(shape, vectors[:, :20]), smallest_rises(shape, vectors)[:21], rtol=1e-9)


def test_ball_is_met_as_often_as_the_closed_form_says():
    # The squared distance of the centre from a subspace of codimension c is R^2 times a Beta(c/2, (D-c)/2) variable.
    rng = np.random.default_rng(3)
    dimension, distance, trials = 40, 2.0, 400
    shape = ellipsoid(Case("flat", "random", distance), dimension, rng)
    critical = np.array([critical_codimension(shape, rng) for _ in range(trials)])
    for codimension in (5, 9, 14):
        expected = beta.cdf(1 / distance**2, codimension / 2, (dimension - codimension) / 2)
        error = np.sqrt(expected * (1 - expected) / trials)
        assert np.mean(critical >= codimension) == pytest.approx(expected, abs=4 * error)


def test_every_subspace_meets_an_ellipsoid_around_the_origin_or_without_curvature():
    rng = np.random.default_rng(4)
    inside = ellipsoid(Case("power law 1", "random", 0.9), 40, rng)
    without = Ellipsoid(np.zeros((0, 40)), rng.standard_normal(40))
    for shape in (inside, without):
        assert critical_codimension(shape, rng) == 40
        assert phase_transition.observed_transition(shape, 5, rng)["observed"] == 1.0
    assert without.width() == 1.0


def test_subspaces_as_large_as_the_rank_always_meet():
    rng = np.random.default_rng(5)
    shape = ellipsoid(Case("low rank", "stiff", 1e4), 50, rng)
    assert critical_codimension(shape, rng) == 40


def test_width_is_the_formula_of_the_matrix():
    shape = ellipsoid(Case("low rank", "soft", 3.0), 60, np.random.default_rng(6))
    expected = np.mean(1 / (1 + shape.center @ shape.center * np.linalg.eigvalsh(shape.matrix) / (2 * shape.epsilon)))
    assert shape.width() == pytest.approx(expected)


# --- phase transition -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        Case("flat", "random", 1.1),
        Case("power law 1", "soft", 1.1),
        Case("low rank", "random", 3.0),
    ],
    ids=str,
)
def test_statistical_dimension_is_the_observed_transition(case):
    row = phase_transition.study(case, 80, 100, np.random.SeedSequence(7), probes=64)
    assert row["statistical_dimension"] == pytest.approx(row["observed"], abs=0.03)
    assert row["first_quartile"] <= row["observed"] <= row["third_quartile"]
    assert row["observed_lower"] <= row["observed"] <= row["observed_upper"]


def test_phase_transition_writes_its_files_and_names_a_failing_case(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(phase_transition, "cases", lambda: iter([Case("flat", "random", 3.0)]))
    monkeypatch.setattr(phase_transition, "PROBES", 4)
    arguments = ["--dimension", "40", "--trials", "50", "--output", str(tmp_path)]
    monkeypatch.setattr(phase_transition, "TOLERANCE", 1.0)
    assert phase_transition.main(arguments) == 0
    record = json.loads((tmp_path / "phase_transition.json").read_text())
    assert record["cases"][0]["spectrum"] == "flat"
    assert record["environment"]["numpy"] == np.__version__
    assert "| flat | random | 3 |" in (tmp_path / "phase_transition.md").read_text()
    assert (tmp_path / "phase_transition.svg").read_text().startswith("<?xml")
    assert "FAILED" not in capsys.readouterr().err
    monkeypatch.setattr(phase_transition, "TOLERANCE", -1.0)
    monkeypatch.setattr(phase_transition, "draw", lambda *arguments: None)
    assert phase_transition.main(arguments) == 1
    assert "FAILED: flat, random 3: statistical dimension" in capsys.readouterr().err


def test_the_cases_of_the_study_are_distinct():
    names = [str(case) for case in ellipsoids.cases()]
    assert len(names) == len(set(names)) >= 12


# --- coverage ---------------------------------------------------------------------------------------------------


@pytest.fixture
def known():
    eigenvalues = np.random.default_rng(8).permutation(np.append(np.linspace(-1, 1, 45), np.zeros(5)))
    return Known("small", eigenvalues, zero_rows=10)


def test_known_matrix_has_its_spectrum_and_its_exact_answers(known):
    dense = known @ np.eye(60)
    values, vectors = np.linalg.eigh(dense)
    np.testing.assert_allclose(values, np.sort(np.append(known.eigenvalues, np.zeros(10))), atol=1e-14)
    assert np.all(dense[50:] == 0)
    function = width_function(3.0)(np.abs(values))
    assert known.width(3.0) == pytest.approx(function.mean())
    signs = rademacher(60, 1, 2).numpy()
    assert known.probe_width(3.0, 1, 2) == pytest.approx((vectors.T @ signs) ** 2 @ function / 60)
    assert known.width(known.pruned_norm(0.8)) == pytest.approx(0.8)


@pytest.mark.parametrize(("steps", "probes"), [(4, 1), (9, 3)])
def test_cells_see_what_squared_width_returns(known, steps, probes):
    run = coverage.probe_spectra(known, steps=20, probes=range(3), seed=5)
    estimate = coverage.truncated(run, steps, probes).width(2.0, coverage.EPSILON)
    expected = gwprune.squared_width(known, 2.0, coverage.EPSILON, steps=steps, probes=probes, seed=5)
    assert (estimate.value, estimate.lower, estimate.upper) == pytest.approx(expected, abs=1e-12)


def test_intervals_of_a_small_matrix_hold(known):
    cells = coverage.study(known, 60, 0, steps=(4, 12), probes=(1, 2))
    assert len(cells) == 2 * 2 * len(coverage.WIDTHS)
    assert set(cells.repetitions) == {60}
    assert list(cells.quadrature_bounds) == [60 * probes for probes in cells.probes]
    assert coverage.failures(cells) == []
    rows = coverage.table(cells)
    assert len(rows) == len(cells) / 2
    assert {"held, 1 probe", "held, 2 probes"} < set(rows[0])


def test_coverage_names_what_fails(known, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(coverage, "matrices", lambda seed: iter([known]))
    arguments = ["--repetitions", "20", "--output", str(tmp_path)]
    monkeypatch.setattr(coverage, "WIDTHS", (0.75,))
    monkeypatch.setattr(coverage, "CONFIDENCE", 0.6)  # twenty repetitions say little
    assert coverage.main(arguments) == 0
    record = json.loads((tmp_path / "coverage.json").read_text())
    assert {cell["matrix"] for cell in record["cells"]} == {"small"}
    assert "| small |" in (tmp_path / "coverage.md").read_text()
    monkeypatch.setattr(Known, "width", lambda self, pruned_norm: -1.0)
    monkeypatch.setattr(Known, "pruned_norm", lambda self, width: 1.0)
    monkeypatch.setattr(Known, "probe_width", lambda self, *arguments: 2.0)
    assert coverage.main(arguments) == 1
    message = capsys.readouterr().err
    assert "FAILED: small, width 0.75, 8 steps, 1 probes: the interval held 0.00%" in message
    assert "20 of 20 quadrature bounds violated" in message


# --- reporting --------------------------------------------------------------------------------------------------


def test_replace_section_keeps_the_rest(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- a -->\nold\n<!-- /a -->\nbetween\n<!-- b -->\nkept\n<!-- /b -->\nafter\n")
    for _ in range(2):
        reporting.replace_section(path, "a", "new\n")
        text = path.read_text()
        assert text == "before\n<!-- a -->\n\nnew\n\n<!-- /a -->\nbetween\n<!-- b -->\nkept\n<!-- /b -->\nafter\n"


@pytest.mark.parametrize(
    "content", ["nothing", "<!-- a --> open", "<!-- /a --> <!-- a -->", "<!-- a --> <!-- a --> <!-- /a -->"]
)
def test_missing_marks_are_named(tmp_path, content):
    path = tmp_path / "page.md"
    path.write_text(content)
    with pytest.raises(ValueError, match="page.md: expected <!-- a --> and then <!-- /a -->, each once"):
        reporting.replace_section(path, "a", "new")
    assert path.read_text() == content


def test_markdown_table_aligns_numbers_and_keeps_bars():
    text = reporting.markdown_table([{"name": "a|b", "value": 1.5}, {"name": "c", "value": "-2%"}])
    assert text == "| name | value |\n| --- | ---: |\n| a\\|b | 1.5 |\n| c | -2% |\n"
    assert reporting.markdown_table([]) == ""
    with pytest.raises(ValueError, match="every row needs the cells name, value"):
        reporting.markdown_table([{"name": "a", "value": 1}, {"name": "b"}])


def test_the_picture_of_the_theory_shows_the_cone_that_touches_the_ellipsoid(tmp_path):
    assert theory_figure.main(["--output", str(tmp_path)]) == 0
    drawn = (tmp_path / "theory.svg").read_text()
    assert drawn.startswith("<?xml")
    # What it shows: points of the cone's edges touch the ellipsoid.
    removed = theory_figure.FAR * [0, 1]
    for side in theory_figure.edges(removed).T:
        reach = side @ theory_figure.HESSIAN @ removed / (side @ theory_figure.HESSIAN @ side)
        assert theory_figure.rise(reach * side - removed) == pytest.approx(theory_figure.EPSILON)
        assert reach > 0
