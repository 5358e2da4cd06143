"""Jobs of the rules `level` and `measure`: iterative methods, level by level."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gwprune import datasets
from gwprune.jobs.artifacts import ArtifactError, SparseState, load_network, load_sparse, save_sparse
from gwprune.jobs.dense import initial_network
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import Level, rank, removed_count
from gwprune.tables.files import read_table
from gwprune.training.train import Recipe, train

from .helpers_run import DIMENSION, SmallRun


def chain(run: SmallRun, method: str, sparsity: float) -> tuple[list[Level], list[SparseState]]:
    """The levels of a method up to a sparsity, and the states that they left."""
    nodes = run.run.chain(method, sparsity)
    files = [run.file("state", method=method, node=node.name) for node in nodes]
    return [node.level for node in nodes], [load_sparse(file) for file in files]


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0] | states[1])


def initial(run: SmallRun) -> torch.nn.Module:
    return initial_network(run.job, datasets.load(run.data), run.experiment.network.model_dump())[0]


def test_iterative_magnitude_pruning_prunes_the_trained_network_and_trains_the_rewound_one(run):
    levels, (first, second) = chain(run, "imp", 0.7)
    assert [level.sparsity for level in levels] == [0.5, 0.7]
    # By hand: the smallest half of the trained weights goes, and the snapshot is trained under that mask.
    trained = run.flat()
    kept = torch.ones(DIMENSION, dtype=torch.bool)
    kept[trained.abs().argsort(stable=True)[: DIMENSION // 2]] = False
    assert torch.equal(first.kept, kept)
    assert first.removed == pytest.approx(float(trained[~kept].double().square().sum()))
    model, splits = run.network("snapshot", epoch=1), run.splits()
    train(model, splits["train"], splits["val"], Recipe(**run.run.recipe()), 0, mask=kept, first_epoch=1)
    assert same(model, first.model)
    assert first.epochs == 4 + 3
    weights = PrunableSet(model).flatten()
    assert int((~second.kept).sum()) == removed_count(0.7, DIMENSION)
    assert not bool((second.kept & ~kept).any())
    assert float(weights[kept & ~second.kept].abs().max()) <= float(weights[second.kept].abs().min())
    assert second.epochs == 4 + 3 + 3


def test_gradual_magnitude_pruning_is_one_training_whose_sparsity_rises(run):
    levels, states = chain(run, "gmp", 0.7)
    spans = [(level.first_epoch, level.last_epoch) for level in levels]
    assert spans[0][0] == 0
    assert spans[-1][1] == levels[0].epochs == 5
    assert all(before[1] == after[0] for before, after in zip(spans, spans[1:], strict=False))
    assert [level.sparsity for level in levels] == sorted({level.sparsity for level in levels})
    assert [int((~state.kept).sum()) for state in states] == [removed_count(lv.sparsity, DIMENSION) for lv in levels]
    # The first two spans by hand, with the momentum handed over.
    model, splits, momentum = initial(run), run.splits(), {}
    recipe = Recipe(**{**run.run.recipe(), "epochs": 5})
    for number in (0, 1):
        train(
            model,
            splits["train"],
            splits["val"],
            recipe,
            0,
            mask=states[number].kept,
            first_epoch=spans[number][0],
            last_epoch=spans[number][1],
            momentum=momentum,
        )
        assert same(model, states[number].model)
    for state in states:
        assert bool((PrunableSet(state.model).flatten()[~state.kept] == 0).all())
    assert [state.epochs for state in states] == [last for _, last in spans]


def test_a_mask_is_searched_at_the_initial_weights_which_are_trained_afterwards(run):
    levels, states = chain(run, "rare_gems", 0.7)
    assert [level.search for level in levels] == [True, True, False]
    start = PrunableSet(initial(run)).flatten()
    for state in states[:2]:
        assert torch.equal(PrunableSet(state.model).flatten(), start)
    assert 0 < int((~states[0].kept).sum()) < removed_count(0.7, DIMENSION)
    assert int((~states[1].kept).sum()) == int((~states[2].kept).sum()) == removed_count(0.7, DIMENSION)
    assert not bool((states[1].kept & ~states[0].kept).any())
    assert states[2].removed == pytest.approx(float(start[~states[1].kept].double().square().sum()))
    assert states[2].epochs == 3 + 5


def test_the_ends_of_chains_are_measured(run, tmp_path):
    rows = run.rows("sweep", method="imp", stage="trained", sparsity=0.5)
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    _, (state,) = chain(run, "imp", 0.5)
    for row in rows:
        assert (row["nonzeros"], row["epochs"]) == (DIMENSION // 2, 7)
        assert row["multiply_adds"] == row["nonzeros"]  # every weight of a linear network is used once
        assert row["pruned_norm"] == pytest.approx(state.removed**0.5)
    out, told = {"sweep": str(tmp_path / "x.parquet")}, {"sparsities": [0.9, 0.7]}
    with pytest.raises(ArtifactError, match=r"removes 444 weights; at sparsity 0\.9 they should be 800"):
        run.do("measure", outputs=out, settings=told, method="imp")
    assert not Path(out["sweep"]).exists()


def test_a_state_comes_back_from_its_file_and_refuses_another_network(run, tmp_path):
    _, states = chain(run, "rare_gems", 0.5)
    state, copy = states[0], str(tmp_path / "copy.pt")
    save_sparse(copy, state)
    again = load_sparse(copy)
    assert torch.equal(again.search.popups, state.search.popups)
    assert (again.epochs, again.removed) == (state.epochs, state.removed)
    assert again.search.epoch == state.epochs
    state.kept = state.kept[:-1]
    save_sparse(copy, state)
    with pytest.raises(ArtifactError, match=r"copy\.pt masks 887 weights, the network has 888"):
        load_sparse(copy)


def test_the_tables_of_levels_that_were_made_again_are_the_same(run, tmp_path):
    for method in ("imp", "gmp"):
        nodes = run.run.chain(method, 0.5)
        before = run.file("state", method=method, node=nodes[0].name)
        path = str(tmp_path / f"{method}.pt")
        run.do("level", outputs={"state": path}, method=method, node=nodes[0].name)
        assert same(load_network(path), load_network(before))
    out = str(tmp_path / "m.parquet")
    run.do("measure", outputs={"sweep": out}, method="imp")
    assert read_table("sweep", out).equals(read_table("sweep", run.file("measured", method="imp")))


def test_an_iterative_method_has_no_ranking(run):
    with pytest.raises(ValueError, match="imp prunes and trains in turn"):
        rank("imp", PrunableSet(run.network()), 0)
