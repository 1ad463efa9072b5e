"""Small pieces of HTML. Whatever comes from a file goes through `esc`, and numbers through `number`."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from innerloop.diagnose.finding import Severity

#: Shapes of the icons, on a field of 16 by 16; each stands beside its word.
ICONS = {
    "good": "M3 8.5l3.5 3.5L13 4.5",
    "bad": "M4 4l8 8M12 4l-8 8",
    "warn": "M8 2L15 14H1ZM8 6.5v3.5M8 12v.2",
    "info": "M8 1.5a6.5 6.5 0 1 0 .01 0M8 7.2v4M8 4.6v.2",
    "going": "M2 4.5l4.5 5 2.5-2.5L14 12M14 8v4h-4",
    "flat": "M2 6h12M2 10h12",
    "unknown": "M5 6a3 3 0 1 1 4.5 2.6Q8 9.5 8 11M8 13.4v.2",
    "ended": "M8 1.5a6.5 6.5 0 1 0 .01 0M8 4.5V8l2.5 1.6",
    "noise": "M1 8q1.7-6 3.5 0t3.5 0t3.5 0t3.5 0",
    "apart": "M3 6h10M3 10h10M11 3L5 13",
}


#: How a severity looks: its tone, the shape of its icon, and its word.
TONES = {
    Severity.ERROR: ("bad", "bad", "Error"),
    Severity.WARN: ("warn", "warn", "Warning"),
    Severity.INFO: ("unknown", "info", "Info"),
}


class Tile(NamedTuple):
    """A number with what it is and how to read it."""

    name: str
    value: str
    note: str = ""


def esc(value: object) -> str:
    """Text from outside, as text."""
    return html.escape(str(value), quote=True)


def number(value: Any, *, percent: bool = False, signed: bool = False) -> str:
    """A number with three significant digits; what is none says so.

    >>> number(0.98312, percent=True), number(1234567.0), number(None), number(0.5, signed=True)
    ('98.3 %', '1.23e+06', 'not finite', '+0.5')
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return "not finite"
    sign = "+" if signed else ""
    if percent:
        return f"{100 * value:{sign}.1f} %"
    if isinstance(value, int) and not signed:
        return str(value)
    return f"{value:{sign}.3g}"


def with_interval(value: Any, half: Any, *, percent: bool = False, signed: bool = False) -> str:
    """A mean and the half-width of its interval.

    The half-width has two digits, and the mean as many places, unless both are percentages.

    >>> with_interval(0.884, 0.006, percent=True), with_interval(1.4237, 0.0512)
    ('88.4 ± 0.6 %', '1.424 ± 0.051')
    """
    text, apart = number(value, percent=percent, signed=signed), number(half, percent=percent)
    if "not finite" in (text, apart):
        return text
    if percent:
        return f"{text.removesuffix(' %')} ± {apart}"
    places = 1 - math.floor(math.log10(half)) if half > 0 else 0
    if not 0 <= places <= 6 or abs(value) > 1e6:
        return f"{text} ± {half:.2g}"
    return f"{value:{'+' if signed else ''}.{places}f} ± {half:.{places}f}"


def icon(name: str) -> str:
    """An icon; it says nothing that the word beside it does not."""
    path = ICONS[name]
    return (
        f'<svg class="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false"><path d="{path}"/></svg>'
    )


def badge(tone: str, shape: str, word: str) -> str:
    """A word with an icon, on the colour of its tone."""
    return f'<span class="badge {tone}">{icon(shape)}<span>{esc(word)}</span></span>'


def tiles(found: Iterable[Tile]) -> str:
    """Numbers side by side, as a list of names and values."""
    cells = [
        f'<div class="tile"><dt>{esc(t.name)}</dt><dd><span class="value">{esc(t.value)}</span>'
        + (f'<span class="note">{esc(t.note)}</span>' if t.note else "")
        + "</dd></div>"
        for t in found
    ]
    return f'<dl class="tiles">{"".join(cells)}</dl>' if cells else ""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = "") -> str:
    """A table whose first column names its rows; cells are text, or `Raw`."""
    top = "".join(f'<th scope="col">{esc(name)}</th>' for name in head)
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{_cell(cell)}</th>' if i == 0 else f"<td>{_cell(cell)}</td>"
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    named = f"<caption>{esc(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{esc(caption or "table")}">'
        f"<table>{named}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def folded(summary: str, body: str, *, kind: str = "") -> str:
    """A part that opens when asked."""
    shown = f' class="{kind}"' if kind else ""
    return f"<details{shown}><summary>{esc(summary)}</summary>{body}</details>"


def unbroken(command: str) -> str:
    """Words of a command line, of which the names of options are not broken."""
    return re.sub(r"--[\w.-]+", lambda found: f'<span class="word">{found[0]}</span>', esc(command))


def copyable(command: str) -> str:
    """A command line with a button that copies it."""
    return (
        f'<div class="command"><code tabindex="0">{unbroken(command)}</code>'
        '<button type="button" class="copy">Copy</button></div>'
    )


def bullets(lines: Iterable[str], kind: str = "") -> str:
    """A list of sentences."""
    items = "".join(f"<li>{esc(line)}</li>" for line in lines)
    shown = f' class="{kind}"' if kind else ""
    return f"<ul{shown}>{items}</ul>" if items else ""


class Raw(str):
    """HTML that was made here, and is not escaped again."""


def _cell(cell: Any) -> str:
    return str(cell) if isinstance(cell, Raw) else esc(cell)
