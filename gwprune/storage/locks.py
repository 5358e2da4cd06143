"""Locks between processes: one process per job, one job per GPU slot. The kernel frees them however a process ends."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["gpu_slot", "is_held", "locked", "slot_directory"]

logger = logging.getLogger("gwprune")

_POLL = 0.1  # seconds between two tries
# What flock answers where a network file system does not support it.
_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


def _lock(path: Path) -> FileLock:
    # Falling back to a file without a lock would leave the lock of a killed process behind.
    return FileLock(path, poll_interval=_POLL, fallback_to_soft=False)


def _acquired(lock: FileLock, wait: bool = False) -> bool:
    """Take the lock; False when another process holds it and ``wait`` is false."""
    while True:
        try:
            lock.acquire(blocking=wait)
        except Timeout:
            return False
        except OSError as error:
            if error.errno != errno.ESTALE:  # over NFS: another host has removed the file meanwhile
                raise
        else:
            return True


@contextmanager
def locked(path: str | os.PathLike, note: str) -> Iterator[str | None]:
    """Hold the lock file ``path`` while the block runs; wait for another process that holds it.

    Where the file system has no locks, the block runs without one, after a warning.

    Args:
        path: of the lock file; it is removed at the end.
        note: one line about this holder, for those who wait.

    Yields:
        The note of the process that was waited for; None when there was none.

    Raises:
        OSError: naming ``path``, when its directory cannot be written.
    """
    path, seen = Path(path), None
    lock = _lock(path)
    try:
        if not _acquired(lock):
            seen = _read(path)
            logger.warning("%s: waiting for another process that does this job (%s)", path, seen)
            _acquired(lock, wait=True)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise OSError(error.errno, f"cannot lock {path}: {error.strerror}") from error
        logger.warning("%s: this file system has no locks; two processes could do the same job", path)
        yield None
        return
    try:
        with suppress(OSError):  # on a full disk the lock holds without its note
            path.write_text(note)
        yield seen
    finally:
        # Removed while it is held: whoever waits notices and locks a new one.
        path.unlink(missing_ok=True)
        lock.release()


def is_held(path: str | os.PathLike) -> bool:
    """Whether a living process holds the lock file ``path``; True as well where that cannot be known."""
    path = Path(path)
    lock = _lock(path)
    try:
        if not path.exists():
            return False
        held = not _acquired(lock)
    except OSError:
        return True
    lock.release()
    return held


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def slot_directory() -> Path:
    """Where the locks of this machine's GPU slots lie: one place for all of a user's workflows with the same TMPDIR."""
    return Path(tempfile.gettempdir()) / f"gwprune-gpu-{os.getuid()}"


@contextmanager
def gpu_slot(slots: Sequence[str], directory: Path | None = None) -> Iterator[str]:
    """Hold one of this machine's GPU slots while the block runs; CUDA_VISIBLE_DEVICES names it alone.

    Args:
        slots: indices or UUIDs of GPUs, as in CUDA_VISIBLE_DEVICES.
        directory: of the lock files; :func:`slot_directory` when it is not given.

    Yields:
        The slot.

    Raises:
        ValueError: when there is no slot.
    """
    if not slots:
        raise ValueError("there is no GPU slot to take")
    directory = directory or slot_directory()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    locks = {slot: _lock(directory / f"{slot.replace('/', '_')}.lock") for slot in slots}
    slot = next(filter(lambda slot: _acquired(locks[slot]), slots), None)
    if slot is None:
        logger.info("waiting for one of the GPU slots %s", ", ".join(slots))
    while slot is None:
        time.sleep(_POLL)
        slot = next(filter(lambda slot: _acquired(locks[slot]), slots), None)
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = slot
    try:
        yield slot
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
        locks[slot].release()  # the file stays: the slot does
