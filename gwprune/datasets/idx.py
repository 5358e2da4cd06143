"""Reader of the IDX format of the MNIST family, plain or gzip."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from .errors import DataError

__all__ = ["read_idx"]

_UNSIGNED_BYTE = 8


def _content(path: Path) -> bytes:
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            return file.read()  # reading to the end is what makes gzip check its CRC
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except EOFError as error:
        size = path.stat().st_size
        raise DataError(f"{path}: truncated gzip file, it ends early after {size} bytes") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read, the file is damaged or not gzip ({error})") from error


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read unsigned bytes of exactly ``shape``; the array is read-only.

    Raises:
        DataError: naming the file, when it is missing, damaged, truncated, or holds another type or shape.
    """
    content = _content(path)
    header = 4 + 4 * len(shape)
    if len(content) < header:
        raise DataError(f"{path}: truncated, expected at least {header} bytes of header, found {len(content)}")
    magic = struct.unpack(">I", content[:4])[0]
    expected_magic = _UNSIGNED_BYTE << 8 | len(shape)
    if magic != expected_magic:
        raise DataError(
            f"{path}: not the IDX file wanted, magic number {magic:#010x} instead of {expected_magic:#010x}"
        )
    found = struct.unpack(f">{len(shape)}I", content[4:header])
    if found != shape:
        raise DataError(f"{path}: holds an array of shape {found}, expected {shape}")
    expected = header + math.prod(shape)
    if len(content) != expected:
        what = "truncated" if len(content) < expected else "too long"
        raise DataError(f"{path}: {what}, expected {expected} bytes, found {len(content)}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
