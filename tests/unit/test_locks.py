"""Locks between processes: real processes, killed and not."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from gwprune.storage import locks
from gwprune.storage.locks import gpu_slot, is_held, locked

HOLDER = """
import sys, time
from gwprune.storage.locks import gpu_slot, locked
from pathlib import Path
kind, place, release = sys.argv[1:]
context = locked(place, "first") if kind == "lock" else gpu_slot(["0", "1"], Path(place))
with context as found:
    print(found, flush=True)
    while not Path(release).exists():
        time.sleep(0.02)
"""


def holder(kind, place, release) -> subprocess.Popen:
    """A process that holds a lock until ``release`` exists; returns once it holds it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, kind, str(place), str(release)], stdout=subprocess.PIPE, text=True
    )
    process.holds = process.stdout.readline().strip()
    return process


def test_a_lock_that_nobody_holds_is_taken_and_leaves_no_file(tmp_path):
    path = tmp_path / "a/b.lock"
    with locked(path, "note") as before:
        assert before is None
        assert path.read_text() == "note"
    assert not path.exists()


def test_the_second_process_waits_and_learns_whom_it_waited_for(tmp_path):
    path, release = tmp_path / "a.lock", tmp_path / "release"
    process = holder("lock", path, release)
    subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(0.5); open({str(release)!r}, 'w')"])
    with locked(path, "second") as before:
        assert release.exists()
        assert before == "first"
        assert path.read_text() == "second"
    process.wait()
    assert not path.exists()


def test_a_killed_holder_frees_the_lock(tmp_path):
    path = tmp_path / "a.lock"
    process = holder("lock", path, tmp_path / "never")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.exists()
    with locked(path, "second") as before:
        assert before is None


def test_whether_a_lock_is_held_is_known_without_taking_it(tmp_path):
    path = tmp_path / "a.lock"
    assert not is_held(path)
    process = holder("lock", path, tmp_path / "never")
    assert is_held(path)
    assert is_held(path)
    process.kill()
    process.wait()
    assert not is_held(path)
    assert path.exists()


def test_a_lock_file_that_another_host_removed_is_made_anew(tmp_path, monkeypatch):
    flock, calls = fcntl.flock, []

    def stale_once(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", stale_once)
    with locked(tmp_path / "a.lock", "x") as before:
        assert before is None
        assert len(calls) == 2


def test_of_many_processes_one_at_a_time_holds_the_lock(tmp_path):
    code = """
import os, sys, time
from gwprune.storage.locks import locked
for _ in range(20):
    with locked(sys.argv[1], "x"):
        handle = os.open(sys.argv[2], os.O_CREAT | os.O_EXCL)
        time.sleep(0.001)
        os.close(handle)
        os.unlink(sys.argv[2])
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.lock"), str(tmp_path / "inside")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]


def test_a_file_system_without_locks_is_named_and_no_obstacle(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "a.lock", "x") as before:
        assert before is None
    assert "this file system has no locks" in caplog.text


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot lock .*file/a\.lock"), locked(tmp_path / "file/a.lock", "x"):
        pytest.fail("the block must not run")


# --- GPU slots ----------------------------------------------------------------------------------------------


def test_a_slot_is_the_only_visible_device_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with gpu_slot(["3", "5"], tmp_path) as slot:
        assert slot == os.environ["CUDA_VISIBLE_DEVICES"] == "3"
        with gpu_slot(["3", "5"], tmp_path) as other:
            assert other == os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with gpu_slot(["0"], tmp_path):
        pass
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_jobs_take_distinct_slots_and_a_third_waits_for_a_free_one(tmp_path):
    releases = [tmp_path / "first", tmp_path / "second"]
    processes = [holder("slot", tmp_path / "slots", release) for release in releases]
    assert [process.holds for process in processes] == ["0", "1"]
    third = subprocess.Popen(
        [sys.executable, "-c", HOLDER, "slot", str(tmp_path / "slots"), str(tmp_path / "first")],
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(1)
    assert third.poll() is None
    processes[1].send_signal(signal.SIGKILL)
    assert third.stdout.readline().strip() == "1"
    releases[0].touch()
    assert third.wait() == processes[0].wait() == 0
    processes[1].wait()


def test_no_slots_at_all_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no GPU slot"), gpu_slot([], tmp_path):
        pytest.fail("the block must not run")


def test_slots_of_one_machine_are_shared_by_all_workflows_of_a_user():
    assert str(os.getuid()) in locks.slot_directory().name
    assert locks.slot_directory().is_absolute()
