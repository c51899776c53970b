"""The page in a real browser: no errors, no requests, filters, sorting, keyboard, accessibility, small screens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, sync_playwright

from pipeline.report.report import write_report
from workers.storage import LocalStore

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
PHONE, WIDE = {"width": 390, "height": 844}, {"width": 1600, "height": 1000}
TASKS = ("deepdream", "style", "attribution")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install Debian's package to test the report")


@pytest.fixture(scope="module")
def pages(
    dream_run: Any, style_run: Any, attribution_run: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A page for each task."""
    found = {}
    for task, run in zip(TASKS, (dream_run, style_run, attribution_run), strict=True):
        folder = tmp_path_factory.mktemp(f"{task}-page")
        write_report(run.store, LocalStore(folder))
        found[task] = folder / "index.html"
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    profile = tmp_path_factory.mktemp("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, args=FLAGS, color_scheme="light"
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    """A page on which nothing may go wrong unnoticed."""
    said: list[str] = []
    page = browser.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(request.url))
    page.on("request", lambda request: None if request.url.startswith("file:") else said.append(request.url))
    yield page
    page.close()
    assert said == []


def names(page: Page) -> list[str]:
    """The titles of the cards."""
    return page.locator("#cards h3").all_text_contents()


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{v['id']}: {node['html'][:200]} {node['failureSummary']}" for v in found for node in v["nodes"]]


@pytest.mark.parametrize(
    ("task", "size", "scheme"),
    [
        *((task, PHONE, "dark") for task in TASKS),
        *((task, WIDE, "light") for task in TASKS),
        ("attribution", PHONE, "light"),  # the page with the most in it
        ("attribution", WIDE, "dark"),
    ],
)
def test_accessible_in_light_and_dark_on_a_phone_and_a_wide_screen(
    task: str, size: Any, scheme: Any, pages: dict[str, Path], page: Page
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(size)
    page.goto(pages[task].as_uri())
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    page.click("#view")
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    page.click("#rows tbody button >> nth=0")
    assert violations(page) == []


def test_every_picture_is_there(pages: dict[str, Path], page: Page) -> None:
    for path in pages.values():
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('img').forEach((each) => (each.loading = 'eager'))")
        page.wait_for_function("[...document.images].every((each) => !each.getAttribute('src') || each.complete)")
        assert page.evaluate("[...document.images].filter((i) => i.getAttribute('src') && !i.naturalWidth).length") == 0


def test_filters_search_and_groups(pages: dict[str, Path], page: Page) -> None:
    page.goto(pages["attribution"].as_uri())
    everything = names(page)
    page.select_option("label:has-text('Label') select", label="espresso")
    assert sorted(names(page)) == ["coffee.png", "rocket.jpg"]
    assert page.text_content("#shown") == "2 outputs shown"
    page.fill("#search", "ROCKET")
    assert names(page) == ["rocket.jpg"]
    page.fill("#search", "no such thing")
    assert names(page) == [] and page.text_content("#shown") == "No output matches."
    page.fill("#search", "")
    page.select_option("label:has-text('Label') select", "")
    page.select_option("#group", "completeness_error")
    assert sorted(names(page)) == sorted(everything)  # so few that the worst are all of them


def test_sorting_by_any_column_in_cards_and_table(pages: dict[str, Path], page: Page) -> None:
    page.goto(pages["attribution"].as_uri())
    columns = page.locator("#sort option").evaluate_all("options => options.map((each) => each.value).slice(1)")
    assert {"uri", "label", "completeness_error", "map_error", "seconds", "converged", "unit"} <= set(columns)
    page.select_option("#sort", "map_error")
    ascending = names(page)
    page.click("#direction")
    assert names(page) == ascending[::-1]
    page.click("#view")
    head = page.locator("#rows th[scope=col]", has_text="Map error")
    assert head.get_attribute("aria-sort") == "descending"
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    place = [c["name"] for c in page.evaluate("JSON.parse(document.getElementById('data').textContent).columns")]
    shown = page.locator(f"#rows tbody tr td:nth-child({place.index('map_error') + 1})").all_text_contents()
    assert [float(text) for text in shown] == sorted(map(float, shown))
    assert page.evaluate("document.activeElement.dataset.sort") == "map_error"


def test_tables_of_the_page_sort_by_value(pages: dict[str, Path], page: Page) -> None:
    page.goto(pages["attribution"].as_uri())
    head = page.locator("#classes th", has_text="Outputs")
    for direction in ("descending", "ascending"):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == direction
        outputs = [int(t) for t in page.locator("#classes tbody td:nth-child(2)").all_text_contents()]
        assert outputs == sorted(outputs, reverse=direction == "descending")


def test_the_viewer_by_keyboard(pages: dict[str, Path], page: Page) -> None:
    page.goto(pages["style"].as_uri())
    first, second = names(page)[:2]
    page.locator("#cards button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#viewer").is_visible() and page.text_content("#viewer-title") == first
    page.keyboard.press("ArrowRight")
    assert page.text_content("#viewer-title") == second
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert page.evaluate("document.activeElement.textContent") == first
    page.locator("#grid button").first.click()
    assert page.locator("#viewer").is_visible()


def test_names_that_mean_harm_stay_names(pages: dict[str, Path], page: Page) -> None:
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.goto(pages["deepdream"].as_uri())
    assert "<script>alert(1)<&> \"quoted\" 'too'.png" in names(page)
    page.click("#view")
    page.click("#rows tbody button >> text=alert(2)")
    assert page.text_content("#viewer-title") == "<∕script><img src=x onerror=alert(2)>.png"
