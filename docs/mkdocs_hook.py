"""Hook of mkdocs: pages from elsewhere in the checkout, and links that lead where they lead on the site."""

from __future__ import annotations

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
}
PAGES = {path: page for page, path in ELSEWHERE.items()}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
ROLE = re.compile(r":(?:func|class|meth|mod|attr):<code>([^<]*)</code>")


def on_files(files, config):
    for page, path in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text()))
    return files


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
