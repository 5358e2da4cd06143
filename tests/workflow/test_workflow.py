"""The workflow as a user runs it: real Snakemake, real jobs, tiny networks."""

import re
import xml.etree.ElementTree as ElementTree

import matplotlib.pyplot as plt
import nbformat
import pyarrow.parquet as pq
import pytest

from gwprune.config import load
from gwprune.config.plan import Plan
from gwprune.jobs.check import outlook
from gwprune.tables.terminal import print_thresholds
from tests.unit.helpers_screen import screen
from tests.workflow.conftest import ROOT, Workflow, changed

pytestmark = pytest.mark.workflow

PREDICTORS = ("width", "quadratic", "trace_bound", "statistical_dimension")


@pytest.fixture(scope="module")
def tables(finished) -> dict:
    return finished.tables()


def test_all_tables_are_written_with_provenance_and_rows(finished, tables):
    for name, table in tables.items():
        assert table.num_rows > 0, name
        metadata = pq.read_schema(finished.directory / f"results/tables/{name}.parquet").metadata
        assert metadata[b"gwprune.table"].decode() == name
        assert metadata[b"gwprune.config_hash"]
        assert metadata[b"gwprune.torch"]
    assert (finished.directory / "results/tables/thresholds.csv").read_text().startswith("run,seed,predictor")


def test_predictions_lie_in_their_intervals(tables):
    rows = tables["predictions"].to_pylist()
    found = {(row["predictor"], row["operator"]) for row in rows}
    assert found == {(p, o) for p in PREDICTORS for o in ("hessian", "ggn")}
    for row in rows:
        assert 0 <= row["threshold_lower"] <= row["threshold"] <= row["threshold_upper"] <= 1
        assert row["dimension"] == 64 * 16 + 16 * 10


def test_sweep_counts_zeros_exactly_and_holds_every_asked_point(tables):
    rows = tables["sweep"].to_pylist()
    one_shot = {(row["method"], row["sparsity"], row["split"]): row for row in rows if row["stage"] == "one_shot"}
    for method in ("magnitude", "taylor"):
        for sparsity, zeros in ((0.0, 0), (0.3, 356), (0.6, 711), (0.9, 1066)):  # ceil(s * 1184)
            for split in ("train", "val", "test"):
                assert one_shot[method, sparsity, split]["nonzeros"] == 1184 - zeros
    tuned = [row for row in rows if row["stage"] == "fine_tuned"]
    assert {(row["method"], row["sparsity"]) for row in tuned} > {("magnitude", 0.0), ("magnitude", 0.6)}


def test_brackets_of_both_limits_are_as_narrow_as_asked(tables):
    widths = {"one_shot": 0.02, "fine_tuned": 0.1}
    shown = set()
    for row in tables["empirical"].to_pylist():
        assert row["threshold_lower"] <= row["threshold"] < row["threshold_upper"] <= 1
        searched = row["stage"] == "one_shot" or row["criterion"] == "control_loss_tolerance"
        if searched and (row["reached"] or row["stage"] == "fine_tuned"):
            assert row["threshold_upper"] - row["threshold_lower"] <= widths[row["stage"]] + 1e-9
            shown.add(row["stage"])
    assert shown == set(widths)


def test_the_terminal_shows_both_limits(finished, capsys):
    print_thresholds(finished.directory / "results")
    output = capsys.readouterr().out
    assert re.search(
        r"0 +│ one-shot +│ width +│ 0\.\d{4} \[.*\n.*0 +│ fine-tuned +│ statistical_dimension +│ 0", output
    )


def test_a_run_shows_its_jobs_while_they_work_and_ends_with_where_its_results_are(finished):
    text = finished.directory.with_suffix(".done").read_bytes().decode()
    for line in (r"\d+ of 18 jobs done, about \d+ (s|min) left", r"  tiny_l1-1e-3 seed 0 train( +\S.*)?"):
        assert re.search(rf"\n{line}\r", text), text
    lines = screen(text, 80)
    end = next(number for number, line in enumerate(lines) if line.startswith("18 of 18 jobs are done, after "))
    # Nothing of what was drawn while the jobs worked is left.
    assert not [line for line in lines if line.startswith("  ") or "jobs done" in line]
    assert lines[end + 1 : end + 3] == [
        "tables: results/tables (what each is: results/tables/README.md)",
        "figures: results/figures",
    ]
    assert re.match(r"the limits: \S*gwprune thresholds --config ", lines[end + 3])
    assert not re.search("Finished jobid|Building DAG", text)


def test_check_counts_the_jobs_that_snakemake_plans(finished, tiny):
    planned = finished.plan(tiny, "--forceall")
    assert planned.pop("all") == 1
    assert outlook(Plan(load(tiny))).jobs == planned


