"""Downloads through torchvision: one process at a time, no progress bar in log files, plain errors."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .errors import DataError

__all__ = ["fetching", "no_bar", "wait_for_downloads"]

_LOCK = ".gwprune-download.lock"


def _lock(file: IO[bytes], *, exclusive: bool) -> None:
    # Some file systems and platforms have no locks; then jobs that start together may fetch twice.
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)


def wait_for_downloads(data_dir: Path) -> None:
    """Return when no other process is fetching into ``data_dir``, so that files seen there are complete."""
    with suppress(OSError), open(data_dir / _LOCK, "rb") as lock:
        _lock(lock, exclusive=False)


def no_bar() -> bool | None:
    """For tqdm's ``disable``: a bar shows on a terminal only (None), and not in a job, beside which others write."""
    return True if os.environ.get("TQDM_DISABLE") else None


@contextmanager
def _quiet_bar() -> Iterator[None]:
    """Let torchvision's progress bar show where :func:`no_bar` lets it; torchvision itself has no switch for that."""
    from torchvision.datasets import utils

    bar = utils.tqdm
    utils.tqdm = functools.partial(bar, disable=no_bar())
    try:
        yield
    finally:
        utils.tqdm = bar


@contextmanager
def fetching(name: str, data_dir: Path, remedy: str) -> Iterator[None]:
    """Hold the download lock of ``data_dir`` and turn any failure inside into a DataError.

    Jobs that start together share ``data_dir``: the block must look again whether the files are there, since
    another process may have fetched them while this one waited.

    Args:
        name: the data set.
        data_dir: made when it is missing.
        remedy: what a person can do instead, as a clause.

    Raises:
        DataError: naming ``data_dir``, the cause and the remedy.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with open(data_dir / _LOCK, "wb") as lock, _quiet_bar():
            _lock(lock, exclusive=True)
            yield
    except DataError:
        raise
    except Exception as error:  # network, disk, archive and pickle errors share no base class
        cause = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{name}: not complete under {data_dir} and it could not be fetched ({cause}). Either {remedy}"
        ) from error
