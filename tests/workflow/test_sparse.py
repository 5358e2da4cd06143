"""Every kind of sparse training by real Snakemake: at initialisation, iterative, controls, weight rewinding."""

import shutil

import pytest

from gwprune.tables.files import read_table
from tests.workflow.conftest import Workflow, changed

pytestmark = pytest.mark.workflow

SECTION = {
    "methods": ["snip", "synflow", "imp", "gmp"],
    "sparsities": [0.5, 0.7],
    "chunk": 2,
    "controls": ["reinitialise"],
    "options": {"imp": {"rate": 0.5}, "gmp": {"levels": 2}, "synflow": {"rounds": 5}},
}


def test_every_kind_of_sparse_training_reaches_the_tables(finished, tiny, tmp_path):
    config = {**changed(tiny, "fine_tuning", rewinding="weights"), "sparse_training": SECTION}
    workflow = Workflow(shutil.copytree(finished.directory, tmp_path / "copy"))
    table = "results/tables/sweep.parquet"
    text = workflow.run(config, table)
    assert "rule train:" not in text
    rows = read_table("sweep", workflow.directory / table).to_pylist()
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
    assert not workflow.unfinished()
    assert "Nothing to be done" in workflow.dry_run(config, table)
