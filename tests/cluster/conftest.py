"""A private SLURM, and clones of this working tree in which `snakemake --profile slurm` is typed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from tests.cluster.node import INSTALL, SlurmNode, missing_programs
from tests.cluster.records import JobRecord
from tests.workflow.conftest import result_tables
from tests.workflow.planning import ROOT

LITERAL = ("snakemake", "--profile", "slurm")
# A little more than a short job takes on a busy machine. Each look in vain makes the plugin wait 10 s longer.
POLL = ("--slurm-init-seconds-before-status-checks", "12")


@dataclass(frozen=True)
class WorkflowJob:
    """One job that Snakemake submitted: its rule, the log that the rule names, its id at SLURM."""

    rule: str
    log: str
    slurm_id: int


class Run:
    """One call of Snakemake, under way or ended. What it prints is in a file: children may outlive it."""

    def __init__(self, command: list[str], directory: Path, env: dict[str, str], output: Path):
        self.output = output
        with open(output, "wb") as stream:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait(self, timeout: float) -> int:
        """Exit status; the test fails when there is none in time."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.end()
            pytest.fail(f"{' '.join(self.process.args)} did not end in {timeout} s:\n{self.text[-5000:]}")

    def kill(self) -> None:
        """SIGKILL for Snakemake alone; its SLURM jobs do not notice."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """SIGKILL for all of it outside SLURM, if it has not ended."""
        if not self.ended:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def interrupt(self) -> None:
        """SIGINT for all of it, as a terminal sends it for Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def jobs(self) -> list[WorkflowJob]:
        """What it submitted, from what it printed."""
        blocks = re.findall(r"^rule (\w+):\n((?:    .*\n)+)", self.text, re.MULTILINE)
        logs = {}
        for rule, block in blocks:
            number, log = re.search(r"^    jobid: (\d+)", block, re.M), re.search(r"^    log: (\S+)", block, re.M)
            logs[number[1]] = (rule, log[1] if log else "")
        submitted = re.findall(r"^Job (\d+) has been submitted with SLURM jobid (\d+)", self.text, re.MULTILINE)
        return [WorkflowJob(*logs[number], int(slurm_id)) for number, slurm_id in submitted]


class Clone:
    """The files of this working tree, as a clone would have them, with Snakemake in its root.

    Args:
        files: what :func:`copy_working_tree` made.
        env: of Snakemake, apart from what belongs to the clone.
        node: SLURM that it uses, if any.
    """

    def __init__(self, directory: Path, files: Path, env: dict[str, str], node: SlurmNode | None = None):
        self.directory, self.node = directory, node
        shutil.copytree(files, directory, symlinks=True)
        empty = directory.with_name(f"{directory.name}-home")
        empty.mkdir()
        # No profiles of the user's own; and the clone's library, wherever the environment has its library from.
        path = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
        self.env = {**env, "PATH": path, "PYTHONPATH": str(directory), "XDG_CONFIG_HOME": str(empty)}
        self._runs: list[Run] = []

    def configure(self, config: dict) -> None:
        """Write the configuration that Snakemake reads by itself."""
        (self.directory / "config/config.yaml").write_text(yaml.safe_dump(config))

    def start(self, *command: str) -> Run:
        output = self.directory.with_name(f"{self.directory.name}-{len(self._runs)}.out")
        # The tests read Snakemake's own output.
        run = Run([*command, "--printshellcmds"], self.directory, self.env, output)
        self._runs.append(run)
        return run

    def run(self, *command: str, timeout: float = 600) -> Run:
        """Run to the end, whatever the exit status is."""
        run = self.start(*command)
        run.wait(timeout)
        return run

    def end(self) -> None:
        """End what is still running, SLURM jobs included."""
        for run in self._runs:
            run.end()
        if self.node:
            self.node.cancel(self.queue)

    def queue(self) -> list[JobRecord]:
        """Its SLURM jobs that have not ended."""
        return [job for job in self.node.queue() if job.directory == str(self.directory)]

    def records(self, rule: str = "") -> list[JobRecord]:
        """SLURM's records of its jobs, or of those of one rule, in the order of their starts."""
        found = [record for record in self.node.records() if record.directory == str(self.directory)]
        return sorted(
            (r for r in found if r.start and rule in ("", r.rule)), key=lambda record: (record.start, record.id)
        )

    def tables(self) -> dict:
        return result_tables(self.directory)

    def locks(self) -> list[Path]:
        return list(self.directory.glob(".snakemake/locks/*"))

    def unfinished(self) -> list[Path]:
        """Checkpoints and half-written files."""
        return [*self.directory.glob("results/checkpoints/*"), *self.directory.glob("results/**/.*.part")]


