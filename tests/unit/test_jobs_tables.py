"""Jobs of the rules `collect`, `aggregate` and of the figures."""

from __future__ import annotations

import csv
import itertools
import math
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from gwprune.config.plan import RUN_FIGURES
from gwprune.jobs.job import Job
from gwprune.storage.files import read_json
from gwprune.tables.files import TableError, read_table
from gwprune.tables.schemas import RUN_TABLES, TABLES
from gwprune.tables.thresholds import criteria_of, empirical_rows

from .helpers_run import DIMENSION, SmallRun


def measured(run: SmallRun) -> set[tuple[str, str]]:
    """(method, stage) of all that was pruned."""
    return {(row["method"], row["stage"]) for row in run.rows("sweep")}


# --- tables -------------------------------------------------------------------------------------------------


def test_every_table_is_written_for_this_run_with_its_provenance(run):
    for name in TABLES:
        path = run.plan.table(name)
        table = read_table(name, path)
        assert table.num_rows > 0, name
        if name in RUN_TABLES and name != "costs":
            assert set(table["run"].to_pylist()) == {run.run.name}
        metadata = pq.read_schema(path).metadata
        assert metadata[b"gwprune.table"] == name.encode()
        assert metadata[b"gwprune.config_hash"] == run.job.provenance()["config_hash"].encode()
        assert metadata[b"gwprune.device"] == b"cpu"


def plain_thresholds(rows: list[dict], quantity: str, split: str, meets) -> tuple[float, float, bool]:
    """The definition of the empirical threshold, in its own words."""
    points = sorted((row["sparsity"], row[quantity]) for row in rows if row["split"] == split and row["sparsity"] > 0)
    lower = 0.0
    for sparsity, value in points:
        if not meets(value):
            return lower, sparsity, True
        lower = sparsity
    return lower, 1.0, False


def test_measured_thresholds_follow_from_the_sweep_and_the_dense_network(run):
    summary = read_json(run.file("dense"))
    train_values, val_values = summary["splits"]["train"], summary["splits"]["val"]
    epsilons = {"batch_std": summary["batch_std"], "relative:0.1": 0.1 * train_values["loss"]}
    (control,) = run.rows("sweep", method="magnitude", stage="fine_tuned", sparsity=0.0, split="train")
    (valid,) = run.rows("sweep", method="magnitude", stage="fine_tuned", sparsity=0.0, split="val")
    assert control["loss"] < train_values["loss"]
    expected = {}
    for method, stage in measured(run):
        rows = run.rows("sweep", method=method, stage=stage)
        held = [("", train_values, val_values)] + [("control_", control, valid)] * (stage == "fine_tuned")
        for (start, of_train, of_val), (rule, epsilon) in itertools.product(held, epsilons.items()):
            for name, quantity in (("loss_tolerance", "loss"), ("objective_tolerance", "objective")):
                limit = of_train[quantity] + epsilon
                expected[method, stage, start + name, rule] = plain_thresholds(
                    rows, quantity, "train", lambda value, limit=limit: value <= limit
                )
            for drop in (1.0, 5.0):
                limit = of_val["accuracy"] - drop
                expected[method, stage, f"{start}accuracy_drop:{drop:g}", ""] = plain_thresholds(
                    rows, "accuracy", "val", lambda value, limit=limit: value >= limit
                )
    found = {}
    for row in run.rows("empirical"):
        assert row["threshold_lower"] <= row["threshold"] <= row["threshold_upper"]
        assert row["threshold"] == row["threshold_lower"]
        key = (row["method"], row["stage"], row["criterion"], row["epsilon_rule"])
        found[key] = (row["threshold_lower"], row["threshold_upper"], row["reached"])
    assert found == expected


