"""`tradeoff.html` and `tradeoff.png`: plasticity against stability, made from `front.json` alone."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from innerloop.report import chart, style
from innerloop.report.chart import Chart, Trace
from innerloop.report.markup import bullets, copyable, esc, table
from innerloop.report.page import Charts, document, save
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

HTML, PICTURE = "tradeoff.html", "tradeoff.png"
_ANCHORS = {
    "naive": ("naive: no remedy", chart.BEFORE, "square"),
    "frozen": ("frozen after the first stage", chart.TRIVIAL, "diamond"),
    "joint": ("joint: all families at once", chart.AVERAGED, "triangle-up"),
}
#: How points of the front look: sure ones are filled, possible ones hollow.
_STANDINGS = {
    "optimal": ("on the front for sure", "circle"),
    "possible": ("possibly as good as the front", "circle-open"),
    "dominated": ("beaten for sure", "x"),
    "unfit": ("unfit: the doctor found errors", "x-thin-open"),
}


def write(told: Told, out: Path) -> list[Path]:
    """Draw what a search found, as a picture and, where plotly is installed, as a page.

    Args:
        told: what `front.json` holds.
        out: the folder of the search.

    Returns:
        The files.

    Raises:
        DataError: they cannot be written.
        ConfigError: plotly is not installed; the picture is written by then.
    """
    picture = style.save(_figure(told), out / PICTURE)
    return [picture, save(page(told, out), out / HTML)]


def page(told: Told, out: Path) -> str:
    """The page as text; raises `ConfigError` without plotly."""
    made = Charts()
    title = esc(f"{told['algorithm']} on {told['tasks']}: the price of stability")
    figure = made.figure(_chart(told), "h3")
    rows = [cells(point) for point in shown(told)]
    numbers = table(HEAD, rows, caption="Anchors and the front, from the least stable to the most stable")
    main = f"""
