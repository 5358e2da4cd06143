"""The start of a workflow run: this machine's GPU slots, and what a run that was killed here has left behind."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from .files import read_json, write_json
from .jobs import SLOTS_VARIABLE

__all__ = ["claim", "gpu_slots", "orphans", "release", "take_over", "without"]

_OWNER = "gwprune-owner.json"
# Snakemake's SLURM plugin names all jobs of a run by its UUID, behind a prefix.
_RUN_NAME = re.compile(r"(?:.+_)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def gpu_slots(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Names of the GPUs that this process may use: of GWPRUNE_GPU_SLOTS, of CUDA_VISIBLE_DEVICES, else all."""
    for variable in (SLOTS_VARIABLE, "CUDA_VISIBLE_DEVICES"):
        if variable in environment:
            return [name for name in environment[variable].replace(",", " ").split() if name != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    found = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True)
    return found.stdout.split() if found.returncode == 0 else []


def without(resources: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Mapping[str, Any]]:
    """Resources of each rule but for the one called ``name``; of the same types, as Snakemake has its own."""
    return {
        rule: type(own)({key: value for key, value in own.items() if key != name}) for rule, own in resources.items()
    }


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def claim(directory: Path, executor: str) -> None:
    """Note in ``directory`` (`.snakemake`) which process runs the workflow; it holds Snakemake's lock by now."""
    process = psutil.Process()
    owner = {
        "pid": process.pid,
        "started": process.create_time(),
        "host": socket.gethostname(),
        "boot": _boot(),
        "executor": executor,
    }
    write_json(directory / _OWNER, owner)


def release(directory: Path) -> None:
    """Remove the note: the run has ended by itself."""
    (directory / _OWNER).unlink(missing_ok=True)


def _alive(owner: Mapping[str, Any]) -> bool:
    if owner["boot"] != _boot():
        return False
    try:
        process = psutil.Process(owner["pid"])
        return abs(process.create_time() - owner["started"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def take_over(directory: Path) -> None:
    """Clear up after a run that was killed: its lock goes, and those of its SLURM jobs that are left are cancelled.

    Nothing is done while the process lives, or when it ran on another host, where it cannot be seen; the lock is then
    explained. Jobs that are cancelled go on from their checkpoints when this run submits them again.
    """
    path = directory / _OWNER
    try:
        owner = read_json(path)
        alive = owner["host"] != socket.gethostname() or _alive(owner)
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):  # cut off, or of another version
        path.unlink()
        return
    locks = [file for file in (directory / "locks").glob("*.lock") if file.stat().st_mtime <= path.stat().st_mtime]
    who = f"process {owner['pid']} on {owner['host']}"
    if alive:
        if owner["host"] != socket.gethostname() and locks:
            _say(f"{who} has started this workflow. If it does not live any more: snakemake --unlock, then again")
        return
    for file in locks:
        file.unlink(missing_ok=True)
    left = orphans(directory.parent) if owner["executor"] == "slurm" else []
    if left:
        subprocess.run(["scancel", *left], check=False)
        _wait_for(directory.parent)
    path.unlink(missing_ok=True)
    parts = [f"{who} ended without finishing"]
    parts += ["its lock is removed"] if locks else []
    parts += [f"its {len(left)} SLURM job(s) are cancelled: {', '.join(left)}"] if left else []
    _say("; ".join(parts))


def orphans(directory: Path) -> list[str]:
    """Ids of the user's SLURM jobs that a Snakemake has submitted from ``directory``."""
    if shutil.which("squeue") is None:
        return []
    command = ["squeue", "--noheader", "--me", "--format=%i|%j|%Z"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        _say(f"squeue failed, jobs that are left of an earlier run may go on: {found.stderr.strip()}")
        return []
    jobs = [line.split("|", 2) for line in found.stdout.splitlines()]
    return [id_ for id_, name, place in jobs if _RUN_NAME.fullmatch(name) and Path(place) == directory.resolve()]


def _wait_for(directory: Path, seconds: float = 120) -> None:
    """Until the cancelled jobs are gone, so that they write nothing any more."""
    end = time.monotonic() + seconds
    while orphans(directory) and time.monotonic() < end:
        time.sleep(1)


def _say(text: str) -> None:
    print(f"gwprune: {text}", file=sys.stderr)
