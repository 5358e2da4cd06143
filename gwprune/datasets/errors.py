"""The one exception for everything that is wrong with data files."""

from __future__ import annotations

__all__ = ["DataError"]


class DataError(Exception):
    """A data file is missing, truncated, corrupted or foreign; the message names it and the way out."""
