"""Jobs that meet a limit or fail, a Snakemake that is killed, Ctrl-C: what is run again, what is said, what stays."""

import math
import re
from pathlib import Path

import pytest

from gwprune.tables.files import read_table
from tests.cluster.conftest import LITERAL, POLL, Clone, Run, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.workflow]

EPOCHS = 40
NETWORK = {"dataset": "digits", "network": {"name": "fc", "options": {"hidden": [32]}}}
CONFIG = {
    "experiments": [{"name": "small", **NETWORK}],
    "training": {"epochs": EPOCHS, "batch_size": 2, "l1": 1e-3},
    "spectrum": {"operators": ["ggn"], "steps": 20, "statistical_dimension": False},
    "pruning": {"methods": ["magnitude", "taylor"], "sparsities": [0.3, 0.6, 0.9]},
    "fine_tuning": {"methods": []},
}
# Too little for Snakemake and Python with PyTorch; half of what they take, or less.
FIRST_MEMORY = 600


def with_training(epochs: int, **others) -> dict:
    return {**CONFIG, "training": {**CONFIG["training"], "epochs": epochs}, **others}


def first_epoch(clone: Clone) -> int:
    """With which epoch the last attempt at the training began; 0 when its log does not tell yet."""
    text = "".join(path.read_text() for path in clone.directory.glob("results/logs/train/*.log"))
    found = re.search(r"epoch (\d+) of", text)
    return int(found[1]) if found else 0


def history(clone: Clone) -> dict:
    return read_table("training", next(clone.directory.glob("results/runs/*/seed0/training.parquet"))).to_pydict()


@pytest.fixture(scope="module")
def seconds_per_epoch(local) -> float:
    """How long an epoch of CONFIG takes on this machine."""
    return sum(history(local(CONFIG, "--until", "train"))["seconds"]) / EPOCHS


@pytest.fixture(scope="module")
def runs(new_clone, seconds_per_epoch) -> dict[str, tuple[Clone, Run]]:
    """Runs that go on side by side, each of which waits most of the time; the tests wait for one after the other."""
    # SLURM looks at the memory every second.
    large = with_training(math.ceil(10 / seconds_per_epoch), resources={"train": {"mem_mb": FIRST_MEMORY}})
    bad = {"name": "bad", **NETWORK, "training": {"lr": 1e12}}
    failing = with_training(3, experiments=[*CONFIG["experiments"], bad], device="cpu")
    started = {}
    for name, config, arguments in (
        ("large", large, ("--until", "train")),
        ("failing", failing, ("--retries", "1", "--until", "quadratic", "predict", "sweep")),
    ):
        clone = new_clone(config)
        started[name] = (clone, clone.start(*LITERAL, *POLL, *arguments))
    return started


def slurm_log(clone: Clone, job: int) -> Path:
    return next(clone.directory.glob(f"results/logs/slurm/**/{job}.log"))


def test_others_finish_beside_a_job_that_always_fails(runs):
    clone, run = runs["failing"]
    assert run.wait(600) != 0
    found = clone.records()
    failed = [record for record in found if record.state == "FAILED"]
    assert [record.rule for record in failed] == ["train", "train"]
    assert len({record.comment for record in failed}) == 1
    others = [record for record in found if record.comment != failed[0].comment]
    assert {record.state for record in others} == {"COMPLETED"}
    assert {record.rule for record in others} >= {"train", "spectrum", "quadratic", "predict", "rank", "sweep"}
    assert not list(clone.directory.glob("results/runs/bad*/**/*.*"))
    assert not clone.locks()

    # What it says names the rule, its log and SLURM's; the log has the reason.
    job = next(job for job in run.jobs() if job.slurm_id == failed[-1].id)
    said = [
        text for text in re.findall(r"^Error in rule train:\n(?:    .*\n)+", run.text, re.M) if "external_jobid" in text
    ]
    assert f"external_jobid: {job.slurm_id}" in said[-1]
    assert job.log in said[-1]
    assert str(slurm_log(clone, job.slurm_id)) in said[-1]
    assert "the training loss is not finite at epoch 1" in (clone.directory / job.log).read_text()


