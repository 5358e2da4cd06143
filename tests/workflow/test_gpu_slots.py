"""GPU slots of this machine: a job on a GPU holds one of its own, and the tables are the same."""

import re
from datetime import datetime

import pytest

from tests.workflow.conftest import Workflow

pytestmark = pytest.mark.workflow

ON_GPU = {"train", "spectrum", "quadratic", "statistical_dimension", "rank", "sweep", "finetune", "bracket"}


def spans(workflow: Workflow) -> list[tuple[str, str, datetime, datetime]]:
    """(rule, slot, begin, end) of every job, from its log."""
    jobs = []
    for log in workflow.directory.glob("results/logs/**/*.log"):
        lines = log.read_text().splitlines()
        times = [datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f") for line in (lines[0], lines[-1])]
        slot = re.search(r"CUDA_VISIBLE_DEVICES=(\S+)", log.read_text())
        rule = log.parent.name if log.parent.name != "logs" else log.stem
        jobs.append((rule, slot.group(1) if slot else "", *times))
    return jobs


def test_local_gpu_jobs_hold_a_slot_each_and_a_second_run_gives_the_same_tables(finished, tiny, tmp_path):
    workflow = Workflow(tmp_path)
    environment = {"GWPRUNE_GPU_SLOTS": "3,5", "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(tmp_path)}
    text = workflow.run({**tiny, "device": "auto"}, "--cores", "3", "--printshellcmds", **environment)
    assert re.search(r"Provided resources: gpu=\D*2\b", text)
    jobs = spans(workflow)
    assert {rule for rule, slot, *_ in jobs if slot} == ON_GPU
    assert {slot for _, slot, *_ in jobs if slot} == {"3", "5"}
    for slot in ("3", "5"):
        held = sorted((begin, end) for _, own, begin, end in jobs if own == slot)
        assert all(end <= begin for (_, end), (begin, _) in zip(held, held[1:], strict=False))
    second = workflow.tables()
    for name, table in finished.tables().items():
        assert table.equals(second[name]), name


def test_with_device_cpu_no_job_asks_for_a_gpu(finished, tiny):
    text = finished.dry_run(tiny, "--forceall", "--set-resources", "train:gpu_model=a100")
    assert not re.search("resources: .*(gpu=1|gpu_model)", text)
    text = finished.dry_run({**tiny, "device": "auto"}, "--forceall")
    assert len(re.findall("resources: .*gpu=1", text)) == 1 + 2 + 1 + 2 + 1 + 2 + 1 + 1  # train, spectra, ..., bracket
