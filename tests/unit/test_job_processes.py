"""Jobs as processes: one at a time does a job, signals stop it, GPU slots are held."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from gwprune.jobs.job import job

SCRIPT = """
import sys, time
from pathlib import Path
from gwprune.jobs.job import job
log, output, release, data = sys.argv[1:]
with job(log, configuration={"a": 1}, inputs=[data], outputs=[output]):
    print("working", flush=True)
    while not Path(release).exists():
        time.sleep(0.02)
    Path(output).write_text(f"by process {sys.argv[0]}")
"""


def start(*arguments) -> subprocess.Popen:
    """A process that works on a job until a file appears."""
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("same_input", [True, False])
def test_a_job_that_another_process_does_is_waited_for_and_not_done_twice(tmp_path, capfd, caplog, same_input):
    log, output, release, data = (tmp_path / name for name in ("a.log", "out", "release", "data"))
    data.write_text("x")
    other = start(log, output, release, data)
    assert other.stdout.readline() == "working\n"
    if not same_input:
        data.write_text("changed")
    threading.Timer(0.5, release.touch).start()
    done, status = [], None
    try:
        with job(log, configuration={"a": 1}, inputs=[str(data)], outputs=[str(output)]):
            done.append("again")
    except SystemExit as end:
        status = end.code
    assert status == (0 if same_input else None)
    assert other.wait() == 0
    assert output.exists()
    assert done == ([] if same_input else ["again"])
    assert re.search(rf"waiting for another process .*\([0-9a-f]{{16}} process {other.pid} on", caplog.text)
    assert (f"process {other.pid} on" in capfd.readouterr().err) == same_input
    assert not list(tmp_path.glob("*.lock"))


def test_leftovers_of_a_killed_attempt_are_removed(tmp_path):
    output, other = tmp_path / "network.pt", tmp_path / ".other.pt.abc.part"
    left = tmp_path / ".network.pt.x1y2.part"
    left.write_text("half")
    other.write_text("of another job")
    training, rows = tmp_path / ".a_train.pt.q.part", tmp_path / ".a_600000.json.q.part"
    for part in (training, rows):
        part.write_text("half")
    checkpoints = [str(tmp_path / "a_train.pt"), str(tmp_path / "a_600000")]
    with job(tmp_path / "a.log", outputs=[str(output)], checkpoints=checkpoints):
        assert not any(part.exists() for part in (left, training, rows))
    assert other.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_the_process_with_status_75_and_says_so_in_the_log(tmp_path, number):
    log, never = tmp_path / "a.log", tmp_path / "never"
    process = start(log, tmp_path / "out", never, tmp_path / "data")
    assert process.stdout.readline() == "working\n"
    process.send_signal(number)
    assert process.wait() == 75
    said = process.stderr.read()
    assert "Traceback" not in said
    # After Ctrl-C the run says once how to go on, not each job.
    assert ("run again" in said) == (number != signal.SIGINT)
    assert f"stopped by {signal.Signals(number).name}; run again" in log.read_text()
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.lock"))


def test_a_gpu_job_of_a_local_run_holds_a_slot_and_logs_it(tmp_path, monkeypatch):
    monkeypatch.setattr("gwprune.storage.locks.slot_directory", lambda: tmp_path / "slots")
    monkeypatch.setenv("GWPRUNE_GPU_SLOTS", "4,7")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with job(tmp_path / "a.log", gpus=1):
        with job(tmp_path / "b.log", gpus=1):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert "CUDA_VISIBLE_DEVICES=4" in (tmp_path / "a.log").read_text()
    with job(tmp_path / "c.log"):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "logs").write_text("a file where a directory belongs")
    with pytest.raises(SystemExit, match=r"gwprune: .*logs/train/a\.log"), job(tmp_path / "logs/train/a.log"):
        pytest.fail("the block must not run")
