"""The start of a run: GPU slots, and the remains of a run that was killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gwprune.jobs import words
from gwprune.jobs.launch import Launch, gpu_slots, places, without

HERE = socket.gethostname()
UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"


# --- GPU slots ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "slots"),
    [
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, ["2", "3"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8f1a,GPU-77b0"}, ["GPU-8f1a", "GPU-77b0"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
        ({"CUDA_VISIBLE_DEVICES": "0", "GWPRUNE_GPU_SLOTS": "0, 1"}, ["0", "1"]),
    ],
)
def test_slots_are_those_that_the_environment_names(environment, slots):
    assert gpu_slots(environment) == slots


def program(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """A directory first on PATH for programs of the test's own."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def test_without_the_environment_slots_are_those_of_the_driver(programs):
    program(programs, "nvidia-smi", "echo 0; echo 1; echo 2\n")
    assert gpu_slots({}) == ["0", "1", "2"]
    program(programs, "nvidia-smi", "echo no driver; exit 9\n")
    assert gpu_slots({}) == []


def test_one_resource_is_taken_out_of_all_rules():
    asked = {"train": {"gpu_model": "a100", "mem_mb": 1}, "sweep": {"qos": "long"}}
    assert without(asked, "gpu_model") == {"train": {"mem_mb": 1}, "sweep": {"qos": "long"}}


# --- a run that was killed ----------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path) -> Path:
    """Like Snakemake's own: `.snakemake` with the lock of some run."""
    found = tmp_path / "work/.snakemake"
    (found / "locks").mkdir(parents=True)
    return found


def lock(directory: Path, number: int) -> Path:
    path = directory / f"locks/{number}.output.lock"
    path.write_text("results/a\n")
    return path


SNAKEMAKE = """
import sys, time
from pathlib import Path
from gwprune.jobs.launch import Launch
directory, begun, run, *locks = sys.argv[1:]
launch = Launch(Path(directory))
launch.begin()
for path in locks:
    Path(path).write_text("x")
if begun == "begun":
    launch.started(locks, run)
print("here", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def snakemake(directory):
    """A function that starts a process with a note and locks, and kills it if it shall not live."""
    processes = []

    def start(*locks: int, lives: bool, begun: bool = True, run: str = "") -> subprocess.Popen:
        paths = [str(directory / f"locks/{number}.output.lock") for number in locks]
        process = subprocess.Popen(
            [sys.executable, "-c", SNAKEMAKE, str(directory), "begun" if begun else "", run, *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "here\n"
        if not lives:
            process.kill()
            process.wait()
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def locks(directory: Path) -> set[int]:
    return {int(path.name.partition(".")[0]) for path in (directory / "locks").iterdir()}


def launched(directory: Path) -> Launch:
    launch = Launch(directory)
    launch.begin()
    return launch


def test_the_lock_of_a_killed_run_is_removed_and_said_once(directory, snakemake, capsys):
    process = snakemake(0, 1, lives=False)
    launch = launched(directory)
    assert locks(directory) == set()
    assert f"process {process.pid} on {HERE} ended without finishing; its lock is removed" in capsys.readouterr().err
    launch.started([], "")
    launch.end()
    launched(directory).end()
    assert capsys.readouterr().err == ""
    assert not list((directory / "gwprune-runs").iterdir())


def test_the_lock_of_a_living_run_stays_beside_that_of_a_dead_one(directory, snakemake):
    snakemake(0, lives=True)
    snakemake(1, lives=False)
    launched(directory).end()
    assert locks(directory) == {0}


def test_a_run_that_was_killed_before_it_could_tell_its_locks_is_unlocked_too(directory, snakemake):
    snakemake(0, lives=False, begun=False)
    launched(directory).end()
    assert locks(directory) == set()


def test_locks_that_may_be_of_another_run_stay(directory, snakemake):
    snakemake(0, lives=True)
    snakemake(1, lives=False, begun=False)
    launched(directory).end()
    assert locks(directory) == {0, 1}


def test_locks_from_before_a_run_that_told_nothing_stay(directory, snakemake):
    old = lock(directory, 7)
    os.utime(old, (1, 1))
    snakemake(0, lives=False, begun=False)
    launched(directory).end()
    assert locks(directory) == {7}


def test_without_a_note_nothing_is_removed(directory):
    lock(directory, 0)
    launched(directory).end()
    assert locks(directory) == {0}


def test_a_start_that_runs_no_job_leaves_the_note_so_that_a_later_one_can_cancel_jobs(directory, snakemake):
    snakemake(0, lives=False)
    launched(directory).end()
    assert len(list((directory / "gwprune-runs").glob("*.json"))) == 1


def test_the_lock_of_another_host_stays_and_is_explained(directory, snakemake, capsys):
    process = snakemake(0, lives=False)
    (path,) = (directory / "gwprune-runs").glob("*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "login2"}))
    launched(directory).end()
    assert locks(directory) == {0}
    said = capsys.readouterr().err
    assert f"process {process.pid} on login2 has started this workflow. If it does not live any more" in said


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"host": 1'])
def test_a_damaged_note_frees_no_lock(directory, content):
    lock(directory, 0)
    (directory / "gwprune-runs").mkdir()
    (directory / "gwprune-runs/x.json").write_text(content)
    launched(directory).end()
    assert locks(directory) == {0}


def test_a_directory_that_cannot_be_written_ends_nothing(directory, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr("gwprune.jobs.launch.write_json", refuse)
    launch = launched(directory)
    launch.end()


# --- the end ------------------------------------------------------------------------------------------------


def test_the_end_of_a_run_names_what_there_is_and_commands_that_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert places(Path("results")) == ""
    for name in ("tables", "figures"):
        Path("results", name).mkdir(parents=True)
    assert places(Path("results"), [tmp_path / "my config.yaml"]).splitlines() == [
        "tables: results/tables (what each is: results/tables/README.md)",
        "figures: results/figures",
        f"the limits: {words.program('gwprune')} thresholds --config 'my config.yaml'",
        f"one page with all: {words.program('gwprune')} report --config 'my config.yaml'",
    ]
    assert "gwprune report results" in places(Path("results"), ["a.yaml", "b.yaml"])


# --- plans, and Ctrl-C --------------------------------------------------------------------------------------


def plugin(dryrun: bool) -> SimpleNamespace:
    """What Snakemake's function that executes a workflow is told of the executor."""
    return SimpleNamespace(common_settings=SimpleNamespace(dryrun_exec=dryrun))


