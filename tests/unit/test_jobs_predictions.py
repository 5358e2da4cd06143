"""Jobs of the rules that predict: Lanczos coefficients, width curves, thresholds."""

from __future__ import annotations

import itertools
import os
import signal
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from gwprune import datasets, predict_threshold
from gwprune.curvature.operator import ProductOperator, curvature_operator
from gwprune.datasets import DeviceSplit
from gwprune.jobs import prediction
from gwprune.jobs.artifacts import ArtifactError, load_network, load_probe, save_network
from gwprune.jobs.job import job
from gwprune.jobs.pruned import ranking_of
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import Ranking
from gwprune.spectral.spectrum import Spectrum
from gwprune.storage.files import read_json
from gwprune.tables.files import read_table

from .helpers_run import DIMENSION, SmallRun

OPERATORS = ("hessian", "ggn")


def rules(run: SmallRun) -> list[str]:
    return run.experiment.epsilon


def test_each_probe_file_holds_a_lanczos_run_of_the_network(run):
    for operator in OPERATORS:
        first, second = (load_probe(run.file("probe", operator=operator, probe=number)) for number in (0, 1))
        assert first.dimension == second.dimension == DIMENSION
        assert first.active == second.active <= DIMENSION
        assert first.jacobi.steps == second.jacobi.steps == 6
        assert first.semidefinite == (operator == "ggn")
        assert not np.array_equal(first.jacobi.alpha, second.jacobi.alpha)


def test_steps_for_every_row_make_a_file_of_eigenvalues_from_which_the_width_is_predicted_exactly(run, tmp_path):
    told, wildcards = {"steps": DIMENSION, "samples": 20}, {"operator": "ggn", "probe": "0"}
    paths = {name: str(tmp_path / name) for name in ("spectra", "width_curves", "predictions", "probe")}
    run.do("spectrum", outputs={"probe": paths.pop("probe")}, settings=told, **wildcards)
    known = load_probe(tmp_path / "probe")
    assert len(known.eigenvalues) == known.active == known.steps <= DIMENSION
    probes = {"hessian": [str(tmp_path / "probe")], "ggn": [str(tmp_path / "probe")]}
    run.do("predict", inputs=probes, outputs=paths, settings={"operators": ["ggn"]})
    for row in read_table("predictions", paths["predictions"]).to_pylist():
        assert (row["steps"], row["probes"]) == (known.active, 0)
        assert row["threshold_upper"] - row["threshold_lower"] < 0.01  # products of single precision
    spectra = read_table("spectra", paths["spectra"]).to_pylist()
    nodes = sorted(row["node"] for row in spectra if row["rule"] == "gauss" and row["node"] != 0)
    np.testing.assert_allclose(nodes, known.eigenvalues[known.eigenvalues != 0])


def test_a_spectrum_that_was_interrupted_goes_on_to_the_same_file(run, tmp_path, monkeypatch):
    products = []
    multiply = ProductOperator.__matmul__

    def counted(self, x):
        products.append(1)
        if len(products) == 6:
            os.kill(os.getpid(), signal.SIGUSR1)
        return multiply(self, x)

    def attempt(path: Path, this=None) -> None:
        run.do("spectrum", this, outputs={"probe": str(path)}, operator="hessian", probe="0")

    monkeypatch.setattr(ProductOperator, "__matmul__", counted)
    path = tmp_path / "probe.npz"
    with pytest.raises(SystemExit) as caught, job(tmp_path / "a.log", **run.key, device="cpu") as this:
        attempt(path, this)
    assert caught.value.code == 75
    assert "stopped by SIGUSR1" in (tmp_path / "a.log").read_text()
    assert not path.exists()
    before = len(products)
    attempt(path)
    again = len(products) - before
    uninterrupted = len(products)
    attempt(tmp_path / "other.npz")
    assert again < len(products) - uninterrupted
    files = (path, tmp_path / "other.npz", run.file("probe", operator="hessian", probe=0))
    known, other, first = (load_probe(file).jacobi for file in files)
    assert known.alpha.tolist() == other.alpha.tolist() == first.alpha.tolist()
    assert known.beta.tolist() == other.beta.tolist() == first.beta.tolist()
    assert not list(tmp_path.glob("*.products"))


