"""The page as a file: what it says, what it escapes, what it leaves alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.commit import latest_rows
from pipeline.report.report import write_report
from pipeline.seal import DamagedError
from pipeline.status import NoRunError
from workers.attribution.axioms.finding import Finding
from workers.storage import LocalStore, open_store


class Page(HTMLParser):
    """The tags of a page with their attributes, its text, and what its data block holds."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(html)
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and not self.scripts[-1]:
            self.scripts[-1] = data
        else:
            self.text += data

    def values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(attribute))]


def report(run: LocalStore, to: Path, **how: Any) -> Page:
    write_report(run, LocalStore(to), **how)
    return Page((to / "index.html").read_text())


@pytest.fixture(scope="module")
def attribution(attribution_run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Path]:
    folder = tmp_path_factory.mktemp("attribution-page")
    return report(attribution_run.store, folder), folder


def test_names_and_texts_of_the_data_make_no_tags(attribution: tuple[Page, Path]) -> None:
    page, _ = attribution
    assert len(page.scripts) == 2 and "i" not in [tag for tag, _ in page.tags]
    assert not any(name.startswith("on") or name == "style" for _, attributes in page.tags for name in attributes)
    titles = {row["title"] for row in page.data["rows"]}
    assert {
        "<script>alert(1)<&> \"quoted\" 'too'.png",
        "new\\nline and tab\\t.png",
        "\\u202egnp.rtl שלום.png",
    } <= titles
    assert "no image <i>.png" in page.text and "A attribution & <b>more</b>" in page.text
    assert "</script><script>alert(4)</script>" in page.text  # job.yaml


def test_the_page_asks_for_nothing_but_pictures_beside_it(attribution: tuple[Page, Path]) -> None:
    page, folder = attribution
    assert all(value.startswith("#") for value in page.values("href"))
    pictures = set(page.values("src")) | {
        row[side]["file"] for row in page.data["rows"] for side in ("before", "after")
    }
    assert pictures == {f"images/{path.name}" for path in (folder / "images").iterdir()}
    assert all(re.fullmatch(r"images/[a-z]-[0-9a-f]{32}\.webp", name) for name in pictures)
    [policy] = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'") and "unsafe" not in policy


def test_an_attribution_says_how_exact_and_how_right_it_is(attribution: tuple[Page, Path]) -> None:
    page, _ = attribution
    for words in ("Top-1 accuracy", "Completeness error", "Evaluations spent", "did not converge", "max_evaluations"):
        assert words in page.text
    rows = page.data["rows"]
    assert all(row["scale"] > 0 for row in rows)
    sizes = {
        (row["before"]["width"], row["before"]["height"]) == (row["after"]["width"], row["after"]["height"])
        for row in rows
    }
    assert sizes == {True}  # the heatmap's legend is cut off, so that source and map lie on each other


def test_failures_have_reason_sentence_and_a_picture_where_there_is_one(attribution: tuple[Page, Path]) -> None:
    page, _ = attribution
    for words in ("too_small", "not_an_image", "truncated", "The file is empty", "doesn't fill the"):
        assert words in page.text
    shown = [a["alt"] for tag, a in page.tags if tag == "img" and (a["alt"] or "").startswith("Source image of")]
    assert shown == ["Source image of small.png"]


def test_what_an_audit_found_is_shown(attribution: tuple[Page, Path]) -> None:
    page, _ = attribution
    for words in (
        "Completeness",
        "sum <= change",
        "holds",
        "Sensitivity",
        "fails, as it must",
        "control",
        "of a flat part",
        "checks of the axioms hold",
    ):
        assert words in page.text


def test_a_broken_axiom_is_seen_at_once(attribution_run: Any, tmp_path: Path) -> None:
    run = LocalStore(shutil.copytree(attribution_run.store.root, tmp_path / "run"))
    finding = Finding("completeness", "sum <= change", 0.3, 0.01).as_dict()
    run.replace("audit.json", json.dumps({"findings": [finding], "images": [{}]}).encode())
    page = report(run, tmp_path / "report")
    assert "0 of 1 checks of the axioms hold" in page.text and "fails (!)" in page.text
    assert "0 of 1 hold (!)" in " ".join(page.text.split())
    assert ("tr", "alert") in [(tag, a.get("class")) for tag, a in page.tags]


