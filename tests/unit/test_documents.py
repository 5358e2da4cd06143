"""What the documents show, run: every block of code, in the order of its page."""

from __future__ import annotations

import doctest
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
import torch
import yaml

import gwprune

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r'^```(\w+)(?: title="([^"\n]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
PAGES = ["README.md", "CONTRIBUTING.md", "config/README.md", "results/README.md"]
PAGES += [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: str) -> list[tuple[str, str, str, int]]:
    """(language, title, text, line) of the fenced blocks of a page."""
    text = (ROOT / page).read_text()
    return [(m[1], m[2] or "", m[3], text[: m.start(3)].count("\n")) for m in BLOCK.finditer(text)]


def code(text: str, page: str, line: int):
    """A block, compiled so that an error names the page and the line in it."""
    return compile("\n" * line + text, page, "exec")


def changed(source: str, difference: str) -> str:
    """Apply a block of lines that begin with a blank, ``-`` or ``+``."""
    lines = difference.splitlines(keepends=True)
    old, new = ("".join(line[1:] for line in lines if line[0] in marks) for marks in (" -", " +"))
    assert source.count(old) == 1, f"stands {source.count(old)} times in the file:\n{old}"
    return source.replace(old, new)


NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


def assert_prints_alike(found: str, shown: str):
    """The same words, and numbers that are near: training ends elsewhere on another machine."""
    assert [NUMBER.sub("#", line).split() for line in found.splitlines()] == [
        NUMBER.sub("#", line).split() for line in shown.splitlines()
    ]
    values = [[float(each.replace(",", "")) for each in NUMBER.findall(text)] for text in (found, shown)]
    assert values[0] == pytest.approx(values[1], rel=0.3, abs=0.05)


def test_the_library_page_runs_and_prints_what_it_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for language, _, text, line in blocks("docs/your_network.md"):
        if language == "text":
            assert_prints_alike(capsys.readouterr().out, text)
        else:
            capsys.readouterr()
            exec(code(text, "docs/your_network.md", line), namespace)


@pytest.mark.parametrize("name", ["demo", "transformer"])
def test_notebooks_are_committed_with_their_outputs(name):
    notebook = nbformat.read(ROOT / f"docs/notebooks/{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output.output_type for cell in cells for output in cell.outputs]
    assert set(kinds) == {"stream", "display_data"}


def test_the_notebook_of_a_transformer_runs_on_little(tmp_path, monkeypatch):  # that of the demo: tests/workflow
    monkeypatch.chdir(tmp_path)
    sizes, little = "TRAINING_STEPS, PRODUCTS, SAMPLES = ", "10, 3, 4"
    notebook = nbformat.read(ROOT / "docs/notebooks/transformer.ipynb", as_version=4)
    program = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert program.count(sizes) == 1
    with torch.random.fork_rng():
        exec(re.sub(f"{sizes}.*", sizes + little, program), {})
    assert {path.name for path in tmp_path.iterdir()} == {
        "transformer.pt",
        "transformer.mask.pt",
        "transformer.mask.json",
    }


def test_every_example_of_how_to_add_runs_on_a_copy_of_the_package(tmp_path):
    shutil.copytree(ROOT / "gwprune", tmp_path / "gwprune", ignore=shutil.ignore_patterns("__pycache__"))
    program = []
    for language, title, text, line in blocks("docs/extend.md"):
        path = tmp_path / title
        if language == "diff":
            path.write_text(changed(path.read_text(), text))
        elif title:
            assert not path.exists(), title
            path.write_text(text)
        else:
            program.append("\n" * (line - "".join(program).count("\n")) + text)
    (tmp_path / "extend.py").write_text("".join(program))  # with the lines of the page
    done = subprocess.run(
        [sys.executable, "extend.py"], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_experiment_of_the_page_is_a_valid_one(tmp_path):
    from gwprune.config import load_file
    from gwprune.config.runs import expand

    text = (ROOT / "docs/your_experiment.md").read_text()
    path = tmp_path / "my.yaml"
    path.write_text(re.search(r"^( {4}experiments:\n.*?)\n\n(?! {4})", text, re.MULTILINE | re.DOTALL)[1])
    config = load_file(path)
    assert (len(expand(config)), len(config.seeds)) == (4, 3)  # "4 runs and 12 trainings"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        path, _, heading = target.partition("#")
        if not path.startswith("http"):
            found = (ROOT / page).parent / path
            assert found.exists(), target
            if heading:
                titles = re.findall(r"^#+ (.*)", found.read_text(), re.MULTILINE)
                assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize(
    "module",
    [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "gwprune").rglob("*.py"))
        if re.search(r"^ +>>> ", path.read_text(), re.MULTILINE)
    ],
)
def test_examples_in_doc_strings_run(module):
    failed, tried = doctest.testmod(import_module(module))
    assert tried > 0
    assert failed == 0


def test_the_interface_has_every_name_of_the_package_and_nothing_that_is_gone():
    text = (ROOT / "docs/api.md").read_text()
    assert [name for name in gwprune.__all__ if name != "__version__" and f"`gwprune.{name}`" not in text] == []
    for path in re.findall(r"^::: (.*)$", text, re.MULTILINE):
        module, _, name = path.rpartition(".")
        assert getattr(import_module(module), name).__doc__, path


def test_the_citation_has_the_version_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"]["text"])
