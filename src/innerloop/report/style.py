"""How the pictures of a run look, and how they are written."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from innerloop.core.errors import DataError
from innerloop.core.files import write_whole

OURS, LOSS, INK, FAINT = "#1f5fa8", "#7a7f87", "#2b2f36", "#d9dce1"
#: Colours of the baselines, in order; each also differs by its dashes, for those who see no colour.
BASELINES = (
    ("#b4541a", (0, (6, 2))),
    ("#2f7d4f", (0, (3, 2))),
    ("#7d4fa0", (0, (1, 1.5))),
    ("#8a6d1b", (0, (8, 2, 1, 2))),
)


def new_figure(width: float, height: float) -> Figure:
    """A figure without pyplot, so without any state of matplotlib's."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def clean(axes: Axes) -> None:
    """Thin grid, no box, quiet ticks."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.grid(True, axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8, length=3, color=FAINT, which="both")


def spread(wanted: list[float], gap: float) -> list[float]:
    """Heights near the wanted ones, at least `gap` apart, in the same order.

    >>> spread([0.5, 0.5, 0.9], 0.1)
    [0.45, 0.55, 0.9]
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    groups: list[list[int]] = []
    centres: list[float] = []
    for index in order:
        groups.append([index])
        centres.append(wanted[index])
        while len(groups) > 1:
            apart = centres[-1] - centres[-2]
            if apart >= gap * (len(groups[-1]) + len(groups[-2])) / 2 - 1e-12:
                break
            last, centre = groups.pop(), centres.pop()
            total = len(last) + len(groups[-1])
            centres[-1] = (centres[-1] * len(groups[-1]) + centre * len(last)) / total
            groups[-1] += last
    result = [0.0] * len(wanted)
    for group, centre in zip(groups, centres, strict=True):
        for place, index in enumerate(group):
            result[index] = round(centre + gap * (place - (len(group) - 1) / 2), 12)
    return result


def save(figure: Figure, target: Path) -> Path:
    """Write a picture so that it is either whole or as before; raises `DataError` where that fails."""
    try:
        write_whole(
            target, lambda temporary: figure.savefig(temporary, format="png", metadata={"Software": None})
        )
    except OSError as error:
        raise DataError(
            f"cannot write {target}: {error.strerror or error}",
            expected="a writable folder with space left",
            do="free space; the run itself is untouched",
        ) from error
    return target
