"""Jobs of the rules `finetune` and `train_sparse`: training under a mask."""

from __future__ import annotations

import math
import os
import signal
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from gwprune import datasets
from gwprune.jobs import masked
from gwprune.jobs.artifacts import ArtifactError, load_ranking, load_sparse, save_ranking
from gwprune.jobs.dense import initial_network
from gwprune.jobs.job import job
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import Ranking, layerwise_shuffle, rank
from gwprune.tables.files import read_table
from gwprune.training.train import Recipe, train

from .helpers_run import DIMENSION, SmallRun

CHUNK = "500000-700000-192b51"


def initial(run: SmallRun) -> torch.nn.Module:
    return initial_network(run.job, datasets.load(run.data), run.experiment.network.model_dump())[0]


def finetune(run: SmallRun, path: Path, sparsities: list[float], this=None, **recipe) -> None:
    told = {"sparsities": sparsities, "recipe": {**run.run.fine_tuning(), **recipe}}
    run.do("finetune", this, outputs={"sweep": str(path)}, settings=told, method="magnitude", chunk="500000")


def finetuned(run: SmallRun, token: str) -> pa.Table:
    return read_table("sweep", run.file("fine_tuned", method="magnitude", chunk=token))


def accuracy(run: SmallRun, model: torch.nn.Module, kept: torch.Tensor, recipe: dict, first_epoch: int = 0) -> float:
    """By hand: of the network after training under a mask."""
    splits = run.splits()
    records = train(model, splits["train"], splits["val"], Recipe(**recipe), 0, mask=kept, first_epoch=first_epoch)
    return records[-1].val_accuracy


# --- fine-tuning --------------------------------------------------------------------------------------------


def test_fine_tuning_is_measured_at_every_asked_sparsity_and_improves_the_network(run):
    rows = run.rows("sweep", stage="fine_tuned")
    points = {(row["method"], row["sparsity"]) for row in rows}
    assert points >= {(method, sparsity) for method in ("magnitude", "lamp") for sparsity in (0.0, 0.5, 0.9)}
    (before,) = run.rows("sweep", stage="one_shot", method="magnitude", sparsity=0.9, split="train")
    (after,) = run.rows("sweep", stage="fine_tuned", method="magnitude", sparsity=0.9, split="train")
    assert after["loss"] < before["loss"]
    assert after["pruned_norm"] == pytest.approx(before["pruned_norm"], rel=1e-12)


def test_fine_tuning_is_repeatable_and_holds_its_mask(run, tmp_path, monkeypatch):
    trained = []

    def watched(model, *args, mask, **options):
        records = train(model, *args, mask=mask, **options)
        trained.append((PrunableSet(model).flatten(), mask))
        return records

    monkeypatch.setattr(masked, "train", watched)
    finetune(run, tmp_path / "f.parquet", [0.9])
    ((weights, mask),) = trained
    assert not weights[~mask].any()
    assert int((~mask).sum()) == math.ceil(Fraction("0.9") * DIMENSION)
    assert torch.equal(mask, rank("magnitude", PrunableSet(run.network()), 0).mask(0.9))
    assert read_table("sweep", tmp_path / "f.parquet").equals(finetuned(run, "900000"))


def test_a_chunk_of_sparsities_gives_the_rows_of_single_jobs(run, tmp_path):
    finetune(run, tmp_path / "f.parquet", [0.5, 0.9])
    single = pa.concat_tables([finetuned(run, token) for token in ("500000", "900000")])
    keys = [(name, "ascending") for name in ("sparsity", "split")]
    assert read_table("sweep", tmp_path / "f.parquet").sort_by(keys).equals(single.sort_by(keys))


@pytest.mark.parametrize("killed_in", [1, 2, 3, 4])
def test_a_chunk_that_was_interrupted_goes_on_at_its_epoch_with_the_same_rows(run, tmp_path, monkeypatch, killed_in):
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
    path = tmp_path / "f.parquet"

    def attempt():
        with job(tmp_path / "a.log", **run.key, device="cpu") as this:
            finetune(run, path, [0.5, 0.9], this, epochs=2)

    if killed_in < 4:
        with pytest.raises(SystemExit) as caught:
            attempt()
        assert caught.value.code == 75
        assert not path.exists()
    attempt()
    assert epochs == [1, 2, 1, 2]
    assert {file.name for file in tmp_path.iterdir()} == {"a.log", "f.parquet"}
    for sparsity in (0.5, 0.9):
        finetune(run, tmp_path / "single.parquet", [sparsity], epochs=2)
        rows = [row for row in read_table("sweep", path).to_pylist() if row["sparsity"] == sparsity]
        assert rows == read_table("sweep", tmp_path / "single.parquet").to_pylist()


def test_the_rows_of_another_recipe_are_set_aside_with_a_warning(run, tmp_path, caplog):
    path = tmp_path / f"{run.run.name}_seed0_magnitude_500000.json"
    path.write_text('{"guard": "x", "rows": {"0.5": []}}')
    finetune(run, tmp_path / "f.parquet", [0.5])
    assert read_table("sweep", tmp_path / "f.parquet").equals(finetuned(run, "500000"))
    assert caplog.messages[0].startswith(f"checkpoint {path} is set aside")


def test_a_fine_tuning_that_diverges_writes_no_table(run, tmp_path):
    with pytest.raises(SystemExit, match="DivergedError.*epoch 1, step"), job(tmp_path / "a.log", **run.key) as this:
        finetune(run, tmp_path / "f.parquet", [0.5], this, lr=1e38, momentum=0.0, schedule="constant")
    assert not (tmp_path / "f.parquet").exists()


