"""Locks between processes: one process per job, one job per GPU slot. The kernel frees them however a process ends."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["gpu_slot", "is_held", "locked", "slot_directory"]

logger = logging.getLogger("gwprune")

_POLL = 0.5  # seconds between tries for a slot
# What flock answers where a network file system does not support it.
_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


def _try_lock(path: Path, wait: bool) -> int | None:
    """Descriptor of the locked file at ``path``; None when another process holds it and ``wait`` is false."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # The holder before may have removed the file, and another process made a new one, while this one waited.
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            # Removed meanwhile; over NFS the descriptor of a file that another host removed is stale.
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                os.close(descriptor)
                raise
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextmanager
def locked(path: str | os.PathLike, note: str) -> Iterator[str | None]:
    """Hold the lock file ``path`` while the block runs; wait for another process that holds it.

    Where the file system has no locks the block runs without, after a warning.

    Args:
        note: one line about this holder, for those who wait.

    Yields:
        The note of the last process that was waited for; None when there was none.

    Raises:
        OSError: naming ``path``, when its directory cannot be written.
    """
    path, seen = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _try_lock(path, wait=False)
        while descriptor is None:
            seen = _read(path) or seen or ""
            logger.warning("%s: waiting for another process that does this job (%s)", path, seen)
            descriptor = _try_lock(path, wait=True)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise OSError(error.errno, f"cannot lock {path}: {error.strerror}") from error
        logger.warning("%s: this file system has no locks; two processes could do the same job", path)
        yield None
        return
    try:
        with suppress(OSError):  # on a full disk the lock holds without its note
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, note.encode(), 0)
        yield seen
    finally:
        # Removed while it is held: whoever waits notices and locks a new one.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def is_held(path: str | os.PathLike) -> bool:
    """Whether a living process holds the lock file ``path``; true as well where that cannot be known."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


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
    told = False
    while True:
        for slot in slots:
            descriptor = _try_lock(directory / f"{slot.replace('/', '_')}.lock", wait=False)
            if descriptor is None:
                continue
            before = os.environ.get("CUDA_VISIBLE_DEVICES")
            os.environ["CUDA_VISIBLE_DEVICES"] = slot
            try:
                yield slot
            finally:
                os.environ.pop("CUDA_VISIBLE_DEVICES")
                if before is not None:
                    os.environ["CUDA_VISIBLE_DEVICES"] = before
                os.close(descriptor)  # the file stays: the slot does
            return
        if not told:
            logger.info("waiting for one of the GPU slots %s", ", ".join(slots))
            told = True
        time.sleep(_POLL)
