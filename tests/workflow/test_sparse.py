"""Every kind of sparse training by real Snakemake: at initialisation, iterative, controls, weight rewinding."""

import copy

import pytest

from gwprune.tables.files import read_table
from tests.workflow.conftest import Workflow

pytestmark = pytest.mark.workflow

SECTION = {
    "methods": ["snip", "synflow", "imp", "gmp"],
    "sparsities": [0.5, 0.7],
    "chunk": 2,
    "controls": ["reinitialise"],
    "options": {"imp": {"rate": 0.5}, "gmp": {"levels": 2}, "synflow": {"rounds": 5}},
}


@pytest.fixture
def wanted(tiny) -> dict:
    config = copy.deepcopy(tiny)
    config["fine_tuning"] = {**config["fine_tuning"], "rewinding": "weights"}
    return {**config, "sparse_training": SECTION}


def test_every_kind_of_sparse_training_reaches_the_tables(wanted, tmp_path):
    workflow = Workflow(tmp_path)
    done = workflow.run(wanted)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_table("sweep", tmp_path / "results/tables/sweep.parquet").to_pylist()
    found = {(row["method"], row["sparsity"]): row for row in rows if row["stage"] == "trained"}
    methods = [name + end for name in SECTION["methods"] for end in ("", "_reinitialise")]
    assert set(found) == {(method, sparsity) for method in methods for sparsity in SECTION["sparsities"]}
    for (_, sparsity), row in found.items():
        assert row["nonzeros"] == 1184 - {0.5: 592, 0.7: 829}[sparsity]
    # Dense training has 3 epochs, fine-tuning 1; iterative pruning rewinds to the first.
    spent = {method: [found[method, sparsity]["epochs"] for sparsity in SECTION["sparsities"]] for method in methods}
    assert spent["snip"] == spent["synflow"] == spent["snip_reinitialise"] == spent["gmp"] == [4, 4]
    assert spent["imp"] == [3 + 2, 3 + 2 + 2]
    assert spent["gmp_reinitialise"] == [4 + 4, 4 + 4]
    tuned = [row for row in rows if row["stage"] == "fine_tuned"]
    assert {row["epochs"] for row in tuned} == {3 + 1}
    assert not list((tmp_path / "results/checkpoints").glob("*"))
    again = workflow.run(wanted, "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr


def test_iterative_methods_are_one_job_a_level_and_a_new_sparsity_adds_only_its_own(finished, tiny):
    plan = finished.plan({**tiny, "sparse_training": {"methods": ["imp"], "sparsities": [0.5]}})
    assert {rule: plan[rule] for rule in ("snapshot", "level", "measure")} == {"snapshot": 1, "level": 4, "measure": 1}
    assert "train" not in plan
    plan = finished.plan({**tiny, "sparse_training": {"methods": ["imp"], "sparsities": [0.5, 0.6]}})
    assert plan["level"] == 6
