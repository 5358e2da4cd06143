"""Operator-vector products on file: interrupted work reads them back, bit for bit, and goes on."""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import config_hash, versions

__all__ = ["RecordedOperator", "arithmetic", "digest", "set_aside"]

logger = logging.getLogger("gwprune")

_MAGIC = b"gwprune products 1\n"
_HEADER = struct.Struct("<16sQ")  # guard, bytes of a product
_RECORD = struct.Struct("<II")  # CRC-32 of the vector that was multiplied and of the product


def digest(*tensors: Tensor) -> str:
    """SHA-256 of the tensors' bytes, on the CPU."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(_bytes(tensor))
    return sha.hexdigest()


def arithmetic(device: torch.device | str) -> dict[str, str | int]:
    """What the last digits of a result depend on beside its inputs: part of what a checkpoint belongs to."""
    return {"device": str(device), "threads": torch.get_num_threads(), **versions()}


def set_aside(path: str | os.PathLike, why: str = "it belongs to other settings, inputs or versions") -> None:
    """Say in the log that a checkpoint is not used.

    Args:
        path: of the checkpoint.
        why: the reason.
    """
    logger.warning("checkpoint %s is set aside, and its work starts over: %s", path, why)


class RecordedOperator:
    """An operator whose products are appended to a file, vector by vector, and read back instead of computed anew.

    All that follows from the products (Lanczos with reorthogonalisation, searches, early ends) is a function of them.
    So interrupted work is simply repeated from its start: it reads the products that it has, and needs no other
    checkpoint. A product is taken from the file only if its CRC says that the same vector was multiplied then. The end
    of the file, where a write may have been cut off, is checked in the same way. Everything else (`shape`, `gradient`,
    ...) is the operator's.

    The file takes 4 D bytes per product of single precision.

    Args:
        operator: ``shape`` (D, D), ``@``, ``dtype`` and ``device`` of torch.
        path: of the file. It is made when missing, and started anew, with a warning, when it belongs to other work.
        belongs_to: configuration and inputs on which the products depend.
        written: called after each product that is written.

    Raises:
        OSError: naming ``path``, when it cannot be written (a full disk, say).
    """

    def __init__(
        self,
        operator: Any,
        path: str | os.PathLike,
        belongs_to: Mapping[str, Any],
        written: Callable[[], None] = lambda: None,
    ):
        self._operator, self.path, self._written = operator, Path(path), written
        self._guard = config_hash(belongs_to).encode()
        self._size = operator.shape[0] * torch.empty((), dtype=operator.dtype).element_size()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = open(self.path, "r+b" if self.path.exists() else "w+b")  # noqa: SIM115 - open while this lives
            self._known = self._count()
        except OSError as error:
            raise OSError(error.errno, f"cannot write {self.path}: {error.strerror}") from error
        self._next = 0
        if self._known:
            logger.info("%s: going on after %d products", self.path, self._known)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operator, name)

    def _offset(self, number: int) -> int:
        return len(_MAGIC) + _HEADER.size + number * (_RECORD.size + self._size)

    def _count(self) -> int:
        """Whole records in the file, which is made new when its head is not that of this work."""
        head = _MAGIC + _HEADER.pack(self._guard, self._size)
        if self._file.read(len(head)) == head:
            length = self._file.seek(0, os.SEEK_END)
            return max(0, length - self._offset(0)) // (_RECORD.size + self._size)
        if self._file.seek(0, os.SEEK_END):
            set_aside(self.path)
        self._file.seek(0)
        self._file.truncate()
        self._file.write(head)
        self._file.flush()
        return 0

    def _recorded(self, number: int, crc: int) -> Tensor | None:
        """Product ``number`` on file, if it is whole and of the vector with this CRC."""
        if number >= self._known:
            return None
        self._file.seek(self._offset(number))
        of_vector, of_product = _RECORD.unpack(self._file.read(_RECORD.size))
        values = self._file.read(self._size)
        if of_vector == crc and zlib.crc32(values) == of_product:
            return torch.frombuffer(bytearray(values), dtype=self._operator.dtype)
        logger.warning("%s: product %d does not fit; computing on from there", self.path, number + 1)
        self._known = number
        return None

    def __matmul__(self, x: Tensor) -> Tensor:
        columns = [x] if x.dim() == 1 else list(x.t().contiguous())
        checks = [zlib.crc32(_bytes(column)) for column in columns]
        found: list[Tensor] = []
        for crc in checks:
            values = self._recorded(self._next + len(found), crc)
            if values is None:
                break
            found.append(values.to(x.device))
        if len(found) == len(columns):
            self._next += len(found)
            return found[0] if x.dim() == 1 else torch.stack(found, dim=1)
        product = self._operator @ x  # a block is one product: what is known of a part does not help
        for crc, column in zip(checks, [product] if x.dim() == 1 else product.t(), strict=True):
            self._write(crc, _bytes(column))
        self._written()
        return product

    def _write(self, crc: int, data: memoryview) -> None:
        try:
            self._file.seek(self._offset(self._next))
            self._file.write(_RECORD.pack(crc, zlib.crc32(data)))
            self._file.write(data)
            self._file.truncate()
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, f"cannot write {self.path}: {error.strerror}") from error
        self._next += 1
        self._known = self._next

    def close(self) -> None:
        """Close the file; it stays for the same work done again."""
        self._file.close()

    def remove(self) -> None:
        """Close and remove the file: what it was for is complete."""
        self.close()
        self.path.unlink(missing_ok=True)


def _bytes(x: Tensor) -> memoryview:
    # NumPy has no bfloat16.
    array: Any = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)
