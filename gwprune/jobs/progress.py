"""What a person sees of a run: how far it is and what each job does, and at the end what failed and how to go on.

Snakemake finds the handler as the logger `gwprune`, by the package `snakemake_logger_plugin_gwprune` beside this one.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from .interruption import RUN_INTERRUPTED
from .job import QUIET_VARIABLE
from .words import duration, name_of, program

__all__ = ["LogHandler", "Progress"]

# Seconds between two looks at the logs of the jobs at work, on a terminal.
_LOOK = 1.0
# Where standard error is no terminal: seconds between two lines, at least, and as a part of the time gone by.
_PAUSE, _PART = 15, 0.01
# Jobs at work that are named, on a terminal and in a line.
_ROWS, _MOST_NAMES = 8, 4
_SAID_LEAST = 30  # columns for what a job says
_NETWORK_LEAST = 8  # columns for a network's name
_MESSAGE_LINES = 6  # of an error
_MOST_FAILURES = 20  # that the end of a run shows
_TAIL = 8192  # bytes of a log that are looked at
# What Snakemake says of failed jobs, beside the event that names job and log.
_SAID_BETTER = ("CalledProcessError", "Exiting because a job execution failed", "At least one job did not complete")
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \S+ ([A-Z]+) (.*)")
_ERROR = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)\b.*|gwprune: .*")
_CLEAR = "\r\x1b[J"  # from the cursor on


@dataclass(frozen=True)
class _Work:
    """A job that has begun, or waits in the queue of a cluster."""

    rule: str
    name: str
    begun: float
    log: Path | None
    before: int | None  # time of the log that an earlier attempt left

    def started(self) -> bool:
        """Whether it has written to its log."""
        return self.log is not None and _time_of(self.log) not in (None, self.before)

    def said(self) -> str:
        """The last line of its log."""
        matches = filter(None, map(_LOG_LINE.fullmatch, reversed(_tail(self.log)))) if self.log else iter(())
        return next((match[2] for match in matches), "")


class Progress:
    """How far a run is.

    Args:
        stats: rule -> number of its jobs, as Snakemake counts them, and "total".
        now: seconds on any clock.

    Attributes:
        failed: job -> (name, message, logs) of those whose last attempt failed.
    """

    def __init__(self, stats: Mapping[str, int], now: float):
        self._left = Counter({rule: count for rule, count in stats.items() if rule != "total"})
        self.total, self.done = sum(self._left.values()), 0
        self.start = now
        self.failed: dict[int, tuple[str, list[str], list[str]]] = {}
        self._running: dict[int, _Work] = {}
        self._times: dict[str, list[float]] = {}

    def begin(self, job: int, rule: str, wildcards: Mapping[str, str], now: float, logs: Sequence[str] = ()) -> None:
        """A job is at work."""
        log = Path(_path(logs[0])) if logs else None
        self._running[job] = _Work(rule, name_of(rule, wildcards), now, log, _time_of(log) if log else None)
        self.failed.pop(job, None)

    def end(self, job: int, now: float) -> None:
        """A job is done."""
        work = self._running.pop(job, None)
        self.failed.pop(job, None)
        self.done += 1
        if work is not None:
            self._left[work.rule] -= 1
            self._times.setdefault(work.rule, []).append(now - work.begun)

    def fail(self, job: int, logs: Sequence[str]) -> tuple[str, list[str]]:
        """A job has failed.

        Returns:
            Its name and the lines of its message.
        """
        work = self._running.pop(job, None)
        name = work.name if work else f"job {job}"
        wrote = work is None or work.log is None or work.started()
        message = _reason(logs) if wrote else ["it left no log"]
        self.failed[job] = name, message, [_path(log) for log in logs]
        return name, message

    def seconds_left(self, now: float) -> float | None:
        """An estimate, once a job has ended: as many jobs of each rule as are left, each as long as its like took."""
        times = [seconds for own in self._times.values() for seconds in own]
        if not times or now <= self.start:
            return None
        mean = {rule: sum(own) / len(own) for rule, own in self._times.items()}
        typical = sum(times) / len(times)
        begun = {
            rule: sum(now - work.begun for work in self._running.values() if work.rule == rule) for rule in self._left
        }
        work = sum(max(count * mean.get(rule, typical) - begun[rule], 0) for rule, count in self._left.items())
        side_by_side = (sum(times) + sum(begun.values())) / (now - self.start)
        return work / max(side_by_side, 1e-9)

    def head(self, now: float) -> str:
        """Jobs done of all, failures, and the time left."""
        left = self.seconds_left(now)
        parts = [f"{self.done} of {self.total} jobs done"]
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        if left is not None and self.done < self.total:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def line(self, now: float) -> str:
        """The head, and which network, seed and rule is at work and how far."""
        shown, rest = self._at_work(_MOST_NAMES)
        # What follows the colon, losses and the like, is for the log and for the breadth of a terminal.
        parts = [f"{name} ({said.partition(': ')[0]})" if said else name for name, said in shown]
        parts += [rest] if rest else []
        return f"{self.head(now)}: {'; '.join(parts)}" if parts else self.head(now)

    def table(self, now: float, columns: int, rows: int = _ROWS) -> list[str]:
        """The same as lines of at most ``columns``, one for each of at most ``rows`` jobs."""
        shown, rest = self._at_work(rows)
        width = min(max((len(name) for name, _ in shown), default=0), max(columns - _SAID_LEAST - 4, 10))
        room = columns - width - 4
        lines = [f"  {_cut(name, width):<{width}}  {_parts(said, room)}" for name, said in shown]
        lines += [f"  {rest}"] if rest else []
        return [line[:columns].rstrip() for line in (self.head(now), *lines)]

    def _at_work(self, most: int) -> tuple[list[tuple[str, str]], str]:
        """(name, what it says) of at most so many jobs, those first that have started; how many more there are."""
        jobs = [(work, work.started()) for work in self._running.values()]
        jobs.sort(key=lambda job: not job[1])
        shown = [(work.name, work.said() if started else "waiting" * bool(work.log)) for work, started in jobs[:most]]
        waiting = sum(not started for _, started in jobs[most:])
        return shown, f"{len(jobs) - most} more, {waiting} of them waiting" if len(jobs) > most else ""


def _cut(name: str, width: int) -> str:
    """A name without its middle, where it is too long; where that will do without the middle of the network's name."""
    first, blank, rest = name.partition(" ")
    room = width - len(blank + rest)
    if room < _NETWORK_LEAST:
        first, blank, rest, room = name, "", "", width
    half = (room - 1) // 2
    return name if len(name) <= width else f"{first[: room - 1 - half]}…{first[-half:]}{blank}{rest}"


