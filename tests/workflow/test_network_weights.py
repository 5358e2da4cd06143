"""A run of Snakemake that begins with a trained network."""

import pytest
import torch

from tests.workflow.conftest import Workflow, changed

pytestmark = pytest.mark.workflow


def test_a_trained_network_is_read_and_pruned_and_its_file_is_watched(tmp_path, tiny, finished):
    (network,) = finished.directory.glob("results/runs/*/seed0/network.pt")
    torch.save(torch.load(network, weights_only=True)["state"], tmp_path / "model.pt")
    workflow, own = Workflow(tmp_path), tiny["experiments"][0]
    pruning = {**tiny["pruning"], "methods": ["magnitude"]}
    given = {**tiny, "pruning": pruning, "experiments": [{**own, "network": {**own["network"], "weights": "model.pt"}}]}
    workflow.run(given, "--until", "sweep")
    read, trained = (each.job_tables("one_shot/magnitude.parquet", "sweep") for each in (workflow, finished))
    (mine,), (theirs,) = read.values(), trained.values()
    assert mine.drop_columns("epochs") == theirs.drop_columns("epochs")
    assert workflow.plan(changed(given, "training", epochs=9, lr=0.5), "--until", "sweep") == {}
    torch.save({}, tmp_path / "model.pt")
    plan = workflow.plan(given, "--until", "sweep")
    assert plan["train"] == plan["sweep"] == 1
    (tmp_path / "model.pt").unlink()
    assert "network.weights: there is no file 'model.pt'" in workflow.dry_run(given, status=1)
