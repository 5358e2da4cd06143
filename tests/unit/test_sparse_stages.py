"""Stages of networks that are trained while sparse: snapshots, masks, chains of levels, controls, rewinding."""

from __future__ import annotations

import shutil
from copy import copy
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from gwprune import datasets
from gwprune.datasets import DeviceSplit
from gwprune.jobs.artifacts import (
    ArtifactError,
    build_network,
    load_description,
    load_network,
    load_ranking,
    load_sparse,
    save_ranking,
    save_sparse,
)
from gwprune.jobs.chains import level, measure_states
from gwprune.jobs.dense import prepare_data, snapshot, train_dense
from gwprune.jobs.job import Job
from gwprune.jobs.masked import finetune, train_sparse
from gwprune.jobs.pruned import mask_weights, rank_weights
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import METHODS, Epochs, Level, Ranking, layerwise_shuffle, mask, rank, removed_count
from gwprune.tables.files import read_table
from gwprune.training.train import Recipe, train

from .helpers_training import give_to_seed_1

JOB = Job("small", 0, "cpu")
NETWORK = {"name": "fc", "options": {"hidden": [12], "batch_norm": True}}
DIMENSION = 64 * 12 + 12 * 10
RECIPE = {"epochs": 4, "batch_size": 32, "lr": 0.1, "l1": 1e-3}


class Files:
    def __init__(self, root: Path):
        self.root = root
        self.data, self.network = str(root / "data.pt"), str(root / "network.pt")

    def __getitem__(self, name: str) -> str:
        return str(self.root / name)

    def snapshot(self, epoch: int) -> str:
        return self[f"snapshot_{epoch}.pt"]

    def ranking(self, method: str) -> str:
        return self[f"ranking_{method}.pt"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    """Data, a dense network, its snapshots and rankings. Tests write elsewhere."""
    files = Files(tmp_path_factory.mktemp("sparse"))
    prepare_data(files.data, dataset={"name": "digits", "options": {"train_limit": 200}}, data_dir=str(files.root))
    train_dense(
        JOB,
        files.data,
        network=files.network,
        history=files["history.parquet"],
        dense=files["dense.json"],
        description=NETWORK,
        recipe=RECIPE,
        checkpoint=files["checkpoint"],
    )
    for epoch in (0, 1, 2, 4):
        snapshot(
            JOB,
            files.data,
            files.snapshot(epoch),
            description=NETWORK,
            epoch=epoch,
            recipe=RECIPE if epoch else None,
            checkpoint=files["checkpoint"],
        )
    rank_weights(JOB, files.network, files.ranking("magnitude"), method="magnitude")
    rank_weights(JOB, files.snapshot(0), files.ranking("snip"), method="snip", data=files.data)
    return files


def state(path: str) -> dict[str, torch.Tensor]:
    return load_network(path).state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one | other)


def splits(files: Files) -> dict[str, DeviceSplit]:
    images = datasets.load(files.data)
    return {name: DeviceSplit.from_data(images, name) for name in ("train", "val")}


def flat(path: str) -> torch.Tensor:
    return PrunableSet(load_network(path)).flatten()


# --- snapshots ----------------------------------------------------------------------------------------------


def test_the_snapshot_after_the_last_epoch_is_the_dense_network(files):
    assert same(state(files.snapshot(4)), state(files.network))
    assert not same(state(files.snapshot(2)), state(files.network))


def test_the_snapshot_before_the_first_epoch_is_the_seeded_network(files):
    found, description = state(files.snapshot(0)), load_description(files.snapshot(0))
    torch.manual_seed(0)
    assert same(found, build_network(description).state_dict())


def test_dense_training_goes_on_from_a_snapshot(files):
    """Without momentum: the first steps after the break differ, so only the schedule and data order are the same."""
    model, other = load_network(files.snapshot(1)), load_network(files.snapshot(1))
    plan, known = Recipe(**{**RECIPE, "momentum": 0.0}), splits(files)
    train(model, known["train"], known["val"], plan, 0, first_epoch=1)
    train(other, known["train"], known["val"], plan, 0, first_epoch=1, last_epoch=2)
    train(other, known["train"], known["val"], plan, 0, first_epoch=2)
    assert same(model.state_dict(), other.state_dict())


# --- levels -------------------------------------------------------------------------------------------------


def run_chain(files: Files, root: Files, method: str, target: float, **options) -> tuple[list[Level], list[str]]:
    levels = METHODS[method].function(target, Epochs(4, 6), **options)
    before = files.network if levels[0].begins_with == "trained" else files.snapshot(0)
    made = []
    for number, step in enumerate(levels):
        path = root[f"{method}_{number}.pt"]
        level(
            JOB,
            files.data,
            before,
            path,
            level=asdict(step),
            recipe={**RECIPE, "epochs": step.epochs},
            epochs=4 if levels[0].begins_with == "trained" else 0,
            checkpoint=root["checkpoint"],
            rewound=files.snapshot(step.first_epoch) if step.start == "rewound" else None,
        )
        before = path
        made.append(path)
    assert not Path(root["checkpoint"]).exists()
    return levels, made