def copy_working_tree(directory: Path) -> None:
    """Files that git tracks or would add, with what is not committed yet; links stay links."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, directory / name
        if os.path.lexists(source):  # else removed, but not in the index yet
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def assert_same_tables(found: Clone, expected: Clone) -> None:
    second = expected.tables()
    for name, table in found.tables().items():
        assert table.num_rows > 0, name
        assert table.equals(second[name]), f"{name} differs"


def wait_until(condition: Callable[[], object], seconds: float = 120, run: Run | None = None) -> object:
    """What ``condition`` answers once that is true; the test fails when the time is over or ``run`` ends before."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        text = run.text[-5000:] if run else ""
        assert run is None or not run.ended, f"ended too early:\n{text}"
        assert time.monotonic() < end, f"nothing came in {seconds} s:\n{text}"
        time.sleep(0.2)
    return value


def working_processes(clone: Clone, jobs: Iterable[JobRecord]) -> list[psutil.Process]:
    """The processes that do the work of ``jobs``: the innermost, which run the rules' scripts."""
    ids, found = {str(job.id) for job in jobs}, []
    for process in clone.node.processes():
        with contextlib.suppress(psutil.Error):
            is_script = any("/.snakemake/scripts/" in argument for argument in process.cmdline()[:3])
            if is_script and process.environ().get("SLURM_JOB_ID") in ids:
                found.append(process)
    return found


@pytest.fixture(scope="session")
def installed() -> None:
    """Skip where SLURM is not installed, unless GWPRUNE_CLUSTER_TESTS=required."""
    if missing := missing_programs():
        text = f"the cluster tests need {', '.join(missing)}: {INSTALL}"
        if os.environ.get("GWPRUNE_CLUSTER_TESTS") == "required":
            pytest.fail(text)
        pytest.skip(text)


@pytest.fixture(scope="session")
def node(installed) -> Iterator[SlurmNode]:
    with SlurmNode() as node:
        yield node


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """The working tree as it is at the start: all clones are the same, whoever edits it meanwhile."""
    directory = tmp_path_factory.mktemp("files")
    copy_working_tree(directory)
    return directory


@pytest.fixture(scope="session")
def sheltered() -> dict[str, str]:
    """This process's environment without what would make Snakemake or SLURM behave otherwise."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("SNAKEMAKE_", "GWPRUNE_"))}


@pytest.fixture(scope="module")
def new_clone(node, tmp_path_factory, files, sheltered) -> Iterator[Callable[[dict | None], Clone]]:
    """A function: a clone on the cluster, with a configuration of its own if one is given."""
    clones = []

    def make(config: dict | None = None) -> Clone:
        clones.append(Clone(tmp_path_factory.mktemp("cluster") / "clone", files, node.env(sheltered), node))
        if config is not None:
            clones[-1].configure(config)
        return clones[-1]

    yield make
    for clone in clones:
        clone.end()


@pytest.fixture(scope="module")
def local(tmp_path_factory, files, sheltered) -> Iterator[Callable[..., Clone]]:
    """A function: the clone in which `snakemake --cores 2` ran a configuration to its end, without a cluster."""
    clones = []

    def run(config: dict | None = None, *arguments: str) -> Clone:
        clones.append(Clone(tmp_path_factory.mktemp("local") / "clone", files, sheltered))
        if config is not None:
            clones[-1].configure(config)
        done = clones[-1].run("snakemake", "--cores", "2", "--quiet", "rules", *arguments, timeout=900)
        assert done.wait(0) == 0, done.text
        return clones[-1]

    yield run
    for clone in clones:
        clone.end()
