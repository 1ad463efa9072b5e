"""`validation.png`: how a run came to its score. Made from the run folder alone."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import yaml
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from innerloop.core.errors import ContractError
from innerloop.report.records import sizes
from innerloop.report.style import BASELINES, INK, LOSS, OURS, clean, new_figure, save, spread

PICTURE = "validation.png"
_MAX_POINTS = 400  # a longer curve of training losses is averaged in bins


def draw(path: str | os.PathLike[str]) -> Path | None:
    """Draw the run in a folder: validation score against step above, training loss below.

    Returns:
        The picture, or None if the run has not been looked at yet.
    """
    folder = Path(path)
    rows, config = read_rows(folder), read_config(folder)
    looks = [row for row in rows if row.get("kind") == "validation"]
    if not looks:
        return None
    losses = [row for row in rows if row.get("kind") == "train" and _number(row.get("loss")) is not None]
    figure = new_figure(7.2, 4.8 if losses else 3.6)
    if losses:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        _losses(lower, losses, log=looks[0]["metric"] != "accuracy")
    else:
        upper = lower = figure.subplots()
    _scores(upper, looks)
    lower.set_xlabel("outer step", fontsize=9, color=INK)
    lower.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    upper.set_xlim(0, max(1, looks[-1]["step"], *(row["step"] for row in losses or looks)))
    upper.set_title(sizes(config), loc="left", fontsize=11, color=INK, fontweight="bold")
    return save(figure, folder / PICTURE)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; a last line that a kill cut short is left out."""
    rows = []
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def read_config(folder: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ContractError(
            f"{folder} without a readable config.yaml", expected="a run folder", do="check the path"
        ) from error
    return found if isinstance(found, dict) else {}


def _scores(axes: Axes, looks: list[dict[str, Any]]) -> None:
    metric = looks[0]["metric"]
    accuracy = metric == "accuracy"
    steps = [row["step"] for row in looks]
    means = [_or_nan(row["mean"]) for row in looks]
    half = [_or_nan(row["ci95"]) for row in looks]
    marker = "o" if len(steps) <= 30 else None
    clean(axes)
    floor = 0.0 if accuracy else min((m for m in means if m > 0), default=1.0) / 10
    low = [max(floor, m - h) for m, h in zip(means, half, strict=True)]
    high = [m + h for m, h in zip(means, half, strict=True)]
    axes.fill_between(steps, low, high, color=OURS, alpha=0.18, linewidth=0)
    axes.plot(steps, means, color=OURS, linewidth=1.6, marker=marker, markersize=3)
    baselines = {n: v for n, v in looks[0].get("baselines", {}).items() if _number(v) is not None}
    for (_, value), (colour, dashes) in zip(baselines.items(), _cycle(len(baselines)), strict=True):
        axes.axhline(value, color=colour, linewidth=1.1, linestyle=dashes)
    axes.set_ylabel("validation " + ("accuracy" if accuracy else metric.upper()), fontsize=9, color=INK)
    if accuracy:
        everything = [v for v in (*low, *high, *baselines.values()) if math.isfinite(v)]
        axes.set_ylim(
            max(0.0, min(everything, default=0) - 0.04), min(1.0, max(everything, default=1) + 0.04)
        )
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    else:
        _log_scale(axes)
    _mark_best(axes, steps, means, accuracy)
    _labels(axes, baselines, accuracy)


def _mark_best(axes: Axes, steps: list[int], means: list[float], accuracy: bool) -> None:
    known = [(m if accuracy else -m, s, m) for s, m in zip(steps, means, strict=True) if math.isfinite(m)]
    if not known:
        return
    # The first of equals is the one whose checkpoint is kept.
    _, step, mean = max(known, key=lambda entry: (entry[0], -entry[1]))
    axes.plot([step], [mean], "o", markersize=7, mfc="white", mec=OURS, mew=1.6)
    text = f"best: {_value(mean, accuracy)} at step {step}"
    axes.set_title(text, loc="right", fontsize=9, color=OURS)


def _labels(axes: Axes, baselines: dict[str, float], accuracy: bool) -> None:
    """Names of the baselines at the right of their lines, moved apart where lines are close."""
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform((0.0, value))[1]) for value in baselines.values()]
    places = spread([min(1.0, max(0.0, h)) for h in heights], 0.1)
    down = max(0.0, max(places, default=0.0) - 0.97)
    for (name, value), (colour, _), place in zip(
        baselines.items(), _cycle(len(baselines)), places, strict=True
    ):
        text = f"{name.replace('_', ' ')}\n{_value(value, accuracy)}"
        axes.annotate(
            text,
            (1.0, place - down),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            ha="left",
            fontsize=7.5,
            color=colour,
            linespacing=0.95,
        )


def _losses(axes: Axes, rows: list[dict[str, Any]], *, log: bool) -> None:
    size = math.ceil(len(rows) / _MAX_POINTS)
    bins = [rows[i : i + size] for i in range(0, len(rows), size)]
    steps = [part[-1]["step"] for part in bins]
    losses = [sum(row["loss"] for row in part) / len(part) for part in bins]
    clean(axes)
    axes.plot(steps, losses, color=LOSS, linewidth=0.9)
    if log and min(losses) > 0:
        _log_scale(axes, ticks=3)
    axes.set_ylabel("training loss", fontsize=8, color=INK)


def _cycle(count: int) -> list[tuple[Any, Any]]:
    return [BASELINES[i % len(BASELINES)] for i in range(count)]


def _value(value: float, accuracy: bool) -> str:
    return f"{100 * value:.1f} %" if accuracy else f"{value:.3g}"


def _short(value: float, _: object = None) -> str:
    return f"{value:g}"


def _log_scale(axes: Axes, ticks: int = 6) -> None:
    """A logarithmic axis with plain numbers, enough of them also where it spans less than a decade."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = LogLocator(subs=(1.0, 2.0, 5.0), numticks=2 * ticks)
    axes.yaxis.set_major_locator(MaxNLocator(ticks) if high / low < 10 else decades)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_short))


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def _or_nan(value: Any) -> float:
    found = _number(value)
    return math.nan if found is None else found
