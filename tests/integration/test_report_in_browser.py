"""The report in a real browser: opened from a file, without a network, on a desktop, a phone and paper."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from innerloop.report import page as report
from innerloop.report.records import read
from synthetic_runs import DIVERGED, HEALTHY, IMAGES, STALLED, write_run
from synthetic_searches import front, write_search

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
KINDS = {"healthy": HEALTHY, "stalled": STALLED, "diverged": DIVERGED, "images": IMAGES}
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of each kind of run, of two runs together, of a search, and of a run beside a search."""
    place = tmp_path_factory.mktemp("pages")
    runs = {name: write_run(place / name, kind) for name, kind in KINDS.items()}
    made = {name: report.write([run], place / f"{name}.html") for name, run in runs.items()}
    search = write_search(place / "search", front(fresh_seeds=[3, 4, 5]))
    several = {
        "two": [runs["healthy"], runs["stalled"]],
        "search": [search],
        "beside": [runs["healthy"], search],
    }
    return made | {name: report.write(paths, place / f"{name}.html") for name, paths in several.items()}


@dataclass
class Seen:
    """A page, and whatever went wrong on it."""

    page: Any
    wrong: list[str] = field(default_factory=list)

    def undrawn(self) -> str:
        """The first chart without a curve or a map, brought into view as a reader would; empty if none."""
        for place in self.page.query_selector_all(".plot[id]"):
            place.scroll_into_view_if_needed()
            name = place.get_attribute("id")
            drawn = f"#{name}[data-drawn] :is(.trace path, .heatmaplayer image)"
            try:
                self.page.wait_for_selector(drawn, state="attached", timeout=3000)
            except playwright.TimeoutError:
                return name
        return ""

    def colours(self) -> tuple[str, str, str]:
        """Of the page, of its text and of a chart's first line."""
        script = """() => {
            const of = (node, name) => getComputedStyle(node)[name];
            return [of(document.body, "backgroundColor"), of(document.body, "color"),
                    of(document.querySelector(".plot .js-line"), "stroke")];
        }"""
        return tuple(self.page.evaluate(script))


def opened(browser: Any, path: Path, *, size: dict[str, int] = DESKTOP, dark: bool = False) -> Seen:
    """A page in a window of its own that can reach nothing."""
    context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light", offline=True)
    seen = Seen(context.new_page())
    seen.page.on("pageerror", lambda error: seen.wrong.append(f"error: {error}"))
    seen.page.on("console", lambda line: seen.wrong.append(f"{line.type}: {line.text}"))
    seen.page.on("requestfailed", lambda request: seen.wrong.append(f"failed: {request.url[:80]}"))
    seen.page.on("request", lambda request: seen.wrong.extend(outside(request.url)))
    seen.page.goto(path.as_uri())
    return seen


def outside(url: str) -> list[str]:
    return [] if url.startswith(("file:", "data:", "blob:")) else [f"asked for {url}"]


@pytest.mark.parametrize("name", [*KINDS, "two", "beside", "search"])
def test_it_opens_without_a_word_and_draws_every_chart(
    name: str, browser: Any, pages: dict[str, Path]
) -> None:
    seen = opened(browser, pages[name])
    assert seen.undrawn() == ""
    charts = len(seen.page.query_selector_all(".plot[id]"))
    assert charts == 1 if name == "search" else charts >= 18
    assert seen.wrong == []


@pytest.mark.parametrize("name", ["beside", "search"])
def test_points_of_a_search_are_marked_named_and_told(
    name: str, browser: Any, pages: dict[str, Path]
) -> None:
    seen = opened(browser, pages[name])
    seen.page.locator("#tradeoff .plot").scroll_into_view_if_needed()
    seen.page.wait_for_selector("#tradeoff .plot[data-drawn] .points path", state="attached")
    marks = seen.page.locator("#tradeoff .points path").count()
    assert marks >= len(front()["reported"]["points"])
    written = seen.page.locator("#tradeoff .annotation-text").all_text_contents()
    assert {"naive", "3 (knee)", "4", "5", "joint", "frozen"} <= set(written)
    region = " ".join(seen.page.locator("#tradeoff").aria_snapshot().split())
    assert 'rowheader "naive"' in region
    assert "The knee of the front is trial 3" in region


