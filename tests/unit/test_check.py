"""`gwprune check`: what a configuration asks for, before anything runs; and the arguments that all commands share."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from gwprune import config
from gwprune.__main__ import main
from gwprune.config.plan import Plan
from gwprune.jobs.check import outlook
from gwprune.tables.files import write_table
from tests.unit.helpers_config import values
from tests.unit.helpers_tables import row_of, table_of

MINE = """\
experiments:
  - dataset: digits
    network: fc
  - dataset: digits
    network: {name: cnn, options: {channels: [4]}}
    training: {epochs: 0}
seeds: [0, 1]
training:
  epoch: 3
  l1: [0, -1]
"""


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("mine.yaml")
    path.write_text(MINE)
    return path


def plan(**top) -> Plan:
    return Plan(config.load(values(**top)))


def cost(run: str, rule: str, seconds: float) -> dict:
    return row_of("costs", run=run, rule=rule, seconds=seconds)


# --- faults -------------------------------------------------------------------------------------------------


def test_every_fault_is_named_with_its_file_and_line(mine, capsys):
    assert main(["check", "mine.yaml"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    heading, *faults = captured.err.splitlines()
    assert heading == "gwprune: ConfigError: mine.yaml is not valid:"
    starts = sorted(fault.partition(": ")[0].strip() for fault in faults)
    # Those of the top level come once, not once more for each experiment that takes them over.
    assert starts == ["line 10, training.l1.1", "line 6, experiments.1.training.epochs", "line 9, training.epoch"]


def test_of_several_files_the_one_is_named_that_holds_the_fault(mine):
    mine.write_text(MINE.replace("epochs: 0", "epochs: 1").replace("epoch:", "epochs:").replace(", -1", ""))
    over = Path("over.yaml")
    over.write_text("# laid over it\nseeds: []\nfine_tuning:\n  epochs: none\n")
    both = config.read_file(mine) | config.read_file(over)
    with pytest.raises(config.ConfigError) as caught:
        config.load_for_workflow(both, [mine, over])
    heading, *faults = str(caught.value).splitlines()
    assert sorted(fault.partition(": ")[0].strip() for fault in faults) == [
        "over.yaml, line 2, seeds",
        "over.yaml, line 4, fine_tuning.epochs",
    ]


# --- the outlook --------------------------------------------------------------------------------------------


def test_jobs_are_counted_for_every_seed_network_and_data_set():
    found = outlook(plan(seeds=[0, 1, 2], training={"l1": [0, 1e-3]}))
    assert found.jobs["train"] == 6
    assert found.jobs["prepare_data"] == found.jobs["aggregate"] == 1
    assert found.jobs["collect"] == 2
    own = plan(seeds=[0, 1, 2], training={"l1": [0, 1e-3]})
    of_a_seed = Counter(job.rule for run in own.runs for job in own.jobs(run))
    assert {rule: 3 * count for rule, count in of_a_seed.items()}.items() <= found.jobs.items()
    assert len([line for line in found.networks if not line.startswith(" ")]) == 2


def test_times_are_those_of_the_same_network_or_else_of_the_rule():
    own = plan(seeds=[0, 1], training={"l1": [0, 1e-3]})
    plain, sparse = own.runs
    costs = [cost(plain, "train", 10), cost(plain, "train", 20), cost("another", "train", 300)]
    found = outlook(own, table_of("costs", [*costs, cost("", "prepare_data", 2)]))
    assert found.seconds == {"train": pytest.approx(2 * 15 + 2 * 110), "prepare_data": 2}


def test_check_prints_what_a_run_does_and_its_time(mine, capsys):
    mine.write_text(yaml.safe_dump(values(seeds=[0, 1], results="r")))
    assert main(["check", "--config", "mine.yaml"]) == 0
    assert "times: none known, r/tables/costs.parquet does not exist" in capsys.readouterr().out
    (name,) = plan(seeds=[0, 1]).runs
    write_table("costs", [cost(name, "train", 600)], "r/tables/costs.parquet", {})
    assert main(["check", "mine.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mine.yaml is valid; its results go to r"
    assert f"{name}: fc on digits, seeds 0, 1" in lines
    assert [line.split() for line in lines if line.startswith("  train ")] == [["train", "2", "20", "min"]]
    assert [line.split()[-3:] for line in lines if line.startswith("  all ")] == [["about", "20", "min"]]
    assert max(map(len, lines[:-1])) <= 80


# --- the command line ---------------------------------------------------------------------------------------


def test_check_imports_nothing_heavy_and_leaves_no_file(mine):
    mine.write_text(yaml.safe_dump(values()))
    script = "import sys; from gwprune.__main__ import main; main(sys.argv[1:]); print(*sys.modules, sep='\\n')"
    command = [sys.executable, "-c", script, "check", "mine.yaml"]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "pydantic" in modules
    heavy = {"torch", "matplotlib", "sklearn", "scipy", "snakemake", "pandas"}
    assert not {*heavy, "snakemake_interface_logger_plugins"} & set(modules)
    assert [path.name for path in Path().iterdir()] == ["mine.yaml"]


def test_check_needs_a_configuration(tmp_path, capsys):
    assert main(["check", str(tmp_path)]) == 1
    assert "is no configuration: name a .yaml or .json file" in capsys.readouterr().err


COMMANDS = ("check", "thresholds", "compare", "costs", "report")


@pytest.mark.parametrize("command", [*COMMANDS, "config-docs"])
def test_every_command_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"example: gwprune {command} " in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS[1:])
@pytest.mark.parametrize("tables", ["r", "r/tables"])
def test_results_are_found_by_folder_and_by_configuration(mine, tables, command, capsys):
    mine.write_text(yaml.safe_dump(values(results="r")))
    Path(tables).mkdir(parents=True)
    ways = (["r"], ["mine.yaml"], ["--config", "mine.yaml"])
    said = set()
    for way in ways:
        main([command, *way])
        said.add(capsys.readouterr().err)
    (text,) = said
    assert text.startswith(f"gwprune: FileNotFoundError: {'r/tables' if tables == 'r/tables' else 'r'}")
