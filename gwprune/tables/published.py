"""Numbers that papers report, shipped as text. They are read to be looked at beside the measured ones, never joined."""

from __future__ import annotations

import csv
from importlib import resources
from typing import Any

__all__ = ["published_rows"]


def published_rows() -> list[dict[str, Any]]:
    """Rows of table `published`, from the file that ships with the package."""
    rows = list(csv.DictReader((resources.files("gwprune") / "tables/published.csv").read_text().splitlines()))
    numbers = {"sparsity": float, "accuracy": float, "seeds": int}
    return [{name: numbers.get(name, str)(value) for name, value in row.items()} for row in rows]
