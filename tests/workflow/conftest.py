"""A tiny configuration, run by Snakemake itself in a directory of its own."""

from __future__ import annotations

import contextlib
import copy
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from filelock import FileLock

from gwprune.tables.files import read_table
from gwprune.tables.schemas import TABLES
from tests.workflow.planning import ROOT, dry_run

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
    "fine_tuning": {"epochs": 1, "sparsities": [0.6], "chunk": 2, "resolution": 0.1},
}


def table_without_times(name: str, path: Path) -> pa.Table:
    return read_table(name, path).drop_columns(TIMINGS.get(name, []))


def result_tables(directory: Path) -> dict[str, pa.Table]:
    """All tables of a run in ``directory``, without the columns that hold times and memory."""
    return {name: table_without_times(name, directory / f"results/tables/{name}.parquet") for name in TABLES}


class Workflow:
    """Snakemake on one configuration in one directory."""

    def __init__(self, directory: Path):
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def _arguments(self, config: dict) -> list[str]:
        path = self.directory / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return ["--snakefile", str(ROOT / "Snakefile"), "--configfile", str(path), "--cores", "2"]

    def command(self, config: dict, *arguments: str) -> list[str]:
        command = [sys.executable, "-m", "snakemake", "--directory", str(self.directory)]
        return [*command, *self._arguments(config), *arguments]

    def run(self, config: dict, *arguments: str, status: int = 0, **environment: str) -> str:
        """Run to the end; what it prints. ``status`` 1 stands for any failure."""
        done = subprocess.run(
            self.command(config, *arguments),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
            env={**os.environ, **environment},
        )
        assert (done.returncode != 0) == status, done.stdout
        return done.stdout

    def run_on_terminal(self, config: dict, *arguments: str, columns: int = 80) -> str:
        """Run to the end as a person would; what a terminal gets."""
        master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, columns))
        process = subprocess.Popen(
            self.command(config, *arguments),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(slave)
        text = b""
        with contextlib.suppress(OSError):  # how the end of the last process that writes is told
            while data := os.read(master, 65536):
                text += data
        os.close(master)
        assert process.wait(600) == 0, text.decode()
        return text.decode()

    def dry_run(self, config: dict, *arguments: str, status: int = 0) -> str:
        return dry_run(self.directory, *self._arguments(config), *arguments, status=status)

    def plan(self, config: dict, *arguments: str) -> dict[str, int]:
        """Rule -> number of jobs that a run would do."""
        stats = self.dry_run(config, *arguments).partition("Job stats:")[2].partition("total")[0]
        return {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)$", stats, re.MULTILINE)}

    def tables(self) -> dict[str, pa.Table]:
        return result_tables(self.directory)

    def job_tables(self, pattern: str, name: str) -> dict[str, pa.Table]:
        """File -> table ``name``, of what jobs under ``results/runs`` wrote; at least one."""
        paths = {path.name: path for path in self.directory.glob(f"results/runs/*/seed0/{pattern}")}
        assert paths, pattern
        return {file: table_without_times(name, path) for file, path in paths.items()}

    def unfinished(self) -> list[Path]:
        """Checkpoints, locks and half-written files."""
        patterns = ("results/checkpoints/*", "results/**/*.lock", "results/**/.*.part", ".snakemake/locks/*")
        return [path for pattern in patterns for path in self.directory.glob(pattern)]


@pytest.fixture(scope="session")
def tiny() -> dict:
    return copy.deepcopy(TINY)


def changed(config: dict, section: str, **values) -> dict:
    """A copy with other values in one section."""
    return {**config, section: {**config.get(section, {}), **values}}


@pytest.fixture(scope="session")
def run_once(tmp_path_factory) -> Callable[..., Workflow]:
    """A function: the run of a name, configuration and arguments, made once, also where several processes share tests.

    Tests do not change its files. What it showed on a terminal of 80 columns is in the file `<name>.done` beside them.
    """
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent  # that of all processes

    def make(name: str, config: dict, *arguments: str) -> Workflow:
        workflow, done = Workflow(directory / name), directory / f"{name}.done"
        with FileLock(directory / f"{name}.lock"):
            if not done.exists():
                done.write_text(workflow.run_on_terminal(config, *arguments))
        return workflow

    return make


@pytest.fixture(scope="session")
def finished(run_once, tiny) -> Workflow:
    """The tiny configuration, run to its end."""
    return run_once("finished", tiny)
