"""The start of a workflow run: this machine's GPU slots, and what a run that was killed here has left behind."""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ..storage.files import read_json, write_json
from ..storage.locks import is_held, locked
from .interruption import RUN_INTERRUPTED
from .job import SLOTS_VARIABLE
from .words import program

__all__ = ["Launch", "gpu_slots", "places", "without"]


def gpu_slots(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Names of the GPUs that this process may use.

    Args:
        environment: its variable GWPRUNE_GPU_SLOTS lists them, else CUDA_VISIBLE_DEVICES; without both, the driver's.
    """
    for variable in (SLOTS_VARIABLE, "CUDA_VISIBLE_DEVICES"):
        if variable in environment:
            return [name for name in environment[variable].replace(",", " ").split() if name != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return listed.stdout.split() if listed.returncode == 0 else []


def places(results: Path, configurations: Sequence[str | os.PathLike] = ()) -> str:
    """Where a run has put its tables and figures, and what to do with them; empty where there are none yet.

    Args:
        results: directory of results.
        configurations: files of the configuration.
    """
    found = {name: results / name for name in ("tables", "figures") if (results / name).exists()}
    lines = [f"{name}: {place}" for name, place in found.items()]
    if "tables" in found:
        lines[0] += f" (what each is: {found['tables'] / 'README.md'})"
        where = ["--config", os.path.relpath(configurations[0])] if len(configurations) == 1 else [str(results)]
        asked = [shlex.join([program("gwprune"), command, *where]) for command in ("thresholds", "report")]
        lines += [f"the limits: {asked[0]}", f"one page with all: {asked[1]}"]
    return "\n".join(lines)


def without(resources: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Resources without some of them.

    Args:
        resources: rule -> resources, in Snakemake's own types, which stay.
        *names: of the resources to leave out.
    """
    return {
        rule: type(own)({key: value for key, value in own.items() if key not in names})
        for rule, own in resources.items()
    }


class Launch:
    """One process of Snakemake, and what processes that were killed have left in the same directory.

    Each process writes a note and holds a lock beside it for as long as it lives. The lock tells whether it lives; its
    number or the clock would not. The note says which of Snakemake's locks are its own and, on SLURM, what its jobs are
    called. Whether a process of another host lives is not known here: what it left is explained, not touched.

    Args:
        directory: `.snakemake`.
    """

    def __init__(self, directory: Path):
        self._notes, self._locks = directory / "gwprune-runs", directory / "locks"
        self._host = socket.gethostname()
        self._own = self._notes / f"{self._host}-{os.getpid()}.json"
        self._held = ExitStack()

    def around(self, execute: Callable[..., Any], finished: Callable[[], None]) -> Callable[..., Any]:
        """Snakemake's function that executes a workflow, with :meth:`begin` before it, unless it is a dry run.

        After Ctrl-C, the last line says how to go on.

        Args:
            execute: the function; it raises an exception when a job has failed.
            finished: called when it has not.
        """

        def executed(executor_plugin: Any, **settings: Any) -> Any:
            if executor_plugin.common_settings.dryrun_exec:
                return execute(executor_plugin=executor_plugin, **settings)
            self.begin()
            with _said_after_ctrl_c("interrupted; the same command goes on, from the last checkpoints"):
                result = execute(executor_plugin=executor_plugin, **settings)
            finished()
            return result

        return executed

    def begin(self) -> None:
        """Before Snakemake looks at its locks: note this process, and unlock what dead ones held.

        A directory that cannot be written is left as it is.
        """
        try:
            self._held.enter_context(locked(self._own.with_suffix(".lock"), ""))
            write_json(self._own, {"host": self._host, "process": os.getpid()})
        except OSError:
            return
        atexit.register(self.end)
        dead, others = self._others()
        for note in dead:
            if not note.get("begun"):
                # Killed before it could say which locks are its own: those that came after it, if no other can have.
                locks = [] if others else self._locks.glob("*.lock")
                note["locks"] = [str(path) for path in locks if _later(path, note)]
            left = [path for path in map(Path, note.get("locks", [])) if path.exists()]
            for path in left:
                path.unlink(missing_ok=True)
            if left:
                _say(f"{_name(note)} ended without finishing; its lock is removed")
        for note in others:
            if note.get("host") != self._host and note.get("locks"):
                _say(f"{_name(note)} has started this workflow. If it does not live any more: snakemake --unlock")

    def started(self, locks: Iterable[str], slurm_run: str) -> None:
        """When jobs are about to run: note what is this process's own, and cancel SLURM jobs that dead ones left.

        They go on from their checkpoints when this run submits them again.

        Args:
            locks: Snakemake's lock files.
            slurm_run: name of this run's SLURM jobs; empty where there is no SLURM.
        """
        own = {"host": self._host, "process": os.getpid(), "begun": True, "slurm_run": slurm_run}
        if self._own.exists():
            write_json(self._own, {**own, "locks": [str(Path(path).resolve()) for path in locks]})
        for note in self._others()[0]:
            if note.get("slurm_run"):
                self._cancel(note)
            Path(note["file"]).unlink(missing_ok=True)
            Path(note["file"]).with_suffix(".lock").unlink(missing_ok=True)

    def end(self) -> None:
        """The process ends by itself: its note goes."""
        self._own.unlink(missing_ok=True)
        self._held.close()

    def _others(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Notes of dead processes of this host, and all others."""
        dead: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for path in sorted(self._notes.glob("*.json")):
            if path == self._own:
                continue
            try:
                note = {**read_json(path), "file": str(path), "time": path.stat().st_mtime}
            except (OSError, ValueError, TypeError):  # gone meanwhile, or no note of ours
                continue
            here = note.get("host") == self._host
            (dead if here and not is_held(path.with_suffix(".lock")) else others).append(note)
        return dead, others

    def _cancel(self, note: Mapping[str, Any]) -> None:
        jobs = _slurm_jobs(note["slurm_run"])
        if not jobs:
            return
        done = subprocess.run(["scancel", *jobs], capture_output=True, text=True, check=False)
        end = time.monotonic() + 120
        while done.returncode == 0 and _slurm_jobs(note["slurm_run"]) and time.monotonic() < end:
            time.sleep(1)  # they still write
        left = _slurm_jobs(note["slurm_run"])
        if left:
            reason = done.stderr.strip() or "they do not end"
            _say(f"SLURM jobs {', '.join(left)} of {_name(note)} could not be cancelled: {reason}")
        else:
            _say(f"{len(jobs)} SLURM job(s) of {_name(note)}, which was killed, are cancelled: {', '.join(jobs)}")


def _later(path: Path, note: Mapping[str, Any]) -> bool:
    try:
        return path.stat().st_mtime >= note["time"]
    except OSError:
        return False


def _name(note: Mapping[str, Any]) -> str:
    return f"process {note.get('process')} on {note.get('host')}"


def _slurm_jobs(name: str) -> list[str]:
    """Ids of the user's SLURM jobs of this name that have not ended."""
    if shutil.which("squeue") is None:
        return []
    command = ["squeue", "--noheader", "--me", f"--name={name}", "--format=%i"]
    queue = subprocess.run(command, capture_output=True, text=True, check=False)
    if queue.returncode:
        _say(f"squeue failed, jobs that a killed run left may go on: {queue.stderr.strip()}")
        return []
    return queue.stdout.split()


@contextmanager
def _said_after_ctrl_c(text: str) -> Iterator[None]:
    """Snakemake makes of a Ctrl-C what it likes; whatever it is, it ends with this line."""
    RUN_INTERRUPTED.clear()
    before: Any = signal.getsignal(signal.SIGINT)

    def receive(number: int, frame: FrameType | None) -> None:
        RUN_INTERRUPTED.set()
        before(number, frame)

    if callable(before):  # not where a shell's background process ignores it
        signal.signal(signal.SIGINT, receive)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if RUN_INTERRUPTED.is_set():
            atexit.register(_say, text)


def _say(text: str) -> None:
    print(f"gwprune: {text}", file=sys.stderr)