def test_a_grid_shows_each_content_in_each_style(style_run: Any, tmp_path: Path) -> None:
    page = report(style_run.store, tmp_path)
    alts = [a["alt"] for tag, a in page.tags if tag == "img"]
    assert "chelsea.png in the style of rocket" in alts and "chelsea.png in the style of hubble_deep_field" in alts
    opened = page.values("data-open")
    assert opened and set(opened) <= {row["key"] for row in page.data["rows"]}


def test_the_same_seed_draws_the_same(dream_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.report.gather.SAMPLE", 3)
    monkeypatch.setattr("pipeline.report.gather.WORST", 1)
    draws = [
        [row["key"] for row in report(dream_run.store, tmp_path / "report", seed=seed).data["rows"]]
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_a_report_replaces_the_one_before_and_nothing_else(dream_run: Any, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    old, strange = tmp_path / "images" / f"o-{'0' * 32}.webp", tmp_path / "images" / "holiday.webp"
    for file in (old, strange):
        file.write_bytes(b"x")
    report(dream_run.store, tmp_path)
    assert not old.exists() and strange.exists()


def test_without_its_sources_a_run_still_has_a_report(dream_run: Any, tmp_path: Path) -> None:
    run = shutil.copytree(dream_run.store.root, tmp_path / "run")
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"source_root": str(tmp_path / "gone")}))
    page = report(LocalStore(run), tmp_path / "report")
    assert [row["before"] for row in page.data["rows"]] == [None] * len(page.data["rows"])
    assert all(row["after"] for row in page.data["rows"])


def test_an_image_that_ended_a_worker_is_not_opened_again(
    dream_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*_: Any, **__: Any) -> Any:
        for table in latest_rows(dream_run.store):
            codes = [code and "worker_died" for code in table.column("error_code").to_pylist()]
            place = table.column_names.index("error_code")
            yield table.set_column(place, table.schema.field("error_code"), pa.array(codes, pa.string()))

    monkeypatch.setattr("pipeline.report.report.latest_rows", dying)
    page = report(dream_run.store, tmp_path)
    assert "not opened" in page.text and not list((tmp_path / "images").glob("f-*"))


def test_a_run_that_has_only_begun(dream_run: Any, tmp_path: Path) -> None:
    run = shutil.copytree(dream_run.store.root, tmp_path / "run")
    for folder in ("manifest", "shards", "plan"):
        shutil.rmtree(run / folder)
    (run / "events.jsonl").unlink()
    page = report(LocalStore(run), tmp_path / "report")
    assert "Nothing has been committed yet" in page.text and page.data["rows"] == []


def test_what_is_no_run_is_answered_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NoRunError, match="holds no run"):
        write_report(LocalStore(tmp_path), LocalStore(tmp_path / "report"))


@pytest.mark.parametrize("damage", [{"name": None}, {"fingerprint_fields": {}}, {"sessions": [1]}, {"variants": "x"}])
def test_a_damaged_run_json_is_answered_in_a_sentence(damage: dict[str, Any], dream_run: Any, tmp_path: Path) -> None:
    facts = json.loads((dream_run.store.root / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(facts | damage))
    with pytest.raises(DamagedError, match=r"run\.json is damaged \(.*restore it from a copy"):
        write_report(LocalStore(tmp_path), LocalStore(tmp_path / "report"))


def test_a_report_in_an_object_store(dream_run: Any, make_bucket: Callable[[], str]) -> None:
    to = open_store(f"{make_bucket()}/reports/dream")
    write_report(dream_run.store, to)
    page = Page(to.read("index.html").decode())
    pictures = {row["after"]["file"] for row in page.data["rows"]}
    assert pictures <= {entry.name for entry in to.list("images")}
