"""Atomic files, content hashes and provenance."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = [
    "atomic_path",
    "config_hash",
    "git_commit",
    "provenance",
    "read_json",
    "remove_leftovers",
    "save_tensors",
    "versions",
    "write_json",
]

# Of a file that is being written: ".NAME.xxxxxxxx.part" beside it.
_SUFFIX = ".part"


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and rename it to ``path`` if the block succeeds.

    A reader therefore sees the old file or the complete new one, never a part of it. After an error the temporary file
    is removed. The directory of ``path`` is made when it is missing.

    Raises:
        OSError: naming ``path``, when the directory cannot be written, the disk is full or a quota is used up.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_SUFFIX, dir=path.parent)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; results are shared within a group on most clusters.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS):
            raise OSError(error.errno, f"cannot write {path}: {os.strerror(error.errno)}") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: str | os.PathLike) -> None:
    """Remove what killed processes left of their attempts to write ``path``, or ``path`` with a further suffix.

    No process may be writing that file now.
    """
    path = Path(path)
    for part in path.parent.glob(f".{glob.escape(path.name)}.*{_SUFFIX}"):
        part.unlink(missing_ok=True)


def save_tensors(path: str | os.PathLike, values: Mapping[str, Any]) -> None:
    """:func:`torch.save`, atomically.

    Raises:
        OSError: naming ``path``, as :func:`atomic_path`.
    """
    import torch  # noqa: PLC0415 - light jobs never need it

    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        try:
            torch.save(values, stream)
        except RuntimeError as error:  # what torch makes of a failed write
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__cause__ or cause.__context__
            if cause is None:
                raise
            raise cause from error


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: naming the file, when it is not complete JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a complete JSON file: {error}") from error


def config_hash(config: Mapping[str, Any]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a configuration (key order does not matter)."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def git_commit() -> str:
    """Commit of the checkout that holds this package, with ``+`` for local changes; empty outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        commit, status = (
            subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=20, check=True).stdout
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit.strip() + ("+" if status.strip() else "")


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def versions() -> dict[str, str]:
    """What computes: the source of gwprune, as a digest, and the version of torch."""
    return {"source": _source(), "torch": _version("torch")}


@lru_cache(maxsize=1)
def _source() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).resolve().parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def provenance(config: Mapping[str, Any] | None = None, device: str = "") -> dict[str, str]:
    """Where a file comes from: versions, commit, configuration hash and device, all as strings."""
    libraries = ("torch", "numpy", "scipy", "pyarrow", "snakemake")
    return {
        "gwprune": _version("gwprune"),
        "git_commit": git_commit(),
        "config_hash": config_hash(config) if config is not None else "",
        "python": platform.python_version(),
        "device": device,
        **{library: _version(library) for library in libraries},
    }
