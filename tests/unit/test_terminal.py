"""The terminal's table of thresholds and the command line."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import gwprune
from gwprune.__main__ import main
from gwprune.config.models import Resources
from gwprune.config.plan import SECTION_OF_RULE
from gwprune.spectral.predictors import PREDICTORS
from gwprune.tables.costs import advice
from gwprune.tables.files import write_table
from gwprune.tables.terminal import prediction_views, print_thresholds

from .helpers_tables import interval, row_of, table_of


def measured(stage="one_shot", criterion="loss_tolerance", empirical=(0.8328, 0.8328, 0.8338), **changes) -> dict:
    """A row of table `thresholds`."""
    predicted = changes.pop("predicted", (0.8581, 0.8304, 0.9191))
    ends = {**interval("predicted", *predicted), **interval("empirical", *empirical)}
    gap = None if empirical[0] is None else predicted[0] - empirical[0]
    values = {"run": "digits_fc_l1-3e-4", "stage": stage, "criterion": criterion, "gap": gap, **ends, **changes}
    return row_of("thresholds", **values)


CONTROL = "control_loss_tolerance"


def shown(rows: list[dict], width: int = 180, **options) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    for view in prediction_views(table_of("thresholds", rows), **options):
        console.print(view)
    return console.file.getvalue()


def cells_of(text: str) -> list[list[str]]:
    """The cells of the bodies of tables."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line[:1] == "│"]


def lines(rows: list[dict], **options) -> list[list[str]]:
    return cells_of(shown(rows, **options))


# --- the view -----------------------------------------------------------------------------------------------


def test_predicted_and_measured_numbers_stand_side_by_side():
    rows = [
        measured(),
        measured(criterion="objective_tolerance", empirical=(0.8904, 0.8904, 0.8914)),
        measured("fine_tuned", CONTROL, empirical=(0.95, 0.95, 0.98)),
        measured("fine_tuned", empirical=(0.7, 0.7, 0.701)),
        measured(criterion="accuracy_drop:1", empirical=(0.123456, 0.123456, 0.2)),
    ]
    assert lines(rows) == [["width", "hessian", "0.8581 [0.8304, 0.9191]", "+0.025", "-0.09"]]
    for title in ("digits_fc_l1-3e-4, seed 0, method magnitude, epsilon batch_std",
                  "measured one-shot, data loss: [0.8328, 0.8338]", "measured one-shot, objective: [0.8904, 0.8914]",
                  "measured fine-tuned, data loss: [0.9500, 0.9800]"):  # fmt: skip
        assert title in shown(rows)


@pytest.mark.parametrize(
    ("rows", "gaps"),
    [
        ([measured(empirical=(None, 0.0, 0.1))], ["-", "-"]),  # missed at once
        (
            [measured(empirical=(None, 0.98, 1.0)), measured("fine_tuned", CONTROL, empirical=(None, 0.95, 1.0))],
            ["-", "-"],
        ),  # never missed
        ([measured("fine_tuned", empirical=(0.95, 0.95, 0.98))], ["-", "-"]),  # no control
        ([measured(predicted=(0.75, 0.7, 0.8), empirical=(0.8, 0.8, 0.801))], ["-0.050", "-"]),
    ],
)
def test_bounds_and_what_was_not_measured(rows, gaps):
    (line,) = lines(rows)
    assert line[3:] == gaps
    (one,) = {row["empirical_lower"] for row in rows if row["stage"] == "one_shot"} or {None}
    assert ("measured one-shot" in shown(rows)) == (one is not None)


def test_each_run_rule_and_seed_has_a_block_and_each_predictor_and_operator_a_line_in_a_fixed_order():
    rows = [
        measured(run=run, seed=seed, predictor=predictor, operator=operator, epsilon_rule=rule)
        for run in ("b", "a")
        for seed in (10, 2)
        for predictor in ("later", *reversed(PREDICTORS))
        for operator in ("ggn", "hessian")
        for rule in ("relative:0.1", "batch_std")
    ]
    titles = re.findall(r"^(\w), seed (\d+), method magnitude, epsilon ([\w:.]+)", shown(rows), re.MULTILINE)
    assert titles == [
        (run, seed, rule) for run in "ab" for rule in ("batch_std", "relative:0.1") for seed in ("2", "10")
    ]
    names = [(predictor, operator) for predictor in (*PREDICTORS, "later") for operator in ("hessian", "ggn")]
    assert [tuple(cells[:2]) for cells in lines(rows)] == names * len(titles)