def test_the_thresholds_table_sets_every_measurement_beside_the_predictions_of_its_method_and_criterion(run):
    expected = {}
    for guess, fact in itertools.product(run.rows("predictions"), run.rows("empirical")):
        function = "objective_tolerance" if "objective" in fact["criterion"] else "loss_tolerance"
        if (
            fact["epsilon_rule"] in ("", guess["epsilon_rule"])
            and fact["method"] == guess["method"]
            and guess["criterion"] in ("", function)
        ):
            key = (guess["predictor"], guess["operator"], guess["epsilon_rule"])
            key += (fact["method"], fact["stage"], fact["criterion"])
            expected[key] = [
                source[f"threshold{part}"] for source in (guess, fact) for part in ("", "_lower", "_upper")
            ]
            if not fact["reached"] or fact["threshold_upper"] - fact["threshold_lower"] > 0.05 + 1e-9:
                expected[key][3] = None
    found = {}
    for row in run.rows("thresholds"):
        known = row["empirical"] is not None
        assert row["gap"] == (row["predicted"] - row["empirical"] if known else None)
        key = tuple(row[name] for name in ("predictor", "operator", "epsilon_rule", "method", "stage", "criterion"))
        found[key] = [row[f"{name}{part}"] for name in ("predicted", "empirical") for part in ("", "_lower", "_upper")]
    assert found == expected
    assert {key[4] for key in found} == {"one_shot", "fine_tuned", "trained"}
    assert {key[3] for key in found} == set(run.experiment.pruning.methods)


def test_the_csv_file_says_what_the_thresholds_table_says(run):
    with open(run.plan.path("tables/thresholds.csv"), newline="") as stream:
        written = list(csv.DictReader(stream))
    table = run.rows("thresholds")
    assert len(written) == len(table)
    for text, row in zip(written, table, strict=True):
        assert list(text) == list(row)
        assert text == {key: "" if value is None else str(value) for key, value in row.items()}


def test_costs_come_from_the_benchmarks_that_are_there(run):
    rows = [{key: row[key] for key in ("rule", "seconds", "max_rss_mb", "cpu_seconds")} for row in run.rows("costs")]
    assert rows == [
        {"rule": "predict", "seconds": 0.0101, "max_rss_mb": 0.0, "cpu_seconds": 0.0},
        {"rule": "train", "seconds": 1.5, "max_rss_mb": 250.25, "cpu_seconds": 1.25},
    ]


def test_the_tables_do_not_depend_on_the_order_of_the_parts(run, tmp_path):
    at = run.at()
    parts = {name: files[::-1] for name, files in run.plan.parts(at).items()}
    tables = {name: str(tmp_path / f"{name}.parquet") for name in RUN_TABLES}
    run.do("collect", inputs=parts, outputs=tables)
    for name, path in tables.items():
        if name != "costs":
            assert read_table(name, path).equals(read_table(name, run.plan.table(name))), name


def test_a_part_given_twice_is_refused(run, tmp_path):
    parts = run.plan.parts(run.at())["sweep"]
    tables = {name: str(tmp_path / f"{name}.parquet") for name in RUN_TABLES}
    with pytest.raises(TableError, match="two rows of table sweep"):
        run.do("collect", inputs={"sweep": [*parts, parts[0]]}, outputs=tables)


# --- the comparison -----------------------------------------------------------------------------------------


