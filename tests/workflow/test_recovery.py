"""Runs that are killed, files that are damaged: Snakemake itself on this machine."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.workflow.conftest import Workflow, changed
from tests.workflow.planning import ROOT

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def slow(tiny) -> dict:
    """A configuration whose training and fine-tuning take some seconds."""
    return changed(changed(tiny, "training", epochs=400), "fine_tuning", epochs=150, sparsities=[0.6, 0.8], chunk=3)


@pytest.fixture(scope="module")
def undisturbed(run_once, slow) -> Workflow:
    return run_once("undisturbed", slow, "--until", "finetune")


def start(workflow: Workflow, config: dict, *arguments: str) -> subprocess.Popen:
    with open(workflow.directory / "output", "w") as output:
        return subprocess.Popen(
            workflow.command(config, *arguments),
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def output_of(workflow: Workflow) -> str:
    return (workflow.directory / "output").read_text()


def wait_until(condition, workflow: Workflow, process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, output_of(workflow)
        time.sleep(0.05)


def wait_for_checkpoint(workflow: Workflow, pattern: str, process: subprocess.Popen) -> None:
    wait_until(lambda: list(workflow.directory.glob(f"results/checkpoints/{pattern}")), workflow, process)


def scripts_below(process: subprocess.Popen) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if any("/.snakemake/scripts/" in word for word in child.cmdline()):
                found.append(child)
    return found


def test_after_kill_9_of_snakemake_the_next_start_goes_on_and_no_job_is_done_twice(tmp_path, slow, undisturbed):
    workflow = Workflow(tmp_path)
    process = start(workflow, slow, "--until", "train")
    wait_for_checkpoint(workflow, "*_train.pt", process)
    (job,) = scripts_below(process)
    job.suspend()  # so that it still works when the next start comes to its job
    process.kill()
    process.wait()
    left = sorted(workflow.directory.glob(".snakemake/locks/*"))
    workflow.dry_run(slow)
    assert sorted(workflow.directory.glob(".snakemake/locks/*")) == left != []
    second = start(workflow, slow, "--until", "train")
    waits = "waiting for another process that does this job"
    wait_until(lambda: waits in output_of(workflow), workflow, second)
    job.resume()
    assert second.wait() == 0, output_of(workflow)
    text = output_of(workflow)
    assert re.search(rf"process {process.pid} on \S+ ended without finishing; its lock is removed", text)
    assert re.search(rf"process {job.pid} on \S+ has done this job", text)
    assert workflow.job_tables("training.parquet", "training") == undisturbed.job_tables("training.parquet", "training")
    assert not workflow.unfinished()


def test_a_job_that_is_killed_goes_on_from_its_checkpoint(tmp_path, slow, undisturbed):
    workflow = Workflow(tmp_path)
    process = start(workflow, slow, "--until", "finetune")
    for rule, checkpoint, number in (
        ("train", "*_train.pt", signal.SIGTERM),
        ("finetune", "*_magnitude_*.pt", signal.SIGKILL),
    ):
        wait_for_checkpoint(workflow, checkpoint, process)
        for script in scripts_below(process):
            script.send_signal(number)
        assert process.wait() != 0
        (log,) = workflow.directory.glob(f"results/logs/{rule}/*.log")
        assert str(log.relative_to(workflow.directory)) in output_of(workflow)
        if number == signal.SIGTERM:
            assert "stopped by SIGTERM; run again to go on from the last checkpoint" in log.read_text()
        process = start(workflow, slow, "--until", "finetune")
    assert process.wait() == 0, output_of(workflow)
    for rule in ("train", "finetune"):
        (log,) = workflow.directory.glob(f"results/logs/{rule}/*.log")
        assert re.search(r"going on after epoch \d+", log.read_text()), log
    for pattern, name in (("training.parquet", "training"), ("fine_tuned/*.parquet", "sweep")):
        assert workflow.job_tables(pattern, name) == undisturbed.job_tables(pattern, name)


def test_ctrl_c_leaves_no_lock_and_no_process(tmp_path, slow):
    workflow = Workflow(tmp_path)
    process = start(workflow, slow)
    wait_for_checkpoint(workflow, "*_train.pt", process)
    jobs = scripts_below(process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() != 0
    psutil.wait_procs(jobs, timeout=30)
    assert not any(job.is_running() for job in jobs)
    *_, last = output_of(workflow).splitlines()
    assert last == "gwprune: interrupted; the same command goes on, from the last checkpoints"
    assert "Traceback" not in output_of(workflow)
    assert not list(workflow.directory.glob(".snakemake/locks/*"))
    assert not list(workflow.directory.glob("results/**/*.part"))


def test_damaged_files_in_results_are_named_on_the_terminal(finished, tiny, tmp_path):
    copied: Path = shutil.copytree(finished.directory, tmp_path / "copy")  # with the times of its files
    damaged = []
    for pattern in ("ranking/taylor.pt", "spectrum/hessian_probe0.npz"):
        (path,) = (copied / "results/runs").glob(f"*/seed0/{pattern}")
        content, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
        path.write_bytes(content[: len(content) // 2])
        os.utime(path, ns=times)
        damaged.append(path)
    rules = ("sweep", "predict")
    forced = ("--forcerun", *rules, "--until", *rules, "--rerun-triggers", "mtime")
    text = Workflow(copied).run(tiny, *forced, status=1)
    for path in damaged:
        assert re.search(rf"failed: .*Error: .*{re.escape(path.name)}", text), text[-3000:]