def test_each_model_of_a_predictor_stands_beside_its_own_criterion():
    objective = {"criterion": "objective_tolerance", "predicted": (0.89, 0.88, 0.9), "empirical": (0.9, 0.9, 0.901)}
    rows = [measured(predictor="quadratic"), measured(predictor="quadratic", **objective)]
    rows += [measured("fine_tuned", CONTROL), measured(), measured(**objective | {"predicted": (0.8581, 0.83, 0.92)})]
    rows.append(
        measured("fine_tuned", predictor="quadratic", **objective | {"criterion": "control_objective_tolerance"})
    )
    assert lines(rows) == [
        ["width", "hessian", "0.8581 [0.8304, 0.9191]", "+0.025", "+0.025"],
        ["quadratic", "hessian", "0.8581 [0.8304, 0.9191]", "+0.025", "-"],
        ["quadratic, objective", "hessian", "0.8900 [0.8800, 0.9000]", "-0.010", "-0.010"],
    ]


def test_measurements_of_other_methods_are_left_out():
    rows = [measured(), measured(method="random", empirical=(0.3, 0.3, 0.4))]
    assert "[0.8328, 0.8338]" in shown(rows)
    assert "[0.3000, 0.4000]" not in shown(rows)
    assert "measured one-shot, data loss: [0.3000, 0.4000]" in shown(rows, method="random")
    assert "method random" in shown(rows, method="random")


# --- the command ----------------------------------------------------------------------------------------------


STATISTICAL = {"predictor": "statistical_dimension", "predicted": (0.88, 0.87, 0.89)}


@pytest.fixture
def results(tmp_path) -> Path:
    rows = [
        measured(),
        measured(operator="ggn", predicted=(0.91, 0.9, 0.92)),
        measured(predictor="quadratic", predicted=(0.81, 0.8, 0.82)),
        measured("fine_tuned", CONTROL, empirical=(None, 0.0, 0.5)),
        measured("fine_tuned", CONTROL, empirical=(None, 0.0, 0.5), **STATISTICAL),
        measured(**STATISTICAL),
    ]
    write_table("thresholds", rows, tmp_path / "tables/thresholds.parquet", {})
    return tmp_path


def test_print_thresholds_shows_both_limits_and_names_the_files(results, capsys):
    print_thresholds(results)
    output = capsys.readouterr().out
    assert cells_of(output) == [
        ["0", "one-shot", "width", "0.8581 [0.8304, 0.9191]", "[0.8328, 0.8338]", "+0.025"],
        ["0", "fine-tuned", "statistical_dimension", "0.8800 [0.8700, 0.8900]", "< 0.5000", "-"],
    ]
    assert "digits_fc_l1-3e-4, method magnitude, epsilon batch_std" in output
    assert f"tables: {results}/tables/*.parquet\n" in output
    assert "report.html" not in output
    (results / "report.html").touch()
    print_thresholds(results)
    assert f"report: {results}/report.html\n" in capsys.readouterr().out


def test_every_predictor_is_shown_when_asked_for(results, capsys):
    assert main(["thresholds", str(results), "--all"]) == 0
    output = capsys.readouterr().out
    for text in ("0.8581 [0.8304, 0.9191]", "0.8100 [0.8000, 0.8200]", "0.9100 [0.9000, 0.9200]", "-0.023"):
        assert text in output


def test_lines_of_the_limits_fit_into_100_columns(tmp_path, capsys):
    wide = {"run": "fashion_mnist_resnet20_narrow_l1-3e-4", "seed": 1234, "epsilon_rule": "relative:0.125"}
    rows = [measured(**wide), measured("fine_tuned", CONTROL, (0.85, 0.85, 0.855), **wide, **STATISTICAL)]
    write_table("thresholds", rows, tmp_path / "tables/thresholds.parquet", {})
    print_thresholds(tmp_path)
    output = capsys.readouterr().out
    assert re.search(r"1234 +│ fine-tuned .*0\.8800 \[0\.8700, 0\.8900\].*\[0\.8500, 0\.8550\].*\+0\.030 ", output)
    assert all(len(line) <= 100 for line in output.splitlines() if str(tmp_path) not in line)


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("columns", ["80", "40"])
def test_tables_of_a_narrow_terminal_are_folded_into_80_columns_and_no_cell_is_cut(
    every, columns, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", columns)
    wide = {"run": "fashion_mnist_resnet20_narrow_l1-3e-4", "seed": 1234, "epsilon_rule": "relative:0.125"}
    rows = [measured(**wide), measured("fine_tuned", CONTROL, (0.85, 0.85, 0.8501), **wide, **STATISTICAL)]
    write_table("thresholds", rows, tmp_path / "tables/thresholds.parquet", {})
    print_thresholds(tmp_path, every)
    output = capsys.readouterr().out
    assert all(len(line) <= 80 for line in output.splitlines() if str(tmp_path) not in line)
    assert "…" not in output
    for text in ("0.8800", "[0.8700, 0.8900]", "[0.8500, 0.8501]", "+0.0300", "statistical_dimension"):
        assert text in output
    assert f"tables: {tmp_path}/tables/*.parquet\n" in output


def test_a_limit_without_its_prediction_is_shown_and_one_that_was_not_measured_is_not(tmp_path, capsys):
    rows = [measured(predictor="quadratic"), measured("fine_tuned", predictor="quadratic")]
    write_table("thresholds", rows, tmp_path / "tables/thresholds.parquet", {})
    print_thresholds(tmp_path)
    output = capsys.readouterr().out
    assert re.search(r"one-shot +│ - +│ +- │ +\[0\.8328, 0\.8338\] │ +- │", output)
    assert "fine-tuned │" not in output


def test_print_thresholds_without_results_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path}/nothing/tables/thresholds.parquet")):
        print_thresholds(tmp_path / "nothing")


