"""Who may import whom: downwards only, as the picture in docs/architecture.md has it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gwprune
from gwprune.jobs.rules import WORK

PACKAGE = Path(gwprune.__file__).parent
TEXT = (PACKAGE.parent / "docs/architecture.md").read_text()


def pictured() -> list[list[str]]:
    """The rooms of the picture, line by line from the top."""
    lines = [line.strip() for line in TEXT.splitlines() if line.startswith("    |")]
    return [[cell.strip() for cell in line[: line.rindex("|")].split("|")[1:]] for line in lines]


LEVELS = {room: level for level, rooms in enumerate(reversed(pictured())) for room in rooms}


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


def test_the_document_names_the_work_of_every_rule_and_the_rooms_that_it_enters():
    rows = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if line.startswith("| `")]
    for rules, function, rooms in rows:
        module = PACKAGE / "jobs" / f"{function.strip('`').partition('.')[0]}.py"
        assert rooms.split(", ") == sorted({room for _, room in imported(module)} - {"jobs"}), function
        for rule in rules.split(", "):
            assert WORK[rule.strip("`")].replace(":", ".") == function.strip("`")
    assert {rule.strip("`") for rules, *_ in rows for rule in rules.split(", ")} == set(WORK)
