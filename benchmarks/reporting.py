"""What the studies share: generated sections of the docs, tables, JSON, and the machine that a figure was taken on."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gwprune.storage.files import atomic_path, git_commit, write_json

__all__ = [
    "destination",
    "environment",
    "exit_status",
    "markdown_table",
    "print_table",
    "publish",
    "replace_section",
    "write_json",
]

_CHECKOUT = Path(__file__).resolve().parents[1]
_PLACES = {".json": _CHECKOUT / "benchmarks" / "results", ".svg": _CHECKOUT / "docs" / "figures"}


def destination(study: str, suffix: str, output: Path | None) -> Path:
    """Where a study's ``.json`` or ``.svg`` goes: its place in the checkout, or the directory ``output``."""
    return (output or _PLACES[suffix]) / f"{study}{suffix}"


def publish(
    study: str, record: dict[str, Any], section: str, output: Path | None, page: str = "certificate.md"
) -> None:
    """Write the record of a study and its section of a page of docs/, or both as files into ``output``."""
    if output:
        output.mkdir(parents=True, exist_ok=True)
    write_json(destination(study, ".json", output), record)
    name = study.replace("_", "-")
    if output is None:
        replace_section(_CHECKOUT / "docs" / page, name, section)
    else:
        (output / f"{study}.md").write_text(section, encoding="utf-8")


def exit_status(failures: Sequence[str]) -> int:
    """Name every failure on the error stream; 1 when there is one."""
    for line in failures:
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if failures else 0


def replace_section(path: str | os.PathLike, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- name -->`` and ``<!-- /name -->`` in the file ``path``; the rest stays as it is.

    Raises:
        ValueError: naming the file and the marker, when one is missing, doubled or in the wrong order.
    """
    path = Path(path)
    content = path.read_text(encoding="utf-8")
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    for marker in (start, end):
        if content.count(marker) != 1:
            raise ValueError(f"{path}: expected the marker {marker} once, found it {content.count(marker)} times")
    head, rest = content.split(start)
    if end not in rest:
        raise ValueError(f"{path}: the marker {end} comes before {start}")
    _, tail = rest.split(end)
    with atomic_path(path) as temporary:
        temporary.write_text(f"{head}{start}\n\n{text.strip()}\n\n{end}{tail}", encoding="utf-8")


def _plain(cell: Any) -> str:
    return str(cell).replace("|", "\\|").replace("\n", " ")


def _numeric(cell: Any) -> bool:
    return re.fullmatch(r"[+-]?[\d.,]+(e[+-]?\d+)?( ?%|x)?", str(cell)) is not None


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A GitHub-flavoured table; columns of nothing but numbers are aligned to the right.

    Raises:
        ValueError: when a row has not as many cells as the header.
    """
    rows = [list(row) for row in rows]
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f"every row needs {len(header)} cells, one for each of {', '.join(header)}")
    right = [bool(rows) and all(_numeric(row[i]) for row in rows) for i in range(len(header))]
    lines = [header, ["---:" if number else "---" for number in right], *rows]
    return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines) + "\n"


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table for people on a terminal; markdown when the output goes elsewhere."""
    console = Console()
    if not console.is_terminal:
        print(f"{title}\n\n{markdown_table(header, rows)}")
        return
    table = Table(*header, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """Versions, machine, threads and commit: what a measured figure depends on."""
    return {
        "python": platform.python_version(),
        **{library: metadata.version(library) for library in ("numpy", "scipy", "torch")},
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
    }
