"""Run a notebook in this process and write its outputs into it.

    python -m benchmarks.notebook docs/notebooks/transformer.ipynb

For a notebook that nothing but Python runs: no Jupyter is needed, and the environment is the one of the package. Kept
are what a cell prints, the value of its last line, and figures, those of pyplot too.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
from matplotlib.figure import Figure


def shown(value: Any) -> list[nbformat.NotebookNode]:
    """The value of a cell's last line, as its output."""
    if value is None:
        return []
    data = {"text/plain": repr(value)}
    if isinstance(value, Figure):
        image = io.BytesIO()
        value.savefig(image, format="png", dpi=75, metadata={"Software": None})
        data["image/png"] = base64.b64encode(image.getvalue()).decode()
    return [nbformat.v4.new_output("display_data", data=data)]


def run(source: str, namespace: dict[str, Any]) -> list[nbformat.NotebookNode]:
    """The outputs of a cell."""
    tree, value, text = ast.parse(source), None, io.StringIO()
    shows = tree.body and isinstance(tree.body[-1], ast.Expr) and not source.endswith(";")
    last = tree.body.pop() if shows else None
    with contextlib.redirect_stdout(text):
        exec(compile(tree, "cell", "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)
    stream = [nbformat.v4.new_output("stream", name="stdout", text=text.getvalue())] if text.getvalue() else []
    figures = [output for number in plt.get_fignums() for output in shown(plt.figure(number))]
    plt.close("all")
    return stream + shown(value) + figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args().notebook.resolve()
    notebook = nbformat.read(path, as_version=4)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    start = time.perf_counter()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # for the files that it writes
        for number, cell in enumerate(cells, start=1):
            cell.outputs, cell.execution_count = run(cell.source, namespace), number
            print(f"cell {number} of {len(cells)}, {time.perf_counter() - start:.0f} s")
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
