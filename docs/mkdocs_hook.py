"""Hook of mkdocs: pages from elsewhere in the checkout, notebooks among them, and links that lead where they should."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
# Page of the site -> file of the checkout; every other page lies under docs/.
ELSEWHERE = {
    "index.md": "README.md",
    "configuration.md": "config/README.md",
    "tables.md": "results/README.md",
    "reference_run.md": "results/reference/fashion_mnist/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "notebooks/demo.md": "docs/notebooks/demo.ipynb",
    "notebooks/transformer.md": "docs/notebooks/transformer.ipynb",
}
PAGES = {path: page for page, path in ELSEWHERE.items()}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
ROLE = re.compile(r":(?:func|class|meth|mod|attr):<code>([^<]*)</code>")


def on_files(files, config):
    for page, path in ELSEWHERE.items():
        files.append(File.generated(config, page, content=text_of(ROOT / path)))
    return files


def text_of(path: Path) -> str:
    """A file as Markdown; of a notebook the cells and what they showed."""
    if path.suffix != ".ipynb":
        return path.read_text()
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text")})
            if image := "".join(data.get("image/png", "")).strip():
                parts.append(f'<img alt="figure" src="data:image/png;base64,{image}">')
            else:
                parts.append(f"```text\n{''.join(data['text/plain']).rstrip()}\n```")
    return "\n\n".join(parts)


def on_page_markdown(markdown, page, config, files):
    folder = posixpath.dirname(ELSEWHERE.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def on_site(link: re.Match) -> str:
        picture, text, target, heading = link.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        if not (ROOT / path).exists():
            return link[0]  # mkdocs names it
        found = PAGES.get(path) or path.removeprefix("docs/")
        if files.get_file_from_path(found) is None:
            return text  # a file that is no part of the site
        return f"{picture}[{text}]({posixpath.relpath(found, posixpath.dirname(page.file.src_uri))}{heading or ''})"

    return LINK.sub(on_site, markdown)


def on_page_content(html, page, config, files):
    """Doc strings name other objects as Sphinx has it."""
    return ROLE.sub(lambda role: f"<code>{role[1].removeprefix('.')}</code>", html)
