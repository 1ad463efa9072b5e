"""What stability costs: the front that a search for a trade-off found, and how to train its points."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from innerloop.report import chart
from innerloop.report.chart import Chart, Trace
from innerloop.report.folders import SearchRecords, damaged
from innerloop.report.markup import Raw, bullets, copyable, esc, table, unbroken
from innerloop.report.records import DAMAGE
from innerloop.report.section import Block, Section
from innerloop.report.tradeoff_words import (
    HEAD,
    Told,
    cells,
    front,
    options,
    plain,
    reading,
    rest,
    shown,
    summary,
)

_ANCHORS = {
    "naive": ("naive: no remedy", chart.BEFORE, "square"),
    "frozen": ("frozen after the first stage", chart.TRIVIAL, "diamond"),
    "joint": ("joint: all families at once", chart.AVERAGED, "triangle-up"),
}
_ROOM = 0.12  # of the axes, that a number on the line takes
#: How points of the front look: sure ones are filled, possible ones hollow.
_STANDINGS = {
    "optimal": ("on the front for sure", "circle"),
    "possible": ("possibly as good as the front", "circle-open"),
    "dominated": ("beaten for sure", "x"),
    "unfit": ("unfit: the doctor found errors", "x-thin-open"),
}


def draw(searches: Sequence[SearchRecords]) -> list[Block]:
    """One block for each search: what it found, the chart, the points, and commands that train them.

    Raises:
        DataError: a `front.json` is not as a search writes it.
    """
    return [_block(search) for search in searches]


def _block(search: SearchRecords) -> Block:
    told = search.told
    try:
        found = f"<p><strong>{esc(search.title)}.</strong> {esc(summary(told))}</p>"
        parts = (Raw(found), _chart(told), Raw(_points(told)), Raw(_recipes(search)))
    except DAMAGE as error:
        raise damaged(search.name, f"it does not fit together ({type(error).__name__}: {error})") from error
    return Block(parts, {}, search.name)


def _points(told: Told) -> str:
    """The numbers of the points, how to read them, and what is not among them."""
    which = "points that were run again" if told["fresh_seeds"] else "the front"
    caption = f"Anchors and {which}, from the least stable to the most stable; in brackets 95 % over seeds"
    numbers = table(HEAD, [cells(point) for point in shown(told)], caption=caption)
    beside = bullets(rest(told), "notes")
    return numbers + bullets(reading(told), "notes") + (f"<p>Beside the front:</p>{beside}" if beside else "")


def _recipes(search: SearchRecords) -> str:
    """A command for each trial on the front."""
    made = []
    for point in front(search.told):
        name, knee = point["name"], ", the knee" if point["knee"] else ""
        file = shlex.quote(str(Path(search.name) / "points" / f"{name}.yaml"))
        out = shlex.quote(f"runs/point-{name}")
        made.append(
            f"<p>To train trial {esc(name)}{knee} ({unbroken(options(point['settings']))}):</p>"
            + copyable(f"innerloop train --config {file} --out {out}")
        )
    return "".join(made) or "<p>No trial is on the front.</p>"


def _chart(told: Told) -> Chart:
    points = told["reported"]["points"]
    line = [point for point in points if point["on_front"]]
    traces = [
        tried(told),
        chart.line("the front", *places(line), chart.FAINT, marked=False, hoverinfo="skip"),
    ]
    for standing, (name, symbol) in _STANDINGS.items():
        found = [point for point in points if point["standing"] == standing and point["name"] not in _ANCHORS]
        if found:
            traces.append(_marks(found, name, chart.OURS, symbol))
    for name, (named, colour, symbol) in _ANCHORS.items():
        traces.append(_marks([p for p in points if p["name"] == name], named, colour, symbol))
    layout = chart.axes(
        axis_title(told, "stability"), axis_title(told, "plasticity"), _labels(told), zero=False
    )
    for axis, name in (("xaxis", "stability"), ("yaxis", "plasticity")):
        layout[axis] |= {"range": bounds([point[name]["value"] for point in points])}
    return Chart(
        "Plasticity against stability",
        "Right is more stable, up is more plastic. Bars are 95 % over seeds, of the front and the anchors; "
        "they may go on beyond the axes. Hollow points may be as good as the front. Numbers on the line are "
        "prices: plasticity for a unit of stability.",
        [trace for trace in traces if len(trace["x"])],
        layout,
        wide=True,
        height=520,
    )


def _marks(points: Sequence[Told], name: str, colour: str, symbol: str) -> Trace:
    x, y = places(points)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": chart.text(name),
        "x": x,
        "y": y,
        "marker": {"color": chart.colour(colour), "symbol": symbol, "size": 11, "line": {"width": 2}},
        "error_x": _bars(points, "stability", colour),
        "error_y": _bars(points, "plasticity", colour),
        "text": [chart.text(_hover(point)) for point in points],
        "hovertemplate": "%{text}<br>S %{x:.2f}, P %{y:.2f}<extra></extra>",
    }


def tried(told: Told) -> Trace:
    """Trials that were not run again, where the seeds of the search put them."""
    drawn = {point["name"] for point in told["reported"]["points"]}
    others = [p for p in told["search"]["points"] if "trial" in p and p["name"] not in drawn]
    if _units(told["search"]) != _units(told["reported"]):
        others = []  # on other axes
    x, y = places(others)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "other trials, on the seeds of the search",
        "x": x,
        "y": y,
        "marker": {"color": chart.colour(chart.FAINT), "symbol": "cross", "size": 6},
        "text": [chart.text(_hover(point)) for point in others],
        "hovertemplate": "%{text}<br>S %{x:.2f}, P %{y:.2f}<extra></extra>",
    }


def _units(result: Told) -> list[bool]:
    return [bool(result["axes"][name]["undefined"]) for name in ("stability", "plasticity")]


def _bars(points: Sequence[Told], name: str, colour: str) -> Told:
    """Crosshairs of the front and the anchors; a single seed has none."""
    sides = [ends(point[name]) if has_bars(point) else (0.0, 0.0) for point in points]
    low, high = ([side[i] for side in sides] for i in (0, 1))
    look = {"color": chart.colour(f"{colour}-band"), "thickness": 3, "width": 0}
    return {"type": "data", "symmetric": False, "array": high, "arrayminus": low} | look


def has_bars(point: Told) -> bool:
    """Whether a point is drawn with its intervals: they would hide the picture if all were."""
    return point["on_front"] or "trial" not in point


def _labels(told: Told) -> dict[str, list[Any]]:
    """Names of the points in the table, the knee among them, and prices half-way along the front."""
    found = []
    corner = {"showarrow": False, "xanchor": "left", "yanchor": "bottom"}
    for point in shown(told):
        at = {"x": point["stability"]["value"], "y": point["plasticity"]["value"], "xshift": 7, "yshift": 5}
        font = {"color": chart.colour("ink"), "size": 12}
        found.append(corner | at | {"text": chart.text(label(point)), "font": font})
    for x, y, price in prices(told):
        at = {"x": x, "y": y, "xshift": 3, "font": {"color": chart.colour("ink-soft"), "size": 11}}
        found.append(corner | at | {"text": price})
    return {"shapes": [], "annotations": found}


def label(point: Told) -> str:
    """A point's name, and whether it is the knee."""
    return f"{point['name']} (knee)" if point["knee"] else str(point["name"])