def test_every_job_left_a_log_and_a_cost(finished, tables):
    costs = tables["costs"].to_pylist()
    rules = {row["rule"] for row in costs}
    predicting = {"spectrum", "quadratic", "statistical_dimension", "predict"}
    assert rules == {"prepare_data", "train", "rank", "sweep", "finetune", "bracket"} | predicting
    logs = list((finished.directory / "results/logs").rglob("*.log"))
    assert len(logs) == len(costs) + 4  # collect, aggregate and the two rules of figures are no part of the table
    assert all(log.stat().st_size for log in logs)
    assert not list((finished.directory / "results/checkpoints").glob("*"))


def test_figures_are_pictures(finished):
    figures = list((finished.directory / "results/figures").rglob("*.svg"))
    assert len(figures) == len(list((finished.directory / "results/figures").rglob("*.png"))) == 6
    for figure in figures:
        assert ElementTree.parse(figure).getroot().tag.endswith("svg")


def test_a_second_run_has_nothing_to_do(finished, tiny):
    assert "Nothing to be done" in finished.dry_run(tiny)


ALWAYS = {"collect", "aggregate", "all", "run_figures", "threshold_figure"}


# Which jobs each change concerns is the plan's: tests/unit/test_plan.py. Here, that Snakemake sees it so.
def test_a_change_reruns_the_jobs_that_depend_on_it_and_no_other(finished, tiny):
    plan = finished.plan(changed(tiny, "spectrum", steps=25))
    expected = {"spectrum": 2, "predict": 1, "statistical_dimension": 2}
    assert {rule: count for rule, count in plan.items() if rule not in ALWAYS} == expected


def test_code_that_was_edited_runs_again_by_the_command_of_the_documentation(finished, tiny):
    section = (ROOT / "config/README.md").read_text().partition("**Code is not watched.**")[2]
    (words,) = re.findall(r"snakemake --cores all (--forcerun .*)", section)
    plan = finished.plan(tiny, *words.split())
    expected = {"spectrum": 2, "predict": 1, "statistical_dimension": 2}
    assert {rule: count for rule, count in plan.items() if rule not in ALWAYS} == expected


def test_resources_and_places_of_downloads_rerun_nothing(finished, tiny):
    assert finished.plan({**tiny, "resources": {"train": {"runtime": 7}}, "data_dir": "elsewhere"}) == {}


def test_a_file_without_experiments_does_not_inherit_those_of_the_default(tmp_path):
    assert "experiments: Field required" in Workflow(tmp_path).dry_run({"training": {"epochs": 3}}, status=1)


def test_a_new_network_leaves_the_tables_and_figures_of_the_others_alone(finished, tiny):
    other = {"name": "other", "dataset": tiny["experiments"][0]["dataset"], "network": "fc"}
    plan = finished.plan({**tiny, "experiments": [*tiny["experiments"], other]})
    assert plan["train"] == plan["collect"] == plan["run_figures"] == plan["aggregate"] == 1


def test_a_bad_configuration_is_refused_before_any_job(tmp_path, tiny):
    text = Workflow(tmp_path).run(changed(tiny, "training", epoch=3), status=1)
    assert re.search(r"training\.epoch: unknown key; .*did you mean 'epochs'", text)
    assert not (tmp_path / "results").exists()


def test_a_diverging_training_fails_by_name_and_leaves_nothing_that_looks_finished(tmp_path, tiny):
    text = Workflow(tmp_path).run(changed(tiny, "training", lr=1e12), status=1)
    said = r"failed: tiny_l1-1e-3 seed 0 train\n  DivergedError: the training loss is not finite at epoch 1, step \d+.*"
    assert re.search(said + r"\n  log: .*/train/.*\.log\n\nTo go on: \S*snakemake .*--configfile", text), text
    assert not re.search("CalledProcessError|WorkflowError", text)
    assert not list(tmp_path.glob("results/runs/**/*.*"))
    assert not (tmp_path / "results/tables").exists() or not list((tmp_path / "results/tables").iterdir())


def test_the_report_is_one_file_with_every_figure(finished, tiny):
    path = finished.directory / "report.html"
    finished.run(tiny, "--report", str(path))
    text = path.read_text()
    assert "predicted_vs_empirical" in text
    for name in ("training_history", "spectral_density", "width_curve", "sparsity_sweep", "tradeoff", "comparison"):
        assert name in text
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="https?://', text)


def test_the_notebook_of_the_demo_reads_a_run_and_draws_it(finished):
    notebook = nbformat.read(ROOT / "docs/notebooks/demo.ipynb", as_version=4)
    program = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    for name, value in (("RESULTS", f"Path({str(finished.directory / 'results')!r})"), ("SPARSITY", "0.9")):
        program, count = re.subn(f"(?m)^{name} = .*", f"{name} = {value}", program)
        assert count == 1
    plt.switch_backend("Agg")
    names: dict = {}
    try:
        exec(program, names)
        assert [[bool(axes.has_data()) for axes in plt.figure(n).axes] for n in plt.get_fignums()] == 4 * [[True]]
    finally:
        plt.close("all")
    assert set(names["limits"].stage) == {"one_shot", "fine_tuned"}
