"""Jobs of the rules `rank`, `mask` and `sweep`."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from gwprune import datasets
from gwprune.jobs.artifacts import ArtifactError, load_ranking, save_ranking
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import mask, rank
from gwprune.storage.files import read_json
from gwprune.tables.files import read_table
from gwprune.training.evaluation import evaluate, l1_norm

from .helpers_run import DIMENSION, SMALLEST_2, SPLITS, SmallRun


def initial(run: SmallRun) -> torch.nn.Module:
    from gwprune.jobs.dense import initial_network

    return initial_network(run.job, datasets.load(run.data), run.experiment.network.model_dump())[0]


def samples(run: SmallRun) -> tuple[torch.Tensor, torch.Tensor]:
    return run.splits()["train"].subset(run.experiment.pruning.samples, 0).as_tensors()


def ranking(run: SmallRun, method: str):
    """By hand: that of the trained network."""
    model = run.network()
    return rank(method, PrunableSet(model), 0, model=model, data=samples(run))


def test_the_ranking_files_hold_the_rankings_of_the_trained_and_of_the_untrained_network(run):
    stored = load_ranking(run.file("ranking", method="taylor"), DIMENSION)
    assert torch.equal(stored.ranks, ranking(run, "taylor").ranks)
    model = initial(run)
    expected = rank("snip", PrunableSet(model), 0, model=model, data=samples(run))
    stored = load_ranking(run.file("ranking", method="snip"), DIMENSION)
    assert torch.equal(stored.ranks, expected.ranks)


def test_what_looks_at_the_weights_alone_has_no_file(run):
    assert {path.name for path in run.root.glob("runs/*/seed0/ranking/*")} == {"taylor.pt", "snip.pt"}


def test_the_masks_of_single_sparsities_are_those_of_the_untrained_network(run):
    model = initial(run)
    for sparsity, token in ((0.5, "500000"), (0.7, "700000")):
        stored = load_ranking(run.file("mask", method="synflow", sparsity=token), DIMENSION)
        expected = mask("synflow", PrunableSet(model), 0, sparsity, model=model, input_shape=(1, 8, 8))
        assert torch.equal(stored.mask(sparsity), expected)


def test_every_evaluated_network_has_the_exact_number_of_nonzero_weights_on_all_splits(run):
    points: dict[tuple, dict] = {}
    for row in run.rows("sweep"):
        assert row["nonzeros"] == DIMENSION - math.ceil(Fraction(repr(row["sparsity"])) * DIMENSION)
        points.setdefault((row["method"], row["stage"], row["sparsity"]), {})[row["split"]] = row
    for values in points.values():
        assert set(values) == set(SPLITS)
        assert len({(row["nonzeros"], row["pruned_norm"]) for row in values.values()}) == 1
    asked = {0.0, *run.experiment.pruning.sparsities}
    assert asked <= {s for method, stage, s in points if stage == "one_shot"}


def test_the_sweep_measures_what_a_network_with_these_weights_zero_measures(run):
    model, splits = run.network(), run.splits()
    prunable = PrunableSet(model)
    dense = prunable.flatten()
    for method, sparsity in itertools.product(run.experiment.pruning.methods, (0.07, 0.9)):
        kept = ranking(run, method).mask(sparsity)
        prunable.assign(dense * kept)
        for row in run.rows("sweep", method=method, stage="one_shot", sparsity=sparsity):
            expected = evaluate(model, splits[row["split"]])
            assert (row["loss"], row["accuracy"]) == (expected.loss, expected.accuracy)
            assert row["objective"] == pytest.approx(row["loss"] + 1e-3 * l1_norm(prunable), rel=1e-12)
            assert row["pruned_norm"] == pytest.approx(float((dense - dense * kept).double().norm()), rel=1e-6)


def test_a_method_of_a_users_own_is_swept_like_any_other(run):
    """Its squares have the order of the magnitudes."""
    own, known = (run.rows("sweep", method=method, stage="one_shot") for method in (SMALLEST_2, "magnitude"))
    assert own
    assert own == [{**row, "method": SMALLEST_2} for row in known]


def test_the_sweep_starts_from_the_dense_network(run):
    summary = read_json(run.file("dense"))["splits"]
    for row in run.rows("sweep", stage="one_shot", sparsity=0.0):
        assert row["pruned_norm"] == 0
        if row["split"] != "test":
            assert {key: row[key] for key in summary[row["split"]]} == summary[row["split"]]


def test_the_sweep_narrows_every_bracket_to_the_resolution(run):
    rows = run.rows("empirical", stage="one_shot")
    assert any(row["reached"] for row in rows)
    for row in rows:
        if row["reached"]:
            assert row["threshold_upper"] - row["threshold_lower"] <= 0.02 + 1e-9


@pytest.mark.parametrize("method", ["magnitude", "taylor"])
def test_a_sweep_is_repeatable_bit_for_bit(run, tmp_path, method):
    run.do("sweep", outputs={"sweep": str(tmp_path / "s.parquet")}, method=method)
    assert (tmp_path / "s.parquet").read_bytes() == Path(run.file("one_shot", method=method)).read_bytes()


def test_the_ranking_of_another_network_is_named(run, tmp_path):
    path = str(tmp_path / "ranking.pt")
    save_ranking(path, rank("magnitude", PrunableSet(torch.nn.Linear(64, 10)), 0), "taylor")
    out = str(tmp_path / "s.parquet")
    for rule, wildcards in (("sweep", {}), ("finetune", {"chunk": "500000"})):
        with pytest.raises(ArtifactError, match=f"{path} ranks 640 weights"):
            run.do(rule, inputs={"ranking": path}, outputs={"sweep": out}, method="taylor", **wildcards)
    assert not Path(out).exists()


def test_a_ranking_of_weights_that_were_trained_again_is_refused(run, tmp_path):
    other = SmallRun(tmp_path / "results", data=run, training={"epochs": 2, "lr": 0.1, "batch_size": 16, "l1": 1e-3})
    other.do("train")
    path = run.file("ranking", method="taylor")
    with pytest.raises(ArtifactError, match=f"{path} belongs to .*, weights"):
        other.do("sweep", inputs={"ranking": path}, method="taylor")


def test_the_sparsities_that_a_sweep_visits_do_not_depend_on_test_images(run, tmp_path):
    images = datasets.load(run.data)
    noise = torch.randint(0, 256, images.images["test"].shape, dtype=torch.uint8)
    changed = datasets.ImageData.from_splits(
        {**images.images, "test": noise},
        {**images.labels, "test": images.labels["test"].flip(0)},
        classes=images.classes,
        name=images.name,
        class_names=images.class_names,
    )
    data, path = str(tmp_path / "data.pt"), str(tmp_path / "s.parquet")
    datasets.save(changed, data)
    run.do("sweep", inputs={"data": data}, outputs={"sweep": path}, method="magnitude")

    def parts(path: str) -> tuple[list[dict], list[dict]]:
        rows = read_table("sweep", path).to_pylist()
        return [row for row in rows if row["split"] != "test"], [row for row in rows if row["split"] == "test"]

    mine, theirs = parts(path), parts(run.file("one_shot", method="magnitude"))
    assert mine[0] == theirs[0]
    assert [row["sparsity"] for row in mine[1]] == [row["sparsity"] for row in theirs[1]]
    assert mine[1] != theirs[1]
