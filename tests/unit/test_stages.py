"""The stages in a row, as the workflow runs them, on a few digits and a small network; then what each refuses."""

from __future__ import annotations

import csv
import itertools
import math
import os
import shutil
import signal
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional

from gwprune import config, datasets
from gwprune.config.runs import sparsity_token
from gwprune.curvature.operator import ProductOperator
from gwprune.datasets import DeviceSplit
from gwprune.jobs import dense as dense_stage
from gwprune.jobs import masked, prediction, pruned, results
from gwprune.jobs.artifacts import ArtifactError, load_network, load_probe, load_ranking, save_network, save_ranking
from gwprune.jobs.job import Job, job
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import rank
from gwprune.storage.files import read_json
from gwprune.tables.files import TableError, read_table
from gwprune.tables.schemas import RUN_TABLES, TABLES
from gwprune.tables.thresholds import criteria_of
from gwprune.training.evaluation import evaluate, l1_norm
from gwprune.training.train import train

from .helpers_training import give_to_seed_1

CONFIG = config.load(
    {
        "experiments": [
            {
                "name": "small",
                "dataset": {"name": "digits", "options": {"train_limit": 200}},
                "network": {"name": "fc", "options": {"hidden": [12]}},
            }
        ],
        "seeds": [0],
        "training": {"epochs": 2, "batch_size": 16, "lr": 0.2, "l1": 1e-3},
        "spectrum": {"steps": 6, "probes": 2, "samples": 100},
        "epsilon": ["batch_std", "relative: 0.1"],
        "pruning": {"methods": ["magnitude", "random"], "sparsities": [0.07, 0.5, 0.9], "resolution": 0.02},
        "fine_tuning": {"epochs": 1, "lr": 0.05, "batch_size": 16, "sparsities": [0.5, 0.9]},
        "criteria": {"accuracy_drop": [1.0, 5.0]},
    }
)
(RUN,) = config.expand(CONFIG).values()
SETTINGS = RUN.experiment
DIMENSION = 64 * 12 + 12 * 10
SPLITS = ("train", "val", "test")
KEY = {"run": RUN.name, "seed": 0}
JOB = Job(RUN.name, 0, "cpu", {"epochs": 2})


class Files:
    """Names of the files of one run below a directory."""

    def __init__(self, root: Path):
        self.root = root
        self.data = str(root / "data.pt")
        self.network = str(root / "network.pt")
        self.history = str(root / "training.parquet")
        self.dense = str(root / "dense.json")
        self.checkpoint = str(root / "checkpoint")
        self.products = str(root / "checkpoint.products")
        self.spectra = str(root / "spectra.parquet")
        self.curves = str(root / "width_curves.parquet")
        self.predictions = str(root / "predictions.parquet")
        self.csv = str(root / "thresholds.csv")
        self.pages = {kind: str(root / f"comparison.{kind}") for kind in ("markdown", "html")}

    def probe(self, operator: str, number: int) -> str:
        return str(self.root / f"{operator}_{number}.npz")

    def ranking(self, method: str) -> str:
        return str(self.root / f"ranking_{method}.pt")

    @property
    def quadratic(self) -> str:
        return str(self.root / "quadratic.parquet")

    def cones(self, operator: str) -> str:
        return str(self.root / f"statistical_dimension_{operator}.parquet")

    def sweep(self, method: str) -> str:
        return str(self.root / f"sweep_{method}.parquet")

    def finetuned(self, token: str) -> str:
        return str(self.root / f"finetuned_{token}.parquet")

    def table(self, name: str) -> str:
        return str(self.root / "tables" / f"{name}.parquet")


def train_dense(files: Files, this: Job = JOB, **recipe) -> None:
    dense_stage.train_dense(
        this,
        files.data,
        network=files.network,
        history=files.history,
        dense=files.dense,
        description=SETTINGS.network.model_dump(),
        recipe={**RUN.recipe(), **recipe},
        checkpoint=files.checkpoint,
    )


def spectrum(files: Files, operator: str, probe: int, path: str, this: Job = JOB) -> None:
    keys = ("steps", "samples", "batch_size", "memory_mb", "reorthogonalize", "basis")
    settings = prediction.SpectrumSettings(
        operator=operator, probe=probe, checkpoint=files.products, **RUN.section("spectrum", *keys)
    )
    prediction.spectrum(this, vars(files), {"probe": path}, settings)


def statistical_dimension(files: Files, operator: str, probes: list[str], path: str, **changes) -> None:
    keys = ("cone_steps", "samples", "batch_size", "memory_mb", "reorthogonalize", "basis")
    settings = prediction.ProductsSettings(
        predictor="statistical_dimension",
        operators=[operator],
        epsilon_rules=SETTINGS.epsilon,
        probes={operator: probes},
        checkpoint=files.products,
        **{**RUN.section("spectrum", *keys), **changes},
    )
    prediction.predict_with_products(JOB, vars(files), {"predictions": path}, settings)


def quadratic(files: Files) -> None:
    settings = prediction.ProductsSettings(
        predictor="quadratic",
        operators=SETTINGS.spectrum.operators,
        epsilon_rules=SETTINGS.epsilon,
        probes={},
        **RUN.section("spectrum", "samples", "batch_size", "memory_mb"),
    )
    prediction.predict_with_products(JOB, vars(files), {"predictions": files.quadratic}, settings)


def predict(files: Files, out: Files, probes: dict[str, list[str]]) -> None:
    settings = prediction.PredictSettings(
        probes=probes, epsilon_rules=SETTINGS.epsilon, sparsities=SETTINGS.pruning.sparsities
    )
    prediction.predict(JOB, vars(files), vars(out), settings)