<section id="front" aria-labelledby="front-title"><h2 id="front-title">The front</h2>
<p class="question">{esc(summary(told))}</p><div class="grid">{figure}<div class="part">{numbers}
{bullets(reading(told))}</div></div></section>
<section id="points" aria-labelledby="points-title"><h2 id="points-title">To train a point</h2>
{"".join(_recipe(point, out) for point in front(told)) or "<p>No configuration is on the front.</p>"}
</section>
<section id="rest" aria-labelledby="rest-title"><h2 id="rest-title">What is not on it</h2>
{bullets(rest(told)) or "<p>Nothing failed, and nothing else may be on the front.</p>"}</section>
"""
    foot = "from front.json alone. Intervals are 95 % over seeds."
    return document("innerloop trade-off", title, main, made, foot=foot)


def _recipe(point: Told, out: Path) -> str:
    file = shlex.quote(str(out / "points" / f"{point['name']}.yaml"))
    knee = " (the knee)" if point["knee"] else ""
    command = f"innerloop train --config {file} --out runs/point-{point['name']}"
    return (
        f"<h3>Trial {esc(point['name'])}{knee}</h3><p>{esc(options(point['settings']))}</p>"
        f"{copyable(command)}"
    )


def _chart(told: Told) -> Chart:
    points = told["reported"]["points"]
    line = [point for point in points if point["on_front"]]
    traces = [
        _tried(told),
        chart.line("the front", *_places(line), chart.FAINT, marked=False, hoverinfo="skip"),
    ]
    for standing, (name, symbol) in _STANDINGS.items():
        found = [point for point in points if point["standing"] == standing and point["name"] not in _ANCHORS]
        if found:
            traces.append(_marks(found, name, chart.OURS, symbol))
    for name, (label, colour, symbol) in _ANCHORS.items():
        traces.append(_marks([p for p in points if p["name"] == name], label, colour, symbol))
    layout = chart.axes(_title(told, "stability"), _title(told, "plasticity"), _labels(told), zero=False)
    for axis, name in (("xaxis", "stability"), ("yaxis", "plasticity")):
        layout[axis] |= {"range": _range([point[name]["value"] for point in points])}
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
    x, y = _places(points)
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


def _tried(told: Told) -> Trace:
    """Trials that were not run again, where the seeds of the search put them."""
    drawn = {point["name"] for point in told["reported"]["points"]}
    others = [p for p in told["search"]["points"] if "trial" in p and p["name"] not in drawn]
    if _units(told["search"]) != _units(told["reported"]):
        others = []  # on other axes
    x, y = _places(others)
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
    ends = [_ends(point[name]) if _barred(point) else (0.0, 0.0) for point in points]
    low, high = ([end[i] for end in ends] for i in (0, 1))
    look = {"color": chart.colour(f"{colour}-band"), "thickness": 3, "width": 0}
    return {"type": "data", "symmetric": False, "array": high, "arrayminus": low} | look


def _barred(point: Told) -> bool:
    """Whether a point is drawn with its intervals: they would hide the picture if all were."""
    return point["on_front"] or "trial" not in point


def _labels(told: Told) -> dict[str, list[Any]]:
    """Names of the points in the table, the knee among them, and prices half-way along the front."""
    found, points = [], told["reported"]["points"]
    for point in shown(told):
        x, y = point["stability"]["value"], point["plasticity"]["value"]
        name = point["name"] + (" (knee)" if point["knee"] else "")
        place = {"x": x, "y": y, "xanchor": "left", "yanchor": "bottom", "xshift": 7, "yshift": 5}
        look = {"showarrow": False, "font": {"color": chart.colour("ink"), "size": 12}}
        found.append(place | {"text": chart.text(name)} | look)
    line = [point for point in points if point["on_front"]]
    for here, there in pairwise(line):
        if here["price"] is None:
            continue
        x, y = (np.mean([p[axis]["value"] for p in (here, there)]) for axis in ("stability", "plasticity"))
        look = {
            "showarrow": False,
            "font": {"color": chart.colour("ink-soft"), "size": 11},
            "xanchor": "right",
        }
        found.append({"x": x, "y": y, "yanchor": "top", "text": plain(here["price"])} | look)
    return {"shapes": [], "annotations": found}


def _hover(point: Told) -> str:
    return f"trial {point['name']}: {options(point['settings'])}" if "trial" in point else point["name"]


def _places(points: Sequence[Told]) -> tuple[list[float], list[float]]:
    x, y = ([point[name]["value"] for point in points] for name in ("stability", "plasticity"))
    return x, y


def _title(told: Told, name: str) -> str:
    if told["reported"]["axes"][name]["undefined"]:
        return "minus forgetting" if name == "stability" else "score on new families"
    if name == "stability":
        return "stability S (naive 0, frozen 1)"
    return "plasticity P (frozen 0, joint 1)"


def _range(values: Sequence[float]) -> list[float]:
    """Room for all means; bars may go beyond."""
    low, high = min(values), max(values)
    margin = 0.15 * (high - low) or 0.1
    return [low - margin, high + margin]


def _figure(told: Told) -> Any:
    """The same with matplotlib, for documents and for machines without plotly."""
    figure = style.new_figure(6.4, 4.4)
    axes = figure.add_subplot()
    style.clean(axes)
    points = told["reported"]["points"]
    tried = _tried(told)
    axes.plot(tried["x"], tried["y"], "+", color=style.LOSS, markersize=5, label=tried["name"])
    axes.plot(*_places([p for p in points if p["on_front"]]), "-", color=style.LOSS, linewidth=1, zorder=1)
    looks = {
        "naive": ("s", style.BASELINES[0][0]),
        "frozen": ("D", style.BASELINES[3][0]),
        "joint": ("^", style.BASELINES[1][0]),
    }
    for point in points:
        mark, colour = looks.get(
            point["name"], ("x" if point["standing"] in ("dominated", "unfit") else "o", style.OURS)
        )
        x, y = point["stability"], point["plasticity"]
        hollow = point["standing"] == "possible" and point["name"] not in looks
        axes.errorbar(
            x["value"],
            y["value"],
            xerr=np.array(_ends(x))[:, None] if _barred(point) else None,
            yerr=np.array(_ends(y))[:, None] if _barred(point) else None,
            ecolor=(colour, 0.35),
            fmt=mark,
            color=colour,
            markerfacecolor="white" if hollow else colour,
            linewidth=0.8,
        )
        if point in shown(told):
            name = point["name"] + (" (knee)" if point["knee"] else "")
            axes.annotate(name, (x["value"], y["value"]), (5, 4), textcoords="offset points", fontsize=8)
    for note in _labels(told)["annotations"]:
        if note["xanchor"] == "right":  # a price
            axes.annotate(
                note["text"], (note["x"], note["y"]), (-3, -3), textcoords="offset points", **_SMALL
            )
    axes.set_xlim(*_range([point["stability"]["value"] for point in points]))
    axes.set_ylim(*_range([point["plasticity"]["value"] for point in points]))
    axes.set_xlabel(_title(told, "stability"), fontsize=9)
    axes.set_ylabel(_title(told, "plasticity"), fontsize=9)
    return figure


_SMALL: dict[str, Any] = {"fontsize": 7, "color": style.LOSS, "ha": "right", "va": "top"}


def _ends(found: Told) -> tuple[float, float]:
    value = found["value"]
    low, high = (value if found[end] is None else found[end] for end in ("low", "high"))
    return value - low, high - value
