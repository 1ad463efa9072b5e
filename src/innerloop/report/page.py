"""`report.html`: one page that needs nothing but itself, made from folders of runs and searches alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from innerloop import __version__
from innerloop.core.errors import ConfigError, DataError
from innerloop.core.files import write_whole
from innerloop.diagnose.verdict import EPSILON
from innerloop.report import appendix, head
from innerloop.report.chart import Chart, thinned
from innerloop.report.folders import SearchRecords, gather
from innerloop.report.markup import Raw, badge, esc, folded, table
from innerloop.report.records import RunRecords, unwarned
from innerloop.report.section import Block, Section
from innerloop.report.sections import OF_SEARCHES, SECTIONS

#: Nothing may be fetched from anywhere: what the page needs stands in it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
_ICON = "data:image/svg+xml," + (
    "%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M2 3q4 10 12 10' "
    "fill='none' stroke='%231f5fa8' stroke-width='2.4'/%3E%3C/svg%3E"
)


def write(
    paths: Sequence[str | os.PathLike[str]], target: str | os.PathLike[str], *, epsilon: float = EPSILON
) -> Path:
    """Write the page of some runs and searches; it is either whole or as before.

    Args:
        paths: folders of runs, and of searches for a trade-off; at least one.
        target: the HTML file.
        epsilon: relative change of the probe loss over a window that counts as none.

    Returns:
        The file.

    Raises:
        ContractError: a path is no such folder.
        ConfigError: plotly is not installed.
        DataError: a `front.json` is damaged, or the page cannot be written.
    """
    return save(render(*gather(paths, epsilon=epsilon)), target)


def save(text: str, target: str | os.PathLike[str]) -> Path:
    """Write a page so that the file is either whole or as before; raises `DataError` where that fails."""
    place = Path(target)
    try:
        write_whole(place, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"cannot write {place}: {error.strerror or error}",
            expected="a writable folder with space left",
            do="choose another --out; the runs are untouched",
        ) from error
    return place


@unwarned()
def render(runs: Sequence[RunRecords], searches: Sequence[SearchRecords] = ()) -> str:
    """The page as text, of at least one run or search.

    Raises:
        ConfigError: plotly is not installed.
        DataError: what a search found is not as a search writes it.
    """
    drawn: list[tuple[Section[Any], list[Block]]] = []
    drawn += [(section, section.draw(runs)) for section in SECTIONS if runs]
    drawn += [(section, section.draw(searches)) for section in OF_SEARCHES if searches]
    made = Charts()
    body = "".join(_section(section, blocks, made) for section, blocks in drawn)
    if not runs:
        foot = "from front.json alone. Intervals are 95 % over seeds."
        return document("innerloop trade-off", esc(head.summary(searches)), f"\n{body}", made, foot=foot)
    sections = [section for section, _ in drawn]
    anchors = {section.id: section.title for section in sections}
    main = f"""
{_verdicts(runs)}{_findings(runs, anchors)}{body}
<section id="appendix" aria-labelledby="appendix-title"><h2 id="appendix-title">Appendix</h2>
<p class="question">Every rule, fired, passed or not evaluated; versions; how to train it again.</p>
{folded("Rules, commands and versions", appendix.parts(runs, "h3"), kind="appendix")}</section>
"""
    foot = "from the folders alone. Intervals are 95 % over tasks unless another meaning is named."
    skip = '<a class="skip" href="#verdict">Skip to the verdict</a>'
    title, contents = esc(head.summary(runs)), _contents(sections)
    return document("innerloop report", title, main, made, foot=foot, skip=skip, contents=contents)


def document(
    brand: str, title: str, main: str, made: Charts, *, foot: str, skip: str = "", contents: str = ""
) -> str:
    """A whole page around its sections, with all that its charts need.

    Args:
        brand, title: what kind of page it is, and its heading, both as HTML.
        main: its sections, whose charts are `made`.
        foot: what "Made by innerloop ..." goes on with.
        skip, contents: a link past the head, and one to each section.

    Raises:
        ConfigError: plotly is not installed.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="innerloop {__version__}">
