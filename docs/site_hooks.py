"""Hooks of the site's builder: links from pages to files of the repository lead to pages that show those files.

In the repository `[the contract](../backends/base.py)` opens the file; on the site there is nothing above the pages,
so each file that a page links to becomes a page of its own.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_ABOVE = re.compile(r"\]\(\.\./([^)#\s]+)\)")
_LANGUAGES = {".py": "python", ".c": "c", ".h": "c", ".yaml": "yaml", ".toml": "toml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file outside of the documentation that a page links to."""
    texts = [page.content_string for page in files.documentation_pages()]
    for name in sorted({name for text in texts for name in _ABOVE.findall(text)}):
        files.append(File.generated(config, f"source/{name}.md", content=_page(name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links at these pages."""
    return markdown if page.file.src_uri.startswith("source/") else _ABOVE.sub(r"](source/\1.md)", markdown)


def _page(name: str) -> str:
    path = ROOT / name
    language = _LANGUAGES.get(path.suffix, "text")
    return f"# {name}\n\n``````{language}\n{path.read_text('utf-8')}``````\n"