def _parts(said: str, room: int) -> str:
    """As many of the parts between commas as there is room for, at least one."""
    return said if len(said) <= room else re.sub(r"[,;:] [^,;:]*$|[,;:]$", "", said[:room])


def _path(log: str) -> str:
    """A log without what Snakemake says of it in parentheses."""
    return log.split(" (")[0]


def _time_of(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _tail(path: Path) -> list[str]:
    """The last lines of a log."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL))
            return stream.read().decode(errors="replace").rstrip().splitlines()
    except OSError:
        return []


def _reason(logs: Sequence[str]) -> list[str]:
    """Why a job failed: the exception that ends one of its logs, or its last line."""
    for log in logs:
        lines = _tail(Path(_path(log)))
        if not lines:
            continue
        for number in range(len(lines) - 1, -1, -1):
            if _ERROR.fullmatch(lines[number]):
                first = re.sub(r"^[\w.]+\.(?=\w+\b)", "", lines[number])  # the class without its modules
                return [first, *lines[number + 1 :]][:_MESSAGE_LINES]
            if _LOG_LINE.fullmatch(lines[number]):
                break
        last = _LOG_LINE.fullmatch(lines[-1])
        if last and last[1] == "INFO" and not last[2].startswith("stopped by "):
            return [f"it ended without a message (killed, or out of memory?), last: {last[2]}"]
        return [last[2] if last else lines[-1]]
    return ["it left no log"]


class LogHandler(LogHandlerBase):
    """Snakemake's handler of that kind.

    Of a run it shows how far it is, warnings and errors; of a dry run, of other commands and with ``--printshellcmds``
    or ``--verbose`` everything, as Snakemake does.

    On a terminal the lines are drawn below the cursor, which stays on an empty line above them: whatever another
    process writes stands there, and the next drawing begins under it.
    """

    def __post_init__(self) -> None:
        settings = self.common_settings
        wanted = ("dryrun", "printshellcmds", "verbose", "debug_dag")
        self._plain = any(getattr(settings, name, False) for name in wanted)
        self._stream = sys.stdout if getattr(settings, "stdout", False) else sys.stderr
        self._terminal = not self._plain and self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._progress: Progress | None = None
        self._before: list[str] = []  # what Snakemake says before it is known whether there is a run
        self._last = 0.0
        self._ended = threading.Event()

    def emit(self, record: Any) -> None:  # with attributes of Snakemake
        event, now = getattr(record, "event", None), time.monotonic()
        progress = self._progress
        if self._plain:
            self._print(self.format(record))
        elif event == LogEvent.RUN_INFO:
            self._begin(record.stats, now)
        elif event == LogEvent.JOB_INFO and progress:
            progress.begin(record.jobid, record.rule_name, record.wildcards, now, record.log)
            self._show(now)
        elif event == LogEvent.JOB_FINISHED and progress:
            progress.end(record.job_id, now)
            self._show(now, last=progress.done == progress.total)
        elif event == LogEvent.JOB_ERROR and progress:
            name, message = progress.fail(record.jobid, record.log)
            if RUN_INTERRUPTED.is_set():  # it was stopped
                del progress.failed[record.jobid]
            else:
                self._print(self._folded(f"failed: {name}: {message[0]}"))
        elif any(words in str(record.msg) for words in _SAID_BETTER):
            pass
        elif getattr(record, "results", False):
            self._summarise(now)
            self._print(str(record.msg))
        elif record.levelno >= logging.WARNING:
            self._print(self.format(record))
        elif event is None and "Nothing to be done" in str(record.msg):
            self._before.clear()
            self._print(self.format(record))
        elif progress is None and record.levelno >= logging.INFO:
            self._before.append(self.format(record))

    def _begin(self, stats: Mapping[str, int], now: float) -> None:
        self._progress = Progress(stats, now)
        self._before.clear()
        os.environ[QUIET_VARIABLE] = "1"
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        """Show now and then how far the jobs are."""
        while not self._ended.wait(_LOOK if self._terminal else _PAUSE):
            with self.lock:
                if self._progress:
                    self._show(time.monotonic())

    def _show(self, now: float, last: bool = False) -> None:
        progress = self._progress
        if self._terminal:
            columns, rows = self._size()
            lines = progress.table(now, columns - 1, max(min(_ROWS, rows - 4), 1))
            self._write(_CLEAR + "\n".join(["", *lines]) + f"\r\x1b[{len(lines)}A")
        elif last or now - self._last >= max(_PAUSE, _PART * (now - progress.start)):
            self._print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {progress.line(now)}")
            self._last = now

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            size = shutil.get_terminal_size()
        return (size.columns, size.lines) if size.columns else (80, 24)

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # the terminal has gone; the run goes on
            self._stream.write(text)
            self._stream.flush()

    def _print(self, text: str | None) -> None:
        """Lines that stay."""
        if text and text != "None":
            self._write(_CLEAR * self._terminal + text + "\n")
            if self._terminal and self._progress:
                self._show(time.monotonic())

    def _summarise(self, now: float) -> None:
        """How the run has ended: what is done, what failed and why, and the command that goes on."""
        progress, self._progress = self._progress, None
        if progress is None:
            return
        took = duration(now - progress.start)
        self._print(f"{progress.done} of {progress.total} jobs are done, after {took}")
        for name, message, logs in list(progress.failed.values())[:_MOST_FAILURES]:
            text = "\n".join(["", f"failed: {name}", *(f"  {line}" for line in message), f"  log: {', '.join(logs)}"])
            self._print(self._folded(text))
        if (more := len(progress.failed) - _MOST_FAILURES) > 0:
            self._print(f"\nfailed: {more} more, named above")
        # After Ctrl-C the last line of the run says it.
        if progress.failed or progress.done < progress.total and not RUN_INTERRUPTED.is_set():
            self._print(self._folded(f"\nTo go on: {shlex.join([program('snakemake'), *sys.argv[1:]])}"))

    def _folded(self, text: str) -> str:
        """A text in lines that the terminal holds."""
        if not self._terminal:
            return text
        width = self._size()[0] - 1
        fold = textwrap.TextWrapper(width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        return "\n".join("\n".join(fold.wrap(line)) for line in text.split("\n"))

    def close(self) -> None:
        """At the end of the run."""
        self._ended.set()
        os.environ.pop(QUIET_VARIABLE, None)
        self._summarise(time.monotonic())
        for text in self._before:
            self._print(text)
        self._before = []
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """It does: Snakemake's own handler stays silent."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """It does not: Snakemake's log file stays."""
        return False

    @property
    def has_filter(self) -> bool:
        """Snakemake's own."""
        return False

    @property
    def has_formatter(self) -> bool:
        """Snakemake's own."""
        return False

    @property
    def needs_rulegraph(self) -> bool:
        """It does not."""
        return False
