"""A terminal of a few control sequences: what a person sees of what a program wrote."""

from __future__ import annotations

import re

__all__ = ["screen"]

_PART = re.compile(r"\x1b\[(\d*)([A-Z])|(\r)|(\n)|([^\x1b\r\n])")


def screen(text: str, columns: int) -> list[str]:
    """The lines that stand on an endless terminal, without empty ones at its end.

    Args:
        text: what was written, line feeds with or without carriage returns, as a terminal gets them from a program.
        columns: of the terminal; a longer line goes on in the next one.
    """
    lines, row, column = [""], 0, 0
    for count, command, back, feed, letter in _PART.findall(text.replace("\r\n", "\n")):
        if letter:
            if column == columns:
                row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row].ljust(column)[:column] + letter + lines[row][column + 1 :]
            column += 1
        elif back:
            column = 0
        elif feed:
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif command == "A":
            row = max(row - int(count or 1), 0)
        elif command == "J":
            lines = [*lines[:row], lines[row][:column]]
        else:
            raise ValueError(f"unknown control sequence {command}")
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.rstrip() for line in lines]
