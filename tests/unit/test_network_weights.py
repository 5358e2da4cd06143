"""A run that begins with a trained network, `network.weights`, in place of training."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gwprune import config, models
from gwprune.config.plan import Plan
from gwprune.figures import training_history
from gwprune.jobs.artifacts import ArtifactError
from gwprune.jobs.check import outlook
from gwprune.storage.files import read_json
from gwprune.tables.files import read_table

from .helpers_config import only_fault, values
from .helpers_run import VALUES, SmallRun, state_of
from .test_plan import all_jobs

HALVES = "tests.unit.helpers_methods:halves"


@pytest.fixture
def file(run, tmp_path) -> Path:
    """The weights of the finished run's network."""
    path = tmp_path / "model.pt"
    torch.save(run.network().state_dict(), path)
    return path


def given(path: Path, **sections) -> dict:
    """Sections of the small run, with the network from a file, and little to do."""
    experiment = VALUES["experiments"][0]
    network = {**experiment["network"], "weights": str(path)}
    pruning = {**VALUES["pruning"], "methods": ["magnitude"]}
    tuning = {**VALUES["fine_tuning"], "methods": ["magnitude"], "sparsities": [0.9], "resolution": 0.9}
    less = {"pruning": pruning, "fine_tuning": tuning, "sparse_training": {}}
    return {"experiments": [{**experiment, "network": network}], **less, **sections}


# --- what is refused -----------------------------------------------------------------------------------------


def refused(path: Path, **sections) -> str:
    return only_fault(values({"network": {"name": "fc", "weights": str(path)}}, **{"training": {"l1": 0}, **sections}))


def test_a_file_that_is_not_there_is_named_with_its_key(tmp_path):
    line = refused(tmp_path / "none.pt")
    assert line.startswith(f"experiments.0.network.weights: there is no file '{tmp_path}/none.pt'")
    assert "experiments.0.network.weights: there is no file" in refused(tmp_path)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"training": {}}, "training.l1 must be the one coefficient that it was trained with, .*; none is given"),
        ({"training": {"l1": [0, 1e-3]}}, r"training.l1 must be the one .*; \[0.0, 0.001\] are given"),
        ({"fine_tuning": {"rewinding": "weights"}}, "fine_tuning.rewinding 'weights' goes .*; allowed: none"),
        ({"fine_tuning": {"rewinding": "learning_rate"}}, "fine_tuning.rewinding 'learning_rate' goes"),
        ({"sparse_training": {"methods": ["snip", "imp", "gmp", "magnitude"]}}, r"\(snip, imp, gmp, magnitude\)"),
        (
            {"sparse_training": {"methods": [HALVES], "options": {HALVES: {"start": "rewound"}}}},
            r"trains the untrained network \(tests.unit.helpers_methods:halves\), and that of network.weights is",
        ),
        ({"sparse_training": {"methods": [HALVES], "controls": ["reinitialise"]}}, r"\(reinitialise\)"),
    ],
)
def test_what_needs_the_training_of_the_network_is_refused(tmp_path, sections, said):
    (tmp_path / "model.pt").touch()
    assert re.search(f"experiments.0: .*{said}", refused(tmp_path / "model.pt", **sections))


# --- what is planned -----------------------------------------------------------------------------------------


def test_a_changed_recipe_reruns_nothing_and_another_file_l1_or_batch_the_network(file, tmp_path):
    def jobs(path: Path = file, **training) -> dict:
        told = {**VALUES["training"], **training}
        return all_jobs({**VALUES, **given(path, training=told)}, Path("results"))

    before = jobs()
    (train,) = [key for key in before if key[1] == "train"]
    settings, inputs, _ = before[train]
    assert settings["recipe"] == {"batch_size": 16, "l1": 1e-3}
    assert str(file) in inputs
    assert [key[1] for key, (_, used, _) in before.items() if str(file) in used] == ["train"]
    assert jobs(epochs=9, lr=0.01, momentum=0.5, schedule="constant") == before
    assert jobs(batch_size=8)[train] != before[train]
    assert jobs(l1=0)[("small_l1-0", *train[1:])] != before[train]
    other = tmp_path / "other.pt"
    other.touch()
    assert jobs(other)[train] != before[train]


def test_the_network_of_other_jobs_is_told_without_the_file():
    planned = all_jobs(VALUES, Path("results"))
    networks = [settings["network"] for settings, _, _ in planned.values() if settings.get("network")]
    assert networks
    assert all(set(network) == {"name", "options"} for network in networks)


def test_a_relative_file_stays_where_it_is_in_a_workflow_that_moves_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.pt").touch()
    loaded = config.load({**VALUES, **given(Path("model.pt"))})
    for plan, path in ((Plan(loaded), "model.pt"), (Plan(loaded, "limits/".__add__), str(tmp_path / "model.pt"))):
        (run,) = plan.runs
        assert plan.weights(SimpleNamespace(run=run)) == {"weights": path}
    assert "  train: model.pt, l1 0.001" in outlook(Plan(loaded)).networks