def sweep(files: Files, method: str, path: str, **changes) -> None:
    given = {
        "data": files.data,
        "network": files.network,
        "ranking": files.ranking(method),
        "dense": files.dense,
        "l1": RUN.l1,
        "epochs": SETTINGS.training.epochs,
        **RUN.section("pruning", "sparsities", "resolution"),
        "epsilon_rules": SETTINGS.epsilon,
        "accuracy_drops": SETTINGS.criteria.accuracy_drop,
        **changes,
    }
    pruned.sweep(JOB, path=path, method=method, **given)


def finetune(
    files: Files, sparsity: float | list[float], path: str, recipe: dict | None = None, this: Job = JOB, **changes
) -> None:
    given = {"data": files.data, "network": files.network, "ranking": files.ranking("magnitude"), **changes}
    masked.finetune(
        this,
        path=path,
        method="magnitude",
        sparsities=sparsity if isinstance(sparsity, list) else [sparsity],
        recipe={**RUN.fine_tuning(), **(recipe or {})},
        epochs=SETTINGS.training.epochs,
        checkpoint=files.checkpoint,
        **given,
    )


def all_probes(files: Files) -> dict[str, list[str]]:
    numbers = range(SETTINGS.spectrum.probes)
    return {operator: [files.probe(operator, n) for n in numbers] for operator in SETTINGS.spectrum.operators}


def part_files(files: Files) -> dict[str, list[str]]:
    return {
        "training": [files.history],
        "spectra": [files.spectra],
        "width_curves": [files.curves],
        "predictions": [
            files.predictions,
            files.quadratic,
            *map(files.cones, SETTINGS.spectrum.operators),
        ],
        "sweep": [
            *map(files.sweep, SETTINGS.pruning.methods),
            *(files.finetuned(sparsity_token(s)) for s in SETTINGS.fine_tuning.sparsities),
        ],
    }


def criteria_item() -> dict:
    return {**KEY, "epsilon_rules": SETTINGS.epsilon, "accuracy_drops": SETTINGS.criteria.accuracy_drop}


