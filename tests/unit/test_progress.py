"""What a person sees of a run: the line of progress, and the end of a failed run."""

from __future__ import annotations

import io
import logging
import sys
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from gwprune.jobs import progress
from gwprune.jobs.progress import LogHandler, Progress

STATS = {"train": 2, "sweep": 4, "all": 1, "total": 7}
WILDCARDS = {"run": "fc_l1-0", "seed": "1"}


# --- the line -----------------------------------------------------------------------------------------------


def test_the_line_names_jobs_done_networks_at_work_and_the_time_left():
    state = Progress(STATS, now=0)
    assert state.line(0) == "0 of 7 jobs"
    state.begin(1, "train", WILDCARDS, now=0)
    assert state.line(5) == "0 of 7 jobs, fc_l1-0 seed 1 train"
    state.end(1, now=10)
    state.begin(2, "sweep", {**WILDCARDS, "method": "magnitude", "chunk": "1"}, now=10)
    # One by one: a training and four sweeps and the last are left, each as long as the first.
    assert state.line(10) == "1 of 7 jobs, about 60 s left, fc_l1-0 seed 1 sweep magnitude"


def test_the_time_left_knows_the_length_of_each_rule_and_how_many_jobs_run_at_once():
    state = Progress({"train": 4, "sweep": 10}, now=0)
    for job, rule, seconds in ((1, "train", 100), (2, "sweep", 10)):
        state.begin(job, rule, WILDCARDS, now=0)
        state.end(job, now=seconds)
    left = state.seconds_left(now=100)
    assert left == pytest.approx((3 * 100 + 9 * 10) / 1.1)
    for job in (3, 4):
        state.begin(job, "train", WILDCARDS, now=100)
    # Two at once now, halfway through: 2 * 50 and one more training, and the sweeps.
    assert state.seconds_left(now=150) == pytest.approx((2 * 50 + 100 + 90) / (210 / 150))


def test_a_job_that_failed_is_not_done():
    state = Progress(STATS, now=0)
    state.begin(1, "train", WILDCARDS, now=0)
    assert state.end(1, now=3, failed=True) == "fc_l1-0 seed 1 train"
    assert state.done == 0
    assert state.seconds_left(now=3) is None


def test_of_many_jobs_at_work_some_are_named():
    state = Progress({"train": 9}, now=0)
    for job in range(9):
        state.begin(job, "train", {"run": "a", "seed": str(job)}, now=0)
    assert state.line(1).endswith("a seed 3 train, 5 more")


@pytest.mark.parametrize(
    ("seconds", "text"), [(1, "5 s"), (33, "30 s"), (89, "90 s"), (90, "2 min"), (5000, "83 min"), (7200, "2.0 h")]
)
def test_durations_are_as_precise_as_an_estimate_can_be(seconds, text):
    assert progress._duration(seconds) == text


# --- the handler --------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def handler(monkeypatch, stream: io.StringIO, dryrun: bool = False) -> LogHandler:
    monkeypatch.setattr(sys, "stderr", stream)
    return LogHandler(SimpleNamespace(dryrun=dryrun), None)


def record(message: str | None = None, level: int = logging.INFO, **fields) -> logging.LogRecord:
    made = logging.LogRecord("snakemake", level, "", 0, message, (), None)
    vars(made).update(fields)
    return made


def training(job: int) -> logging.LogRecord:
    return record(event=LogEvent.JOB_INFO, jobid=job, rule_name="train", wildcards=WILDCARDS)


def test_where_there_is_no_terminal_lines_come_now_and_then(monkeypatch):
    stream = io.StringIO()
    own = handler(monkeypatch, stream)
    clock = iter([100, 100, 101, 102, 120, 121])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    own.emit(record(event=LogEvent.RUN_INFO, stats={"train": 2, "total": 2}))
    own.emit(training(1))
    own.emit(record("Select jobs to execute..."))
    own.emit(record(event=LogEvent.JOB_FINISHED, job_id=1))
    own.emit(training(2))
    own.emit(record(event=LogEvent.JOB_FINISHED, job_id=2))
    own.close()
    assert stream.getvalue().splitlines() == [
        "0 of 2 jobs, fc_l1-0 seed 1 train",
        "1 of 2 jobs, about 20 s left, fc_l1-0 seed 1 train",
        "2 of 2 jobs",
        "2 of 2 jobs are done",
    ]


def test_on_a_terminal_one_line_is_written_anew_and_other_lines_stand_above_it(monkeypatch):
    stream = Terminal()
    own = handler(monkeypatch, stream)
    own.emit(record(event=LogEvent.RUN_INFO, stats={"train": 2, "total": 2}))
    own.emit(training(1))
    own.emit(record("the disk is nearly full", logging.WARNING))
    own.emit(training(2))
    assert stream.getvalue().split("\r\x1b[K") == [
        "",
        "0 of 2 jobs, fc_l1-0 seed 1 train",
        "the disk is nearly full\n",
        "0 of 2 jobs, fc_l1-0 seed 1 train, fc_l1-0 seed 1 train",
    ]


def test_a_failed_run_ends_with_rule_network_message_log_and_command(monkeypatch, tmp_path):
    stream, log = io.StringIO(), tmp_path / "train.log"
    log.write_text("INFO start\nTraceback\nValueError: no such thing\n")
    own = handler(monkeypatch, stream)
    monkeypatch.setattr(sys, "argv", ["/x/snakemake/__main__.py", "--cores", "2", "--configfile", "my config.yaml"])
    own.emit(record(event=LogEvent.RUN_INFO, stats={"train": 2, "total": 2}))
    own.emit(training(1))
    failed = f"{log} (check log file(s) for error details)"
    own.emit(record("x", logging.ERROR, event=LogEvent.JOB_ERROR, jobid=1, rule_name="train", log=[str(log)]))
    raised = "RuleException:\nCalledProcessError in file train.smk"
    own.emit(record(raised, logging.ERROR, event=LogEvent.ERROR, exception="RuleException"))
    own.emit(record("Exiting because a job execution failed. Look above for error messages", logging.ERROR))
    own.close()
    assert failed not in stream.getvalue()
    assert stream.getvalue().splitlines()[1:] == [
        "failed: fc_l1-0 seed 1 train: ValueError: no such thing",
        "0 of 2 jobs are done",
        "failed: fc_l1-0 seed 1 train",
        "  ValueError: no such thing",
        f"  log: {log}",
        "To go on: snakemake --cores 2 --configfile 'my config.yaml'",
    ]


def test_errors_of_the_workflow_itself_are_printed(monkeypatch):
    stream = io.StringIO()
    own = handler(monkeypatch, stream)
    own.emit(record("WorkflowError:\nno rule", logging.ERROR, event=LogEvent.ERROR, exception="WorkflowError"))
    own.emit(record("Nothing to be done (all requested files are present and up to date)."))
    own.close()
    assert stream.getvalue().splitlines() == [
        "WorkflowError:", "no rule", "Nothing to be done (all requested files are present and up to date)."
    ]  # fmt: skip


def test_a_dry_run_is_printed_as_snakemake_does(monkeypatch):
    stream = io.StringIO()
    own = handler(monkeypatch, stream, dryrun=True)
    own.emit(record("Building DAG of jobs..."))
    assert stream.getvalue() == "Building DAG of jobs...\n"


def test_snakemake_finds_the_logger():
    assert LoggerPluginRegistry().is_installed("gwprune")