def test_nothing_asks_for_a_gpu_with_device_cpu(runs):
    runs["failing"][1].wait(600)
    records = runs["failing"][0].records()
    assert {"train", "spectrum", "quadratic", "rank", "sweep"} <= {record.rule for record in records}
    assert {record.gpus for record in records} == {0}
    runs["large"][1].wait(600)
    assert {record.gpus for record in runs["large"][0].records("train")} == {1}


def test_a_job_over_its_memory_is_run_again_with_more(runs):
    clone, run = runs["large"]
    assert run.wait(600) == 0, run.text[-10000:]
    *before, last = clone.records("train")
    assert before
    assert {record.state for record in before} <= {"FAILED", "OUT_OF_MEMORY"}
    assert last.state == "COMPLETED"
    asked = [record.tres["mem"] for record in (*before, last)]
    assert asked == [f"{FIRST_MEMORY * (n + 1)}M" for n in range(len(before) + 1)]
    # What SLURM wrote about it stays.
    text = slurm_log(clone, before[0].id).read_text()
    assert re.search("memory", text, re.IGNORECASE), text


def running(clone: Clone) -> list[int]:
    return [job.id for job in clone.queue() if job.rule == "train" and job.state == "RUNNING"]


def test_kill_9_is_taken_over_and_ctrl_c_cancels(new_clone):
    clone = new_clone(with_training(1_000_000))
    run = clone.start(*LITERAL, *POLL)
    wait_until(lambda: list(clone.directory.glob("results/checkpoints/*train.pt")), run=run)
    (first,) = running(clone)
    run.kill()
    assert running(clone) == [first]

    # Of two jobs for the same output the first is gone before the second begins, where the first one was.
    again = clone.start(*LITERAL, *POLL)
    (second,) = wait_until(lambda: [id_ for id_ in running(clone) if id_ != first], run=again)
    (record,) = clone.records("train")
    assert (record.id, record.state) == (first, "CANCELLED")
    assert record.end <= next(job.start for job in clone.queue() if job.id == second)
    wait_until(lambda: first_epoch(clone) > 1, run=again)

    again.interrupt()
    assert again.wait(120) != 0
    wait_until(lambda: not clone.queue(), 30)
    assert [(record.id, record.state) for record in clone.records("train")][1:] == [(second, "CANCELLED")]
    assert not clone.locks()

    # A lock or a job that was left would be told of.
    last = clone.start(*LITERAL, *POLL)
    wait_until(lambda: running(clone), run=last)
    assert "LockException" not in last.text
    assert "gwprune: process" not in last.text


@pytest.mark.storm
def test_a_training_over_its_time_limit_goes_on_with_more_time(new_clone, seconds_per_epoch):
    # SLURM looks at limits every 30 s. Most often it sends the signal that the profile asks for at the first look; if
    # the job is not ready by then, the limit of a minute itself is enforced before this training ends. An attempt that
    # was stopped before its first epoch leaves the whole training to the second one, which the signal reaches within a
    # minute: the training takes longer, even if an epoch is faster here than it was when it was measured.
    slow = with_training(math.ceil(100 / seconds_per_epoch), resources={"train": {"runtime": 1}})
    clone = new_clone(slow)
    run = clone.start(*LITERAL, *POLL, "--retries", "6", "--until", "train")  # on a busy machine it takes more attempts
    assert run.wait(900) == 0, run.text[-10000:]
    *before, last = clone.records("train")
    assert before
    assert {record.state for record in before} <= {"FAILED", "TIMEOUT"}
    assert last.state == "COMPLETED"
    assert [record.time_limit for record in (*before, last)] == [str(n + 1) for n in range(len(before) + 1)]
    # The last attempt began where the one before it was stopped.
    epochs = history(clone)["epoch"]
    assert epochs == list(range(1, len(epochs) + 1))
    assert 1 < first_epoch(clone) <= len(epochs)
    assert not clone.unfinished()
