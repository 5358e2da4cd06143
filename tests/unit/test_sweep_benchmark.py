"""The benchmark of sweeps, on tiny networks: what it writes, never how fast it was."""

from __future__ import annotations

import json

from benchmarks import sweep


def test_quick_run_compares_the_same_values_both_ways(tmp_path, capsys):
    assert sweep.main(["--quick", "--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "sweep.json").read_text())
    assert set(record["networks"]) == set(sweep.L1)
    for row in record["networks"].values():
        assert row["points"] == 40
        assert row["one_by_one_measured"] == sweep.SAMPLE
        assert row["loss_difference"] < 1e-5
        assert row["accuracy_difference"] == 0
        assert row["seconds"] > 0
        assert row["one_by_one"] > 0
    assert (tmp_path / "sweep.md").read_text() in capsys.readouterr().out
