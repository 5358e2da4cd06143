"""Everything is killed, again and again: the tables at the end are those of an undisturbed run."""

from __future__ import annotations

import random
import re
import signal
import time
from collections import Counter

import psutil
import pytest

from tests.cluster.conftest import LITERAL, POLL, Clone, Run, assert_same_tables, working_processes

pytestmark = [pytest.mark.cluster, pytest.mark.workflow, pytest.mark.storm]

SEED = 20260101
CONFIG = {
    "experiments": [
        {"name": "storm", "dataset": "digits", "network": {"name": "fc", "options": {"hidden": [100, 60]}}}
    ],
    "training": {"epochs": 300, "batch_size": 64, "l1": 1e-3},
    "spectrum": {"steps": 400, "probes": 1},
    "pruning": {"methods": ["magnitude", "random"], "sparsities": [0.3, 0.6, 0.9], "resolution": 0.01},
    "fine_tuning": {"epochs": 80, "sparsities": [0.6, 0.7, 0.8, 0.9], "chunk": 2},
}
KILLS = {
    "SIGKILL of a job's process": 4,
    "SIGTERM of a job's process": 4,
    "scancel": 3,
    "scontrol requeue": 2,
    "failure of the node": 1,
    "restart of slurmd": 2,
    "SIGKILL of snakemake": 4,
}
# Besides, Snakemake is killed so often while it has not yet noticed that its jobs have all ended, which saves time too.
UNNOTICED = 4
# A job that was hit so often is left alone.
HITS = 2
# The last kill waits until so many of the jobs have been running, the earlier ones in proportion.
SPREAD = 0.8


class Storm:
    """Random kills at one clone, whose Snakemake is started again whenever it is not running."""

    def __init__(self, clone: Clone, seed: int):
        self.clone, self.node, self.random = clone, clone.node, random.Random(seed)
        self.done: list[str] = []
        self.hits: Counter[str] = Counter()
        self.seen: set[str] = set()
        self.starts = 0
        self.run = self.first = self._start()

    def _start(self) -> Run:
        self.starts += 1
        return self.clone.start(*LITERAL, *POLL)

    def _targets(self) -> list:
        """Running jobs that were hit least, if they may still be hit."""
        running = [job for job in self.clone.queue() if job.state == "RUNNING"]
        self.seen.update(job.comment for job in [*running, *self.clone.records()])
        fewest = min((self.hits[job.comment] for job in running), default=HITS)
        return [job for job in running if self.hits[job.comment] == fewest < HITS]

    def _too_early(self, share: float) -> bool:
        """Whether fewer jobs have been running than a kill with ``share`` of all kills before it waits for."""
        found = re.search(r"^total +(\d+)$", self.first.text, re.MULTILINE)
        return found is None or len(self.seen) < SPREAD * share * int(found[1])

    def _unnoticed(self) -> bool:
        """Whether all jobs that were submitted have ended, seconds ago, and Snakemake may still be killed for it."""
        if sum("in vain" in kill for kill in self.done) == UNNOTICED or not self.run.jobs():
            return False
        end = time.monotonic() + 2
        while not (ended := self.run.ended or bool(self.clone.queue())) and time.monotonic() < end:
            time.sleep(0.3)
        return not ended

    def strike(self, kind: str, share: float) -> bool:
        """Kill something; false when there is nothing of the kind to kill now, or it is too early."""
        jobs = self._targets()
        if not jobs or self._too_early(share):
            return False
        job = self.random.choice(jobs)
        if kind.endswith("of a job's process"):
            processes = working_processes(self.clone, jobs)
            if not processes:
                return False
            process = self.random.choice(processes)
            number = signal.SIGKILL if kind.startswith("SIGKILL") else signal.SIGTERM
            try:
                id_ = process.environ()["SLURM_JOB_ID"]
                process.send_signal(number)
            except (psutil.Error, KeyError):  # it has just ended
                return False
            job = next(job for job in jobs if str(job.id) == id_)
        elif kind == "scancel":
            self.node.client("scancel", str(job.id))
        elif kind == "scontrol requeue":
            self.node.client("scontrol", "requeue", str(job.id), check=False)
        elif kind == "failure of the node":
            self.node.fail()
        elif kind == "restart of slurmd":
            self.node.restart_slurmd(hard=self.random.random() < 0.5)
        else:
            self.run.kill()
        if kind not in ("restart of slurmd", "SIGKILL of snakemake"):
            self.hits[job.comment] += 1
        self.done.append(f"{kind} ({job.rule})")
        return True

    def rage(self, kinds: list[str], end: float) -> None:
        """All kills in turn, each after a random pause."""
        for number, kind in enumerate(kinds):
            time.sleep(self.random.uniform(0.5, 4))
            while not self.strike(kind, number / len(kinds)):
                assert time.monotonic() < end, self.report()
                if self.run.ended:
                    assert self.run.wait(0) != 0, f"it ended before all kills were done\n{self.report()}"
                    self.run = self._start()
                elif self._unnoticed():
                    self.run.kill()
                    self.done.append("SIGKILL of snakemake that waits in vain")
                    self.run = self._start()
                time.sleep(0.3)
            if self.run.ended:
                self.run = self._start()

    def calm(self, end: float) -> None:
        """Start again until it ends well."""
        while self.run.wait(max(1, end - time.monotonic())) != 0:
            assert time.monotonic() < end, self.report()
            self.run = self._start()

    def report(self) -> str:
        kinds = Counter(kill.partition(" (")[0] for kill in self.done)
        lines = [f"{count:3d} {kind}" for kind, count in kinds.items()]
        last = self.run.text[-3000:]
        return "\n".join([f"{len(self.done)} kills, {self.starts} starts", *lines, *self.done, last])


def test_kills_at_random_change_no_table(new_clone, local):
    clone = new_clone(CONFIG)
    kinds = [kind for kind, count in KILLS.items() for _ in range(count)]
    storm = Storm(clone, SEED)
    storm.random.shuffle(kinds)
    end = time.monotonic() + 1200
    storm.rage(kinds, end)
    storm.calm(end)
    print(storm.report())
    assert len(storm.done) >= 20
    assert not clone.unfinished()
    assert not clone.locks()
    assert_same_tables(clone, local(CONFIG))
