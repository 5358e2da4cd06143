"""Who may import whom: downwards only, and the picture in docs/architecture.md says the same."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gwprune

PACKAGE = Path(gwprune.__file__).parent
# From the top down. A room may import the rooms below its own line.
LAYERS = (
    ("__main__",),
    ("jobs",),
    ("predict", "config", "figures"),
    ("training",),
    ("pruning", "tables"),
    ("curvature", "datasets", "models"),
    ("options",),
    ("spectral", "network", "storage"),
    ("streams", "names"),
)
LEVELS = {room: level for level, rooms in enumerate(reversed(LAYERS)) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of another part of the package, at the top of the file or inside a function."""
    inside = ("gwprune", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            parent = ".".join(inside[: len(inside) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (parent, node.module)))
            targets = [f"{module}.{alias.name}" for alias in node.names] if module == "gwprune" else [module]
        elif isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            continue
        for target in targets:
            parts = target.split(".")
            if parts[0] == "gwprune" and len(parts) > 1 and parts[1] in LEVELS:
                yield node.lineno, parts[1]


def test_every_module_has_its_room():
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms == set(LEVELS)


@pytest.mark.parametrize("room", LEVELS)
def test_imports_run_downwards(room):
    for path in PACKAGE.rglob("*.py"):
        if room_of(path) == room:
            upward = [
                (line, other) for line, other in imported(path) if other != room and LEVELS[other] >= LEVELS[room]
            ]
            assert not upward, f"{path}: {upward}"
