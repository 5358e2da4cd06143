"""Runs that are killed, slots that are few, files that are damaged: Snakemake itself on this machine."""

import copy
import os
import re
import shutil
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from tests.workflow.conftest import ROOT, Workflow

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def slow() -> dict:
    """A configuration whose training and fine-tuning take some seconds."""
    from tests.workflow.conftest import TINY

    config = copy.deepcopy(TINY)
    config["training"]["epochs"] = 400
    config["fine_tuning"] |= {"epochs": 150, "sparsities": [0.6, 0.8], "chunk": 2}
    return config


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, slow) -> dict:
    workflow = Workflow(tmp_path_factory.mktemp("undisturbed"))
    done = workflow.run(slow)
    assert done.returncode == 0, done.stdout + done.stderr
    return workflow.tables()


def start(workflow: Workflow, config: dict) -> subprocess.Popen:
    output = open(workflow.directory / "output", "w")  # noqa: SIM115 - the process keeps it
    return subprocess.Popen(workflow.command(config), cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)


def wait_for(workflow: Workflow, pattern: str, process: subprocess.Popen) -> Path:
    while True:
        assert process.poll() is None, (workflow.directory / "output").read_text()
        found = list(workflow.directory.glob(pattern))
        if found:
            return found[0]
        time.sleep(0.05)


def scripts_below(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children(recursive=True) if "/.snakemake/scripts/" in " ".join(child.cmdline())]


