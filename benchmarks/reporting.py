"""What the studies share: generated sections of the docs, tables, JSON, and the machine that a figure was taken on."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from gwprune.storage.files import atomic_path, git_commit, write_json

_CHECKOUT = Path(__file__).resolve().parents[1]
_PLACES = {".json": _CHECKOUT / "benchmarks" / "results", ".svg": _CHECKOUT / "docs" / "figures"}


def arguments_of(study: str, text: str) -> argparse.ArgumentParser:
    """A parser with what all studies take.

    Args:
        study: name of the module.
        text: its doc string, whose first line is shown.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{study}", description=text.splitlines()[0])
    parser.add_argument("--output", type=Path, help="directory for all files, instead of the places in this checkout")
    return parser


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call took, and what it returned."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def destination(study: str, suffix: str, output: Path | None) -> Path:
    """Where a study's ``.json`` or ``.svg`` goes: its place in the checkout, or the directory ``output``."""
    return (output or _PLACES[suffix]) / f"{study}{suffix}"


def publish(study: str, record: dict[str, Any], section: str, output: Path | None, page: str) -> None:
    """Print the section of a study; write it to its page, and its record with the environment beside it.

    Args:
        study: name of the module.
        record: what goes to JSON.
        section: Markdown.
        output: a directory for both files, or None for their places in the checkout.
        page: of docs/.
    """
    print(section)
    if output:
        output.mkdir(parents=True, exist_ok=True)
    write_json(destination(study, ".json", output), {"environment": environment(), **record})
    if output:
        (output / f"{study}.md").write_text(section, encoding="utf-8")
    else:
        replace_section(_CHECKOUT / "docs" / page, study.replace("_", "-"), section)


def exit_status(failures: Sequence[str]) -> int:
    """Name every failure on the error stream; 1 when there is one."""
    for line in failures:
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if failures else 0


def replace_section(path: str | os.PathLike, name: str, text: str) -> None:
    """Replace what stands between two marks of a file; the rest stays as it is.

    Args:
        path: of the file.
        name: of the section, which stands between ``<!-- name -->`` and ``<!-- /name -->``.
        text: the new content.

    Raises:
        ValueError: naming the file and the marks, when one is missing, doubled or in the wrong order.
    """
    path, marks = Path(path), [f"<!-- {name} -->", f"<!-- /{name} -->"]
    before, *parts = re.split(f"({'|'.join(marks)})", path.read_text(encoding="utf-8"))
    if parts[::2] != marks:
        raise ValueError(f"{path}: expected {marks[0]} and then {marks[1]}, each once, got {parts[::2]}")
    with atomic_path(path) as temporary:
        temporary.write_text(f"{before}{marks[0]}\n\n{text.strip()}\n\n{marks[1]}{parts[3]}", encoding="utf-8")


def _plain(cell: Any) -> str:
    return str(cell).replace("|", "\\|").replace("\n", " ")


def _numeric(cell: Any) -> bool:
    return re.fullmatch(r"[+-]?[\d.,]+(e[+-]?\d+)?( ?%|x)?", str(cell)) is not None


def markdown_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """A GitHub-flavoured table; columns of nothing but numbers are aligned to the right.

    Args:
        rows: heading -> cell, the same headings in every row.

    Returns:
        The table, or nothing without rows.

    Raises:
        ValueError: when a row has other headings than the first.
    """
    rows = list(rows)
    header = list(rows[0]) if rows else []
    if any(list(row) != header for row in rows):
        raise ValueError(f"every row needs the cells {', '.join(header)}")
    rule = ["---:" if all(_numeric(row[name]) for row in rows) else "---" for name in header]
    lines = [header, rule, *(row.values() for row in rows)] if rows else []
    return "".join(f"| {' | '.join(map(_plain, line))} |\n" for line in lines)


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()


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
