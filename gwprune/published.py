"""Numbers that papers report, shipped as text. They are read to be looked at beside the measured ones, never joined."""

from __future__ import annotations

import csv
import hashlib
from importlib import resources
from typing import Any

__all__ = ["published_digest", "published_rows"]

_FILE = resources.files("gwprune") / "data/published.csv"


def published_digest() -> str:
    """Of the file's contents: what is made from it is made again when it changes."""
    return hashlib.sha256(_FILE.read_bytes()).hexdigest()[:12]


def published_rows() -> list[dict[str, Any]]:
    """Rows of table `published`, from the file that ships with the package."""
    with _FILE.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    numbers = {"sparsity": float, "accuracy": float, "seeds": int}
    return [{name: numbers.get(name, str)(value) for name, value in row.items()} for row in rows]
