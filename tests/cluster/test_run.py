"""The literal command on a real SLURM: who asks for GPU slots, how many run at once, and the same tables."""

import itertools
import re

import pytest

from tests.cluster.conftest import LITERAL, POLL, assert_same_tables
from tests.cluster.records import most_at_once
from tests.workflow.conftest import TINY

pytestmark = [pytest.mark.cluster, pytest.mark.workflow]

GPU_RULES = {
    "train",
    "spectrum",
    "quadratic",
    "statistical_dimension",
    "rank",
    "sweep",
    "finetune",
    "bracket",
    "train_sparse",
}


SMALL = {**TINY, "device": "auto", "sparse_training": {"methods": ["snip"], "sparsities": [0.5]}}


@pytest.mark.parametrize(
    ("config", "options"),
    [pytest.param(SMALL, POLL, id="small"), pytest.param(None, (), id="demo", marks=pytest.mark.storm)],
)
def test_a_run_takes_two_slots_and_gives_the_local_tables(node, new_clone, local, config, options):
    clone = new_clone(config)
    done = clone.start(*LITERAL, *options)
    expected = local(config)  # meanwhile
    assert done.wait(1500) == 0, done.text[-10000:]

    found = clone.records()
    assert {record.state for record in found} == {"COMPLETED"}
    rules = {record.rule for record in found}
    assert rules >= GPU_RULES | {"prepare_data", "predict", "aggregate", "threshold_figure"}
    assert len(found) == len({record.comment for record in found})
    for record in found:
        assert record.gpus == (record.rule in GPU_RULES), record
        assert record.partition == ("gpu" if record.rule in GPU_RULES else "cpu"), record
    assert most_at_once(found) == node.gpus == 2

    by_id = {record.id: record for record in found}
    slots = {}
    for job in done.jobs():
        log = (clone.directory / job.log).read_text()
        slots[job.slurm_id] = re.findall(r"CUDA_VISIBLE_DEVICES=(\S*)", log)
        assert len(slots[job.slurm_id]) == by_id[job.slurm_id].gpus, job
    assert set(slots) == set(by_id)
    assert {slot for values in slots.values() for slot in values} == {"0", "1"}
    together = [
        (one, other)
        for one, other in itertools.combinations([id_ for id_, values in slots.items() if values], 2)
        if by_id[one].overlaps(by_id[other])
    ]
    assert together
    for one, other in together:
        assert slots[one] != slots[other], (by_id[one], by_id[other])

    assert not clone.unfinished()
    assert_same_tables(clone, expected)
