"""A hook of mkdocs: files of the repository's root that pages link to are pages, or files, of the site as well."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
FROM_ROOT = ("CHANGELOG.md", "SECURITY.md", "cluster.yaml")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files, with the links that they have into docs/ as seen from there."""
    for name in FROM_ROOT:
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links out of docs/ to these files, as they are in the site."""
    up = "../" * page.file.src_uri.count("/")
    for name in FROM_ROOT:
        markdown = markdown.replace(f"](../{up}{name}", f"]({up}{name}")
    return markdown