<title>{title} · {brand}</title>
<link rel="icon" href="{_ICON}">
<style>
{_asset("page.css")}</style>
</head>
<body>
{skip}
<header><p class="brand">{brand}</p><h1>{title}</h1>{contents}</header>
<main>
<noscript><p>Charts need JavaScript; their numbers stand in a table below each.</p></noscript>{main}</main>
<footer><p>Made by innerloop {__version__} {foot}</p></footer>
{made.data()}<script>
{_plotly()}
</script>
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


class Charts:
    """The charts of a page, numbered as they come."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def figure(self, chart: Chart, heading: str) -> str:
        """A chart's place, its caption, and its numbers folded below."""
        self._texts.append(chart.to_json())
        number = len(self._texts)
        rows, left_out = thinned(chart.rows)
        more = f" ({left_out} of {len(chart.rows)} rows are left out)" if left_out else ""
        numbers = table(chart.head, rows, caption=f"{chart.title}{more}") if chart.head else ""
        place = (
            f'<div class="plot" id="chart-{number}" role="img" style="min-height:{chart.height}px" '
            f'aria-label="Chart: {esc(chart.title)}. Its numbers are in the table below."></div>'
        )
        return (
            f'<figure class="chart{" wide" if chart.wide else ""}">'
            f"<{heading}>{esc(chart.title)}</{heading}>{place}"
            f"<figcaption>{esc(chart.look_for)}</figcaption>"
            f"{folded('Numbers', numbers, kind='numbers') if numbers else ''}</figure>"
        )

    def data(self) -> str:
        return "".join(
            f'<script type="application/json" id="data-chart-{i}">{text}</script>\n'
            for i, text in enumerate(self._texts, 1)
        )


def _contents(sections: Sequence[Section[Any]]) -> str:
    places = [("verdict", "Verdict"), ("findings", "Findings")]
    places += [(section.id, section.title) for section in sections] + [("appendix", "Appendix")]
    links = "".join(f'<li><a href="#{id}">{esc(title)}</a></li>' for id, title in places)
    return f'<nav aria-label="Sections"><ul>{links}</ul></nav>'


def _verdicts(runs: Sequence[RunRecords]) -> str:
    cards = head.together(runs) + "".join(head.verdict(run, "h3") for run in runs)
    return (
        '<section id="verdict" aria-labelledby="verdict-title"><h2 id="verdict-title">Verdict</h2>'
        f"{cards}</section>"
    )


def _findings(runs: Sequence[RunRecords], anchors: dict[str, str]) -> str:
    made = []
    for run in runs:
        named = f'<h3 class="run">{esc(run.name)}</h3>' if len(runs) > 1 else ""
        made.append(named + head.findings(run, "h4" if named else "h3", anchors))
    return (
        '<section id="findings" aria-labelledby="findings-title"><h2 id="findings-title">Findings</h2>'
        f"{''.join(made)}</section>"
    )


def _section(section: Section[Any], blocks: Sequence[Block], made: Charts) -> str:
    parts = []
    for block in blocks:
        named = len(blocks) > 1 and block.run
        heading = "h4" if named else "h3"
        drawn = "".join(
            f'<div class="part">{p}</div>' if isinstance(p, Raw) else made.figure(p, heading)
            for p in block.parts
        )
        title = f'<h3 class="run">{esc(block.run)}</h3>' if named else ""
        parts.append(f'<div class="block">{title}<div class="grid">{drawn}</div>{_missing(block)}</div>')
    return (
        f'<section id="{section.id}" aria-labelledby="{section.id}-title">'
        f'<h2 id="{section.id}-title">{esc(section.title)}</h2>'
        f'<p class="question">{esc(section.question)}</p>{"".join(parts)}</section>\n'
    )


def _missing(block: Block) -> str:
    """What is not drawn, and why, in a line each reason."""
    lines = [
        f"<li>{badge('unknown', 'unknown', 'Not shown')} {esc(', '.join(names))}: {esc(reason)}.</li>"
        for reason, names in block.missing.items()
    ]
    return f'<ul class="missing">{"".join(lines)}</ul>' if lines else ""


def _asset(name: str) -> str:
    return resources.files("innerloop.report").joinpath("assets", name).read_text(encoding="utf-8")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ConfigError(
            "a report without plotly",
            expected="the extra to be installed",
            do="pip install 'innerloop[report]'",
        ) from error
    return get_plotlyjs()
