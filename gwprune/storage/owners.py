"""Whose file it is: every file between jobs says its run and seed, and is refused in the folder of another one."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

__all__ = ["ArtifactError", "refuse_foreign"]

logger = logging.getLogger("gwprune")


class ArtifactError(Exception):
    """A file between jobs is missing, damaged, foreign, or does not fit. The message names it."""


def _whose(owner: Mapping[str, Any]) -> str:
    """An owner as messages name it, such as ``run a, seed 0``."""
    return ", ".join(f"{key} {value}" for key, value in owner.items())


def refuse_foreign(
    path: str | os.PathLike, stated: Mapping[str, Any] | None, expected: Mapping[str, Any] | None
) -> None:
    """Refuse a file that belongs to something else than it is read for.

    Args:
        path: of the file, for messages.
        stated: what the file says of itself, such as its run and seed; None when it says nothing, as files of older
            versions: it is taken, with a warning in the log.
        expected: what it is read for; None: anything.

    Raises:
        ArtifactError: naming the file, what it belongs to and what was expected.
    """
    if expected is None:
        return
    if stated is None:
        logger.warning("%s does not say whose it is (an older version wrote it); taken for %s", path, _whose(expected))
        return
    differing = [key for key in expected if stated.get(key) != expected[key]]
    if differing:
        raise ArtifactError(
            f"{path} belongs to {_whose(stated)}; expected {_whose(expected)}. Was it copied from elsewhere? Delete"
            " it and run again"
        )
