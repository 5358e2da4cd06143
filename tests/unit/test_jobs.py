"""Workflow jobs: log, error boundary, device, what a script's ``snakemake`` object gives."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from gwprune.jobs.job import Job, from_snakemake, job, resolve_device
from gwprune.storage.files import config_hash

logger = logging.getLogger("gwprune")


@pytest.fixture(autouse=True)
def threads():
    """Jobs set the number of torch's threads for their process; here that process goes on."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


# --- log ----------------------------------------------------------------------------------------------------


def test_a_job_writes_its_log(tmp_path):
    log = tmp_path / "logs/train/a.log"
    with job(log, run="fc_l1-0", seed=3, device="cpu") as this:
        logger.info("loss %.2f", 0.25)
        assert this == Job("fc_l1-0", 3, "cpu", {})
    first, middle, last = log.read_text().splitlines()
    assert first.endswith("INFO run fc_l1-0, seed 3, device cpu, threads 1")
    assert middle.endswith("INFO loss 0.25")
    assert last.endswith("INFO done")
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line) for line in (first, middle, last))


def test_warnings_reach_standard_error_and_messages_do_not(tmp_path, capsys):
    with job(tmp_path / "a.log"):
        logger.info("only in the log")
        logger.warning("for the person too")
    error = capsys.readouterr().err
    assert "for the person too" in error
    assert "only in the log" not in error
    assert "WARNING for the person too" in (tmp_path / "a.log").read_text()


def test_a_job_that_runs_again_starts_its_log_anew(tmp_path):
    for message in ("first attempt", "second attempt"):
        with job(tmp_path / "a.log"):
            logger.info(message)
    text = (tmp_path / "a.log").read_text()
    assert "second attempt" in text
    assert "first attempt" not in text


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_logged_after_the_job(tmp_path, fails):
    before = list(logger.handlers)
    try:
        with job(tmp_path / "a.log"):
            if fails:
                raise ValueError("x")
    except SystemExit:
        assert fails
    logger.warning("afterwards")
    assert logger.handlers == before
    assert "afterwards" not in (tmp_path / "a.log").read_text()


# --- errors -------------------------------------------------------------------------------------------------


def test_an_error_ends_the_process_with_one_clear_line_and_the_traceback_in_the_log(tmp_path):
    log = tmp_path / "a.log"

    def inner_function():
        raise ValueError("rate 3 is too high")

    with pytest.raises(SystemExit) as caught, job(log, run="a", seed=0):
        inner_function()
    assert caught.value.code == f"gwprune: ValueError: rate 3 is too high\n(log: {log})"
    text = log.read_text()
    assert "Traceback (most recent call last)" in text
    assert "inner_function" in text
    assert text.rstrip().endswith("ValueError: rate 3 is too high")
    assert "INFO done" not in text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit(3)])
def test_an_interruption_is_no_error_of_the_job(tmp_path, error):
    with pytest.raises(error if isinstance(error, type) else SystemExit) as caught, job(tmp_path / "a.log"):
        raise error
    assert not isinstance(caught.value, SystemExit) or caught.value.code == 3
    assert "Traceback" not in (tmp_path / "a.log").read_text()


def test_a_seed_that_is_no_number_ends_like_any_error(tmp_path):
    with pytest.raises(SystemExit, match="ValueError.*'first'"), job(tmp_path / "a.log", seed="first"):
        pytest.fail("the block must not run")
    assert "Traceback" in (tmp_path / "a.log").read_text()


# --- device and threads ---------------------------------------------------------------------------------------


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_auto_without_cuda_is_the_cpu(no_cuda):
    assert resolve_device("auto") == torch.device("cpu")
    assert resolve_device("cpu") == torch.device("cpu")


def test_auto_with_cuda_is_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda")
    assert resolve_device("cpu") == torch.device("cpu")


def test_cuda_without_cuda_is_refused_with_the_way_out(no_cuda):
    with pytest.raises(RuntimeError, match=r"device: cuda, but .* use device: auto or cpu"):
        resolve_device("cuda")