@pytest.mark.parametrize("dryrun", [True, False])
def test_a_dry_run_changes_nothing_and_a_run_unlocks(directory, snakemake, dryrun):
    snakemake(0, lives=False)
    before = sorted(directory.rglob("*"))
    launch = Launch(directory)
    ended = []
    run = launch.around(lambda executor_plugin, updated: (locks(directory), updated), finished=lambda: ended.append(1))
    assert run(executor_plugin=plugin(dryrun), updated="files") == ({0} if dryrun else set(), "files")
    assert len(ended) == (0 if dryrun else 1)
    if dryrun:
        assert sorted(directory.rglob("*")) == before
    launch.end()


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from gwprune.jobs.launch import Launch

def execute(executor_plugin):
    try:
        os.kill(os.getpid(), int(sys.argv[2]))
    except KeyboardInterrupt:
        print("Snakemake ends its jobs", flush=True)
        raise SystemExit(1)

plugin = SimpleNamespace(common_settings=SimpleNamespace(dryrun_exec=False))
Launch(Path(sys.argv[1])).around(execute, lambda: None)(executor_plugin=plugin)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGCHLD])
def test_the_last_line_after_ctrl_c_says_how_to_go_on(directory, number):
    command = [sys.executable, "-c", INTERRUPTED, str(directory), str(int(number))]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    last = "gwprune: interrupted; the same command goes on, from the last checkpoints"
    expected = (1, ["Snakemake ends its jobs", last]) if number == signal.SIGINT else (0, [])
    assert (done.returncode, done.stdout.splitlines()) == expected
    assert not list((directory / "gwprune-runs").glob("*.json"))


# --- its SLURM jobs -----------------------------------------------------------------------------------------


@pytest.fixture
def queue(programs) -> Path:
    """A queue of `ID NAME` lines behind programs that look like SLURM's."""
    path = programs / "queue"
    wanted = 'name=$(echo "$*" | sed "s/.*--name=//;s/ .*//")\n'
    program(programs, "squeue", f"{wanted}grep \" $name$\" {path} | cut -d' ' -f1; true\n")
    program(programs, "scancel", f'for id in "$@"; do echo $id >> {path}.cancelled; sed -i "/^$id /d" {path}; done\n')
    return path


def test_slurm_jobs_of_a_killed_run_are_cancelled_when_jobs_are_about_to_run(directory, snakemake, queue, capsys):
    queue.write_text(f"11 gwprune_{UUID}\n12 gwprune_{UUID}\n13 another-run\n")
    snakemake(0, lives=True, run="another-run")
    process = snakemake(1, lives=False, run=f"gwprune_{UUID}")
    launch = launched(directory)
    assert not queue.with_name("queue.cancelled").exists()
    launch.started([], "new-run")
    launch.end()
    assert queue.with_name("queue.cancelled").read_text().split() == ["11", "12"]
    assert queue.read_text() == "13 another-run\n"
    said = capsys.readouterr().err
    assert f"2 SLURM job(s) of process {process.pid} on {HERE}, which was killed, are cancelled: 11, 12" in said


def test_jobs_that_cannot_be_cancelled_are_named(directory, snakemake, queue, programs, capsys):
    queue.write_text(f"11 {UUID}\n")
    program(programs, "scancel", "echo 'access denied' >&2; exit 1\n")
    snakemake(1, lives=False, run=UUID)
    launch = launched(directory)
    launch.started([], "")
    launch.end()
    assert "SLURM jobs 11 of process" in (said := capsys.readouterr().err)
    assert "could not be cancelled: access denied" in said


def test_a_queue_that_cannot_be_asked_is_named(directory, snakemake, programs, capsys):
    program(programs, "squeue", "echo 'no controller' >&2; exit 1\n")
    snakemake(1, lives=False, run=UUID)
    launch = launched(directory)
    launch.started([], "")
    launch.end()
    said = capsys.readouterr().err
    assert "squeue failed" in said
    assert "no controller" in said
