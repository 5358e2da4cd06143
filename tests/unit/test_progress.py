"""What a person sees of a run: how far it is, on a terminal and elsewhere, and its end."""

from __future__ import annotations

import io
import itertools
import logging
import os
import pty
import re
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from gwprune.config.command_line import find_logger
from gwprune.jobs import progress
from gwprune.jobs.job import QUIET_VARIABLE, job
from gwprune.jobs.progress import LogHandler, Progress
from gwprune.jobs.words import duration, name_of, program
from tests.unit.helpers_screen import screen

STATS = {"train": 2, "sweep": 4, "all": 1, "total": 7}
WILDCARDS = {"run": "fc_l1-0", "seed": "1"}


def say(log: Path, *lines: str, level: str = "INFO") -> Path:
    """A job's log with these lines; its time differs from what it was before."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(f"2026-01-02 03:04:05,678 {level} {line}\n" for line in lines))
    number = next(_times)
    os.utime(log, ns=(number, number))
    return log


_times = itertools.count(10**18, 10**9)


# --- how far it is ------------------------------------------------------------------------------------------


def test_a_job_is_called_by_network_seed_rule_and_what_tells_it_from_others():
    assert name_of("prepare_data", {"dataset": "digits"}) == "prepare_data digits"
    spectrum = {**WILDCARDS, "operator": "ggn", "probe": "2"}
    assert name_of("spectrum", spectrum) == "fc_l1-0 seed 1 spectrum ggn probe 2"
    assert name_of("aggregate", {}) == "aggregate"


def test_the_line_names_jobs_done_networks_at_work_and_the_time_left():
    state = Progress(STATS, now=0)
    assert state.line(0) == "0 of 7 jobs done"
    state.begin(1, "train", WILDCARDS, now=0)
    assert state.line(5) == "0 of 7 jobs done: fc_l1-0 seed 1 train"
    state.end(1, now=10)
    state.begin(2, "sweep", {**WILDCARDS, "method": "magnitude", "chunk": "1"}, now=10)
    # One by one: a training and four sweeps and the last are left, each as long as the first.
    assert state.line(10) == "1 of 7 jobs done, about 60 s left: fc_l1-0 seed 1 sweep magnitude"


def test_the_time_left_knows_the_length_of_each_rule_and_how_many_jobs_run_at_once():
    state = Progress({"train": 4, "sweep": 10}, now=0)
    for number, rule, seconds in ((1, "train", 100), (2, "sweep", 10)):
        state.begin(number, rule, WILDCARDS, now=0)
        state.end(number, now=seconds)
    left = state.seconds_left(now=100)
    assert left == pytest.approx((3 * 100 + 9 * 10) / 1.1)
    for number in (3, 4):
        state.begin(number, "train", WILDCARDS, now=100)
    # Two at once now, halfway through: 2 * 50 and one more training, and the sweeps.
    assert state.seconds_left(now=150) == pytest.approx((2 * 50 + 100 + 90) / (210 / 150))


def test_a_job_that_failed_is_not_done_and_one_that_is_tried_again_has_not_failed():
    state = Progress(STATS, now=0)
    state.begin(1, "train", WILDCARDS, now=0)
    assert state.fail(1, []) == ("fc_l1-0 seed 1 train", ["it left no log"])
    assert state.line(3) == "0 of 7 jobs done, 1 failed"
    assert state.seconds_left(now=3) is None
    state.begin(1, "train", WILDCARDS, now=4)
    assert state.line(4) == "0 of 7 jobs done: fc_l1-0 seed 1 train"
    state.end(1, now=9)
    assert (state.done, state.failed) == (1, {})


def test_each_job_at_work_says_what_its_own_log_says_last_and_not_what_an_earlier_attempt_left(tmp_path):
    state, log = Progress({"train": 3}, now=0), say(tmp_path / "0.log", "epoch 9 of 9: loss 1")
    for seed in range(3):
        state.begin(seed, "train", {"run": "a", "seed": str(seed)}, 0, [str(tmp_path / f"{seed}.log")])
    assert (
        state.line(1)
        == "0 of 3 jobs done: a seed 0 train (waiting); a seed 1 train (waiting); a seed 2 train (waiting)"
    )
    say(log, "epoch 1 of 9: loss 2", "epoch 2 of 9: loss 1.5")
    with open(say(tmp_path / "2.log", "epoch 3 of 9: loss 7"), "a") as stream:
        stream.write("Traceback is no line of a log\n")
    # Those that have started stand first.
    assert (
        state.line(1)
        == "0 of 3 jobs done: a seed 0 train (epoch 2 of 9); a seed 2 train (epoch 3 of 9); a seed 1 train (waiting)"
    )
    assert state.table(1, 80) == [
        "0 of 3 jobs done",
        "  a seed 0 train  epoch 2 of 9: loss 1.5",
        "  a seed 2 train  epoch 3 of 9: loss 7",
        "  a seed 1 train  waiting",
    ]  # fmt: skip


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_of_many_jobs_some_are_shown_and_no_line_is_longer_than_the_terminal(tmp_path, columns):
    state = Progress({"statistical_dimension": 30}, now=0)
    for seed in range(30):
        wildcards = {"run": "fashion_mnist_resnet20_narrow_l1-3e-4", "seed": str(seed), "operator": "hessian"}
        state.begin(seed, "statistical_dimension", wildcards, 0, [str(tmp_path / f"{seed}.log")])
    say(tmp_path / "29.log", "product 17 " + 99 * "x")
    lines = state.table(1, columns, rows=5)
    assert len(lines) == 7
    assert max(map(len, lines)) <= columns
    assert lines[1].startswith("  fash")
    assert re.search(r"ian +product 17", lines[1])
    assert columns == 40 or " seed 29 statistical_dimension hessian " in lines[1]
    assert lines[-1] == "  25 more, 25 of them waiting"
    assert state.line(1).endswith("; 26 more, 26 of them waiting")


@pytest.mark.parametrize(
    ("seconds", "text"), [(1, "5 s"), (33, "30 s"), (89, "90 s"), (90, "2 min"), (5000, "83 min"), (7200, "2.0 h")]
)
def test_durations_are_as_precise_as_an_estimate_can_be(seconds, text):
    assert duration(seconds) == text


# --- why a job failed ---------------------------------------------------------------------------------------

TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 3, in train\n    raise DivergedError\n'


@pytest.mark.parametrize(
    ("level", "rest", "message"),
    [
        ("INFO", TRACEBACK + "gwprune.train.DivergedError: not finite\n", ["DivergedError: not finite"]),
        ("INFO", TRACEBACK + "ValueError: two\n  lines\n", ["ValueError: two", "  lines"]),
        ("INFO", TRACEBACK + "KeyError: 1\n\nDuring handling:\n\n" + TRACEBACK + "OSError: 2\n", ["OSError: 2"]),
        ("INFO", "", ["it ended without a message (killed, or out of memory?), last: epoch 3 of 9: loss 1"]),
        ("WARNING", "", ["epoch 3 of 9: loss 1"]),
        ("INFO", "ValueError: old\n2026-01-02 03:04:05,678 WARNING stopped by SIGTERM\n", ["stopped by SIGTERM"]),
    ],
)
def test_the_message_of_a_failed_job_is_the_exception_that_ends_its_log(tmp_path, level, rest, message):
    state = Progress({"train": 1}, now=0)
    log = tmp_path / "train.log"
    state.begin(1, "train", WILDCARDS, 0, [str(log)])
    with open(say(log, "epoch 3 of 9: loss 1", level=level), "a") as stream:
        stream.write(rest)
    assert state.fail(1, [f"{log} (check log file(s) for error details)", "slurm.log"])[1] == message
    assert state.failed[1][2] == [str(log), "slurm.log"]


def test_a_job_that_did_not_start_is_not_blamed_for_what_an_earlier_attempt_left(tmp_path):
    state, log = Progress({"train": 1}, now=0), tmp_path / "train.log"
    log.write_text("ValueError: of yesterday\n")
    state.begin(1, "train", WILDCARDS, 0, [str(log)])
    assert state.fail(1, [str(log)])[1] == ["it left no log"]


# --- the handler --------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv(QUIET_VARIABLE, "")  # so that it is as before afterwards


def handler(monkeypatch, stream: io.TextIOBase, **settings) -> LogHandler:
    monkeypatch.setattr(sys, "stderr", stream)
    return LogHandler(SimpleNamespace(**settings), None)


def record(message: str | None = None, level: int = logging.INFO, **fields) -> logging.LogRecord:
    made = logging.LogRecord("snakemake", level, "", 0, message, (), None)
    vars(made).update(fields)
    return made


def began(job: int, log: Path | None = None, **wildcards: str) -> logging.LogRecord:
    logs = [str(log)] if log else []
    own = {**WILDCARDS, **wildcards}
    return record(event=LogEvent.JOB_INFO, jobid=job, rule_name="train", wildcards=own, log=logs)


def planned(**stats: int) -> logging.LogRecord:
    return record(event=LogEvent.RUN_INFO, stats={**stats, "total": sum(stats.values())})


def done(job: int) -> logging.LogRecord:
    return record(event=LogEvent.JOB_FINISHED, job_id=job)


def failed(job: int, log: Path) -> logging.LogRecord:
    return record("x", logging.ERROR, event=LogEvent.JOB_ERROR, jobid=job, rule_name="train", log=[str(log)])


PLACES = record("tables: results/tables", results=True)


def test_where_there_is_no_terminal_lines_come_now_and_then(monkeypatch):
    stream = io.StringIO()
    own = handler(monkeypatch, stream)
    clock = iter([100, 100, 101, 102, 120, 121, 121, 121])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    for event in (planned(train=2), began(1), record("Select jobs to execute..."), done(1), began(2), done(2), PLACES):
        own.emit(event)
    own.close()
    lines = stream.getvalue().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines[:3])
    assert [line[20:] for line in lines[:3]] == [
        "0 of 2 jobs done: fc_l1-0 seed 1 train",
        "1 of 2 jobs done, about 20 s left: fc_l1-0 seed 1 train",
        "2 of 2 jobs done",
    ]
    assert lines[3:] == ["2 of 2 jobs are done, after 20 s", "tables: results/tables"]


def test_between_two_events_the_logs_of_the_jobs_are_looked_at(monkeypatch, tmp_path):
    stream = io.StringIO()
    monkeypatch.setattr(progress, "_PAUSE", 0.01)
    own = handler(monkeypatch, stream)
    own.emit(planned(train=1))
    own.emit(began(1, tmp_path / "train.log"))
    say(tmp_path / "train.log", "epoch 2 of 9: loss 1")
    end = time.monotonic() + 20
    while "epoch 2 of 9" not in stream.getvalue() and time.monotonic() < end:
        time.sleep(0.01)
    own.close()
    assert "0 of 1 jobs done: fc_l1-0 seed 1 train (epoch 2 of 9)\n" in stream.getvalue()


class Terminal:
    """A pseudo-terminal that standard error is connected to."""

    def __init__(self, columns: int):
        self.columns = columns
        self._master, self._slave = pty.openpty()
        os.set_blocking(self._master, False)
        progress.os.get_terminal_size(self._slave)  # it is a terminal
        self.stream = os.fdopen(self._slave, "w", buffering=1)
        self._seen = ""

    def screen(self) -> list[str]:
        while True:
            try:
                self._seen += os.read(self._master, 65536).decode()
            except BlockingIOError:
                return screen(self._seen, self.columns)

    def close(self) -> None:
        self.stream.close()
        os.close(self._master)


@pytest.fixture(params=[80, 140])
def terminal(request, monkeypatch):
    own = Terminal(request.param)
    monkeypatch.setattr(progress.os, "get_terminal_size", lambda *_: os.terminal_size((request.param, 24)))
    monkeypatch.setenv("TERM", "xterm")
    yield own
    own.close()


def test_on_a_terminal_the_jobs_at_work_stand_below_what_was_written_and_other_processes_do_not_spoil_them(
    monkeypatch, terminal, tmp_path
):
    own = handler(monkeypatch, terminal.stream)
    own.emit(planned(train=3))
    own.emit(began(1, tmp_path / "1.log"))
    own.emit(began(2, tmp_path / "2.log", seed="2"))
    epoch = "epoch 7 of 100: loss 0.25, accuracy 91%; validation loss 0.5, accuracy 88%; lr 0.1; 3.2 s"
    say(tmp_path / "1.log", epoch)
    own.emit(record("the disk is nearly full", logging.WARNING))
    assert terminal.screen() == [
        "the disk is nearly full",
        "",
        "0 of 3 jobs done",
        f"  fc_l1-0 seed 1 train  {epoch if terminal.columns > 120 else epoch.partition('; ')[0]}",
        "  fc_l1-0 seed 2 train  waiting",
    ]
    # A job's warning, as `job` writes it, and a library's, which knows of no terminal.
    with job(tmp_path / "other.log", name="fc_l1-0 seed 2 train") as _:
        logging.getLogger("gwprune").warning("few batches")
    terminal.stream.write("a line of a library\n")
    own.emit(done(1))
    assert terminal.screen() == [
        "the disk is nearly full",
        "fc_l1-0 seed 2 train: WARNING: few batches",
        "a line of a library",
        "",
        "1 of 3 jobs done, about 5 s left",
        "  fc_l1-0 seed 2 train  waiting",
    ]
    own.emit(done(2))
    own.emit(began(3, seed="3"))
    own.emit(done(3))
    own.emit(PLACES)
    own.close()
    assert terminal.screen()[3:] == ["3 of 3 jobs are done, after 5 s", "tables: results/tables"]


def test_the_end_of_a_failed_run_on_a_terminal_fits_into_it(monkeypatch, terminal, tmp_path):
    monkeypatch.chdir(tmp_path)  # a long name is not folded
    log = Path("train.log")
    own = handler(monkeypatch, terminal.stream)
    monkeypatch.setattr(sys, "argv", ["snakemake", "--cores", "2"])
    own.emit(planned(train=2))
    own.emit(began(1, log))
    log.write_text("ValueError: " + 9 * "this is not what was asked for, " + "\n")
    own.emit(failed(1, log))
    own.close()
    lines = terminal.screen()
    assert max(map(len, lines)) < terminal.columns
    # At once and at the end, folded between words.
    assert " ".join(" ".join(lines).split()).count(9 * "this is not what was asked for, ") == 2


def test_a_failed_run_ends_with_rule_network_message_log_and_command(monkeypatch, tmp_path):
    stream, log = io.StringIO(), tmp_path / "train.log"
    own = handler(monkeypatch, stream)
    monkeypatch.setattr(sys, "argv", ["/x/snakemake/__main__.py", "--cores", "2", "--configfile", "my config.yaml"])
    own.emit(planned(train=2))
    own.emit(began(1, log))
    log.write_text("INFO start\nTraceback\nValueError: no such thing\n")
    own.emit(failed(1, log))
    raised = "RuleException:\nCalledProcessError in file train.smk"
    own.emit(record(raised, logging.ERROR, event=LogEvent.ERROR, exception="RuleException"))
    own.emit(record("Exiting because a job execution failed. Look above for error messages", logging.ERROR))
    own.close()
    assert stream.getvalue().splitlines()[1:] == [
        "failed: fc_l1-0 seed 1 train: ValueError: no such thing",
        "0 of 2 jobs are done, after 5 s",
        "",
        "failed: fc_l1-0 seed 1 train",
        "  ValueError: no such thing",
        f"  log: {log}",
        "",
        f"To go on: {program('snakemake')} --cores 2 --configfile 'my config.yaml'",
    ]


def test_a_run_that_was_stopped_says_how_to_go_on(monkeypatch, tmp_path):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "argv", ["snakemake", "--cores", "2"])
    own = handler(monkeypatch, stream)
    own.emit(planned(train=2))
    own.emit(began(1, tmp_path / "x.log"))
    own.close()
    assert stream.getvalue().endswith(
        f"0 of 2 jobs are done, after 5 s\n\nTo go on: {program('snakemake')} --cores 2\n"
    )


def test_programs_that_a_shell_does_not_find_are_named_by_their_path(monkeypatch, tmp_path):
    for folder in ("own", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "snakemake").write_text("#!/bin/sh\n")
        (tmp_path / folder / "snakemake").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "own/python"))
    monkeypatch.setenv("PATH", str(tmp_path / "own"))
    assert program("snakemake") == "snakemake"
    monkeypatch.setenv("PATH", str(tmp_path / "other"))  # it has no gwprune
    assert program("snakemake") == "own/snakemake"


def test_jobs_that_ctrl_c_has_stopped_have_not_failed(monkeypatch, tmp_path):
    stream, event = io.StringIO(), threading.Event()
    monkeypatch.setattr(progress, "RUN_INTERRUPTED", event)
    own = handler(monkeypatch, stream)
    for message in (planned(train=2), began(1, tmp_path / "1.log"), began(2, tmp_path / "2.log", seed="2")):
        own.emit(message)
    own.emit(failed(1, say(tmp_path / "1.log", "stopped by SIGTERM; run again", level="WARNING")))
    event.set()
    own.emit(failed(2, say(tmp_path / "2.log", "stopped by SIGINT; run again")))
    own.close()
    assert stream.getvalue().count("failed: ") == 2
    assert "seed 1 train\n  stopped by SIGTERM; run again\n" in stream.getvalue()
    assert "seed 2 train" not in stream.getvalue().partition("failed")[2]


@pytest.mark.parametrize("slurm", [False, True])
def test_a_job_leaves_its_error_to_the_run_that_says_it_but_not_inside_slurm(monkeypatch, tmp_path, slurm):
    own = handler(monkeypatch, sys.stderr)
    own.emit(planned(train=1))
    if slurm:
        monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(SystemExit) as caught, job(tmp_path / "x.log"):
        raise ValueError("no such thing")
    own.close()
    assert str(caught.value).startswith("gwprune: ValueError: no such thing" if slurm else "1")
    assert QUIET_VARIABLE not in os.environ


def test_errors_of_the_workflow_itself_are_printed(monkeypatch):
    stream = io.StringIO()
    own = handler(monkeypatch, stream)
    own.emit(record("WorkflowError:\nno rule", logging.ERROR, event=LogEvent.ERROR, exception="WorkflowError"))
    own.emit(record("Building DAG of jobs..."))
    own.emit(record("Nothing to be done (all requested files are present and up to date)."))
    own.emit(PLACES)
    own.close()
    assert stream.getvalue().splitlines() == [
        "WorkflowError:", "no rule", "Nothing to be done (all requested files are present and up to date).",
        "tables: results/tables",
    ]  # fmt: skip


def test_what_commands_that_run_nothing_say_is_printed(monkeypatch):
    stream = io.StringIO()
    own = handler(monkeypatch, stream)
    own.emit(record("Unlocking working directory."))
    own.close()
    assert stream.getvalue() == "Unlocking working directory.\n"


@pytest.mark.parametrize("setting", ["dryrun", "printshellcmds", "verbose"])
def test_a_dry_run_and_whoever_asks_for_more_get_what_snakemake_says(monkeypatch, setting):
    stream = io.StringIO()
    own = handler(monkeypatch, stream, **{setting: True})
    for event in (record("Building DAG of jobs..."), planned(train=1)):
        own.emit(event)
    own.close()
    assert stream.getvalue() == "Building DAG of jobs...\n"


def test_snakemake_finds_the_logger():
    assert LoggerPluginRegistry().is_installed("gwprune")


def test_the_logger_is_made_known_where_snakemake_does_not_find_it(monkeypatch):
    """As in an editable installation, whose packages are not listed."""
    registry = LoggerPluginRegistry()
    monkeypatch.setattr(registry, "plugins", {})
    find_logger()
    assert registry.get_plugin("gwprune").log_handler is LogHandler
    find_logger()
    assert list(registry.plugins) == ["gwprune"]
