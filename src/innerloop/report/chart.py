"""Charts as plain data: traces and a layout that the page hands to plotly.js when they are seen."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Trace = dict[str, Any]
Values = NDArray[np.float64]

_DECADES = 3.0  # that the colours of a heat map span at least: what differs little should look alike
MOST_ROWS = 40  # of a chart's table; what lies between is left out, and said

#: Names of colours in page.css, each with dashes and a marker of its own for those who see no colour.
OURS, BEFORE, WRONG, TRIVIAL, AVERAGED, FAINT = "ours", "before", "wrong", "trivial", "averaged", "faint"
DASHES = {
    OURS: "solid",
    BEFORE: "dash",
    WRONG: "dashdot",
    TRIVIAL: "dot",
    AVERAGED: "longdash",
    FAINT: "solid",
}
MARKS = {
    OURS: "circle",
    BEFORE: "square",
    WRONG: "diamond",
    TRIVIAL: "x",
    AVERAGED: "triangle-up",
    FAINT: "cross",
}
SERIES = (OURS, WRONG, AVERAGED, BEFORE, TRIVIAL)  # in which several lines of one kind are coloured


@dataclass(frozen=True)
class Chart:
    """A picture with what to look for, and its numbers.

    Attributes:
        title: what it shows.
        look_for: what the reader should see in it, in a sentence or two.
        traces, layout: as plotly.js takes them; colours are names of page.css, `var(--ours)`.
        head, rows: its numbers, as a table.
        wide: whether it takes the page's whole width.
        height: in pixels.
    """

    title: str
    look_for: str
    traces: list[Trace]
    layout: dict[str, Any]
    head: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = field(default_factory=list)
    wide: bool = False
    height: int = 320

    def to_json(self) -> str:
        """The chart for a script element: valid JSON, in which nothing can end the element."""
        layout = self.layout | {"height": self.height}
        text = json.dumps({"data": plain(self.traces), "layout": plain(layout)}, allow_nan=False)
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def plain(value: Any) -> Any:
    """Numbers, lists and mappings as JSON has them; not-finite numbers are None, others keep six digits."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def colour(name: str) -> str:
    return f"var(--{name})"


def text(value: object) -> str:
    """Text from a file, for a label: plotly reads some tags, so that they must not be any."""
    return html.escape(str(value), quote=False)


def line(name: str, x: Any, y: Any, style: str = OURS, *, marked: bool | None = None, **more: Any) -> Trace:
    """A line; few points are marked. `more` are further settings of plotly's."""
    points = len(x) <= 30 if marked is None else marked
    return {
        "type": "scatter",
        "name": text(name),
        "x": x,
        "y": y,
        "mode": "lines+markers" if points else "lines",
        "line": {"color": colour(style), "dash": DASHES[style], "width": 2},
        "marker": {"color": colour(style), "symbol": MARKS[style], "size": 6},
    } | more


def band(x: Any, low: Any, high: Any, style: str = OURS, *, name: str = "", axis: str = "y") -> list[Trace]:
    """The area between two lines; it takes no place in the legend unless it is named."""
    bare = {
        "type": "scatter",
        "x": x,
        "mode": "lines",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "yaxis": axis,
    }
    fill = {"fill": "tonexty", "fillcolor": colour(f"{style}-band")}
    return [
        bare | {"y": low, "showlegend": False},
        bare | {"y": high, "showlegend": bool(name), "name": text(name)} | fill,
    ]


def level(value: float, label: str, style: str = TRIVIAL, *, above: bool = True) -> dict[str, list[Any]]:
    """A horizontal line with its label at the right: shapes and annotations."""
    dashes = {"color": colour(style), "dash": "dot", "width": 1.5}
    shape = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value, "line": dashes}
    note = {"xref": "paper", "x": 1, "y": value, "xanchor": "right", "yanchor": "bottom" if above else "top"}
    note |= {"text": text(label), "showarrow": False, "font": {"color": colour(style), "size": 11}}
    return {"shapes": [shape], "annotations": [note]}


def upright(value: float, label: str, *, top: bool = True) -> dict[str, list[Any]]:
    """A vertical line with its label at the top, or at the bottom."""
    dashes = {"color": colour("ink-soft"), "dash": "dot", "width": 1.5}
    shape = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": value, "x1": value, "line": dashes}
    note = {"yref": "paper", "y": float(top), "x": value, "yanchor": "top" if top else "bottom"}
    note |= {"xanchor": "left", "xshift": 4}
    note |= {"text": text(label), "showarrow": False, "font": {"color": colour("ink-soft"), "size": 11}}
    return {"shapes": [shape], "annotations": [note]}


def axes(
    x: str, y: str, *marks: dict[str, list[Any]], percent: bool = False, zero: bool = True
) -> dict[str, Any]:
    """A layout with titles of axes, and lines that are marked on it.

    Args:
        percent: whether the axis upward counts in percent.
        zero: whether it begins at zero.
    """
    upward: dict[str, Any] = {"title": {"text": y}}
    upward |= {"rangemode": "tozero"} if zero else {}
    upward |= {"tickformat": ".0%"} if percent else {}
    layout: dict[str, Any] = {"xaxis": {"title": {"text": x}}, "yaxis": upward}
    for kind in ("shapes", "annotations"):
        layout[kind] = [entry for mark in marks for entry in mark[kind]]
    return layout