def test_the_experiment_of_the_page_is_a_valid_one(tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[2] / "docs/your_network.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("mypkg").mkdir()
    Path("mypkg/nets.py").write_text("def build(input_shape, classes): ...")
    Path("model.safetensors").touch()
    Path("my.yaml").write_text(re.search(r"^( {4}experiments:\n.*?)\n\n(?! {4})", page, re.MULTILINE | re.DOTALL)[1])
    assert config.load_file("my.yaml").experiments[0].network.weights == "model.safetensors"


# --- what is done --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pt", "safetensors", "checkpoint", "gwprune"])
def test_the_network_and_its_losses_are_those_of_the_file(run, tmp_path, form):
    path, state = tmp_path / f"model.{'safetensors' if form == 'safetensors' else 'pt'}", run.network().state_dict()
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"pt": state, "checkpoint": {"epoch": 4, "model": state}}.get(form), path)
    taken = SmallRun(tmp_path / "results", data=run, **given(Path(run.file("network")) if form == "gwprune" else path))
    taken.do("train")
    assert state_of(taken.file("network")) == state_of(run.file("network"))
    assert read_json(taken.file("dense")) == read_json(run.file("dense"))
    assert read_table("training", taken.file("training")).num_rows == 0
    assert taken.unfinished() == []


def test_another_seed_takes_the_same_network(run, tmp_path, file):
    taken = SmallRun(tmp_path / "results", data=run, **given(file))
    taken.do("train", replace(run.job, seed=1))
    assert state_of(taken.file("network")) == state_of(run.file("network"))


def test_all_that_follows_is_as_after_training_but_for_the_epochs(run, tmp_path, file):
    taken = SmallRun(tmp_path / "results", **given(file))
    taken.finish()

    def rows(of: SmallRun, table: str, **values) -> list[dict]:
        return of.rows(table, method="magnitude", **values)

    assert rows(taken, "predictions") == rows(run, "predictions")
    mine, trained = rows(taken, "sweep", stage="one_shot"), rows(run, "sweep", stage="one_shot")
    assert [{**row, "epochs": 4.0} for row in mine] == trained
    assert {row["epochs"] for row in mine} == {0.0}
    mine, trained = (rows(each, "sweep", stage="fine_tuned", sparsity=0.9) for each in (taken, run))
    assert [{**row, "epochs": 5.0} for row in mine] == trained
    assert {row["epochs"] for row in mine} == {1.0}
    assert taken.rows("training") == []
    picture = tmp_path / "history.svg"
    training_history(read_table("training", taken.plan.table("training")), taken.run.name, picture)
    assert picture.stat().st_size


def test_a_method_of_ones_own_may_go_on_from_it_level_by_level(run, tmp_path, file):
    sparse = {"methods": [HALVES], "sparsities": [0.8]}
    taken = SmallRun(tmp_path / "results", data=run, **given(file, sparse_training=sparse))
    taken.do("train")
    for job in taken.plan.jobs(taken.run.name):
        if job.rule in ("level", "measure"):
            taken.do(job.rule, **job.wildcards)
    rows = read_table("sweep", taken.file("measured", method=HALVES.replace(".", "-").replace(":", "--"))).to_pylist()
    assert {(row["sparsity"], row["epochs"]) for row in rows} == {(0.8, 2.0)}


def test_a_file_of_another_network_is_refused_by_name(run, tmp_path, file):
    torch.save(models.build("fc", (1, 8, 8), 10, hidden=[7]).state_dict(), file)
    taken = SmallRun(tmp_path / "results", data=run, **given(file))
    with pytest.raises(ArtifactError, match=rf"network\.weights: {file} does not fit the network"):
        taken.do("train")
    torch.save(nn.Linear(2, 2), file)
    with pytest.raises(ValueError, match=f"{file} holds more than tensors"):
        taken.do("train")
    assert not Path(taken.file("network")).exists()


def test_a_network_that_knows_nothing_of_the_data_is_warned_of_and_one_of_nan_is_refused(run, tmp_path, file, caplog):
    state = run.network().state_dict()
    last = max(name for name in state if name.endswith(".weight"))
    torch.save({**state, last: -state[last]}, file)
    taken = SmallRun(tmp_path / "results", data=run, **given(file))
    with caplog.at_level(logging.WARNING, "gwprune"):
        taken.do("train")
    assert re.search(rf"training loss of {file} is \S+, no better than guessing \({math.log(10):.4g}\)", caplog.text)
    torch.save({**state, last: state[last] * math.nan}, file)
    with pytest.raises(ValueError, match=f"network.weights: the training loss of {file} is nan"):
        taken.do("train")