def prices(told: Told) -> list[tuple[float, float, str]]:
    """Prices half-way along the front: places and numbers.

    They stand above it, where no point of the front can be; the table has those for which there is no room.
    """
    points, found = told["reported"]["points"], []
    sizes = [high - low for low, high in (bounds(values) for values in places(points))]
    for here, there in pairwise(point for point in points if point["on_front"]):
        (x, x_next), (y, y_next) = places([here, there])
        apart = np.hypot((x_next - x) / sizes[0], (y_next - y) / sizes[1])
        if here["price"] is not None and apart > _ROOM:
            found.append(((x + x_next) / 2, (y + y_next) / 2, plain(here["price"])))
    return found


def _hover(point: Told) -> str:
    return f"trial {point['name']}: {options(point['settings'])}" if "trial" in point else point["name"]


def places(points: Sequence[Told]) -> tuple[list[float], list[float]]:
    """Stabilities and plasticities of points."""
    x, y = ([point[name]["value"] for point in points] for name in ("stability", "plasticity"))
    return x, y


def axis_title(told: Told, name: str) -> str:
    """An axis with its ends, or in units of the score where it has none."""
    if told["reported"]["axes"][name]["undefined"]:
        return "minus forgetting" if name == "stability" else "score on new families"
    if name == "stability":
        return "stability S (naive 0, frozen 1)"
    return "plasticity P (frozen 0, joint 1)"


def bounds(values: Sequence[float]) -> list[float]:
    """Room for all means; bars may go beyond."""
    low, high = min(values), max(values)
    margin = 0.15 * (high - low) or 0.1
    return [low - margin, high + margin]


def ends(found: Told) -> tuple[float, float]:
    """How far an interval goes to either side; not at all where a number has none."""
    value = found["value"]
    low, high = (value if found[end] is None else found[end] for end in ("low", "high"))
    return value - low, high - value


SECTION = Section(
    "tradeoff",
    "The price of stability",
    "What do configurations that keep the old lose on the new, and which lose the least?",
    draw,
)