def fitted_axes(x: str, y: str, values: Sequence[Any], *marks: dict[str, list[Any]]) -> dict[str, Any]:
    """Axes for values: logarithmic where they span a lot, and from zero where they come near it.

    Args:
        values: all that is drawn, in any number of arrays.
    """
    flat = np.concatenate([np.ravel(np.asarray(v, float)) for v in values] or [np.zeros(0)])
    known = flat[np.isfinite(flat)]
    if not wants_log(values):
        near = len(known) == 0 or bool(known.min() < 0.4 * known.max())
        return axes(x, y, *marks, zero=near)
    layout = axes(x, y, *marks, zero=False)
    ticks = log_ticks(float(known.min()), float(known.max()))
    layout["yaxis"] |= {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    _onto_log(layout)
    return layout


def log_ticks(low: float, high: float, most: int = 9) -> list[float]:
    """Places for labels on a logarithmic axis: 1, 2 and 5 in each decade, or powers of ten alone.

    >>> log_ticks(0.03, 2.0)
    [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
    >>> log_ticks(1.0, 1e12, most=5)
    [1.0, 1000.0, 1000000.0, 1000000000.0, 1000000000000.0]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    fine = [float(f"{digit}e{k}") for k in range(first, last + 1) for digit in (1, 2, 5)]
    inside = [tick for tick in fine if 0.5 * low <= tick <= 1.2 * high]
    if len(inside) <= most:
        return inside
    every = math.ceil((last - first) / (most - 1))
    return [float(f"1e{k}") for k in range(first, last + 1, every)]


def heat_map(
    x: Sequence[Any], names: Sequence[str], values: Values, unit: str, *, x_title: str
) -> tuple[list[Trace], dict[str, Any]]:
    """log10 of values [names, x] as colours that those who see no colour can order, with a bar."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(values)
    logs[~np.isfinite(logs)] = np.nan
    low, high = _at_least(logs, _DECADES)
    bar = {"title": {"text": unit, "side": "right"}, "thickness": 12, "tickprefix": "1e", "dtick": 1}
    trace = {
        "type": "heatmap",
        "x": [str(v) for v in x],
        "y": [text(shortened(name)) for name in names],
        "z": logs,
        "zmin": low,
        "zmax": high,
        "colorscale": "Cividis",
        "colorbar": bar,
        "customdata": values,
        "hovertemplate": x_title + " %{x}<br>%{y}<br>%{customdata:.3g}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": x_title}, "type": "category", "nticks": 8},
        "yaxis": {"type": "category", "autorange": "reversed"},
    }
    return [trace], layout


def shortened(name: str, most: int = 26) -> str:
    """A name that fits beside a chart, its end kept.

    >>> shortened("params/body.layer1.convolution.weight", 20)
    '….convolution.weight'
    """
    return name if len(name) <= most else "…" + name[-most + 1 :]


def thinned(rows: Sequence[Sequence[Any]]) -> tuple[Sequence[Sequence[Any]], int]:
    """At most `MOST_ROWS` rows, the first and the last among them, and how many were left out."""
    if len(rows) <= MOST_ROWS:
        return rows, 0
    kept = np.unique(np.linspace(0, len(rows) - 1, MOST_ROWS).round().astype(int))
    return [rows[i] for i in kept], len(rows) - len(kept)


def wants_log(values: Iterable[Any], ratio: float = 20.0) -> bool:
    """Whether positive values span so much that a linear axis would hide most of them."""
    flat = np.concatenate([np.ravel(np.asarray(v, float)) for v in values] or [np.zeros(0)])
    known = flat[np.isfinite(flat)]
    return len(known) > 1 and bool(known.min() > 0) and bool(known.max() / known.min() > ratio)


def cut(layout: dict[str, Any], traces: Sequence[Trace], most: float = 50.0) -> int:
    """End a linear axis where few values would flatten all others; returns how many lie beyond it.

    They are taken out of the traces: places far outside are more than a drawing can hold.
    """
    known = np.concatenate([np.asarray(trace["y"], float) for trace in traces])
    known = known[np.isfinite(known)]
    usual = float(np.quantile(np.abs(known), 0.75)) if len(known) else 0.0
    if usual <= 0 or np.abs(known).max() <= most * usual:
        return 0
    for trace in traces:
        trace["y"] = [v if abs(v) <= 3 * usual else math.nan for v in np.asarray(trace["y"], float).tolist()]
    kept = known[np.abs(known) <= 3 * usual]
    low, high = min(0.0, float(kept.min())), max(0.0, float(kept.max()))
    margin = 0.06 * (high - low)
    layout["yaxis"] |= {"range": [low - margin, high + margin], "autorange": False}
    return len(known) - len(kept)


def _at_least(logs: Values, width: float) -> tuple[float, float]:
    """The range of some logarithms, widened around its middle to a width."""
    known = logs[np.isfinite(logs)]
    if not len(known):
        return 0.0, width
    low, high = float(known.min()), float(known.max())
    more = max(0.0, width - (high - low)) / 2
    return low - more, high + more


def _onto_log(layout: dict[str, Any]) -> None:
    """Annotations stand at the logarithm of their height on a logarithmic axis; shapes do not."""
    for note in layout["annotations"]:
        if note.get("yref") != "paper" and note["y"] > 0:
            note["y"] = math.log10(note["y"])