def test_the_weights_of_every_quadrature_rule_sum_to_1(run):
    sums: dict[tuple, float] = {}
    for row in run.rows("spectra"):
        key = (row["operator"], row["probe"], row["rule"])
        sums[key] = sums.get(key, 0.0) + row["weight"]
    quadratures = ("gauss", "radau", "squared_lower", "squared_upper")
    assert set(sums) == set(itertools.product(OPERATORS, (0, 1), quadratures))
    for total in sums.values():
        assert total == pytest.approx(1, abs=1e-9)


def test_width_curves_fall_from_1_inside_their_interval(run):
    for operator, rule in itertools.product(OPERATORS, rules(run)):
        curve = run.rows("width_curves", operator=operator, epsilon_rule=rule)
        assert {0.0, 0.9999, *run.experiment.pruning.sparsities} <= {row["sparsity"] for row in curve}
        assert curve[0]["sparsity"] == 0
        assert curve[0]["width"] == pytest.approx(1) == curve[0]["width_upper"]
        for row in curve:
            assert row["width_lower"] - 1e-12 <= row["width"] <= row["width_upper"] + 1e-12
        for below, above in itertools.pairwise(curve):
            assert above["pruned_norm"] >= below["pruned_norm"]
            assert above["width"] <= below["width"] + 1e-12


def test_every_predictor_predicts_for_every_operator_and_rule_inside_its_interval(run):
    rows = run.rows("predictions")
    names = ("predictor", "criterion", "method", "operator", "epsilon_rule")
    models = [("quadratic", "loss_tolerance"), ("quadratic", "objective_tolerance")]
    models += [(name, "") for name in ("width", "trace_bound", "statistical_dimension")]
    methods = run.experiment.pruning.methods
    expected = {(*model, *rest) for model in models for rest in itertools.product(methods, OPERATORS, rules(run))}
    assert {tuple(row[name] for name in names) for row in rows} == expected
    summary = read_json(run.file("dense"))
    epsilons = {"batch_std": summary["batch_std"], "relative:0.1": 0.1 * summary["splits"]["train"]["loss"]}
    for row in rows:
        assert 0 <= row["threshold_lower"] <= row["threshold"] <= row["threshold_upper"] <= 1
        assert row["epsilon"] == pytest.approx(epsilons[row["epsilon_rule"]], rel=1e-12)
        assert row["dimension"] == DIMENSION
        # Another rule's or criterion's products may do.
        assert row["steps"] >= (row["predictor"] not in ("statistical_dimension", "quadratic"))
        if row["predictor"] in ("width", "trace_bound"):
            assert (row["steps"], row["probes"]) == (6, 2)
        if row["predictor"] == "statistical_dimension":
            assert row["probes"] == 2


def test_the_width_threshold_lies_where_the_width_curve_crosses_the_diagonal(run):
    for row in run.rows("predictions", predictor="width", method="magnitude"):
        curve = run.rows("width_curves", operator=row["operator"], epsilon_rule=row["epsilon_rule"])
        above = [point["sparsity"] for point in curve if point["width"] >= point["sparsity"]]
        below = [point["sparsity"] for point in curve if point["width"] < point["sparsity"]]
        assert max(above) - 1 / DIMENSION <= row["threshold"] <= min(below) + 1 / DIMENSION


def test_the_statistical_dimension_never_meets_the_sparsity_before_the_width(run):
    def case(row: dict) -> tuple:
        return row["method"], row["operator"], row["epsilon_rule"]

    widths = {case(row): row for row in run.rows("predictions", predictor="width")}
    rows = run.rows("predictions", predictor="statistical_dimension")
    for row in rows:
        width = widths[case(row)]
        assert row["threshold"] >= width["threshold"]
        assert row["threshold_lower"] >= width["threshold_lower"]
    assert any(row["threshold"] > widths[case(row)]["threshold"] for row in rows)
    assert all(sum(row["steps"] for row in rows if row["operator"] == name) > 0 for name in OPERATORS)


