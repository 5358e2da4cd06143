"""The start of a run: GPU slots, and the remains of a run that was killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gwprune import launch

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
    assert launch.gpu_slots(environment) == slots


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
    assert launch.gpu_slots({}) == ["0", "1", "2"]
    program(programs, "nvidia-smi", "echo no driver; exit 9\n")
    assert launch.gpu_slots({}) == []


# --- a run that was killed ----------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path) -> Path:
    """Like Snakemake's own: `.snakemake` with a lock."""
    found = tmp_path / "work/.snakemake"
    (found / "locks").mkdir(parents=True)
    (found / "locks/0.output.lock").write_text("results/a\n")
    return found


def claimed_by_a_process_that(directory: Path, lives: bool) -> subprocess.Popen:
    code = f"""
import time
from pathlib import Path
from gwprune import launch
launch.claim(Path({str(directory)!r}), "local")
print("claimed", flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    if not lives:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return process


def owner(directory: Path, **values) -> None:
    path = directory / "gwprune-owner.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def locks(directory: Path) -> list[str]:
    return [path.name for path in (directory / "locks").iterdir()]


def test_the_lock_of_a_killed_run_is_removed(directory, capsys):
    process = claimed_by_a_process_that(directory, lives=False)
    launch.take_over(directory)
    assert locks(directory) == []
    assert f"process {process.pid} on {HERE} ended without finishing; its lock is removed" in capsys.readouterr().err
    launch.take_over(directory)
    assert capsys.readouterr().err == ""


def test_the_lock_of_a_living_run_stays(directory):
    process = claimed_by_a_process_that(directory, lives=True)
    try:
        launch.take_over(directory)
        assert locks(directory) == ["0.output.lock"]
    finally:
        process.kill()
        process.wait()


def test_a_process_number_that_was_given_anew_is_another_process(directory):
    claimed_by_a_process_that(directory, lives=False)
    owner(directory, pid=os.getpid())
    launch.take_over(directory)
    assert locks(directory) == []


def test_after_a_reboot_no_process_lives(directory):
    launch.claim(directory, "local")
    owner(directory, boot="another")
    launch.take_over(directory)
    assert locks(directory) == []


def test_the_lock_of_another_host_stays_and_is_explained(directory, capsys):
    claimed_by_a_process_that(directory, lives=False)
    owner(directory, host="login2")
    launch.take_over(directory)
    assert locks(directory) == ["0.output.lock"]
    assert "on login2 has started this workflow. If it does not live any more: snakemake --unlock" in (
        capsys.readouterr().err
    )


def test_a_lock_that_came_after_the_note_is_another_runs(directory):
    claimed_by_a_process_that(directory, lives=False)
    later = time.time() + 5
    os.utime(directory / "locks/0.output.lock", (later, later))
    launch.take_over(directory)
    assert locks(directory) == ["0.output.lock"]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"host": 1'])
def test_a_damaged_note_is_removed_and_the_lock_stays(directory, content):
    (directory / "gwprune-owner.json").write_text(content)
    launch.take_over(directory)
    assert locks(directory) == ["0.output.lock"]
    assert not (directory / "gwprune-owner.json").exists()


def test_a_run_that_ended_by_itself_leaves_nothing_to_take_over(directory, capsys):
    launch.claim(directory, "local")
    launch.release(directory)
    launch.release(directory)
    launch.take_over(directory)
    assert locks(directory) == ["0.output.lock"]
    assert capsys.readouterr().err == ""


# --- its SLURM jobs -----------------------------------------------------------------------------------------


def test_orphans_are_the_jobs_that_snakemake_submitted_from_this_directory(programs, directory):
    here = directory.parent.resolve()
    lines = [f"11|gwprune_{UUID}|{here}", f"12|{UUID}|{here}", f"13|{UUID}|{here}/other", f"14|my-job|{here}"]
    program(programs, "squeue", "".join(f"echo '{line}'\n" for line in lines))
    assert launch.orphans(directory.parent) == ["11", "12"]


def test_the_slurm_jobs_of_a_killed_run_are_cancelled_and_waited_for(programs, directory, capsys):
    queue = programs / "queue"
    queue.write_text(f"11|gwprune_{UUID}|{directory.parent.resolve()}\n")
    program(programs, "squeue", f"cat {queue}\n")
    program(programs, "scancel", f'echo "$@" > {programs}/cancelled; : > {queue}\n')
    claimed_by_a_process_that(directory, lives=False)
    owner(directory, executor="slurm")
    launch.take_over(directory)
    assert (programs / "cancelled").read_text().split() == ["11"]
    assert "its 1 SLURM job(s) are cancelled: 11" in capsys.readouterr().err


def test_a_queue_that_cannot_be_asked_is_named(programs, directory, capsys):
    program(programs, "squeue", "echo 'no controller' >&2; exit 1\n")
    assert launch.orphans(directory.parent) == []
    error = capsys.readouterr().err
    assert "squeue failed" in error
    assert "no controller" in error