def test_after_kill_9_of_snakemake_the_next_start_goes_on_and_no_job_is_done_twice(tmp_path, slow, undisturbed):
    workflow = Workflow(tmp_path)
    process = start(workflow, slow)
    wait_for(workflow, "results/checkpoints/*_train.pt", process)
    (job,) = scripts_below(psutil.Process(process.pid))
    job.suspend()  # so that it still works when the next start comes to its job
    process.kill()
    process.wait()
    second = start(workflow, slow)
    output = workflow.directory / "output"
    while "waiting for another process that does this job" not in output.read_text():
        assert second.poll() is None, output.read_text()
        time.sleep(0.05)
    job.resume()
    assert second.wait() == 0, output.read_text()
    text = output.read_text()
    assert re.search(rf"process {process.pid} on \S+ ended without finishing; its lock is removed", text)
    assert re.search(rf"process {job.pid} on \S+ has done this job", text)
    found = workflow.tables()
    for name, table in undisturbed.items():
        assert table.equals(found[name]), name
    assert not list(workflow.directory.glob("results/checkpoints/*"))
    assert not list(workflow.directory.glob("results/**/*.lock"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_that_is_killed_goes_on_from_its_checkpoint(tmp_path, slow, undisturbed, number):
    workflow = Workflow(tmp_path)
    process = start(workflow, slow)
    for pattern, log in (("*_train.pt", "train/*.log"), ("*_magnitude_*.pt", "finetune/*.log")):
        wait_for(workflow, f"results/checkpoints/{pattern}", process)
        for script in scripts_below(psutil.Process(process.pid)):
            script.send_signal(number)
        assert process.wait() != 0
        output = (workflow.directory / "output").read_text()
        (path,) = workflow.directory.glob(f"results/logs/{log}")
        assert str(path.relative_to(workflow.directory)) in output
        if number == signal.SIGTERM:
            assert "stopped by SIGTERM; run again to go on from the last checkpoint" in path.read_text()
        process = start(workflow, slow)
    assert process.wait() == 0, (workflow.directory / "output").read_text()
    for log in workflow.directory.glob("results/logs/[tf]*/*.log"):
        if log.parent.name in ("train", "finetune"):
            assert re.search(r"going on after epoch \d+", log.read_text()), log
    found = workflow.tables()
    for name, table in undisturbed.items():
        assert table.equals(found[name]), name


def test_ctrl_c_leaves_no_lock_and_no_process(tmp_path, slow):
    workflow = Workflow(tmp_path)
    process = subprocess.Popen(
        workflow.command(slow), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    wait_for_script = time.monotonic() + 60
    while not (jobs := scripts_below(psutil.Process(process.pid))) and time.monotonic() < wait_for_script:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate()
    assert process.returncode != 0
    psutil.wait_procs(jobs, timeout=30)
    assert not any(job.is_running() for job in jobs)
    assert not list(workflow.directory.glob(".snakemake/locks/*"))
    assert not list(workflow.directory.glob("results/**/*.part"))


# --- GPU slots ----------------------------------------------------------------------------------------------


def spans(workflow: Workflow) -> list[tuple[str, str, datetime, datetime]]:
    """(rule, slot, begin, end) of every job, from its log."""
    found = []
    for log in workflow.directory.glob("results/logs/**/*.log"):
        lines = log.read_text().splitlines()
        times = [datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f") for line in (lines[0], lines[-1])]
        slot = re.search(r"CUDA_VISIBLE_DEVICES=(\S+)", log.read_text())
        rule = log.parent.name if log.parent.name != "logs" else log.stem
        found.append((rule, slot.group(1) if slot else "", *times))
    return found


@pytest.mark.parametrize("slots", ["3", "3,5"])
def test_local_gpu_jobs_hold_a_slot_each_and_other_jobs_none(tmp_path, tiny, slots):
    workflow = Workflow(tmp_path)
    done = workflow.run(
        {**tiny, "device": "auto"}, GWPRUNE_GPU_SLOTS=slots, CUDA_VISIBLE_DEVICES="", TMPDIR=str(tmp_path)
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert re.search(rf"Provided resources: gpu=\D*{len(slots.split(','))}\b", text)
    found = spans(workflow)
    on_gpu = {"train", "spectrum", "quadratic", "statistical_dimension", "rank", "sweep", "finetune"}
    assert {rule for rule, slot, *_ in found if slot} == on_gpu
    assert {slot for _, slot, *_ in found if slot} == set(slots.split(","))
    for slot in slots.split(","):
        held = sorted((begin, end) for _, own, begin, end in found if own == slot)
        assert all(end <= begin for (_, end), (begin, _) in zip(held, held[1:], strict=False))


def test_with_device_cpu_no_job_asks_for_a_gpu(finished, tiny):
    text = finished.run(tiny, "--dry-run", "--forceall", "--set-resources", "train:gpu_model=a100").stdout
    assert not re.search("resources: .*(gpu=1|gpu_model)", text)
    text = finished.run({**tiny, "device": "auto"}, "--dry-run", "--forceall").stdout
    assert len(re.findall("resources: .*gpu=1", text)) == 1 + 2 + 1 + 2 + 2 + 2 + 1  # train, spectra, ..., finetune


# --- damaged files --------------------------------------------------------------------------------------------

FILES = [
    ("data/digits*.pt", "train", "cut"),
    ("runs/*/seed0/network.pt", "sweep", "empty"),
    ("runs/*/seed0/dense.json", "sweep", "cut"),
    ("runs/*/seed0/ranking/magnitude.pt", "sweep", "cut"),
    ("runs/*/seed0/spectrum/hessian_probe0.npz", "predict", "cut"),
    ("runs/*/seed0/width_curves.parquet", "collect", "empty"),
    ("runs/*/tables/sweep.parquet", "aggregate", "cut"),
    ("benchmarks/train/*.tsv", "collect", "empty"),
]


@pytest.mark.parametrize(("pattern", "rule", "damage"), FILES, ids=[pattern for pattern, *_ in FILES])
def test_a_damaged_file_in_results_is_named(finished, tiny, tmp_path, pattern, rule, damage):
    copied = shutil.copytree(finished.directory, tmp_path / "copy")  # with the times of its files
    (path,) = (copied / "results").glob(pattern)
    content, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    os.utime(path, ns=times)
    done = Workflow(copied).run(tiny, "--forcerun", rule, "--until", rule, "--rerun-triggers", "mtime")
    text = done.stdout + done.stderr
    assert done.returncode != 0
    assert re.search(rf"gwprune: \w+: .*{re.escape(path.name)}", text), text[-3000:]
