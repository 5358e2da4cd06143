"""A tiny configuration, run by Snakemake itself in a directory of its own."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gwprune.tables.files import read_table
from gwprune.tables.schemas import TABLES

ROOT = Path(__file__).resolve().parents[2]

TIMINGS = {"training": ["seconds"], "costs": ["seconds", "max_rss_mb", "cpu_seconds"]}

TINY = {
    "experiments": [
        {
            "name": "tiny",
            "dataset": {"name": "digits", "options": {"train_limit": 300}},
            "network": {"name": "fc", "options": {"hidden": [16]}},
        }
    ],
    "device": "cpu",
    "training": {"epochs": 3, "batch_size": 32, "l1": 1e-3},
    "spectrum": {"steps": 24, "probes": 1, "samples": None},
    "pruning": {"methods": ["magnitude", "taylor"], "sparsities": [0.3, 0.6, 0.9], "resolution": 0.02},
    "fine_tuning": {"epochs": 1, "sparsities": [0.6]},
}


def result_tables(directory: Path) -> dict:
    """All tables of a run in ``directory``, without the columns that hold times and memory."""
    found = {name: read_table(name, directory / f"results/tables/{name}.parquet") for name in TABLES}
    return {name: table.drop_columns(TIMINGS.get(name, [])) for name, table in found.items()}


class Workflow:
    """Snakemake on one configuration in one directory."""

    def __init__(self, directory: Path):
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def command(self, config: dict, *arguments: str) -> list[str]:
        path = self.directory / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
        return [*command, "--directory", str(self.directory), "--configfile", str(path), *arguments]

    def run(self, config: dict, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        command = self.command(config, *arguments)
        # The caller's terminal width and profile must not matter.
        return subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env={**os.environ, **environment},
        )

    def tables(self) -> dict:
        return result_tables(self.directory)

    def plan(self, config: dict, *arguments: str) -> dict[str, int]:
        """Rule -> number of jobs that a dry run would do."""
        done = self.run(config, "--dry-run", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        text = done.stdout + done.stderr
        stats = text.partition("Job stats:")[2].partition("total")[0]
        return {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)$", stats, re.MULTILINE)}


@pytest.fixture(scope="session")
def tiny() -> dict:
    return copy.deepcopy(TINY)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny) -> Workflow:
    """The tiny configuration, run to its end once for all tests; they do not change its files."""
    workflow = Workflow(tmp_path_factory.mktemp("finished"))
    done = workflow.run(tiny)
    assert done.returncode == 0, done.stdout + done.stderr
    return workflow