def exact_rises(run: SmallRun, operator: str, ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
    """Rises (D + 1,) of the quadratic models of data loss and objective, from the dense matrix."""
    net = load_network(run.file("network"))
    samples = DeviceSplit.from_data(datasets.load(run.data), "train").subset(100, 0).as_tensors()
    matrix = curvature_operator(net, functional.cross_entropy, samples, operator=operator)
    removed = (matrix.prunable.flatten()[ranking.order]).double().numpy()
    dense = (matrix @ np.eye(DIMENSION))[np.ix_(ranking.order, ranking.order)]
    curved = np.cumsum(np.cumsum(dense * np.outer(removed, removed), 0), 1).diagonal()
    data = curved / 2 - np.cumsum(matrix.gradient().double().numpy()[ranking.order] * removed)
    return tuple(np.append(0.0, rise) for rise in (data, data - run.run.l1 * np.cumsum(np.abs(removed))))


@pytest.mark.parametrize("method", ["magnitude", "taylor"])
def test_the_quadratic_models_of_both_criteria_are_those_of_the_methods_own_removed_vectors(run, method):
    prunable = PrunableSet(load_network(run.file("network")))
    inputs = run.plan.ranking(run.at(method=method))
    ranking = ranking_of(run.job, inputs, prunable, method, {})
    for operator in OPERATORS:
        rises = dict(zip(("loss_tolerance", "objective_tolerance"), exact_rises(run, operator, ranking), strict=True))
        where = {"predictor": "quadratic", "operator": operator, "method": method}
        rows = run.rows("predictions", **where)
        assert {row["criterion"] for row in rows} == set(rises)
        for row in rows:
            rise = rises[row["criterion"]]
            low, high = (round(row[f"threshold_{end}"] * DIMENSION) for end in ("lower", "upper"))
            if high > low:  # else it never comes
                assert high == low + 1
                assert rise[low] < row["epsilon"] * (1 + 1e-5)
                assert rise[high] > row["epsilon"] * (1 - 1e-5)


@pytest.mark.parametrize("method", ["lamp", "taylor"])
def test_the_width_of_another_method_is_that_of_the_norms_that_it_removes(run, method):
    prunable = PrunableSet(load_network(run.file("network")))
    ranking = ranking_of(run.job, run.plan.ranking(run.at(method=method)), prunable, method, {})
    removed = prunable.flatten()[ranking.order].double().numpy()
    norms = np.sqrt(np.append(0.0, np.cumsum(removed**2)))
    others = {
        (row["operator"], row["epsilon_rule"]): row
        for row in run.rows("predictions", predictor="width", method="magnitude")
    }
    for row in run.rows("predictions", predictor="width", method=method):
        probes = (load_probe(run.file("probe", operator=row["operator"], probe=number)) for number in (0, 1))
        spectrum = Spectrum(tuple(probes))
        count = round(row["threshold"] * DIMENSION)
        at, above = (float(spectrum.width(norms[k], row["epsilon"]).value) for k in (count, count + 1))
        assert at >= count / DIMENSION
        assert above < (count + 1) / DIMENSION
        # Nothing removes less of the norm than magnitude.
        assert row["threshold"] <= others[row["operator"], row["epsilon_rule"]]["threshold"]


def test_without_a_penalty_both_criteria_have_the_same_quadratic_model(run, tmp_path):
    path = str(tmp_path / "quadratic.parquet")
    told = {"l1": 0.0, "operators": ["ggn"], "methods": {"magnitude": {}}}
    run.do("quadratic", inputs={"rankings": []}, outputs={"predictions": path}, settings=told)
    rows = read_table("predictions", path).to_pylist()
    assert len(rows) == 4
    for rule in rules(run):
        data, objective = sorted((row for row in rows if row["epsilon_rule"] == rule), key=itemgetter("criterion"))
        ends = ("threshold", "threshold_lower", "threshold_upper")
        assert [data[end] for end in ends] == [objective[end] for end in ends]
        assert objective["steps"] == 0


def test_more_steps_from_the_removed_vectors_narrow_the_interval(run, tmp_path):
    rows = {}
    for steps in (1, 40):
        path = str(tmp_path / f"{steps}.parquet")
        told = {"cone_steps": steps, "reorthogonalize": False}
        run.do("statistical_dimension", outputs={"predictions": path}, settings=told, operator="ggn")
        rows[steps] = read_table("predictions", path).to_pylist()
        assert {row["method"] for row in rows[steps]} == set(run.experiment.pruning.methods)
    for short, long in zip(rows[1], rows[40], strict=True):
        assert short["threshold_lower"] <= long["threshold"] <= short["threshold_upper"]
    wide, narrow = ([row["threshold_upper"] - row["threshold_lower"] for row in rows[steps]] for steps in (1, 40))
    assert sum(narrow) < sum(wide)


@pytest.mark.parametrize("name", ["surgeon", "surgeon_step"])
def test_the_surgeons_write_the_thresholds_of_the_library(run, tmp_path, name):
    path = str(tmp_path / f"{name}.parquet")
    methods = ["lamp", "magnitude"]
    run.do(name, outputs={"predictions": path}, operator="ggn")
    rows = read_table("predictions", path).to_pylist()
    split = DeviceSplit.from_data(datasets.load(run.data), "train", "cpu").subset(100, 0)
    for row, (method, rule) in zip(rows, itertools.product(methods, sorted(rules(run))), strict=True):
        assert (row["predictor"], row["operator"], row["probes"]) == (name, "ggn", 0)
        assert (row["method"], row["epsilon_rule"], row["criterion"]) == (method, rule, "")
        model = load_network(run.file("network"), "cpu", owner=run.key)
        data = split.as_tensors()
        found = predict_threshold(
            model,
            functional.cross_entropy,
            data,
            predictor=name,
            method=method,
            operator="ggn",
            epsilon=row["epsilon"],
        )
        assert (row["threshold_lower"], row["threshold_upper"]) == (found.lower, found.upper)
        assert row["steps"] == found.steps > 0


def test_curve_sparsities_hold_the_asked_ones_once_in_order():
    sparsities = prediction.curve_sparsities([0.07, 0.5, 0.9])
    assert sparsities == sorted(set(sparsities))
    assert {0.0, 0.07, 0.5, 0.9, 0.99, 0.9999} <= set(sparsities)
    assert all(0 <= sparsity < 1 and round(sparsity, 6) == sparsity for sparsity in sparsities)


def test_the_spectrum_of_a_network_in_training_mode_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "load_network", lambda *args, **more: load_network(*args, **more).train())
    with pytest.raises(ValueError, match="training mode"):
        run.do("spectrum", outputs={"probe": str(tmp_path / "p.npz")}, operator="hessian", probe="0")
    assert not (tmp_path / "p.npz").exists()


