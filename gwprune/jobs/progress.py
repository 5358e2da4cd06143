"""What a person sees of a run: one line of progress, and at the end of a failed one what failed and how to go on.

Snakemake finds the handler as the logger `gwprune`, by the package `snakemake_logger_plugin_gwprune` beside this one.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

__all__ = ["LogHandler", "Progress"]

# Where standard error is no terminal: seconds between two lines.
_PAUSE = 15
# Jobs at work that a line names.
_MOST_NAMES = 4
# What Snakemake says of failed jobs, beside the event that names job and log.
_SAID_BETTER = ("CalledProcessError", "Exiting because a job execution failed", "At least one job did not complete")


class Progress:
    """How far a run is.

    Args:
        stats: rule -> number of its jobs, as Snakemake counts them, and "total".
        now: seconds on any clock.
    """

    def __init__(self, stats: Mapping[str, int], now: float):
        self._left = Counter({rule: count for rule, count in stats.items() if rule != "total"})
        self.total, self.done = sum(self._left.values()), 0
        self._start = now
        self._running: dict[int, tuple[str, str, float]] = {}
        self._times: dict[str, list[float]] = {}

    def begin(self, job: int, rule: str, wildcards: Mapping[str, str], now: float) -> None:
        """A job is at work."""
        self._running[job] = (rule, _name(rule, wildcards), now)

    def end(self, job: int, now: float, failed: bool = False) -> str:
        """A job has ended; returns its name."""
        rule, name, begun = self._running.pop(job, ("", f"job {job}", now))
        if not failed:
            self.done += 1
            self._left[rule] -= 1
            self._times.setdefault(rule, []).append(now - begun)
        return name

    def seconds_left(self, now: float) -> float | None:
        """An estimate, once a job has ended: as many jobs of each rule as are left, each as long as its like took."""
        times = [seconds for own in self._times.values() for seconds in own]
        if not times or now <= self._start:
            return None
        mean = {rule: sum(own) / len(own) for rule, own in self._times.items()}
        typical = sum(times) / len(times)
        begun = {
            rule: sum(now - start for own, _, start in self._running.values() if own == rule) for rule in self._left
        }
        work = sum(max(count * mean.get(rule, typical) - begun[rule], 0) for rule, count in self._left.items())
        side_by_side = (sum(times) + sum(begun.values())) / (now - self._start)
        return work / max(side_by_side, 1e-9)

    def line(self, now: float) -> str:
        """Jobs done of all, which network, seed and rule is at work, and the time left."""
        left = self.seconds_left(now)
        parts = [f"{self.done} of {self.total} jobs"]
        if left is not None and self.done < self.total:
            parts.append(f"about {_duration(left)} left")
        names = [name for _, name, _ in self._running.values()]
        parts += names[:_MOST_NAMES] + [f"{len(names) - _MOST_NAMES} more"] * (len(names) > _MOST_NAMES)
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds, -1), 5):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _name(rule: str, wildcards: Mapping[str, str]) -> str:
    """A job as people name it: network, seed, rule, and the operator or method."""
    words = [wildcards.get("run", ""), f"seed {wildcards['seed']}" if "seed" in wildcards else "", rule]
    words += [wildcards.get(key, "") for key in ("operator", "method")]
    return " ".join(filter(None, words))


def _reason(logs: Sequence[str]) -> str:
    """The last line of a failed job's log, which is its error."""
    for log in logs:
        try:
            lines = Path(log.split(" (")[0]).read_text(errors="replace").strip().splitlines()
        except OSError:
            continue
        if lines:
            return lines[-1]
    return "it left no log"


class LogHandler(LogHandlerBase):
    """Snakemake's handler of that kind. It prints warnings and errors as they are, and of a dry run everything."""

    def __post_init__(self) -> None:
        self._stream = sys.stderr
        self._terminal = self._stream.isatty()
        self._progress: Progress | None = None
        self._failed: list[tuple[str, str, list[str]]] = []
        self._last, self._shown = 0.0, False

    def emit(self, record: Any) -> None:  # with attributes of Snakemake
        event, now = getattr(record, "event", None), time.monotonic()
        if self.common_settings.dryrun:
            self._print(self.format(record))
        elif event == LogEvent.RUN_INFO:
            self._progress = Progress(record.stats, now)
        elif event == LogEvent.JOB_INFO and self._progress:
            self._progress.begin(record.jobid, record.rule_name, record.wildcards, now)
            self._show(now)
        elif event == LogEvent.JOB_FINISHED and self._progress:
            self._progress.end(record.job_id, now)
            self._show(now, last=self._progress.done == self._progress.total)
        elif event == LogEvent.JOB_ERROR and self._progress:
            name = self._progress.end(record.jobid, now, failed=True)
            self._failed.append((name, _reason(record.log), record.log))
            self._print(f"failed: {name}: {_reason(record.log)}")
        elif any(words in str(record.msg) for words in _SAID_BETTER):
            pass
        elif record.levelno >= logging.WARNING or (event is None and "Nothing to be done" in str(record.msg)):
            self._print(self.format(record))

    def _show(self, now: float, last: bool = False) -> None:
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{self._progress.line(now)[:width]}")
            self._shown = True
            self._stream.flush()
        elif last or now - self._last >= _PAUSE:
            self._print(self._progress.line(now))
            self._last = now

    def _print(self, text: str) -> None:
        if text:
            self._stream.write("\r\x1b[K" * self._shown + text + "\n")
            self._shown = False
            self._stream.flush()

    def close(self) -> None:
        """At the end of the run."""
        progress = self._progress
        if progress is not None:
            self._print(f"{progress.done} of {progress.total} jobs are done")
        if self._failed:
            for name, reason, logs in self._failed:
                self._print(f"failed: {name}\n  {reason}\n  log: {', '.join(logs)}")
            self._print(f"To go on: {shlex.join(['snakemake', *sys.argv[1:]])}")
        self._progress, self._failed = None, []
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
