"""Figures of the shared example tables, and of tables with pieces missing or odd."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from matplotlib.figure import Figure

from gwprune.figures import FIGURES, style
from gwprune.figures.dense import asinh_scale, smeared_density
from gwprune.figures.pruned import _looks, _marks
from gwprune.figures.style import (
    from_axis,
    numbered_colours,
    predictor_looks,
    sparsity_axis,
    sparsity_limits,
    sparsity_ticks,
    to_axis,
)
from gwprune.figures.thresholds import _bars
from gwprune.spectral.predictors import PREDICTORS
from gwprune.tables.thresholds import LIMITS

from .helpers_tables import EPSILON, METHODS, RUNS, example

INPUTS = {
    "training_history": ["training"],
    "spectral_density": ["spectra"],
    "width_curve": ["width_curves", "predictions"],
    "sparsity_sweep": ["sweep", "predictions", "empirical"],
    "tradeoff": ["comparison"],
    "predicted_vs_empirical": ["thresholds"],
}


def draw(name: str, path: Path, **changed: pa.Table) -> set[str]:
    """Draw without a warning; the texts of the image, which stand in comments above their shapes."""
    tables = {**example(), **changed}
    per_run = () if name == "predicted_vs_empirical" else ("fc5_l1",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FIGURES[name](*(tables[table] for table in INPUTS[name]), *per_run, path)
    return set(re.findall(r"<!-- (.*?) -->", path.read_text())) if path.suffix == ".svg" else set()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict[str, tuple[Path, set[str]]]:
    """Every figure once: its file and its texts."""
    folder = tmp_path_factory.mktemp("figures")
    return {name: (folder / f"{name}.svg", draw(name, folder / f"{name}.svg")) for name in INPUTS}


@pytest.fixture
def svg(tmp_path) -> Path:
    return tmp_path / "a.svg"


def kept(name: str, **columns: list) -> pa.Table:
    """The rows of an example table whose columns hold these values."""
    table = example()[name]
    for column, values in columns.items():
        table = table.filter(pc.is_in(table[column], pa.array(values)))
    return table


def changed(table: pa.Table, column: str, value: object, where: np.ndarray | bool = True) -> pa.Table:
    values = np.where(where, value, table[column].to_numpy())
    return table.set_column(table.column_names.index(column), column, pa.array(values)).cast(table.schema)


# --- every figure -------------------------------------------------------------------------------------------


def test_all_figures_are_registered():
    assert list(FIGURES) == list(INPUTS)


@pytest.mark.parametrize("name", INPUTS)
def test_same_data_give_the_same_file_and_it_parses(name, drawn, svg):
    path, texts = drawn[name]
    assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert draw(name, svg) == texts
    assert svg.read_bytes() == path.read_bytes()
    assert list(svg.parent.iterdir()) == [svg]


def test_png_is_deterministic_and_the_global_style_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    before = matplotlib.rcParams.copy()
    for name in "ab":
        draw("training_history", tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert matplotlib.rcParams.copy() == before
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("name", INPUTS)
def test_empty_tables_say_so(name, svg):
    texts = draw(name, svg, **{table: example()[table].slice(0, 0) for table in INPUTS[name]})
    assert any(text.startswith("no data for") for text in texts)


# --- the dense network --------------------------------------------------------------------------------------


def test_training_of_one_epoch_and_with_an_infinite_loss(svg):
    draw("training_history", svg, training=kept("training", epoch=[1]))
    draw("training_history", svg, training=changed(example()["training"], "val_loss", np.inf))


def test_spectrum_of_one_operator_and_of_zeros_alone(drawn, svg):
    told = {"fc5_l1: spectrum of the curvature (Gauss rule; seeds: 2, probes of each: 2)", "seed 1", "probe 1"}
    assert {"hessian", *told} <= drawn["spectral_density"][1]
    texts = draw("spectral_density", svg, spectra=kept("spectra", operator=["ggn"]))
    assert {"ggn", "seed 0: weight 0.4 at exactly 0", "seed 1: weight 0.4 at exactly 0"} <= texts
    assert "hessian" not in texts
    draw("spectral_density", svg, spectra=changed(kept("spectra", operator=["ggn"]), "node", 0.0))


def test_smearing_keeps_the_mass():
    rng = np.random.default_rng(1)
    weights = rng.random(5000)
    for nodes, masses, sigma in (
        (rng.normal(0, 4, 5000), weights / weights.sum(), 0.1),
        (np.zeros(1), np.ones(1), 0.01),
    ):
        grid, density = smeared_density(nodes, masses, sigma)
        assert np.trapezoid(density, grid) == pytest.approx(1, abs=0.01)


def test_scale_of_the_eigenvalue_axis_is_where_the_bulk_lies():
    nodes = np.array([0.0, 1e-3, -2e-3, 3e-3, 10.0])
    assert asinh_scale(nodes, np.array([0.4, 0.2, 0.2, 0.2, 1e-6])) == 2e-3
    assert asinh_scale(np.array([1e-30, 10.0]), np.array([0.9, 0.1])) == pytest.approx(1e-5)  # rounding, no bulk
    assert asinh_scale(np.zeros(2), np.ones(2)) == 1


# --- thresholds ---------------------------------------------------------------------------------------------


def test_thresholds_that_do_not_exist(svg):
    predictions = example()["predictions"]
    predictions = changed(predictions, "threshold", np.nan, predictions["seed"].to_numpy() == 0)
    predictions = changed(predictions, "threshold_upper", 1.0)
    thresholds = changed(example()["thresholds"], "predicted_lower", np.nan)
    thresholds = changed(thresholds, "predicted", 1.0, thresholds["predictor"].to_numpy() == "quadratic")
    thresholds = changed(thresholds, "empirical_upper", 1.0)
    draw("predicted_vs_empirical", svg, thresholds=thresholds)
    draw("sparsity_sweep", svg, predictions=predictions)
    draw("width_curve", svg, predictions=predictions)
    draw("width_curve", svg, predictions=changed(predictions, "threshold", np.nan))


def test_only_one_epsilon_rule_is_drawn(svg):
    curves = example()["width_curves"]
    both = pa.concat_tables([changed(curves, "epsilon_rule", "absolute:0.1"), curves])
    assert "fc5_l1: width curve (ε: batch_std)" in draw("width_curve", svg, width_curves=both)
    texts = draw("width_curve", svg, width_curves=changed(curves, "epsilon_rule", "absolute:0.1"))
    assert "fc5_l1: width curve (ε: absolute:0.1)" in texts
    assert not any("predicted 0." in text for text in texts)


def test_each_limit_has_a_row_and_each_predictor_a_column_in_the_order_of_the_registry(drawn, svg):
    path, texts = drawn["predicted_vs_empirical"]
    titles = re.findall(r"<!-- (width|quadratic) -->", path.read_text())
    assert titles == ["width", "quadratic"] * 2
    assert {"one-shot limit, measured", "fine-tuned limit, measured", "hessian", "ggn", *RUNS} <= texts
    known = [row for row in example()["thresholds"].to_pylist() if row["gap"] is not None]
    one_shot = {"predictor": "width", "operator": "ggn", "method": "magnitude", "stage": "one_shot"}
    gaps = [abs(row["gap"]) for row in known if row.items() >= {**one_shot, "criterion": "loss_tolerance"}.items()]
    assert f"ggn: {np.mean(gaps):.3f}" in path.read_text()
    texts = draw("predicted_vs_empirical", svg, thresholds=kept("thresholds", stage=["one_shot"]))
    assert "fine-tuned limit, measured" not in texts


def test_a_bar_that_goes_beyond_its_panel_ends_in_an_arrow(svg):
    thresholds = example()["thresholds"]
    axes = Figure().subplots()
    rows = {name: thresholds[name].to_numpy()[:1] for name in thresholds.column_names}
    rows |= {"empirical_lower": np.array([0.5]), "empirical_upper": np.array([1.0]), "predicted": np.array([0.6])}
    rows |= {"predicted_lower": np.array([0.1]), "predicted_upper": np.array([0.7])}
    x, y = _bars(axes, rows, "black", 0.4, 0.8)
    assert (x.item(), y.item()) == (0.5, 0.6)
    arrows = {line.get_marker(): (line.get_xdata().item(), line.get_ydata().item()) for line in axes.lines}
    assert arrows == {">": (0.8, 0.6), "v": (0.5, 0.4)}


def test_looks_of_predictors_stand_in_the_order_of_their_registry():
    looks = predictor_looks(set(PREDICTORS))
    assert list(looks) == list(PREDICTORS)
    assert len({(look["marker"], look["color"]) for look in looks.values()}) == len(PREDICTORS)
    assert list(predictor_looks({"width"})) == ["width"]


# --- pruned networks ----------------------------------------------------------------------------------------


def test_stages_and_measured_threshold_stand_in_the_sweep(drawn):
    texts = drawn["sparsity_sweep"][1]
    assert {"one-shot", "fine-tuned", "trained while sparse", *METHODS} <= texts
    assert {"one-shot limit", "fine-tuned limit", "dense (or control) loss + ε, which defines it"} <= texts


def test_each_seed_has_a_row_and_the_losses_that_define_its_limits(drawn, monkeypatch):
    text = drawn["sparsity_sweep"][0].read_text()
    assert re.findall(r"<!-- seed (\d)", text) == ["0", "1"]
    assert len(re.findall(r"<!-- one-shot limit predicted by width: 0\.\d{4} \[", text)) == 2
    tables = [style.read_rows(example()[name], run="fc5_l1") for name in ("predictions", "empirical", "sweep")]
    predicted, measured, sweep = (style.where(rows, seed=1) for rows in tables)
    one_shot, fine_tuned = LIMITS
    own = style.where(predicted, predictor="width", operator="hessian")
    bracket = style.where(measured, method="magnitude", stage="one_shot", criterion="loss_tolerance")
    dense = style.where(sweep, method="magnitude", stage="one_shot", sparsity=0.0, split="train")
    lines, _, most, words = _marks(one_shot, own, bracket, dense["loss"])
    assert most == pytest.approx(0.13 + EPSILON)
    assert [place for place, _ in lines] == [own["threshold"], bracket["threshold_lower"], bracket["threshold_upper"]]
    assert words.startswith("one-shot limit predicted by width: ")
    empty = style.where(predicted, seed=7)
    assert _marks(fine_tuned, empty, style.where(measured, seed=7), dense["loss"]) == ([], [], None, "")


def test_sweep_with_pieces_missing(svg):
    sweep, empirical = example()["sweep"], example()["empirical"]
    none = {name: example()[name].slice(0, 0) for name in ("predictions", "empirical")}
    one_seed = kept("sweep", seed=[1], stage=["one_shot"])
    assert "fine-tuned" not in draw("sparsity_sweep", svg, sweep=one_seed, **none)
    texts = draw("sparsity_sweep", svg, sweep=kept("sweep", split=["val"]))
    assert "no data for training data loss (nats) of fc5_l1" in texts
    never = changed(changed(empirical, "reached", False), "threshold_upper", 1.0)
    texts = draw("sparsity_sweep", svg, sweep=kept("sweep", stage=["fine_tuned"]), empirical=never)
    assert "one-shot" not in texts
    assert re.search(r"measured: (>|&gt;)= 0\.", svg.read_text())
    draw("sparsity_sweep", svg, sweep=sweep.slice(0, 3))


def test_sweep_with_odd_losses(svg):
    sweep = example()["sweep"]
    sparsity, some = sweep["sparsity"].to_numpy(), sweep
    for odd, above in ((0.0, 0.6), (np.nan, 0.9), (np.inf, 0.98)):
        some = changed(some, "loss", odd, sparsity > above)
    draw("sparsity_sweep", svg, sweep=some)
    for odd in (np.nan, 0.0):
        draw("sparsity_sweep", svg, sweep=changed(sweep, "loss", odd))


def test_a_row_of_panels_for_each_stage_and_a_band_where_there_are_seeds(drawn, svg):
    stages = {"one-shot", "fine-tuned", "trained while sparse"}
    assert {*stages, "dense network", "one standard deviation", *METHODS} <= drawn["tradeoff"][1]
    texts = draw("tradeoff", svg, comparison=changed(kept("comparison", stage=["one_shot"]), "seeds", 1))
    assert not {"fine-tuned", "one standard deviation"} & texts


def test_tradeoff_of_a_network_without_a_weight(svg):
    table = kept("comparison", stage=["one_shot"])
    sparsity = table["sparsity"].to_numpy()
    some = changed(changed(table, "speedup", np.nan, sparsity > 0.9), "speedup", np.inf, sparsity > 0.98)
    draw("tradeoff", svg, comparison=some)
    draw("tradeoff", svg, comparison=changed(table, "speedup", np.inf))


def test_twenty_methods_look_different_each():
    looks = _looks([f"method{i}" for i in range(24)]).values()
    assert len({(look["color"], look["marker"], look["markerfacecolor"]) for look in looks}) == 24


def test_every_name_has_a_colour_of_its_own():
    for count in (0, 1, 8, 30):
        assert len(set(numbered_colours(map(str, range(count))).values())) == count


# --- the axis of sparsities ---------------------------------------------------------------------------------


def test_sparsity_axis_positions():
    assert to_axis([0, 0.9, 0.99, 0.999]) == pytest.approx([0, 1, 2, 3])
    assert to_axis(1.0) == pytest.approx(9)
    s = np.linspace(0, 0.9999, 50)
    assert from_axis(to_axis(s)) == pytest.approx(s)
    axes = Figure().subplots()
    sparsity_axis(axes, 0, 0.999)
    x = axes.transData.transform([(s, 0) for s in (0, 0.9, 0.99, 0.999)])[:, 0]
    assert np.diff(x) == pytest.approx(np.diff(x)[0])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.5", "0.9", "0.99", "0.999"]


@pytest.mark.parametrize("limits", [(0, 0.5), (0, 0.999), (0, 0.999999), (0.3, 0.9995), (0.98, 0.985), (0.7, 0.93)])
def test_ticks_are_some_and_not_crowded(limits):
    ticks = sparsity_ticks(*limits)
    assert 2 <= len(ticks) <= 10
    assert ticks.min() >= limits[0] - 1e-9
    assert ticks.max() <= limits[1] + 1e-9


def test_limits_follow_the_data():
    low, high = sparsity_limits([0.0, 0.999, 1.0, np.nan])
    assert low == 0
    assert 0.999 < high < 0.9995
    low, high = sparsity_limits([0.98])
    assert low < 0.98 < high
    assert sparsity_limits([]) == sparsity_limits([0, 0.9])
