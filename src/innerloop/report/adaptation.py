"""A picture of an evaluation: the score after each inner step, beside the baselines."""

from __future__ import annotations

import json
import math
import os
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from innerloop.report.records import sizes
from innerloop.report.style import BASELINES, INK, OURS, clean, new_figure, save
from innerloop.report.validation import read_config


def draw(path: str | os.PathLike[str]) -> Path | None:
    """Draw the evaluation in a JSON file of a run folder, as a PNG beside it.

    Returns:
        The picture, or None if there is no inner step to show or no score is finite.
    """
    source = Path(path)
    found: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    curve = [row for row in found["adaptation"] if row["mean"] is not None]
    if len(found["adaptation"]) < 2 or not curve:
        return None
    accuracy = found["metric"] == "accuracy"
    figure = new_figure(5.6, 3.4)
    axes = figure.subplots()
    clean(axes)
    steps, means = [row["inner_steps"] for row in curve], [row["mean"] for row in curve]
    half = [row["ci95"] or 0.0 for row in curve]
    line = {"color": OURS, "linewidth": 1.6, "marker": "o", "markersize": 3.5}
    axes.errorbar(steps, means, yerr=half, capsize=2, label="this run", **line)
    for (name, beside), (colour, dashes) in zip(found["baselines"].items(), cycle(BASELINES), strict=False):
        # Without adaptation is where the curve starts.
        if name != "no_adaptation" and beside["mean"] is not None:
            label = name.replace("_", " ")
            axes.axhline(beside["mean"], color=colour, linewidth=1.1, linestyle=dashes, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if accuracy:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    elif max(means) / max(min(means), 1e-12) > 20 and math.isfinite(max(means)):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("inner steps", fontsize=9, color=INK)
    name = "accuracy" if accuracy else found["metric"].upper()
    axes.set_ylabel(f"{found['split']} {name}", fontsize=9, color=INK)
    axes.set_title(sizes(read_config(source.parent)), loc="left", fontsize=10, color=INK, fontweight="bold")
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    return save(figure, source.with_suffix(".png"))