def aggregate(files: Files, out: Files, parts: dict[str, list[str]], benchmarks=()) -> None:
    collected = {name: str(out.root / f"run_{name}.parquet") for name in RUN_TABLES}
    results.collect(
        JOB,
        parts,
        collected,
        dense=[files.dense],
        criteria=[criteria_item()],
        facts={"network": "fc(hidden=[12])", "dataset": "digits", "l1": RUN.l1},
        asked=SETTINGS.pruning.sparsities,
        benchmarks=benchmarks,
    )
    results.aggregate(
        JOB,
        {name: [path] for name, path in collected.items()},
        {name: out.table(name) for name in TABLES},
        benchmarks=[{"run": "", "seed": -1, "rule": "prepare_data", "job": "x", "file": str(files.root / "x.tsv")}],
        csv_file=out.csv,
        pages=out.pages,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Iterator[Files]:
    """The whole chain, run once. Tests read these files and write elsewhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    files = Files(tmp_path_factory.mktemp("chain"))
    dense_stage.prepare_data(files.data, dataset=SETTINGS.dataset.model_dump(), data_dir=str(files.root))
    train_dense(files)
    for operator, paths in all_probes(files).items():
        for number, path in enumerate(paths):
            spectrum(files, operator, number, path)
        statistical_dimension(files, operator, paths, files.cones(operator))
    quadratic(files)
    predict(files, files, all_probes(files))
    for method in SETTINGS.pruning.methods:
        pruned.rank_weights(JOB, files.network, files.ranking(method), method=method)
        sweep(files, method, files.sweep(method))
    for sparsity in SETTINGS.fine_tuning.sparsities:
        token = sparsity_token(sparsity)
        finetune(files, sparsity, files.finetuned(token))
    (files.root / "train.tsv").write_text("s\th:m:s\tmax_rss\tcpu_time\n1.5\t0:00:01\t250.25\t1.25\n")
    (files.root / "predict.tsv").write_text("s\th:m:s\tmax_rss\tcpu_time\n0.0101\t0:00:00\t-\tNA\n")
    benchmarks = [
        {**KEY, "rule": "train", "job": "", "file": str(files.root / "train.tsv")},
        {**KEY, "rule": "predict", "job": "", "file": str(files.root / "predict.tsv")},
        {"run": "", "seed": -1, "rule": "prepare_data", "job": "digits", "file": str(files.root / "gone.tsv")},
    ]
    aggregate(files, files, part_files(files), benchmarks)
    yield files
    torch.set_num_threads(threads)


def rows(files: Files, name: str, **values) -> list[dict]:
    """Rows of a table whose columns have the given values."""
    found = read_table(name, files.table(name)).to_pylist()
    return [row for row in found if all(row[key] == value for key, value in values.items())]


def loaded(files: Files) -> SimpleNamespace:
    model = load_network(files.network)
    images = datasets.load(files.data)
    return SimpleNamespace(
        model=model,
        prunable=PrunableSet(model),
        images=images,
        splits={name: DeviceSplit.from_data(images, name) for name in SPLITS},
    )


# --- the comparison -----------------------------------------------------------------------------------------


def test_the_comparison_holds_the_test_rows_of_the_asked_sparsities_and_no_published_number(files):
    compared = rows(files, "comparison")
    asked = {0.0, *SETTINGS.pruning.sparsities}
    expected = {(method, "one_shot", s) for method in SETTINGS.pruning.methods for s in asked}
    expected |= {("magnitude", "fine_tuned", s) for s in SETTINGS.fine_tuning.sparsities}
    assert {(row["method"], row["stage"], row["sparsity"]) for row in compared} == expected
    for row in compared:
        key = {name: row[name] for name in ("method", "stage", "sparsity")}
        (tested,) = rows(files, "sweep", split="test", **key)
        assert row["accuracy_mean"] == tested["accuracy"]
        assert row["epochs"] == (3 if row["stage"] == "fine_tuned" else 2)
        assert row["compression"] == DIMENSION / tested["nonzeros"]
        assert row["speedup"] == pytest.approx(row["compression"])  # fully connected: one product a weight
        assert (row["run"], row["l1"], row["dataset"]) == (RUN.name, 1e-3, "digits")
        assert row["source"].startswith("measured: gwprune ")
    citations = {row["citation"] for row in rows(files, "published")}
    assert citations
    assert not citations & {row["source"] for row in compared}
    thresholds = rows(files, "comparison_thresholds")
    assert len(thresholds) == len(rows(files, "empirical"))
    assert all(row["seeds"] == 1 for row in thresholds)


def test_the_pages_show_the_comparison(files):
    texts = {kind: Path(path).read_text() for kind, path in files.pages.items()}
    best = min(rows(files, "comparison", sparsity=0.5), key=lambda row: row["rank"])
    assert f"{best['accuracy_mean']:.2f} ± 0.00 (1)" in texts["markdown"]
    assert f"{best['accuracy_mean']:.2f} ± 0.00 (1)" in texts["html"]


# --- data and training --------------------------------------------------------------------------------------


def test_the_data_file_holds_as_many_images_as_asked(files):
    images = datasets.load(files.data)
    assert {split: len(labels) for split, labels in images.labels.items()} == {"train": 180, "val": 20, "test": 359}


def test_the_training_table_has_a_row_for_each_epoch(files):
    found = rows(files, "training")
    assert [(row["run"], row["seed"], row["epoch"]) for row in found] == [(RUN.name, 0, 1), (RUN.name, 0, 2)]
    assert found[0]["lr"] == 0.2
    assert found[1]["train_loss"] < found[0]["train_loss"]
    known = loaded(files)
    validation = evaluate(known.model, known.splits["val"])
    assert (found[1]["val_loss"], found[1]["val_accuracy"]) == (validation.loss, validation.accuracy)


def test_the_dense_summary_describes_the_network_that_was_written(files):
    summary, known = read_json(files.dense), loaded(files)
    assert summary["dimension"] == known.prunable.dimension == DIMENSION
    assert (summary["l1"], summary["batch_size"], summary["batches"]) == (1e-3, 16, 11)
    assert set(summary["splits"]) == {"train", "val"}
    for name, found in summary["splits"].items():
        expected = evaluate(known.model, known.splits[name])
        assert (found["loss"], found["accuracy"]) == (expected.loss, expected.accuracy)
        assert found["objective"] == pytest.approx(expected.loss + 1e-3 * l1_norm(known.prunable), rel=1e-12)
    inputs, labels = known.splits["train"].as_tensors()
    parts = [slice(start, start + 16) for start in range(0, len(labels) - 15, 16)]
    with torch.no_grad():
        losses = [float(functional.cross_entropy(known.model(inputs[part]), labels[part])) for part in parts]
    assert summary["batches"] == len(losses)
    assert summary["batch_std"] == pytest.approx(np.std(losses, ddof=1), rel=1e-6)


def test_a_finished_training_removes_its_checkpoint(files):
    assert not Path(files.checkpoint).exists()
    assert not list(files.root.glob("**/*.part"))


@pytest.fixture
def copy(files, tmp_path) -> Files:
    """Names in an empty directory, with the data of the chain."""
    other = Files(tmp_path)
    other.data = files.data
    return other


def weights(path: str) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_network(path).state_dict().items()}


def test_training_again_gives_the_same_network_bit_for_bit_and_another_seed_does_not(files, copy):
    train_dense(copy)
    assert weights(copy.network) == weights(files.network)
    assert read_json(copy.dense) == read_json(files.dense)
    train_dense(copy, Job(RUN.name, 1))
    assert weights(copy.network) != weights(files.network)


def test_a_training_job_that_was_killed_goes_on_where_it_was(files, copy, monkeypatch):
    epochs = []

    def killed(*args, progress, **options):
        def stop(record):
            progress(record)
            raise KeyboardInterrupt

        return train(*args, progress=stop, **options)

    def counted(*args, progress, **options):
        def count(record):
            epochs.append(record.epoch)
            progress(record)

        return train(*args, progress=count, **options)

    monkeypatch.setattr(dense_stage, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        train_dense(copy)
    assert Path(copy.checkpoint).exists()
    assert not Path(copy.network).exists()
    monkeypatch.setattr(dense_stage, "train", counted)
    train_dense(copy)
    assert epochs == [2]
    assert weights(copy.network) == weights(files.network)
    assert read_table("training", copy.history).num_rows == 2
    assert not Path(copy.checkpoint).exists()


@pytest.mark.parametrize(
    "recipe",
    [
        {"lr": 1e30, "momentum": 0.0, "schedule": "constant"},
        # One step in all: its loss is finite, the network that it leaves is not.
        {"lr": 1e38, "momentum": 0.0, "schedule": "constant", "epochs": 1, "batch_size": 180},
    ],
    ids=["in the middle", "in the last step"],
)
def test_a_training_that_diverges_leaves_no_network_and_ends_the_job_with_epoch_and_step(copy, tmp_path, recipe):
    log = tmp_path / "train.log"
    with pytest.raises(SystemExit) as caught, job(log, run=RUN.name, seed=0) as this:
        train_dense(copy, this, **recipe)
    assert isinstance(caught.value.code, str)
    first, second = caught.value.code.splitlines()
    assert first.startswith("gwprune: DivergedError: ")
    assert "epoch 1, step " in first
    assert second == f"(log: {log})"
    assert "Traceback" in log.read_text()
    for path in (copy.network, copy.history, copy.dense):
        assert not Path(path).exists()


# --- spectrum and prediction ----------------------------------------------------------------------------------


def test_each_probe_file_holds_a_lanczos_run_of_the_network(files):
    for operator, paths in all_probes(files).items():
        first, second = map(load_probe, paths)
        assert first.dimension == second.dimension == DIMENSION
        assert first.active == second.active < DIMENSION  # pixels that are always black
        assert first.jacobi.steps == second.jacobi.steps == 6
        assert first.semidefinite == (operator == "ggn")
        assert not np.array_equal(first.jacobi.alpha, second.jacobi.alpha)


def test_a_spectrum_is_repeatable_bit_for_bit(files, tmp_path):
    spectrum(files, "hessian", 1, str(tmp_path / "p.npz"))
    again, before = load_probe(tmp_path / "p.npz"), load_probe(files.probe("hessian", 1))
    np.testing.assert_array_equal(again.jacobi.alpha, before.jacobi.alpha)
    np.testing.assert_array_equal(again.jacobi.beta, before.jacobi.beta)


def test_the_weights_of_every_quadrature_rule_sum_to_1(files):
    sums: dict[tuple, float] = {}
    for row in rows(files, "spectra"):
        key = (row["operator"], row["probe"], row["rule"])
        sums[key] = sums.get(key, 0.0) + row["weight"]
    rules = ("gauss", "radau", "squared_lower", "squared_upper")
    assert set(sums) == set(itertools.product(("hessian", "ggn"), (0, 1), rules))
    for total in sums.values():
        assert total == pytest.approx(1, abs=1e-9)


def test_width_curves_fall_from_1_inside_their_interval(files):
    for operator, rule in itertools.product(("hessian", "ggn"), SETTINGS.epsilon):
        curve = rows(files, "width_curves", operator=operator, epsilon_rule=rule)
        assert {0.0, 0.9999, *SETTINGS.pruning.sparsities} <= {row["sparsity"] for row in curve}
        assert curve[0]["sparsity"] == 0
        assert curve[0]["width"] == curve[0]["width_upper"] == pytest.approx(1)
        for row in curve:
            assert row["width_lower"] - 1e-12 <= row["width"] <= row["width_upper"] + 1e-12
        for below, above in itertools.pairwise(curve):
            assert above["pruned_norm"] >= below["pruned_norm"]
            assert above["width"] <= below["width"] + 1e-12


def test_every_predictor_predicts_for_every_operator_and_rule_inside_its_interval(files):
    found = rows(files, "predictions")
    keys = {(row["predictor"], row["operator"], row["epsilon_rule"]) for row in found}
    predictors = ("width", "quadratic", "trace_bound", "statistical_dimension")
    assert keys == set(itertools.product(predictors, ("hessian", "ggn"), SETTINGS.epsilon))
    summary = read_json(files.dense)
    epsilons = {"batch_std": summary["batch_std"], "relative:0.1": 0.1 * summary["splits"]["train"]["loss"]}
    for row in found:
        assert 0 <= row["threshold_lower"] <= row["threshold"] <= row["threshold_upper"] <= 1
        assert row["epsilon"] == pytest.approx(epsilons[row["epsilon_rule"]], rel=1e-12)
        assert row["dimension"] == DIMENSION
        assert row["steps"] >= (row["predictor"] != "statistical_dimension")  # another rule's runs may do
        if row["predictor"] in ("width", "trace_bound"):
            assert (row["steps"], row["probes"]) == (6, 2)
        if row["predictor"] == "statistical_dimension":
            assert row["probes"] == 2


def test_the_width_threshold_lies_where_the_width_curve_crosses_the_diagonal(files):
    for row in rows(files, "predictions", predictor="width"):
        curve = rows(files, "width_curves", operator=row["operator"], epsilon_rule=row["epsilon_rule"])
        above = [point["sparsity"] for point in curve if point["width"] >= point["sparsity"]]
        below = [point["sparsity"] for point in curve if point["width"] < point["sparsity"]]
        assert max(above) - 1 / DIMENSION <= row["threshold"] <= min(below) + 1 / DIMENSION


def test_the_statistical_dimension_never_meets_the_sparsity_before_the_width(files):
    widths = {(row["operator"], row["epsilon_rule"]): row for row in rows(files, "predictions", predictor="width")}
    found = rows(files, "predictions", predictor="statistical_dimension")
    for row in found:
        width = widths[row["operator"], row["epsilon_rule"]]
        assert row["threshold"] >= width["threshold"]
        assert row["threshold_lower"] >= width["threshold_lower"]
    assert any(row["threshold"] > widths[row["operator"], row["epsilon_rule"]]["threshold"] for row in found)
    assert all(sum(row["steps"] for row in found if row["operator"] == name) > 0 for name in ("hessian", "ggn"))


def test_more_steps_from_the_removed_vectors_narrow_the_interval(files, tmp_path):
    found = {}
    for steps in (1, 40):
        path = str(tmp_path / f"{steps}.parquet")
        statistical_dimension(files, "ggn", all_probes(files)["ggn"], path, cone_steps=steps, reorthogonalize=False)
        found[steps] = read_table("predictions", path).to_pylist()
    for short, long in zip(found[1], found[40], strict=True):
        assert short["threshold_lower"] <= long["threshold"] <= short["threshold_upper"]
    wide, narrow = ([row["threshold_upper"] - row["threshold_lower"] for row in found[steps]] for steps in (1, 40))
    assert sum(narrow) < sum(wide)


def test_curve_sparsities_hold_the_asked_ones_once_in_order():
    found = prediction.curve_sparsities([0.07, 0.5, 0.9])
    assert found == sorted(set(found))
    assert {0.0, 0.07, 0.5, 0.9, 0.99, 0.9999} <= set(found)
    assert all(0 <= sparsity < 1 and round(sparsity, 6) == sparsity for sparsity in found)


def test_the_spectrum_of_a_network_in_training_mode_is_refused(files, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "load_network", lambda *args, **more: load_network(*args, **more).train())
    with pytest.raises(ValueError, match="training mode"):
        spectrum(files, "hessian", 0, str(tmp_path / "p.npz"))
    assert not (tmp_path / "p.npz").exists()


def other_network(path: str) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    save_network(
        path, model, {"name": "fc", "options": {"hidden": []}, "input_shape": [1, 8, 8], "classes": 10}, owner=KEY
    )


def test_the_probe_of_another_network_is_named(files, copy):
    other_network(copy.network)
    spectrum(copy, "ggn", 0, copy.probe("ggn", 0))
    with pytest.raises(ArtifactError, match=f"{copy.probe('ggn', 0)} belongs to .*; expected .*, weights"):
        predict(files, copy, {"hessian": all_probes(files)["hessian"], "ggn": [copy.probe("ggn", 0)]})
    with pytest.raises(ArtifactError, match=f"{copy.probe('ggn', 0)} belongs to .*; expected .*, weights"):
        statistical_dimension(files, "ggn", [copy.probe("ggn", 0)], copy.predictions)
    assert not Path(copy.predictions).exists()


# --- files of another seed ------------------------------------------------------------------------------------

READERS = {
    "spectrum": lambda files: spectrum(files, "ggn", 0, str(files.root / "x")),
    "statistical_dimension": lambda files: statistical_dimension(
        files, "ggn", all_probes(files)["ggn"], str(files.root / "x")
    ),
    "predict": lambda files: predict(files, files, all_probes(files)),
    "rank": lambda files: pruned.rank_weights(JOB, files.network, str(files.root / "x"), method="magnitude"),
    "sweep": lambda files: sweep(files, "magnitude", str(files.root / "x")),
    "finetune": lambda files: finetune(files, 0.5, str(files.root / "x")),
    "collect": lambda files: aggregate(files, files, part_files(files)),
}


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        *((stage, "network.pt") for stage in READERS if stage != "collect"),
        *((stage, "dense.json") for stage in ("statistical_dimension", "predict", "sweep", "collect")),
        *((stage, "ggn_0.npz") for stage in ("statistical_dimension", "predict")),
        *((stage, "ranking_magnitude.pt") for stage in ("sweep", "finetune")),
        ("collect", "sweep_random.parquet"),
    ],
)
def test_a_file_of_another_seed_is_refused_and_named(files, tmp_path, stage, name):
    shutil.copytree(files.root, tmp_path / "seed0")
    here = Files(tmp_path / "seed0")
    give_to_seed_1(here.root / name)
    with pytest.raises(ArtifactError, match=rf"seed0/{name} belongs to .*seed 1.*; expected .*seed 0"):
        READERS[stage](here)
    assert not (here.root / "x").exists()


@pytest.mark.parametrize("other", ["hessian_0", "ggn_1"])
def test_the_probe_of_another_operator_or_number_is_refused(files, tmp_path, other):
    path = tmp_path / "ggn_0.npz"
    shutil.copy(files.root / f"{other}.npz", path)
    with pytest.raises(ArtifactError, match=f"{path} belongs to .*; expected .*operator ggn, probe 0"):
        predict(files, Files(tmp_path), {"ggn": [str(path)]})


def test_a_ranking_of_weights_that_were_trained_again_is_refused(files, copy):
    train_dense(copy, lr=0.1)
    with pytest.raises(ArtifactError, match=f"{files.ranking('magnitude')} belongs to .*, weights"):
        sweep(copy, "magnitude", str(copy.root / "x"), ranking=files.ranking("magnitude"), dense=files.dense)


# --- pruning --------------------------------------------------------------------------------------------------


def test_the_ranking_files_hold_the_rankings_of_the_network(files):
    prunable = loaded(files).prunable
    for method in SETTINGS.pruning.methods:
        stored = load_ranking(files.ranking(method), DIMENSION)
        assert torch.equal(stored.ranks, rank(method, prunable, 0).ranks)


def test_every_evaluated_network_has_the_exact_number_of_nonzero_weights_on_all_splits(files):
    found = rows(files, "sweep")
    points: dict[tuple, dict] = {}
    for row in found:
        assert row["nonzeros"] == DIMENSION - math.ceil(Fraction(repr(row["sparsity"])) * DIMENSION)
        points.setdefault((row["method"], row["stage"], row["sparsity"]), {})[row["split"]] = row
    for values in points.values():
        assert set(values) == set(SPLITS)
        assert len({(row["nonzeros"], row["pruned_norm"]) for row in values.values()}) == 1
    assert {0.0, *SETTINGS.pruning.sparsities} <= {s for method, stage, s in points if stage == "one_shot"}


def test_the_sweep_measures_what_a_network_with_these_weights_zero_measures(files):
    known = loaded(files)
    dense = known.prunable.flatten()
    for method, sparsity in itertools.product(SETTINGS.pruning.methods, (0.07, 0.9)):
        mask = load_ranking(files.ranking(method), DIMENSION).mask(sparsity)
        known.prunable.assign(dense * mask)
        for row in rows(files, "sweep", method=method, stage="one_shot", sparsity=sparsity):
            expected = evaluate(known.model, known.splits[row["split"]])
            # Single precision: masks that are evaluated together add up in another order.
            assert row["loss"] == pytest.approx(expected.loss, rel=1e-6)
            assert row["accuracy"] == expected.accuracy
            assert row["objective"] == pytest.approx(row["loss"] + 1e-3 * l1_norm(known.prunable), rel=1e-12)
            assert row["pruned_norm"] == pytest.approx(float((dense - dense * mask).double().norm()), rel=1e-6)


def test_the_sweep_starts_from_the_dense_network(files):
    summary = read_json(files.dense)["splits"]
    for row in rows(files, "sweep", stage="one_shot", sparsity=0.0):
        assert row["pruned_norm"] == 0
        if row["split"] != "test":
            assert {key: row[key] for key in summary[row["split"]]} == summary[row["split"]]


def test_the_sweep_narrows_every_bracket_to_the_resolution(files):
    found = rows(files, "empirical", stage="one_shot")
    assert any(row["reached"] for row in found)
    for row in found:
        if row["reached"]:
            assert row["threshold_upper"] - row["threshold_lower"] <= 0.02 + 1e-9


def test_a_sweep_is_repeatable_bit_for_bit(files, tmp_path):
    sweep(files, "magnitude", str(tmp_path / "s.parquet"))
    assert (tmp_path / "s.parquet").read_bytes() == Path(files.sweep("magnitude")).read_bytes()


def test_fine_tuning_is_measured_at_every_asked_sparsity_and_improves_the_network(files):
    found = rows(files, "sweep", stage="fine_tuned")
    assert {(row["method"], row["sparsity"]) for row in found} == {("magnitude", 0.5), ("magnitude", 0.9)}
    (before,) = rows(files, "sweep", stage="one_shot", method="magnitude", sparsity=0.9, split="train")
    (after,) = rows(files, "sweep", stage="fine_tuned", sparsity=0.9, split="train")
    assert after["loss"] < before["loss"]
    assert after["pruned_norm"] == pytest.approx(before["pruned_norm"], rel=1e-12)
    assert not Path(f"{files.checkpoint}.pt").exists()
    assert not Path(f"{files.checkpoint}.json").exists()


def test_fine_tuning_is_repeatable_and_holds_its_mask(files, tmp_path, monkeypatch):
    trained = []

    def watched(model, *args, mask, **options):
        records = train(model, *args, mask=mask, **options)
        trained.append((PrunableSet(model).flatten(), mask))
        return records

    monkeypatch.setattr(masked, "train", watched)
    finetune(files, 0.9, str(tmp_path / "f.parquet"))
    ((found, mask),) = trained
    assert not found[~mask].any()
    assert int((~mask).sum()) == math.ceil(Fraction("0.9") * DIMENSION)
    assert torch.equal(mask, load_ranking(files.ranking("magnitude"), DIMENSION).mask(0.9))
    again = read_table("sweep", tmp_path / "f.parquet")
    assert again.equals(read_table("sweep", files.finetuned("900000")))


def test_a_chunk_of_sparsities_gives_the_rows_of_single_jobs(files, tmp_path):
    finetune(files, [0.5, 0.9], str(tmp_path / "f.parquet"))
    single = pa.concat_tables([read_table("sweep", files.finetuned(token)) for token in ("500000", "900000")])
    keys = [(name, "ascending") for name in ("sparsity", "split")]
    assert read_table("sweep", tmp_path / "f.parquet").sort_by(keys).equals(single.sort_by(keys))


@pytest.mark.parametrize("killed_in", [1, 2, 3, 4])
def test_a_chunk_that_was_interrupted_goes_on_at_its_epoch_with_the_same_rows(files, tmp_path, monkeypatch, killed_in):
    """Two sparsities of two epochs each; SIGTERM comes in one of the four."""
    epochs = []

    def signalled(*args, progress, **options):
        def count(record):
            epochs.append(record.epoch)
            if len(epochs) == killed_in:
                os.kill(os.getpid(), signal.SIGTERM)
            progress(record)

        return train(*args, progress=count, **options)

    monkeypatch.setattr(masked, "train", signalled)
    path, recipe = tmp_path / "f.parquet", {"epochs": 2}

    def attempt():
        with job(tmp_path / "a.log", run=KEY["run"], seed=KEY["seed"], device="cpu") as this:
            finetune(files, [0.5, 0.9], str(path), recipe, this=this)

    if killed_in < 4:
        with pytest.raises(SystemExit) as caught:
            attempt()
        assert caught.value.code == 75
        assert not path.exists()
    attempt()
    assert epochs == [1, 2, 1, 2]
    assert not Path(f"{files.checkpoint}.pt").exists()
    assert not Path(f"{files.checkpoint}.json").exists()
    for sparsity in (0.5, 0.9):
        finetune(files, sparsity, str(tmp_path / "single.parquet"), recipe)
        rows_of = [row for row in read_table("sweep", path).to_pylist() if row["sparsity"] == sparsity]
        assert rows_of == read_table("sweep", tmp_path / "single.parquet").to_pylist()


def test_the_rows_of_another_recipe_are_set_aside_with_a_warning(files, tmp_path, caplog):
    Path(f"{files.checkpoint}.json").write_text('{"guard": "x", "rows": {"0.5": []}}')
    finetune(files, 0.5, str(tmp_path / "f.parquet"))
    assert read_table("sweep", tmp_path / "f.parquet").equals(read_table("sweep", files.finetuned("500000")))
    assert caplog.messages[0].startswith(f"checkpoint {files.checkpoint}.json is set aside")


def test_a_spectrum_that_was_interrupted_goes_on_to_the_same_file(files, tmp_path, monkeypatch):
    products = []
    multiply = ProductOperator.__matmul__

    def counted(self, x):
        products.append(1)
        if len(products) == 6:
            os.kill(os.getpid(), signal.SIGUSR1)
        return multiply(self, x)

    monkeypatch.setattr(ProductOperator, "__matmul__", counted)
    path = tmp_path / "probe.npz"
    with pytest.raises(SystemExit) as caught, job(tmp_path / "a.log", **KEY, device="cpu") as this:
        spectrum(files, "hessian", 0, str(path), this)
    assert caught.value.code == 75
    assert "stopped by SIGUSR1" in (tmp_path / "a.log").read_text()
    assert not path.exists()
    before = len(products)
    spectrum(files, "hessian", 0, str(path))
    again = len(products) - before
    uninterrupted = len(products)
    spectrum(files, "hessian", 0, str(tmp_path / "other.npz"))
    assert again < len(products) - uninterrupted
    known, other, first = (load_probe(p) for p in (path, tmp_path / "other.npz", files.probe("hessian", 0)))
    assert known.jacobi.alpha.tolist() == other.jacobi.alpha.tolist() == first.jacobi.alpha.tolist()
    assert known.jacobi.beta.tolist() == first.jacobi.beta.tolist()
    assert not Path(files.products).exists()


def test_a_fine_tuning_that_diverges_writes_no_table(files, tmp_path):
    recipe = {"lr": 1e30, "momentum": 0.0, "schedule": "constant"}
    with pytest.raises(SystemExit, match="DivergedError.*epoch 1, step"), job(tmp_path / "a.log"):
        finetune(files, 0.5, str(tmp_path / "f.parquet"), recipe)
    assert not (tmp_path / "f.parquet").exists()


def test_the_ranking_of_another_network_is_named(files, tmp_path):
    path = str(tmp_path / "ranking.pt")
    prunable = PrunableSet(torch.nn.Linear(64, 10))
    save_ranking(path, rank("magnitude", prunable, 0), "magnitude")
    with pytest.raises(ArtifactError, match=f"{path} ranks 640 weights"):
        sweep(files, "magnitude", str(tmp_path / "s.parquet"), ranking=path)
    with pytest.raises(ArtifactError, match=f"{path} ranks 640 weights"):
        finetune(files, 0.5, str(tmp_path / "s.parquet"), ranking=path)
    assert not (tmp_path / "s.parquet").exists()


# --- tables ---------------------------------------------------------------------------------------------------


def test_every_table_is_written_for_this_run_with_its_provenance(files):
    for name in TABLES:
        table = read_table(name, files.table(name))
        assert table.num_rows > 0, name
        if name in RUN_TABLES:
            assert set(table["run"].to_pylist()) == {RUN.name}
        metadata = pq.read_schema(files.table(name)).metadata
        assert metadata[b"gwprune.table"] == name.encode()
        assert metadata[b"gwprune.config_hash"] == JOB.provenance()["config_hash"].encode()
        assert metadata[b"gwprune.device"] == b"cpu"


def plain_thresholds(found: list[dict], quantity: str, split: str, meets) -> tuple[float, float, bool]:
    """The definition of the empirical threshold, in its own words."""
    points = sorted((row["sparsity"], row[quantity]) for row in found if row["split"] == split and row["sparsity"] > 0)
    lower = 0.0
    for sparsity, value in points:
        if not meets(value):
            return lower, sparsity, True
        lower = sparsity
    return lower, 1.0, False


def test_measured_thresholds_follow_from_the_sweep_and_the_dense_network(files):
    summary = read_json(files.dense)
    train_values, val_values = summary["splits"]["train"], summary["splits"]["val"]
    epsilons = {"batch_std": summary["batch_std"], "relative:0.1": 0.1 * train_values["loss"]}
    expected = {}
    for method, stage in (("magnitude", "one_shot"), ("random", "one_shot"), ("magnitude", "fine_tuned")):
        found = rows(files, "sweep", method=method, stage=stage)
        for rule, epsilon in epsilons.items():
            for name, quantity in (("loss_tolerance", "loss"), ("objective_tolerance", "objective")):
                limit = train_values[quantity] + epsilon
                expected[method, stage, name, rule] = plain_thresholds(
                    found, quantity, "train", lambda value, limit=limit: value <= limit
                )
        for drop in (1.0, 5.0):
            limit = val_values["accuracy"] - drop
            expected[method, stage, f"accuracy_drop:{drop:g}", ""] = plain_thresholds(
                found, "accuracy", "val", lambda value, limit=limit: value >= limit
            )
    measured = {}
    for row in rows(files, "empirical"):
        assert row["threshold_lower"] <= row["threshold"] <= row["threshold_upper"]
        assert row["threshold"] == row["threshold_lower"]
        key = (row["method"], row["stage"], row["criterion"], row["epsilon_rule"])
        measured[key] = (row["threshold_lower"], row["threshold_upper"], row["reached"])
    assert measured == expected


def test_the_thresholds_table_sets_every_prediction_beside_every_measurement_of_its_tolerance(files):
    predictions, empirical = rows(files, "predictions"), rows(files, "empirical")
    expected = {}
    for guess, fact in itertools.product(predictions, empirical):
        if fact["epsilon_rule"] in ("", guess["epsilon_rule"]):
            key = (guess["predictor"], guess["operator"], guess["epsilon_rule"])
            key += (fact["method"], fact["stage"], fact["criterion"])
            expected[key] = [
                source[f"threshold{part}"] for source in (guess, fact) for part in ("", "_lower", "_upper")
            ]
    found = {}
    for row in rows(files, "thresholds"):
        assert row["gap"] == row["predicted"] - row["empirical"]
        key = tuple(row[name] for name in ("predictor", "operator", "epsilon_rule", "method", "stage", "criterion"))
        found[key] = [row[f"{name}{part}"] for name in ("predicted", "empirical") for part in ("", "_lower", "_upper")]
    assert found == expected
    assert {key[4] for key in found} == {"one_shot", "fine_tuned"}


def test_the_csv_file_says_what_the_thresholds_table_says(files):
    with open(files.csv, newline="") as stream:
        written = list(csv.DictReader(stream))
    table = rows(files, "thresholds")
    assert len(written) == len(table)
    for text, row in zip(written, table, strict=True):
        assert list(text) == list(row)
        assert text == {key: str(value) for key, value in row.items()}


def test_costs_come_from_the_benchmarks_that_are_there(files):
    found = [
        {key: row[key] for key in ("rule", "seconds", "max_rss_mb", "cpu_seconds")} for row in rows(files, "costs")
    ]
    assert found == [
        {"rule": "predict", "seconds": 0.0101, "max_rss_mb": 0.0, "cpu_seconds": 0.0},
        {"rule": "train", "seconds": 1.5, "max_rss_mb": 250.25, "cpu_seconds": 1.25},
    ]


def test_aggregation_does_not_depend_on_the_order_of_the_parts(files, tmp_path):
    out = Files(tmp_path)
    aggregate(files, out, {name: paths[::-1] for name, paths in part_files(files).items()})
    for name in TABLES:
        if name != "costs":
            assert read_table(name, out.table(name)).equals(read_table(name, files.table(name))), name


def test_a_part_given_twice_is_refused(files, tmp_path):
    parts = part_files(files)
    parts["sweep"].append(parts["sweep"][0])
    with pytest.raises(TableError, match="two rows of table sweep"):
        aggregate(files, Files(tmp_path), parts)


# --- test data chooses nothing ----------------------------------------------------------------------------------


def with_other_test_rows(table: pa.Table) -> pa.Table:
    changed = [
        {**row, "loss": 99.0, "objective": math.nan, "accuracy": 0.0} if row["split"] == "test" else row
        for row in table.to_pylist()
    ]
    return pa.Table.from_pylist(changed, schema=table.schema)


def test_measured_thresholds_do_not_depend_on_test_rows(files):
    table = read_table("sweep", files.table("sweep"))
    wanted = {(RUN.name, 0): criteria_of(files.dense, SETTINGS.epsilon, SETTINGS.criteria.accuracy_drop)}
    expected = results.empirical_rows(table, wanted)
    assert len(expected) == 3 * (2 * 2 + 2)
    assert results.empirical_rows(with_other_test_rows(table), wanted) == expected
    only = table.filter(pc.not_equal(table["split"], "test"))
    assert results.empirical_rows(only, wanted) == expected


def test_measured_thresholds_do_depend_on_training_and_validation_rows(files):
    table = read_table("sweep", files.table("sweep"))
    wanted = {(RUN.name, 0): criteria_of(files.dense, SETTINGS.epsilon, SETTINGS.criteria.accuracy_drop)}
    changed = [{**row, "loss": 99.0, "objective": 99.0, "accuracy": 0.0} for row in table.to_pylist()]
    found = results.empirical_rows(pa.Table.from_pylist(changed, schema=table.schema), wanted)
    assert all(row["threshold"] == 0.0 for row in found)


def test_the_sparsities_that_a_sweep_visits_do_not_depend_on_test_images(files, tmp_path):
    images = datasets.load(files.data)
    noise = torch.randint(0, 256, images.images["test"].shape, dtype=torch.uint8)
    changed = datasets.ImageData.from_splits(
        {**images.images, "test": noise},
        {**images.labels, "test": images.labels["test"].flip(0)},
        classes=images.classes,
        name=images.name,
        class_names=images.class_names,
    )
    datasets.save(changed, tmp_path / "data.pt")
    sweep(files, "magnitude", str(tmp_path / "s.parquet"), data=str(tmp_path / "data.pt"))

    def others(path: str) -> tuple[list[dict], list[dict]]:
        found = read_table("sweep", path).to_pylist()
        return [r for r in found if r["split"] != "test"], [r for r in found if r["split"] == "test"]

    mine, theirs = others(str(tmp_path / "s.parquet")), others(files.sweep("magnitude"))
    assert mine[0] == theirs[0]
    assert [row["sparsity"] for row in mine[1]] == [row["sparsity"] for row in theirs[1]]
    assert mine[1] != theirs[1]


# --- figures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "tables", "run"),
    [
        ("training_history", ["training"], RUN.name),
        ("spectral_density", ["spectra"], RUN.name),
        ("width_curve", ["width_curves", "predictions"], RUN.name),
        ("sparsity_sweep", ["sweep", "predictions", "empirical"], RUN.name),
        ("predicted_vs_empirical", ["thresholds"], ""),
    ],
)
def test_every_figure_is_drawn_from_the_tables(files, tmp_path, kind, tables, run):
    path = tmp_path / f"{kind}.svg"
    results.draw(kind, {name: files.table(name) for name in tables}, str(path), run=run)
    assert "<svg" in path.read_text()[:1000]
    assert list(tmp_path.iterdir()) == [path]
