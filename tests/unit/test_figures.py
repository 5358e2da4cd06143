"""Figures: drawn from synthetic tables of two runs and two seeds, and from tables with pieces missing."""

import re
import sys
import warnings
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from matplotlib.figure import Figure

from gwprune import figures
from gwprune.figures.axes import (
    from_axis,
    numbered_colours,
    sparsity_axis,
    sparsity_limits,
    sparsity_ticks,
    to_axis,
)
from gwprune.figures.comparison import _looks
from gwprune.figures.dense import asinh_scale, smeared_density
from gwprune.figures.pruned import over_seeds
from gwprune.tables.schemas import SCHEMAS

RUNS = {"fc5_fashion_mnist": 0.983, "lenet_fashion_mnist": 0.83}
METHODS = {"magnitude": 0.0, "random": 0.7, "snip": 0.15}  # decades lost against magnitude
RULE = "batch_std"


def _table(name, rows):
    return pa.Table.from_pylist(rows, schema=SCHEMAS[name])


def _training(run, seed, rng):
    for epoch in range(1, 31):
        loss = 0.13 + 0.7 * np.exp(-epoch / 5) + 0.01 * rng.normal()
        yield {
            "run": run, "seed": seed, "epoch": epoch, "train_loss": loss, "val_loss": loss + 0.006 * epoch,
            "train_accuracy": 96 - 30 * loss, "val_accuracy": 95 - 30 * loss - 0.08 * epoch,
            "lr": 0.1 * 0.1 ** (epoch // 12), "seconds": 1.0,
        }  # fmt: skip


def _spectra(run, seed, rng):
    for operator in ("hessian", "ggn"):
        for probe in range(2):
            bulk, outliers = 10 ** rng.uniform(-6, -1, 80), 10 ** rng.uniform(-1, 1.5, 10)
            if operator == "hessian":
                bulk *= rng.choice([-1, 1], 80, p=[0.4, 0.6])
            nodes = np.concatenate([[0.0], bulk, outliers])
            weights = np.concatenate([[0.0], np.abs(bulk) ** -0.5, np.full(10, 1e-3)])
            weights *= 0.6 / weights.sum()
            weights[0] = 0.4
            for node, weight in zip(nodes, weights, strict=True):
                yield {
                    "run": run, "seed": seed, "operator": operator, "probe": probe, "rule": "gauss",
                    "node": node, "weight": weight,
                }  # fmt: skip


def _threshold(run, seed, operator="hessian"):
    shift = 0.3 * (operator == "ggn") + 0.02 * seed
    return float(from_axis(to_axis(RUNS[run]) + shift))


def _width_curves(run, seed, rng):
    for operator in ("hessian", "ggn"):
        s_star = _threshold(run, seed, operator)
        place = to_axis(s_star)
        for s in from_axis(np.linspace(0, place + 1.2, 60)):
            width, lower, upper = (
                1 / (1 + (1 / s_star - 1) * 10 ** (2.2 * (to_axis(s) - place + d))) for d in (0, 0.1, -0.3)
            )
            yield {
                "run": run, "seed": seed, "operator": operator, "epsilon_rule": RULE, "sparsity": s,
                "pruned_norm": 1.0, "width": width, "width_lower": lower, "width_upper": upper,
            }  # fmt: skip


def _sweep(run, seed, rng):
    for method, decades in METHODS.items():
        for stage, count in (("one_shot", 30), ("fine_tuned", 6)):
            place = max(to_axis(RUNS[run]) - decades + 0.4 * (stage == "fine_tuned") + 0.03 * seed, 0.1)
            start = 0 if stage == "one_shot" else place - 0.3
            for position in np.linspace(max(start, 0), place + 0.7 + 0.05 * seed, count):
                rise = 0.04 * 10 ** (2.5 * (position - place))
                for split in ("train", "val", "test"):
                    loss = 0.13 + 0.15 * (split != "train") + min(rise, 2.2)
                    yield {
                        "run": run, "seed": seed, "method": method, "stage": stage, "split": split,
                        "sparsity": float(from_axis(position)), "nonzeros": 10, "empty_layers": 0,
                        "multiply_adds": 10, "epochs": 1.0, "pruned_norm": 1.0, "top5_accuracy": 100.0,
                        "loss": loss, "objective": loss + 0.1, "accuracy": max(90 - 37 * rise, 10),
                    }  # fmt: skip


def _predictions(run, seed, rng):
    for predictor, operator, shift, spread in (
        ("width", "hessian", 0.03, 0.1),
        ("width", "ggn", 0.35, 0.05),
        ("quadratic", "hessian", -0.05, 0.0),
        ("trace_bound", "hessian", -0.15, 0.02),
    ):
        place = to_axis(RUNS[run]) + shift + 0.02 * seed
        low, middle, high = (float(from_axis(place + d * spread)) for d in (-1, 0, 1.4))
        yield {
            "run": run, "seed": seed, "predictor": predictor, "operator": operator, "epsilon_rule": RULE,
            "epsilon": 0.04, "dimension": 10**6, "steps": 128, "probes": 1,
            "threshold": middle, "threshold_lower": low, "threshold_upper": high,
        }  # fmt: skip


def _empirical(run, seed, rng):
    for method, decades in METHODS.items():
        s = _threshold(run, seed) if method == "magnitude" else RUNS[run] - 0.1 * decades
        yield {
            "run": run, "seed": seed, "method": method, "stage": "one_shot", "criterion": "loss_tolerance",
            "epsilon_rule": RULE, "threshold": s, "threshold_lower": s, "threshold_upper": 0.1 + 0.9 * s,
            "reached": True,
        }  # fmt: skip


def _comparison(run):
    for method, decades in {**METHODS, "imp": 0.1}.items():
        for stage in ("trained",) if method == "imp" else ("one_shot", "fine_tuned"):
            for s in (0.0, 0.5, 0.9, 0.99):
                yield {
                    "network": "fc", "dataset": "digits", "run": run, "l1": 1e-4, "method": method, "stage": stage,
                    "sparsity": s, "seeds": 2, "accuracy_mean": 90 - 5 * decades * to_axis(s), "accuracy_std": 0.5,
                    "top5_mean": 99.0, "loss_mean": 0.3, "dense_accuracy_mean": 90.0, "compression": 1 / (1 - s),
                    "dense_multiply_adds": 1e6, "multiply_adds": 1e6 * (1 - s), "speedup": 1 / (1 - s),
                    "epochs": 30.0, "empty_layers": 0, "rank": 1, "ranked": 7, "stage_rank": 1, "source": "measured",
                }  # fmt: skip


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(0)
    makers = {
        "training": _training, "spectra": _spectra, "width_curves": _width_curves, "sweep": _sweep,
        "predictions": _predictions, "empirical": _empirical,
    }  # fmt: skip
    rows = {
        name: [row for run in RUNS for seed in (0, 1) for row in maker(run, seed, rng)]
        for name, maker in makers.items()
    }
    rows["thresholds"] = [
        {
            **{key: p[key] for key in ("run", "seed", "predictor", "operator", "epsilon_rule")},
            **{key: e[key] for key in ("method", "stage", "criterion")},
            **{f"predicted{end}": p[f"threshold{end}"] for end in ("", "_lower", "_upper")},
            **{f"empirical{end}": e[f"threshold{end}"] for end in ("", "_lower", "_upper")},
            "gap": p["threshold"] - e["threshold"],
        }
        for p in rows["predictions"]
        for e in rows["empirical"]
        if (p["run"], p["seed"]) == (e["run"], e["seed"])
    ]
    rows["comparison"] = [row for run in RUNS for row in _comparison(run)]
    return {name: _table(name, values) for name, values in rows.items()}


INPUTS = {
    "training_history": ["training"],
    "spectral_density": ["spectra"],
    "width_curve": ["width_curves", "predictions"],
    "sparsity_sweep": ["sweep", "predictions", "empirical"],
    "tradeoff": ["comparison"],
    "predicted_vs_empirical": ["thresholds"],
}


def _draw(name, tables, path, run="fc5_fashion_mnist", **options):
    per_run = () if name == "predicted_vs_empirical" else (run,)
    figures.FIGURES[name](*(tables[table] for table in INPUTS[name]), *per_run, path, **options)
    return path.read_bytes()


def test_all_are_registered():
    assert set(figures.FIGURES) == set(INPUTS)


@pytest.mark.parametrize("name", INPUTS)
def test_files_parse_and_the_same_data_gives_the_same_bytes(name, tables, tmp_path):
    svg = tmp_path / f"{name}.svg"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = _draw(name, tables, svg)
        png = _draw(name, tables, tmp_path / f"{name}.png", "lenet_fashion_mnist")
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert _draw(name, tables, svg) == first
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(list(tmp_path.iterdir())) == 2


def test_png_is_deterministic(tables, tmp_path):
    first, second = (_draw("training_history", tables, tmp_path / f"{name}.png") for name in "ab")
    assert first == second


def test_the_global_style_is_left_alone(tables, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    before = matplotlib.rcParams.copy()
    _draw("training_history", tables, tmp_path / "a.svg")
    assert matplotlib.rcParams.copy() == before
    assert "matplotlib.pyplot" not in sys.modules


def _texts(path):
    """Texts of an svg file: its letters are shapes, each text stands in a comment above them."""
    return set(re.findall(r"<!-- (.*?) -->", path.read_text()))


@pytest.mark.parametrize("name", INPUTS)
def test_empty_tables_say_so(name, tables, tmp_path):
    empty = {key: table.slice(0, 0) for key, table in tables.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _draw(name, empty, tmp_path / "a.svg")
    assert any(text.startswith("no data for") for text in _texts(tmp_path / "a.svg"))


def _keep(table, **columns):
    for column, values in columns.items():
        table = table.filter(pc.is_in(table[column], pa.array(values)))
    return table


def _set(table, column, value, where):
    values = np.where(where, value, table[column].to_numpy())
    return table.set_column(table.column_names.index(column), column, pa.array(values)).cast(table.schema)


def _clean(name, tables, tmp_path, **options):
    path = tmp_path / f"{name}.svg"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _draw(name, tables, path, **options)
    return _texts(path)


def test_a_row_of_panels_for_each_stage_and_a_band_where_there_are_seeds(tables, tmp_path):
    texts = _clean("tradeoff", tables, tmp_path)
    assert {"one shot", "fine tuned", "trained", "dense network", "one standard deviation", *METHODS} <= texts
    table = tables["comparison"]
    single = _set(_keep(table, stage=["one_shot"]), "seeds", 1, True)
    texts = _clean("tradeoff", {"comparison": single}, tmp_path)
    assert "fine tuned" not in texts
    assert "one standard deviation" not in texts


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_tradeoff_of_a_network_without_a_weight(odd, tables, tmp_path):
    table = tables["comparison"]
    _clean("tradeoff", {"comparison": _set(table, "speedup", odd, table["sparsity"].to_numpy() > 0.9)}, tmp_path)
    _clean("tradeoff", {"comparison": _set(table, "speedup", odd, True)}, tmp_path)


def test_twenty_methods_look_different_each():
    looks = _looks([f"method{i}" for i in range(24)]).values()
    assert len({(look["color"], look["marker"], look["markerfacecolor"]) for look in looks}) == 24


def test_trained_networks_stand_in_the_sweep(tables, tmp_path):
    sweep = tables["sweep"]
    trained = sweep.set_column(3, "stage", pa.array(["trained"] * len(sweep))).cast(sweep.schema)
    assert "trained" in _clean("sparsity_sweep", {**tables, "sweep": pa.concat_tables([sweep, trained])}, tmp_path)


def test_sweep_with_pieces_missing(tables, tmp_path):
    sweep = tables["sweep"]
    none = {key: tables[key].slice(0, 0) for key in ("predictions", "empirical")}
    one_seed = {**tables, **none, "sweep": _keep(sweep, seed=[1], stage=["one_shot"])}
    assert "fine tuned" not in _clean("sparsity_sweep", one_seed, tmp_path)
    no_train = {**tables, "sweep": _keep(sweep, split=["val"])}
    texts = _clean("sparsity_sweep", no_train, tmp_path)
    assert "no data for training data loss (nats) of fc5_fashion_mnist" in texts
    only_fine = {**tables, "sweep": _keep(sweep, stage=["fine_tuned"], method=["random"])}
    assert "one shot" not in _clean("sparsity_sweep", only_fine, tmp_path)
    single_point = {**tables, "sweep": sweep.slice(0, 3)}
    _clean("sparsity_sweep", single_point, tmp_path)


@pytest.mark.parametrize("odd", [np.nan, np.inf, 0.0])
def test_sweep_with_odd_losses(odd, tables, tmp_path):
    sweep = tables["sweep"]
    some = sweep["sparsity"].to_numpy() > 0.98
    _clean("sparsity_sweep", {**tables, "sweep": _set(sweep, "loss", odd, some)}, tmp_path)
    _clean("sparsity_sweep", {**tables, "sweep": _set(sweep, "loss", odd, True)}, tmp_path)


def test_thresholds_that_do_not_exist(tables, tmp_path):
    predictions = _set(tables["predictions"], "threshold", np.nan, tables["predictions"]["seed"].to_numpy() == 0)
    predictions = _set(predictions, "threshold_upper", 1.0, True)
    thresholds = _set(tables["thresholds"], "predicted_lower", np.nan, True)
    thresholds = _set(thresholds, "predicted", 1.0, thresholds["predictor"].to_numpy() == "quadratic")
    thresholds = _set(thresholds, "empirical_upper", 1.0, True)
    changed = {**tables, "predictions": predictions, "thresholds": thresholds}
    for name in ("width_curve", "sparsity_sweep", "predicted_vs_empirical"):
        _clean(name, changed, tmp_path)
    _clean("width_curve", {**tables, "predictions": _set(predictions, "threshold", np.nan, True)}, tmp_path)


def test_a_measured_threshold_is_drawn_only_when_reached(tables, tmp_path):
    empirical = tables["empirical"]
    assert any(t.startswith("measured, loss tolerance") for t in _clean("sparsity_sweep", tables, tmp_path))
    half = _set(empirical, "reached", False, empirical["seed"].to_numpy() == 0)
    texts = _clean("sparsity_sweep", {**tables, "empirical": half}, tmp_path)
    assert any(text.endswith("(1 of 2 seeds)") for text in texts)
    never = _set(empirical, "reached", False, True)
    texts = _clean("sparsity_sweep", {**tables, "empirical": never}, tmp_path)
    assert not any(text.startswith("measured") for text in texts)


def test_only_one_epsilon_rule_is_drawn(tables, tmp_path):
    curves = tables["width_curves"]
    other = _set(curves, "epsilon_rule", "absolute:0.1", True)
    both = {**tables, "width_curves": pa.concat_tables([other, curves])}
    assert "fc5_fashion_mnist: width curve (ε: batch_std)" in _clean("width_curve", both, tmp_path)
    texts = _clean("width_curve", both, tmp_path, epsilon_rule="absolute:0.1")
    assert "fc5_fashion_mnist: width curve (ε: absolute:0.1)" in texts
    assert not any("predicted 0." in text for text in texts)


def test_spectrum_of_one_operator_and_of_zeros_alone(tables, tmp_path):
    texts = _clean("spectral_density", tables, tmp_path, operators=["ggn"])
    assert "ggn (4 probes, rule gauss)" in texts
    assert "weight of the exact 0 node: 0.4" in texts
    assert not any(text.startswith("hessian") for text in texts)
    spectra = tables["spectra"]
    _clean("spectral_density", {**tables, "spectra": _set(spectra, "node", 0.0, True)}, tmp_path)
    _clean("spectral_density", {**tables, "spectra": _keep(spectra, operator=["ggn"])}, tmp_path)


def test_training_of_one_epoch_and_with_an_infinite_loss(tables, tmp_path):
    training = tables["training"]
    _clean("training_history", {**tables, "training": _keep(training, epoch=[1])}, tmp_path)
    _clean("training_history", {**tables, "training": _set(training, "val_loss", np.inf, True)}, tmp_path)


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


def test_smearing_keeps_the_mass():
    rng = np.random.default_rng(1)
    weights = rng.random(5000)
    grid, density = smeared_density(rng.normal(0, 4, 5000), weights / weights.sum(), 0.1)
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=0.01)
    grid, density = smeared_density(np.zeros(1), np.ones(1), 0.01)
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=0.01)


def test_scale_of_the_eigenvalue_axis_is_where_the_bulk_lies():
    nodes = np.array([0.0, 1e-3, -2e-3, 3e-3, 10.0])
    assert asinh_scale(nodes, np.array([0.4, 0.2, 0.2, 0.2, 1e-6])) == 2e-3
    assert asinh_scale(np.array([1e-30, 10.0]), np.array([0.9, 0.1])) == pytest.approx(1e-5)  # rounding, no bulk
    assert asinh_scale(np.zeros(2), np.ones(2)) == 1


def test_mean_over_seeds_measured_at_different_sparsities():
    seeds = {0: ([0.0, 0.9, 0.99], [1.0, 2.0, 3.0]), 1: ([0.0, 0.99], [3.0, 5.0])}
    columns = [(seed, s, y) for seed, (ss, ys) in seeds.items() for s, y in zip(ss, ys, strict=True)]
    seed, s, y = map(np.array, zip(*columns, strict=True))
    rows = {"run": np.full(len(s), "a"), "seed": seed, "sparsity": s, "loss": y}
    grid, mean, least, most = over_seeds(rows, "loss")
    assert grid == pytest.approx([0, 0.9, 0.99])
    assert mean == pytest.approx([2, 3, 4])
    assert least == pytest.approx([1, 2, 3])
    assert most == pytest.approx([3, 4, 5])
    rows["loss"] = np.where((seed == 0) & (s == 0.9), np.inf, y)
    assert np.isnan(over_seeds(rows, "loss")[1]).tolist() == [False, True, False]


def test_every_name_has_a_colour_of_its_own():
    for count in (0, 1, 8, 30):
        assert len(set(numbered_colours(map(str, range(count))).values())) == count