def test_the_command_fails_with_one_line_on_missing_or_damaged_results(results, capsys):
    assert main(["thresholds", str(results / "nothing")]) == 1
    (results / "tables/thresholds.parquet").write_bytes(b"")
    assert main(["thresholds", str(results)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    missing, damaged = captured.err.splitlines()
    assert missing.startswith("gwprune: FileNotFoundError: ")
    assert damaged.startswith("gwprune: TableError: ")
    assert str(results / "tables/thresholds.parquet") in damaged


def module(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "gwprune", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "utf-8"})


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"gwprune {gwprune.__version__}\n"


def test_printing_thresholds_imports_nothing_heavy(results):
    script = "import sys; from gwprune.__main__ import main; main(sys.argv[1:]); print(*sys.modules, sep='\\n')"
    command = [sys.executable, "-c", script, "thresholds", str(results)]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "rich" in modules
    assert not {"torch", "matplotlib", "sklearn", "scipy", "snakemake", "pandas"} & set(modules)


def test_python_m_gwprune_returns_the_exit_status(results):
    good = module("thresholds", str(results))
    assert good.returncode == 0
    assert "0.8581 [0.8304, 0.9191]" in good.stdout
    bad = module("thresholds", str(results / "nothing"))
    assert bad.returncode == 1
    assert bad.stdout == ""
    assert str(results / "nothing") in bad.stderr
    assert "Traceback" not in bad.stderr


@pytest.mark.parametrize("arguments", [[], ["threshold"], ["thresholds", "results", "--config", "my.yaml"]])
def test_a_wrong_command_line_shows_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: gwprune" in capsys.readouterr().err


# --- costs --------------------------------------------------------------------------------------------------


def cost(rule: str, seconds: float, memory: float) -> dict:
    return row_of("costs", rule=rule, seconds=seconds, max_rss_mb=memory)


def test_advice_is_the_longest_and_largest_job_with_a_margin():
    jobs = [cost("predict", 2, 50), cost("train", 100, 700), cost("train", 1200, 900), cost("train", 300, 0)]
    train, predict = advice(table_of("costs", jobs), SECTION_OF_RULE)
    assert (train["rule"], train["section"], train["jobs"]) == ("train", "train", 3)
    assert (train["median_seconds"], train["longest_seconds"]) == (300, 1200)
    assert train["hours"] == pytest.approx(1600 / 3600)
    assert train["mem_mb"] == 1500  # 900 and 400 beside it
    assert train["runtime"] == 30  # 20 minutes and half as much again
    assert predict["runtime"] == 10
    assert predict["mem_mb"] == 500


def test_every_rule_with_a_cost_has_a_section_of_the_configuration():
    assert set(SECTION_OF_RULE.values()) == set(Resources.model_fields)


def test_a_reader_that_has_enough_is_no_fault(tmp_path):
    write_table("costs", [cost("train", 1200, 900)], tmp_path / "tables/costs.parquet", {})
    command = f"{sys.executable} -m gwprune costs {tmp_path} | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_costs_are_printed_for_a_results_directory(tmp_path, capsys):
    assert main(["costs", str(tmp_path)]) == 1
    assert "tables/costs.parquet does not exist; run the workflow first" in capsys.readouterr().err
    write_table("costs", [cost("train", 1200, 900)], tmp_path / "tables/costs.parquet", {})
    assert main(["costs", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert re.search(r"train\s+│ train\s+│\s+1 │\s+1200.0 │\s+1200.0 │\s+0.33 │\s+900 │\s+1500 │\s+30 │", output)
