"""The private SLURM itself: it counts slots, survives a restart, and leaves nothing behind."""

import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest

from tests.cluster.node import NodeError, SlurmNode
from tests.cluster.records import JobRecord, most_at_once

pytestmark = pytest.mark.cluster

# Where Debian's packages have their own configuration, state, sockets and logs.
PLACES = [Path(place) for place in ("/etc", "/run", "/var/lib", "/var/log", "/var/spool")]
NOON = datetime(2026, 1, 1, 12)


def listing() -> set[Path]:
    """Every file of a SLURM or munge of the system's own."""
    roots = [root for place in PLACES for name in ("slurm*", "munge*") for root in place.glob(name)]
    return {path for root in roots for path in (root, *root.rglob("*"))}


def submit(node: SlurmNode, script: str, *options: str) -> int:
    return int(node.client("sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", script))


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_jobs_get_slots_of_their_own_and_nothing_is_left(installed, tmp_path):
    before = listing()
    node = SlurmNode(kill_wait=1, requeue_delay=5)
    with node:
        directory = node.directory
        assert node.env()["SLURM_CONF"].startswith(str(directory))
        command = f"echo $CUDA_VISIBLE_DEVICES > {tmp_path}/$SLURM_JOB_ID; sleep 3"
        jobs = [submit(node, command, "-p", "gpu", "--gpus=1") for _ in range(3)]
        plain = submit(node, f"echo ${{CUDA_VISIBLE_DEVICES-unset}} > {tmp_path}/$SLURM_JOB_ID", "-p", "cpu")
        wait_for(lambda: len([job for job in node.queue() if job.state == "RUNNING" and job.gpus]) == 2)
        node.restart_slurmd()
        wait_for(lambda: len(node.records()) == 2)
        node.restart_slurmd(hard=True)
        wait_for(lambda: not node.queue())

        records = {record.id: record for record in node.records()}
        assert set(records) == {*jobs, plain}
        assert {record.state for record in records.values()} == {"COMPLETED"}
        assert [records[id_].gpus for id_ in jobs] == [1, 1, 1]
        assert records[plain].gpus == 0
        assert most_at_once(records.values()) == 2
        seen = {id_: (tmp_path / str(id_)).read_text().strip() for id_ in (*jobs, plain)}
        assert {seen[jobs[0]], seen[jobs[1]]} == {"0", "1"}
        assert seen[jobs[2]] in "01"
        assert seen[plain] == "unset"

        # A job whose script ends by SIGTERM before a child that is deaf to it, one that waits, and the daemons at work.
        submit(node, "(trap '' TERM; while :; do sleep 1; done) & wait", "-p", "gpu", "--gpus=2")
        submit(node, "sleep 600", "-p", "gpu", "--gpus=1")
        wait_for(lambda: any(job.state == "RUNNING" for job in node.queue()))
        pids = [process.pid for process in node.processes()]
        assert len(pids) >= 4
    living = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    assert not living
    assert not directory.exists()
    assert str(directory) not in Path("/proc/self/mounts").read_text()
    assert listing() == before


def test_what_stays_is_ended_and_named(installed):
    node = SlurmNode()
    node.start()
    with subprocess.Popen(["sleep", "600"], env=node.env()) as stays:
        with pytest.raises(NodeError, match=f"left behind:\nprocess {stays.pid}: sleep 600"):
            node.stop(grace=1)
        assert not psutil.pid_exists(stays.pid)
    assert node.directory is None


def test_a_failed_node_queues_its_job_again(installed):
    with SlurmNode(gpus=1, requeue_delay=5) as node:
        job = submit(node, "sleep 600", "-p", "gpu", "--gpus=1", "--requeue")
        wait_for(lambda: any(job.state == "RUNNING" for job in node.queue()))
        node.fail()
        wait_for(lambda: node.records())
        wait_for(lambda: any(job.state == "RUNNING" for job in node.queue()))
        assert [(record.id, record.state) for record in node.records()] == [(job, "NODE_FAIL")]
        assert node.node_state() == "mixed"


def record(start: int, end: int, gpus: int = 1) -> JobRecord:
    times = [NOON + timedelta(seconds=second) for second in (start, end)]
    return JobRecord(1, "", "COMPLETED", "gpu", *times, "node1", {}, "1", gpus, "rule_train_wildcards_a_0", "/")


def test_most_at_once_counts_overlaps_and_not_successions():
    assert most_at_once([]) == 0
    assert most_at_once([record(0, 5), record(5, 9), record(9, 12)]) == 1
    assert most_at_once([record(0, 5), record(4, 9), record(8, 12)]) == 2
    assert most_at_once([record(0, 9), record(1, 2), record(3, 5), record(4, 6)]) == 3
    assert most_at_once([record(0, 9), record(1, 2, gpus=0)]) == 1
    assert most_at_once([record(0, 9), record(1, 2, gpus=0)], gpu_only=False) == 2
    assert record(0, 5).overlaps(record(4, 9))
    assert not record(0, 5).overlaps(record(5, 9))
    assert record(0, 1).rule == "train"
