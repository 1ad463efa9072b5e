"""`tradeoff.html` and `tradeoff.png`: plasticity against stability, made from `front.json` alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from innerloop.report import style
from innerloop.report.folders import SearchRecords
from innerloop.report.page import render, save
from innerloop.report.sections.tradeoff import (
    axis_title,
    bounds,
    ends,
    has_bars,
    label,
    places,
    prices,
    tried,
)
from innerloop.report.tradeoff_words import Told, shown

HTML, PICTURE = "tradeoff.html", "tradeoff.png"


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
    return [picture, save(render([], [SearchRecords(os.fspath(out), told)]), out / HTML)]


def _figure(told: Told) -> Any:
    """The same with matplotlib, for documents and for machines without plotly."""
    figure = style.new_figure(6.4, 4.4)
    axes = figure.add_subplot()
    style.clean(axes)
    points = told["reported"]["points"]
    others = tried(told)
    axes.plot(others["x"], others["y"], "+", color=style.LOSS, markersize=5, label=others["name"])
    axes.plot(*places([p for p in points if p["on_front"]]), "-", color=style.LOSS, linewidth=1, zorder=1)
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
            xerr=np.array(ends(x))[:, None] if has_bars(point) else None,
            yerr=np.array(ends(y))[:, None] if has_bars(point) else None,
            ecolor=(colour, 0.35),
            fmt=mark,
            color=colour,
            markerfacecolor="white" if hollow else colour,
            linewidth=0.8,
        )
        if point in shown(told):
            at = (x["value"], y["value"])
            axes.annotate(label(point), at, (5, 4), textcoords="offset points", fontsize=8)
    for across, up, price in prices(told):
        axes.annotate(price, (across, up), (3, 1), textcoords="offset points", fontsize=7, color=style.LOSS)
    axes.set_xlim(*bounds([point["stability"]["value"] for point in points]))
    axes.set_ylim(*bounds([point["plasticity"]["value"] for point in points]))
    axes.set_xlabel(axis_title(told, "stability"), fontsize=9)
    axes.set_ylabel(axis_title(told, "plasticity"), fontsize=9)
    return figure