@pytest.mark.parametrize("rewinding", ["learning_rate", "weights"])
def test_rewound_fine_tuning_goes_through_the_last_epochs_of_dense_training(run, tmp_path, rewinding):
    """Back by three epochs, to the first."""
    told = {"recipe": run.run.recipe(), "first_epoch": 1, "sparsities": [0.6]}
    weights = {"rewound": run.file("snapshot", epoch=1)} if rewinding == "weights" else {}
    path = str(tmp_path / "f.parquet")
    run.do("finetune", inputs=weights, outputs={"sweep": path}, settings=told, method="magnitude", chunk="500000")
    kept = rank("magnitude", PrunableSet(run.network()), 0).mask(0.6)
    start = run.network("snapshot", epoch=1) if weights else run.network()
    expected = accuracy(run, start, kept, run.run.recipe(), first_epoch=1)
    dense = run.flat().double()
    for row in read_table("sweep", path).to_pylist():
        assert (row["stage"], row["epochs"]) == ("fine_tuned", 4 + 3)
        assert row["pruned_norm"] == pytest.approx(float(dense[~kept].norm()))
        if row["split"] == "val":
            assert row["accuracy"] == expected


# --- training from the start --------------------------------------------------------------------------------


def trained(run: SmallRun, **values) -> list[dict]:
    return run.rows("sweep", stage="trained", split="val", **values)


@pytest.mark.parametrize("method", ["snip", "synflow", "lamp"])
def test_a_network_is_trained_from_its_start_under_the_mask_of_its_method(run, method):
    rows = trained(run, method=method)
    assert [row["sparsity"] for row in rows] == [0.5, 0.7]
    weights = PrunableSet(initial(run)).flatten().double()
    for row in rows:
        if method == "synflow":  # a mask for each sparsity
            file = run.file("mask", method="synflow", sparsity=f"{round(row['sparsity'] * 1e6)}")
            kept = load_ranking(file, DIMENSION).mask(row["sparsity"])
        elif method == "snip":
            kept = load_ranking(run.file("ranking", method="snip"), DIMENSION).mask(row["sparsity"])
        else:  # of the trained network, ranked in the job
            kept = rank("lamp", PrunableSet(run.network()), 0).mask(row["sparsity"])
        assert row["epochs"] == 5 + (4 if method == "lamp" else 0)
        assert row["accuracy"] == accuracy(run, initial(run), kept, run.run.sparse_recipe())
        assert row["pruned_norm"] == pytest.approx(float(weights[~kept].norm()))


def test_controls_shuffle_the_mask_or_take_other_weights(run):
    kept = load_ranking(run.file("ranking", method="snip"), DIMENSION).mask(0.7)
    plain, shuffled, drawn = (
        trained(run, method=f"snip{end}", sparsity=0.7)[0] for end in ("", "_layerwise_shuffle", "_reinitialise")
    )
    other = layerwise_shuffle(kept, PrunableSet(initial(run)), 0)
    assert shuffled["accuracy"] == accuracy(run, initial(run), other, run.run.sparse_recipe())
    assert not torch.equal(other, kept)
    assert drawn["pruned_norm"] != plain["pruned_norm"]
    assert drawn["nonzeros"] == plain["nonzeros"]
    assert shuffled["multiply_adds"] == plain["multiply_adds"]


def test_the_mask_of_an_iterative_method_can_be_trained_from_the_start(run, tmp_path):
    row = trained(run, method="imp_reinitialise", sparsity=0.5)[0]
    assert row["epochs"] == 4 + 3 + 5  # dense, one level from epoch 1 on, from the start
    states = run.plan.states(run.at(method="imp"))
    with pytest.raises(ArtifactError, match=r"removes 444 weights; at sparsity 0\.6 they should be 533"):
        run.do(
            "train_sparse",
            outputs={"sweep": str(tmp_path / "x.parquet")},
            settings={"sparsities": [0.6, 0.7]},
            inputs={"states": states},
            method="imp_reinitialise",
            chunk=CHUNK,
        )


def snip_on(run: SmallRun, ranking: Ranking, signature: str, directory: Path) -> list[dict]:
    """The rows of training under the masks of another ranking."""
    path, out = str(directory / "ranking.pt"), str(directory / "s.parquet")
    save_ranking(path, ranking, "snip", signature, owner=run.key)
    told = {"sparsities": [0.5]}
    run.do("train_sparse", inputs={"ranking": path}, outputs={"sweep": out}, settings=told, method="snip", chunk=CHUNK)
    return [row for row in read_table("sweep", out).to_pylist() if row["split"] == "val"]


def test_a_mask_that_empties_a_layer_is_told_in_the_rows(run, tmp_path):
    scores = torch.arange(DIMENSION, dtype=torch.float64)
    scores[-120:] = -1.0  # the last layer goes first
    (row,) = snip_on(run, Ranking.of_scores(scores), PrunableSet(run.network()).signature, tmp_path)
    assert row["empty_layers"] == 1
    assert row["nonzeros"] == DIMENSION // 2
    assert 0 < row["accuracy"] < 40


def test_a_ranking_of_another_network_is_refused(run, tmp_path):
    with pytest.raises(ArtifactError, match=r"ranking\.pt ranks the weights of another network"):
        snip_on(run, Ranking.of_scores(torch.rand(DIMENSION)), "another", tmp_path)


def test_the_states_behind_the_masks_tell_what_was_spent_on_them(run):
    for method in ("imp", "gmp", "rare_gems"):
        for row, file in zip(
            trained(run, method=f"{method}_reinitialise"), run.plan.states(run.at(method=method)), strict=True
        ):
            assert row["epochs"] == load_sparse(file).epochs + 5