PLANTED = {
    "a chart that is no JSON": (r'(id="data-chart-2">)\{', r"\1{{", "chart-2"),
    "a chart without traces": (
        r'(id="data-chart-2">\{"data": )\[.*?\}\], "layout"',
        r'\1[], "layout"',
        "chart-2",
    ),
    "a chart whose place is gone": (r' id="chart-2"', ' id="chart-0"', "chart-0"),
    "a picture from elsewhere": (r"<main>", '<main><img src="https://example.org/x.png" alt="">', ""),
    "an error in the script": (r'"use strict";', '"use strict";undefined_here();', "chart-1"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_of_the_page_is_seen(
    name: str, browser: Any, pages: dict[str, Path], tmp_path: Path
) -> None:
    pattern, planted, undrawn = PLANTED[name]
    text, count = re.subn(pattern, planted, pages["healthy"].read_text("utf-8"), count=1)
    assert count == 1
    broken = tmp_path / "broken.html"
    broken.write_text(text, "utf-8")
    seen = opened(browser, broken)
    assert seen.undrawn() == undrawn
    assert seen.wrong or undrawn


def test_only_what_is_near_is_drawn_at_first(browser: Any, pages: dict[str, Path]) -> None:
    seen = opened(browser, pages["healthy"])
    seen.page.wait_for_selector(".plot[data-drawn]")
    drawn = len(seen.page.query_selector_all(".plot[data-drawn]"))
    assert 1 <= drawn <= 3


@pytest.mark.parametrize("name", KINDS)
def test_verdict_findings_and_numbers_stand_in_the_accessibility_tree(
    name: str, browser: Any, pages: dict[str, Path]
) -> None:
    seen, diagnosis = opened(browser, pages[name]), read(pages[name].with_suffix("")).diagnosis
    snapshot = " ".join(seen.page.locator("body").aria_snapshot().split())
    assert diagnosis.verdict.state.name in snapshot
    assert diagnosis.verdict.state.value in snapshot
    for finding in diagnosis.findings[:3]:
        assert finding.title[1:] in snapshot
        assert finding.advice in snapshot
    assert bool(diagnosis.findings) or "No findings" in snapshot
    for landmark in ("banner", "main", "contentinfo", 'navigation "Sections"', 'region "Verdict"'):
        assert landmark in snapshot
    figure = seen.page.locator("figure", has=seen.page.locator("summary", has_text="Numbers")).first
    figure.locator("summary").click()
    assert "columnheader" in figure.aria_snapshot()


@pytest.mark.parametrize("name", [*KINDS, "two", "beside", "search"])
def test_a_phone_needs_no_scrolling_sideways(name: str, browser: Any, pages: dict[str, Path]) -> None:
    seen = opened(browser, pages[name], size=PHONE)
    assert seen.undrawn() == ""
    for details in seen.page.query_selector_all("details"):
        details.evaluate("node => { node.open = true; }")
    widths = seen.page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")
    assert max(widths) <= PHONE["width"]
    too_wide = """() => [...document.querySelectorAll("main *")].filter((node) =>
        !node.closest(".scroll, .plot") && node.getBoundingClientRect().right > innerWidth + 1).length"""
    assert seen.page.evaluate(too_wide) == 0
    seen.page.evaluate("document.querySelector('.rests, .part > p').style.width = '420px'")
    assert seen.page.evaluate(too_wide) > 0


def test_dark_is_dark_on_the_page_and_in_its_charts(browser: Any, pages: dict[str, Path]) -> None:
    light, dark = (opened(browser, pages["healthy"], dark=dark) for dark in (False, True))
    found = []
    for seen in (light, dark):
        seen.page.wait_for_selector(".plot .js-line", state="attached")
        found.append(seen.colours())
    assert all(ours != theirs for ours, theirs in zip(*found, strict=True))
    light.page.emulate_media(color_scheme="dark")
    light.page.wait_for_timeout(300)
    assert light.colours() == found[1]


def contrast(one: str, other: str) -> float:
    """The contrast of two opaque colours, by the definition of WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_can_be_read_on_its_ground(dark: bool, browser: Any, pages: dict[str, Path]) -> None:
    seen = opened(browser, pages["stalled"], dark=dark)
    script = """() => {
        const ground = (node) => {
            for (; node; node = node.parentElement) {
                const found = getComputedStyle(node).backgroundColor;
                if (!/, 0\\)$/.test(found)) return found;
            }
        };
        const texts = [...document.querySelectorAll("main *:not(svg *), header *, footer *")].filter((node) =>
            [...node.childNodes].some((part) => part.nodeType === 3 && part.textContent.trim()));
        return texts.map((node) => [getComputedStyle(node).color, ground(node)]);
    }"""
    found = seen.page.evaluate(script)
    assert len(found) > 100
    assert min(contrast(text, ground) for text, ground in found) >= 4.5
    seen.page.evaluate("document.querySelector('h1').style.color = '#777777'")
    assert min(contrast(text, ground) for text, ground in seen.page.evaluate(script)) < 4.5


def test_paper_shows_all_sections_light_and_open(browser: Any, pages: dict[str, Path]) -> None:
    seen = opened(browser, pages["diverged"], dark=True)
    seen.page.emulate_media(media="print", color_scheme="dark")
    seen.page.wait_for_selector(".plot[data-drawn] >> nth=17", state="attached")
    assert seen.page.evaluate("document.querySelectorAll('.plot[id]:not([data-drawn])').length") == 0
    assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    folded = "[...document.querySelectorAll('details:not(.numbers)')].filter((part) => !part.open).length"
    assert seen.page.evaluate(folded) == 0
    assert seen.page.locator("#appendix table").first.is_visible()
    assert not seen.page.locator("nav").is_visible()
    written = seen.page.pdf(format="A4")
    assert len(re.findall(rb"/Type\s*/Page\b", written)) >= 4
    seen.page.emulate_media(media="screen", color_scheme="dark")
    seen.page.wait_for_timeout(300)
    assert seen.page.evaluate(folded) > 0
    assert seen.wrong == []


def test_a_remedy_is_copied(browser: Any, pages: dict[str, Path]) -> None:
    seen = opened(browser, pages["stalled"])
    seen.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    command = seen.page.locator(".command").first
    command.get_by_role("button", name="Copy").click()
    playwright.expect(command.get_by_role("button")).to_have_text("Copied")
    copied = seen.page.evaluate("navigator.clipboard.readText()")
    assert copied == command.locator("code").inner_text()
    assert copied.startswith("innerloop train --config ")


def test_a_chart_says_its_numbers_under_the_pointer(browser: Any, pages: dict[str, Path]) -> None:
    seen = opened(browser, pages["healthy"])
    seen.page.wait_for_selector("#chart-1[data-drawn]")
    point = seen.page.locator("#chart-1 .points path").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    seen.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    seen.page.wait_for_selector("#chart-1 .hoverlayer text")
    assert seen.wrong == []


@pytest.mark.parametrize("name", ["healthy", "diverged", "beside"])
def test_links_lead_to_what_they_name(name: str, browser: Any, pages: dict[str, Path]) -> None:
    seen = opened(browser, pages[name])
    for link in seen.page.query_selector_all("a[href^='#']"):
        target = link.get_attribute("href")
        assert seen.page.locator(target).count() == 1
    seen.page.get_by_role("link", name="Appendix").click()
    playwright.expect(seen.page.locator("#appendix-title")).to_be_in_viewport()