def test_the_probe_of_another_network_is_named(run, empty):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    description = {"name": "fc", "options": {"hidden": []}, "input_shape": [1, 8, 8], "classes": 10}
    Path(empty.file("network")).parent.mkdir(parents=True)
    save_network(empty.file("network"), model, description, owner=run.key)
    empty.do("spectrum", operator="ggn", probe="0")
    path = empty.file("probe", operator="ggn", probe=0)
    inputs = {"ggn": [path]}
    for rule, wildcards in (("predict", {}), ("statistical_dimension", {"operator": "ggn"})):
        with pytest.raises(ArtifactError, match=f"{path} belongs to .*; expected .*, weights"):
            run.do(rule, inputs=inputs, outputs=empty.outputs(rule, empty.at(**wildcards)), **wildcards)
        assert not any(Path(file).exists() for file in empty.outputs(rule, empty.at(**wildcards)).values())


@pytest.mark.parametrize("other", [("hessian", 0), ("ggn", 1)])
def test_the_probe_of_another_operator_or_number_is_refused(run, tmp_path, other):
    path = tmp_path / "probe.npz"
    operator, number = other
    path.write_bytes(Path(run.file("probe", operator=operator, probe=number)).read_bytes())
    with pytest.raises(ArtifactError, match=f"{path} belongs to .*; expected .*operator ggn, probe 0"):
        run.do("predict", inputs={"ggn": [str(path)]}, settings={"operators": ["ggn"]})