def test_iterative_magnitude_pruning_prunes_the_trained_network_and_trains_the_rewound_one(files, tmp_path):
    levels, made = run_chain(files, Files(tmp_path), "imp", 0.6, rate=0.5)
    assert [step.sparsity for step in levels] == [0.5, 0.6]
    # By hand: the smallest half of the trained weights goes, and the snapshot is trained under that mask.
    trained = flat(files.network)
    kept = torch.ones(DIMENSION, dtype=torch.bool)
    kept[trained.abs().argsort(stable=True)[: DIMENSION // 2]] = False
    first = load_sparse(made[0])
    assert torch.equal(first.kept, kept)
    assert first.removed == pytest.approx(float(trained[~kept].double().square().sum()))
    model, known = load_network(files.snapshot(1)), splits(files)
    train(model, known["train"], known["val"], Recipe(**RECIPE), 0, mask=kept, first_epoch=1)
    assert same(model.state_dict(), first.model.state_dict())
    assert first.epochs == 4 + 3
    second, weights = load_sparse(made[1]), PrunableSet(model).flatten()
    assert int((~second.kept).sum()) == removed_count(0.6, DIMENSION)
    assert not bool((second.kept & ~kept).any())
    assert float(weights[kept & ~second.kept].abs().max()) <= float(weights[second.kept].abs().min())
    assert second.epochs == 4 + 3 + 3


def test_gradual_magnitude_pruning_is_one_training_whose_sparsity_rises(files, tmp_path):
    levels, made = run_chain(files, Files(tmp_path), "gmp", 0.8, levels=2, end=0.7)
    assert [(step.sparsity, step.first_epoch, step.last_epoch) for step in levels] == [
        (0.0, 0, 2), (0.7, 2, 4), (0.8, 4, 6),
    ]  # fmt: skip
    states = [load_sparse(path) for path in made]
    assert [int((~found.kept).sum()) for found in states] == [removed_count(s, DIMENSION) for s in (0, 0.7, 0.8)]
    # The first segments by hand, with the momentum handed over.
    model, known, momentum = load_network(files.snapshot(0)), splits(files), {}
    plan = Recipe(**{**RECIPE, "epochs": 6})
    train(model, known["train"], known["val"], plan, 0, last_epoch=2, momentum=momentum)
    assert same(model.state_dict(), states[0].model.state_dict())
    train(
        model,
        known["train"],
        known["val"],
        plan,
        0,
        mask=states[1].kept,
        first_epoch=2,
        last_epoch=4,
        momentum=momentum,
    )
    assert same(model.state_dict(), states[1].model.state_dict())
    for found in states:
        assert bool((PrunableSet(found.model).flatten()[~found.kept] == 0).all())
    assert [found.epochs for found in states] == [2, 4, 6]


def test_a_mask_is_searched_at_the_initial_weights_which_are_trained_afterwards(files, tmp_path):
    levels, made = run_chain(files, Files(tmp_path), "rare_gems", 0.7, search_epochs=3, levels=2)
    assert [step.search for step in levels] == [True, True, False]
    states = [load_sparse(path) for path in made]
    start = flat(files.snapshot(0))
    for found in states[:2]:
        assert torch.equal(PrunableSet(found.model).flatten(), start)
    assert 0 < int((~states[0].kept).sum()) < removed_count(0.7, DIMENSION)
    assert int((~states[1].kept).sum()) == int((~states[2].kept).sum()) == removed_count(0.7, DIMENSION)
    assert not bool((states[1].kept & ~states[0].kept).any())
    assert states[2].removed == pytest.approx(float(start[~states[1].kept].double().square().sum()))
    assert states[2].epochs == 3 + 6


def test_the_ends_of_chains_are_measured(files, tmp_path):
    root = Files(tmp_path)
    _, made = run_chain(files, root, "imp", 0.5, rate=0.5)
    path = root["trained.parquet"]
    measure_states(JOB, files.data, made[-1:], path, method="imp", sparsities=[0.5], l1=1e-3)
    rows = read_table("sweep", path).to_pylist()
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    found = load_sparse(made[-1])
    for row in rows:
        assert (row["method"], row["stage"], row["nonzeros"], row["epochs"]) == ("imp", "trained", DIMENSION // 2, 7)
        assert row["multiply_adds"] == row["nonzeros"]  # every weight of a linear network is used once
        assert row["pruned_norm"] == pytest.approx(found.removed**0.5)
    with pytest.raises(ArtifactError, match=r"imp_0\.pt removes 444 weights; at sparsity 0\.9 they should be 800"):
        measure_states(JOB, files.data, made[-1:], path, method="imp", sparsities=[0.9], l1=1e-3)


def test_a_state_comes_back_from_its_file_and_refuses_another_network(files, tmp_path):
    root = Files(tmp_path)
    _, made = run_chain(files, root, "rare_gems", 0.5, search_epochs=2, levels=2)
    found = load_sparse(made[0])
    save_sparse(root["copy.pt"], found)
    again = load_sparse(root["copy.pt"])
    assert torch.equal(again.search.popups, found.search.popups)
    assert (again.search.epoch, again.epochs, again.removed) == (1, 1, found.removed)
    found.kept = found.kept[:-1]
    save_sparse(root["copy.pt"], found)
    with pytest.raises(ArtifactError, match=r"copy\.pt masks 887 weights, the network has 888"):
        load_sparse(root["copy.pt"])


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("imp", {"rewind_epoch": 4}, "rewind_epoch to be a whole number from 0 to 3"),
        ("imp", {"rate": 1.0}, "rate in"),
        ("gmp", {"levels": 0}, "levels >= 1"),
        ("gmp", {"begin": 0.8, "end": 0.5}, "begin < end"),
        ("rare_gems", {"lr": 0}, "lr > 0"),
    ],
)
def test_options_of_iterative_methods_outside_their_range_are_named(method, options, message):
    with pytest.raises(ValueError, match=message):
        METHODS[method].function(0.5, Epochs(4, 6), **options)


def test_an_iterative_method_has_no_ranking(files):
    with pytest.raises(ValueError, match="imp prunes and trains in turn"):
        rank("imp", PrunableSet(load_network(files.network)), 0)


# --- training on masks --------------------------------------------------------------------------------------


def trained(files: Files, root: Files, method: str, masks: list[str], sparsities: list[float], **changes) -> list[dict]:
    path = root[f"{method}.parquet"]
    given = {"network": files.snapshot(0), "recipe": RECIPE, "epochs": 0, **changes}
    train_sparse(
        JOB,
        files.data,
        masks=masks,
        path=path,
        method=method,
        sparsities=sparsities,
        checkpoint=root["checkpoint"],
        **given,
    )
    assert not list(root.root.glob("checkpoint*"))
    return [row for row in read_table("sweep", path).to_pylist() if row["split"] == "val"]


def accuracy(files: Files, start: torch.nn.Module, kept: torch.Tensor, first_epoch: int = 0) -> float:
    known = splits(files)
    return train(start, known["train"], known["val"], Recipe(**RECIPE), 0, mask=kept, first_epoch=first_epoch)[
        -1
    ].val_accuracy


def test_a_network_pruned_at_initialisation_is_trained_from_its_start(files, tmp_path):
    rows = trained(files, Files(tmp_path), "snip", [files.ranking("snip")], [0.5, 0.7])
    known = load_ranking(files.ranking("snip"), DIMENSION)
    weights = flat(files.snapshot(0)).double()
    for row in rows:
        kept = known.mask(row["sparsity"])
        assert (row["method"], row["stage"], row["epochs"]) == ("snip", "trained", 4)
        assert row["accuracy"] == accuracy(files, load_network(files.snapshot(0)), kept)
        assert row["pruned_norm"] == pytest.approx(float(weights[~kept].norm()))


def test_masks_of_single_sparsities_are_used_each_for_its_own(files, tmp_path):
    root = Files(tmp_path)
    for sparsity in (0.5, 0.7):
        mask_weights(
            JOB, files.snapshot(0), root[f"{sparsity}.pt"], method="synflow", sparsity=sparsity, data=files.data
        )
    rows = trained(files, root, "synflow", [root["0.5.pt"], root["0.7.pt"]], [0.5, 0.7])
    model = load_network(files.snapshot(0))
    for row in rows:
        kept = mask("synflow", PrunableSet(model), 0, row["sparsity"], model=model, input_shape=(1, 8, 8))
        assert row["accuracy"] == accuracy(files, load_network(files.snapshot(0)), kept)


def test_controls_shuffle_the_mask_or_take_other_weights(files, tmp_path):
    root, known = Files(tmp_path), load_ranking(files.ranking("snip"), DIMENSION)
    kept = known.mask(0.7)
    (shuffled,) = trained(files, root, "snip_layerwise_shuffle", [files.ranking("snip")], [0.7])
    other = layerwise_shuffle(kept, PrunableSet(load_network(files.network)), 0)
    assert shuffled["accuracy"] == accuracy(files, load_network(files.snapshot(0)), other)
    assert not torch.equal(other, kept)
    (plain,) = trained(files, root, "snip", [files.ranking("snip")], [0.7])
    (drawn,) = trained(files, root, "snip_reinitialise", [files.ranking("snip")], [0.7])
    assert drawn["pruned_norm"] != plain["pruned_norm"]
    assert (drawn["nonzeros"], drawn["method"]) == (plain["nonzeros"], "snip_reinitialise")
    assert shuffled["multiply_adds"] == plain["multiply_adds"]


def test_the_mask_of_an_iterative_method_can_be_trained_from_the_start(files, tmp_path):
    root = Files(tmp_path)
    _, made = run_chain(files, root, "imp", 0.5, rate=0.5)
    (row,) = trained(files, root, "imp_reinitialise", made[-1:], [0.5])
    assert row["epochs"] == 4 + 3 + 4
    with pytest.raises(ArtifactError, match=r"removes 444 weights; at sparsity 0\.6 they should be 533"):
        trained(files, root, "imp_reinitialise", made[-1:], [0.6])


def test_a_mask_that_empties_a_layer_is_told_in_the_rows(files, tmp_path):
    root = Files(tmp_path)
    scores = torch.arange(DIMENSION, dtype=torch.float64)
    scores[-120:] = -1.0  # the last layer goes first
    signature = PrunableSet(load_network(files.network)).signature
    save_ranking(root["ranking.pt"], Ranking.of_scores(scores), "snip", signature)
    (row,) = trained(files, root, "snip", [root["ranking.pt"]], [0.5])
    assert row["empty_layers"] == 1
    assert row["nonzeros"] == DIMENSION // 2
    assert 0 < row["accuracy"] < 40


def test_a_ranking_of_another_network_is_refused(files, tmp_path):
    root = Files(tmp_path)
    save_ranking(root["ranking.pt"], Ranking.of_scores(torch.rand(DIMENSION)), "snip", "another")
    with pytest.raises(ArtifactError, match=r"ranking\.pt ranks the weights of another network"):
        trained(files, root, "snip", [root["ranking.pt"]], [0.5])


@pytest.mark.parametrize("kind", ["before", "rewound", "state", "network", "ranking"])
def test_a_file_of_another_seed_is_refused_and_named(files, tmp_path, kind):
    root = Files(tmp_path)
    _, (state,) = run_chain(files, root, "imp", 0.5, rate=0.5)
    sources = {
        "before": files.network, "rewound": files.snapshot(1), "state": state,
        "network": files.snapshot(0), "ranking": files.ranking("snip"),
    }  # fmt: skip
    foreign = shutil.copy(sources[kind], root["foreign.pt"])
    give_to_seed_1(Path(foreign))
    given = copy(files)
    given.network = foreign if kind == "before" else files.network
    given.snapshot = lambda epoch: foreign if kind in ("rewound", "network") else files.snapshot(epoch)
    masks = [foreign if kind == "ranking" else files.ranking("snip")]
    run = {
        "state": lambda: measure_states(JOB, files.data, [foreign], root["x"], method="imp", sparsities=[0.5], l1=1e-3),
        "network": lambda: trained(given, root, "snip", masks, [0.5]),
        "ranking": lambda: trained(given, root, "snip", masks, [0.5]),
    }.get(kind, lambda: run_chain(given, root, "imp", 0.5, rate=0.5))
    with pytest.raises(ArtifactError, match=r"foreign\.pt belongs to run small, seed 1.*; expected run small, seed 0"):
        run()


# --- rewinding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [False, True])
def test_rewound_fine_tuning_goes_through_the_last_epochs_of_dense_training(files, tmp_path, weights):
    root = Files(tmp_path)
    finetune(
        JOB,
        files.data,
        files.network,
        files.ranking("magnitude"),
        root["sweep.parquet"],
        method="magnitude",
        sparsities=[0.6],
        recipe=RECIPE,
        epochs=4,
        checkpoint=root["checkpoint"],
        rewound=files.snapshot(2) if weights else None,
        first_epoch=2,
    )
    rows = read_table("sweep", root["sweep.parquet"]).to_pylist()
    kept = load_ranking(files.ranking("magnitude"), DIMENSION).mask(0.6)
    start = load_network(files.snapshot(2) if weights else files.network)
    expected = accuracy(files, start, kept, first_epoch=2)
    dense = flat(files.network).double()
    for row in rows:
        assert (row["stage"], row["epochs"]) == ("fine_tuned", 4 + 2)
        assert row["pruned_norm"] == pytest.approx(float(dense[~kept].norm()))
        if row["split"] == "val":
            assert row["accuracy"] == expected