def test_a_job_that_asks_for_cuda_in_vain_ends_with_its_log(tmp_path, no_cuda):
    log = tmp_path / "a.log"
    with pytest.raises(SystemExit) as caught, job(log, device="cuda"):
        pytest.fail("the block must not run")
    assert "device: cuda, but this job sees no CUDA device" in caught.value.code
    assert str(log) in caught.value.code
    assert "Traceback" in log.read_text()


def test_a_job_computes_with_its_threads(tmp_path):
    for count in (2, 1):
        with job(tmp_path / "a.log", device="cpu", threads=count):
            assert torch.get_num_threads() == count


def test_a_job_without_a_device_leaves_torch_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("torch was set up"))
    with job(tmp_path / "a.log", threads=2) as this:
        assert this.device == "cpu"


# --- what stages see ----------------------------------------------------------------------------------------


def test_a_job_knows_its_key_columns_and_provenance(tmp_path):
    settings = {"lr": 0.1, "epochs": 3}
    with job(tmp_path / "a.log", run="a", seed="2", device="cpu", settings=settings) as this:
        assert this.key == {"run": "a", "seed": 2}
        origin = this.provenance()
    assert origin["device"] == "cpu"
    assert origin["config_hash"] == config_hash(settings)


def test_a_job_of_all_runs_has_an_empty_run_and_seed_minus_1(tmp_path):
    with job(tmp_path / "a.log") as this:
        assert this.key == {"run": "", "seed": -1}


class Params:
    """Like snakemake's: names and values by items(), and no get()."""

    def __init__(self, **values):
        self._values = values

    def items(self):
        return self._values.items()


def snakemake(log, threads: int = 1, **params) -> SimpleNamespace:
    return SimpleNamespace(
        log=[str(log)],
        wildcards={"run": "digits_fc_l1-0", "seed": "4"},
        params=Params(**params),
        input=[],
        output=[],
        resources={},
        threads=threads,
    )


def test_a_script_gets_run_seed_device_threads_and_settings_from_snakemake(tmp_path):
    script = snakemake(tmp_path / "a.log", threads=2, device="auto", recipe={"lr": 0.1})
    with from_snakemake(script) as this:
        assert (this.run, this.seed) == ("digits_fc_l1-0", 4)
        assert this.device == str(resolve_device("auto"))
        assert this.settings == {"device": "auto", "recipe": {"lr": 0.1}}
        assert torch.get_num_threads() == 2
    assert "run digits_fc_l1-0, seed 4" in (tmp_path / "a.log").read_text()


def test_a_script_without_a_device_leaves_torch_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("torch was set up"))
    with from_snakemake(snakemake(tmp_path / "a.log", threads=2)) as this:
        assert this.device == "cpu"


def test_a_script_without_run_and_seed_serves_all(tmp_path):
    script = snakemake(tmp_path / "a.log")
    script.wildcards = {}
    with from_snakemake(script, settings={"a": 1}) as this:
        assert this.key == {"run": "", "seed": -1}
        assert this.settings == {"a": 1}


def test_a_script_that_fails_exits_with_message_and_log(tmp_path):
    log = tmp_path / "a.log"
    with pytest.raises(SystemExit) as caught, from_snakemake(snakemake(log)):
        raise KeyError("x")
    assert caught.value.code == f"gwprune: KeyError: 'x'\n(log: {log})"


# --- one process per job, signals, slots ----------------------------------------------------------------------

SCRIPT = """
import sys, time
from pathlib import Path
from gwprune.jobs.job import job
log, output, release, data = sys.argv[1:]
with job(log, settings={"a": 1}, inputs=[data], outputs=[output]):
    print("working", flush=True)
    while not Path(release).exists():
        time.sleep(0.02)
    Path(output).write_text(f"by process {sys.argv[0]}")
"""


def start(*arguments) -> subprocess.Popen:
    """A process that works on a job until a file appears."""
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


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
        with job(log, settings={"a": 1}, inputs=[str(data)], outputs=[str(output)]):
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_process_with_status_75_and_says_so_in_the_log(tmp_path, number):
    log, never = tmp_path / "a.log", tmp_path / "never"
    process = start(log, tmp_path / "out", never, tmp_path / "data")
    assert process.stdout.readline() == "working\n"
    process.send_signal(number)
    assert process.wait() == 75
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