def test_the_comparison_holds_the_test_rows_of_the_asked_sparsities_and_no_published_number(run):
    experiment, compared = run.experiment, run.rows("comparison")
    asked = {0.0, *experiment.pruning.sparsities}
    expected = {(method, "one_shot", s) for method in experiment.pruning.methods for s in asked}
    tuned = {0.0, *experiment.fine_tuning.sparsities}
    expected |= {(method, "fine_tuned", s) for method in experiment.fine_tuning.methods for s in tuned}
    trained = {method for method, stage in measured(run) if stage == "trained"}
    expected |= {(method, "trained", s) for method in trained for s in experiment.sparse_training.sparsities}
    assert {(row["method"], row["stage"], row["sparsity"]) for row in compared} == expected
    for row in compared:
        key = {name: row[name] for name in ("method", "stage", "sparsity")}
        (tested,) = run.rows("sweep", split="test", **key)
        assert row["accuracy_mean"] == tested["accuracy"]
        assert row["epochs"] == tested["epochs"]
        assert row["compression"] == DIMENSION / tested["nonzeros"]
        assert row["speedup"] == pytest.approx(row["compression"])  # fully connected: one product a weight
        assert (row["run"], row["l1"], row["dataset"]) == (run.run.name, 1e-3, "digits(train_limit=200)")
        assert row["source"].startswith("measured: gwprune ")
    epochs = {
        stage: {row["epochs"] for row in compared if row["stage"] == stage} for stage in ("one_shot", "fine_tuned")
    }
    assert epochs == {"one_shot": {4}, "fine_tuned": {5}}
    citations = {row["citation"] for row in run.rows("published")}
    assert citations
    assert not citations & {row["source"] for row in compared}
    thresholds = run.rows("comparison_thresholds")
    assert len(thresholds) == len(run.rows("empirical"))
    assert all(row["seeds"] == 1 for row in thresholds)


def test_the_pages_show_the_comparison(run):
    best = min(run.rows("comparison", sparsity=0.5), key=lambda row: row["rank"])
    for page in ("comparison.md", "comparison.html"):
        text = Path(run.plan.path(f"tables/{page}")).read_text()
        assert f"{best['accuracy_mean']:.2f} (1)" in text


def test_the_folder_of_tables_says_what_each_of_its_files_is(run):
    readme = Path(run.plan.path("tables/README.md"))
    linked = set(re.findall(r"^\| \[`\S+`\]\((\S+)\) \| \w", readme.read_text(), re.MULTILINE))
    assert linked == {path.name for path in readme.parent.iterdir()} - {"README.md"}


# --- test data chooses nothing ------------------------------------------------------------------------------


def with_other_test_rows(table: pa.Table) -> pa.Table:
    changed = [
        {**row, "loss": 99.0, "objective": math.nan, "accuracy": 0.0} if row["split"] == "test" else row
        for row in table.to_pylist()
    ]
    return pa.Table.from_pylist(changed, schema=table.schema)


def test_measured_thresholds_depend_on_training_and_validation_rows_and_not_on_test_rows(run):
    table = read_table("sweep", run.plan.table("sweep"))
    criteria = criteria_of(run.file("dense"), run.experiment.epsilon, run.experiment.criteria.accuracy_drop)
    wanted = {(run.run.name, 0): criteria}
    expected = empirical_rows(table, wanted)
    controls = [method for method, stage in measured(run) if stage == "fine_tuned"]
    assert len(expected) == (len(measured(run)) + len(controls)) * (2 * 2 + 2)
    assert empirical_rows(with_other_test_rows(table), wanted) == expected
    only = table.filter(pc.not_equal(table["split"], "test"))
    assert empirical_rows(only, wanted) == expected
    changed = [{**row, "loss": 99.0, "objective": 99.0, "accuracy": 0.0} for row in table.to_pylist()]
    rows = empirical_rows(pa.Table.from_pylist(changed, schema=table.schema), wanted)
    assert all(row["threshold"] == 0.0 for row in rows if not row["criterion"].startswith("control"))


# --- figures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("figure", [*RUN_FIGURES, "predicted_vs_empirical"])
def test_every_figure_is_drawn_from_the_tables(run, tmp_path, figure):
    path = tmp_path / f"{figure}.svg"
    rule = "run_figures" if figure in RUN_FIGURES else "threshold_figure"
    told = {"figures": {figure: RUN_FIGURES.get(figure, ["thresholds"])}}
    files = {figure: str(path), f"{figure}_png": str(path.with_suffix(".png"))}
    run.do(rule, run.job if figure in RUN_FIGURES else Job(), outputs=files, settings=told)
    assert "<svg" in path.read_text()[:1000]
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 2
