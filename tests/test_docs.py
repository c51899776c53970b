"""The documentation: it builds, its links lead somewhere, its tables say what the code says."""

from __future__ import annotations

import ast
import html
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote, urlsplit

import pytest
import typer
from markdown_it import MarkdownIt
from markdown_it.token import Token

from jobs import presets
from jobs.cli import app
from jobs.spec import load_job
from jobs.submit import DOCUMENTED
from pipeline.report.words import CODES
from workers.records import Task, row_schema

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
MARKDOWN = MarkdownIt("commonmark").enable("table")
NOT_CHECKED = {"keepachangelog.com", "semver.org"}
"""Sites that pages may link to; tests have no network to see whether they answer."""


def tokens(page: Path) -> Iterator[Token]:
    for block in MARKDOWN.parse(page.read_text(encoding="utf-8")):
        yield block
        yield from block.children or ()


def links(page: Path) -> list[str]:
    """All links and pictures of a page, as it names them."""
    found = [token.attrs.get("href") or token.attrs.get("src") for token in tokens(page)]
    return [unquote(str(link)) for link in found if link]


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub and mkdocs make them."""
    blocks = list(tokens(page))
    titles = [blocks[i + 1].content for i, block in enumerate(blocks) if block.type == "heading_open"]
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    text = (DOCS / page).read_text(encoding="utf-8")
    section = text.split(f"# {heading}\n", 1)[1]
    lines = section[section.index("\n|") + 1 :].split("\n\n", 1)[0].splitlines()
    return [[html.unescape(cell.strip().strip("`")) for cell in line.split("|")[1:-1]] for line in lines[2:]]


# --- links


def test_there_are_pages_and_links() -> None:
    assert {"README.md", "CHANGELOG.md", "SECURITY.md", "index.md", "audit.md"} <= {page.name for page in PAGES}
    assert len(links(ROOT / "README.md")) > 10 and "what-a-run-keeps" in anchors(DOCS / "design.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        where = urlsplit(link)
        if where.scheme or where.netloc:
            assert where.scheme == "https" and where.netloc in NOT_CHECKED, link
            continue
        target = (page.parent / where.path).resolve() if where.path else page
        assert target.is_relative_to(ROOT) and target.exists(), link
        assert not where.fragment or where.fragment in anchors(target), link


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page: of *two* words\n\n| a |\n| - |\n| [x](gone.md) |\n\n![y](gone.png)\n")
    assert links(page) == ["gone.md", "gone.png"] and anchors(page) == {"a-page-of-two-words"}


def test_the_site_builds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    python = (tmp_path / "site" / "python.html").read_text()
    assert "Dream the pictures of" in python  # from a docstring
    assert (tmp_path / "site" / "SECURITY.html").is_file()
    pages = "".join(path.read_text() for path in (tmp_path / "site").rglob("*.html"))
    assert not re.findall(r'(?:src|<link[^>]*href)="https?://', pages)  # it needs no network


# --- tables


def test_the_tables_of_options_are_those_of_the_schema() -> None:
    options = runpy.run_path(str(DOCS / "tools" / "options.py"))
    found = list(options["pages"]())
    assert {"deepdream.md", "style.md", "attribution.md", "job-file.md"} <= {page.name for page in found}
    for page in found:
        text = page.read_text(encoding="utf-8")
        assert options["with_tables"](text) == text, f"{page.name} is out of date: make docs"


def test_every_column_is_described_with_its_type() -> None:
    headings = {
        "deepdream": "Columns of DeepDream",
        "style": "Columns of style",
        "attribution": "Columns of attribution",
    }
    common = table("run.md", "Columns of every row")
    for task in get_args(Task):
        rows = common + table("run.md", headings[task])
        schema = row_schema(task)
        kinds = [str(field.type).replace("element: ", "").replace("item: ", "") for field in schema]
        assert [row[:2] for row in rows] == [[name, kind] for name, kind in zip(schema.names, kinds, strict=True)]
        assert all(row[2] for row in rows)
    never = {row[0] for row in common if row[3] == "never"}
    assert never == {field.name for field in row_schema("style") if not field.nullable}


def codes() -> set[str]:
    """All error codes that the source gives to rows."""
    found = set()
    for folder in ("pipeline", "workers"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ImageError":
                    found |= {argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return found


def test_every_error_code_is_described() -> None:
    described: list[Any] = [row[0] for row in table("recovery.md", "An image fails")]
    assert len(set(described)) == len(described)
    assert set(described) == CODES.keys() and codes() < CODES.keys()


def test_every_exit_code_is_described() -> None:
    assert {int(row[0]) for row in table("recovery.md", "What the exit code says")} == DOCUMENTED


def test_every_preset_is_on_its_page() -> None:
    for task in get_args(Task):
        page = (DOCS / f"{task}.md").read_text(encoding="utf-8")
        assert all(f"| `{name}` |" in page for name in presets.names(task)), task


@pytest.mark.parametrize("task", ["deepdream", "style"])
def test_the_job_to_start_from_is_the_default_preset(task: Task, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(code(DOCS / f"{task}.md", "yaml")[0])
    (tmp_path / "preset.yaml").write_text(presets.text(task, "default"))
    styles = ["style.styles=[paintings/*.jpg]"] if task == "style" else []
    preset = load_job(tmp_path / "preset.yaml", ["source=photos/", "output=runs", *styles])
    shown = load_job(tmp_path / "job.yaml")
    assert (shown.model, shown.images, shown.section) == (preset.model, preset.images, preset.section)


def test_the_preset_shown_is_the_preset() -> None:
    preset = (ROOT / "jobs/presets/stylized-dataset.yaml").read_text(encoding="utf-8")
    body = "".join(line for line in preset.splitlines(keepends=True) if not line.startswith("#"))
    assert f"```yaml\n{body}```" in (DOCS / "tutorials" / "stylized-dataset.md").read_text(encoding="utf-8")


# --- what pages tell to write


def code(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language; those that are only indented have none."""
    return [t.content for t in tokens(page) if t.type in ("fence", "code_block") and t.info == language]


def jobs() -> list[Any]:
    """The jobs that pages show whole."""
    shown = [(page, text) for page in PAGES for text in code(page, "yaml") if "output:" in text and "source:" in text]
    return [pytest.param(text, id=page.stem) for page, text in shown if page.name != "design.md"]


@pytest.mark.parametrize("text", jobs())
def test_the_jobs_shown_are_jobs(text: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(text)
    assert load_job(tmp_path / "job.yaml").output.partition("/")[0] in ("runs", "s3:")


def commands() -> set[tuple[str, ...]]:
    """All commands of ours that pages show on lines of their own."""
    lines = [line for page in PAGES for text in code(page, "") for line in text.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if re.match(r"(?:\w+=\w+ )?pixgrad [a-z]", line)]
    return {tuple(w[w.index("pixgrad") + 1 :]) for w in words}


def test_the_commands_shown_are_commands() -> None:
    shown = commands()
    assert len(shown) > 30
    for words in shown:
        found, rest = typer.main.get_command(app), list(words)
        while isinstance(known := getattr(found, "commands", None), dict):
            found = known[rest.pop(0)]
        options = {name for parameter in found.params for name in parameter.opts}
        assert {word for word in rest if re.match(r"--?[a-z]", word)} <= options, words


def test_the_python_shown_is_python() -> None:
    shown = [text for page in PAGES for text in code(page, "python")]
    assert len(shown) >= 4
    for text in shown:
        ast.parse(text)
