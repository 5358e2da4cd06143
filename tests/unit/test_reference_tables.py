"""The committed reference tables follow, value for value, from their own `sweep` and `predictions`."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from gwprune.tables.comparison import comparison_rows, comparison_threshold_rows
from gwprune.tables.files import grouped, read_table, write_table
from gwprune.tables.rendering import comparison_pages, markdown
from gwprune.tables.thresholds import criteria, empirical_rows, threshold_rows

RESULTS = Path(__file__).parents[2] / "results"
REFERENCE = RESULTS / "reference/fashion_mnist"


def test_reference_tables_follow_from_their_sweep_and_predictions(tmp_path):
    committed = {path.stem: read_table(path.stem, path) for path in REFERENCE.glob("*.parquet")}

    def rebuilt(name: str, rows: list[dict]) -> pa.Table:
        table = write_table(name, rows, tmp_path / f"{name}.parquet", {})
        assert table.equals(committed[name]), name
        return table

    dense: dict[tuple, dict] = {}
    for row in committed["sweep"].to_pylist():
        if row["stage"] == "one_shot" and row["sparsity"] == 0:
            dense.setdefault((row["run"], row["seed"]), {})[row["split"]] = row
    wanted = {
        (part["run"], part["seed"]): criteria(
            dense[part["run"], part["seed"]], dict(zip(part["epsilon_rule"], part["epsilon"], strict=True)), [1.0]
        )
        for part in grouped(committed["predictions"], "run", "seed")
    }
    empirical = rebuilt("empirical", empirical_rows(committed["sweep"], wanted))
    rebuilt("thresholds", threshold_rows(committed["predictions"], empirical))
    compared, thresholds = [], []
    for run in grouped(committed["comparison"], "run", "network", "dataset", "l1", "source"):
        facts = {name: run[name] for name in ("network", "dataset", "l1")}
        sweep, brackets = (table.filter(pc.field("run") == run["run"]) for table in (committed["sweep"], empirical))
        asked = [s for s, stage in zip(run["sparsity"], run["stage"], strict=True) if stage == "one_shot"]
        compared += comparison_rows(sweep, facts, {"one_shot": asked}, run["source"])
        thresholds += comparison_threshold_rows(brackets, facts)
    tables = rebuilt("comparison", compared), rebuilt("comparison_thresholds", thresholds)
    pages = comparison_pages(*(table.to_pylist() for table in tables))
    assert markdown(pages) == (REFERENCE / "comparison.md").read_text()


def test_the_question_of_the_documentation_is_answered_by_its_lines(tmp_path, monkeypatch, capsys):
    (lines,) = re.findall(r"```python\n(.*?)```", (RESULTS / "README.md").read_text(), re.DOTALL)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/tables").symlink_to(REFERENCE)
    monkeypatch.chdir(tmp_path)
    exec(lines)
    answer = [tuple(line.split()[:3]) for line in capsys.readouterr().out.splitlines()[1:]]
    measured = read_table("empirical", REFERENCE / "empirical.parquet").filter(
        pc.field("criterion") == "accuracy_drop:1"
    )
    parts = grouped(measured, "run", "method", "stage")
    holds = [part for part in parts if min(part["threshold_lower"]) >= 0.95]
    assert 0 < len(holds) < len(parts)
    assert sorted(answer) == sorted((part["run"], part["method"], part["stage"]) for part in holds)
