"""Jobs of the rules `prepare_data`, `train` and `snapshot`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from gwprune import datasets
from gwprune.config.settings import settings_of
from gwprune.jobs import dense
from gwprune.jobs.artifacts import build_network, load_network
from gwprune.jobs.job import job
from gwprune.network.prunable import PrunableSet
from gwprune.storage.files import read_json
from gwprune.tables.files import read_table
from gwprune.training.evaluation import evaluate, l1_norm
from gwprune.training.train import Recipe, train

from .helpers_run import DIMENSION, SmallRun, state_of


def test_the_data_file_holds_as_many_images_as_asked(run):
    images = datasets.load(run.data)
    assert {split: len(labels) for split, labels in images.labels.items()} == {"train": 180, "val": 20, "test": 359}


def test_the_training_table_has_a_row_for_each_epoch(run):
    rows = run.rows("training")
    assert [(row["run"], row["seed"], row["epoch"]) for row in rows] == [(run.run.name, 0, n) for n in (1, 2, 3, 4)]
    assert rows[0]["lr"] == 0.2
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    validation = evaluate(run.network(), run.splits()["val"])
    assert (rows[-1]["val_loss"], rows[-1]["val_accuracy"]) == (validation.loss, validation.accuracy)


def test_the_dense_summary_describes_the_network_that_was_written(run):
    summary, model, splits = read_json(run.file("dense")), run.network(), run.splits()
    prunable = PrunableSet(model)
    assert summary["dimension"] == prunable.dimension == DIMENSION
    assert (summary["l1"], summary["batch_size"], summary["batches"]) == (1e-3, 16, 11)
    assert set(summary["splits"]) == {"train", "val"}
    for name, values in summary["splits"].items():
        expected = evaluate(model, splits[name])
        assert (values["loss"], values["accuracy"]) == (expected.loss, expected.accuracy)
        assert values["objective"] == pytest.approx(expected.loss + 1e-3 * l1_norm(prunable), rel=1e-12)
    inputs, labels = splits["train"].as_tensors()
    parts = [slice(start, start + 16) for start in range(0, len(labels) - 15, 16)]
    with torch.no_grad():
        losses = [float(functional.cross_entropy(model(inputs[part]), labels[part])) for part in parts]
    assert summary["batch_std"] == pytest.approx(np.std(losses, ddof=1), rel=1e-6)
    assert 0 < summary["batch_std_standard_error"] < summary["batch_std"]


def test_finished_jobs_leave_no_checkpoint(run):
    assert run.unfinished() == []


def test_training_again_gives_the_same_network_bit_for_bit_and_another_seed_does_not(run, empty):
    empty.do("train")
    assert state_of(empty.file("network")) == state_of(run.file("network"))
    assert read_json(empty.file("dense")) == read_json(run.file("dense"))
    empty.do("train", replace(run.job, seed=1))
    assert state_of(empty.file("network")) != state_of(run.file("network"))


def test_a_training_job_that_was_killed_goes_on_where_it_was(run, empty, monkeypatch):
    epochs = []

    def killed(*args, progress, **options):
        def stop(record):
            progress(record)
            if record.epoch == 2:
                raise KeyboardInterrupt

        return train(*args, progress=stop, **options)

    def counted(*args, progress, **options):
        def count(record):
            epochs.append(record.epoch)
            progress(record)

        return train(*args, progress=count, **options)

    monkeypatch.setattr(dense, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        empty.do("train")
    assert len(empty.unfinished()) == 1
    assert not Path(empty.file("network")).exists()
    monkeypatch.setattr(dense, "train", counted)
    empty.do("train")
    assert epochs == [3, 4]
    assert state_of(empty.file("network")) == state_of(run.file("network"))
    assert read_table("training", empty.file("training")).num_rows == 4
    assert empty.unfinished() == []


@pytest.mark.parametrize(
    "recipe",
    [
        {"lr": 1e30, "momentum": 0.0, "schedule": "constant"},
        # One step in all: its loss is finite, the network that it leaves is not.
        {"lr": 1e38, "momentum": 0.0, "schedule": "constant", "epochs": 1, "batch_size": 180},
    ],
    ids=["in the middle", "in the last step"],
)
def test_a_training_that_diverges_leaves_no_network_and_ends_the_job_with_epoch_and_step(empty, tmp_path, recipe):
    log = tmp_path / "train.log"
    # Batch normalisation would hide that the weights are huge.
    plain = {"name": "fc", "options": {"hidden": [12]}}
    with pytest.raises(SystemExit) as caught, job(log, **empty.key) as this:
        empty.do("train", this, settings={"network": plain, "recipe": {**empty.run.recipe(), **recipe}})
    first, second = caught.value.code.splitlines()
    assert first.startswith("gwprune: DivergedError: ")
    assert "epoch 1, step " in first
    assert second == f"(log: {log})"
    assert "Traceback" in log.read_text()
    assert not any(Path(empty.file(name)).exists() for name in ("network", "training", "dense"))


# --- snapshots ----------------------------------------------------------------------------------------------


@pytest.fixture
def snapshots(run, empty) -> SmallRun:
    for epoch in (0, 1, 4):
        empty.do("snapshot", epoch=str(epoch))
    return empty


def test_the_snapshot_after_the_last_epoch_is_the_dense_network(run, snapshots):
    assert state_of(snapshots.file("snapshot", epoch=4)) == state_of(run.file("network"))
    assert state_of(snapshots.file("snapshot", epoch=1)) == state_of(run.file("snapshot", epoch=1))
    assert state_of(snapshots.file("snapshot", epoch=1)) != state_of(run.file("network"))


def test_the_snapshot_before_the_first_epoch_is_the_seeded_network(run, snapshots):
    path = snapshots.file("snapshot", epoch=0)
    torch.manual_seed(0)
    expected = build_network(torch.load(path, weights_only=True)["description"]).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_network(path).state_dict().items())
    network = settings_of(run.plan, "train", run.at())["network"]
    model, description = dense.initial_network(run.job, datasets.load(run.data), network)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert description == torch.load(path, weights_only=True)["description"]
    assert not model.training


def test_dense_training_goes_on_from_a_snapshot(run):
    """Without momentum: the first steps after the break differ, so only the schedule and data order are the same."""
    model, other = run.network("snapshot", epoch=1), run.network("snapshot", epoch=1)
    recipe, splits = Recipe(**{**run.run.recipe(), "momentum": 0.0}), run.splits()
    train(model, splits["train"], splits["val"], recipe, 0, first_epoch=1)
    train(other, splits["train"], splits["val"], recipe, 0, first_epoch=1, last_epoch=2)
    train(other, splits["train"], splits["val"], recipe, 0, first_epoch=2)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())
