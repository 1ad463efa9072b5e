"""Curves as text: sparklines of blocks, and charts of braille dots, eight in a character."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from innerloop.report.markup import number

Values = NDArray[np.float64]

_SPAN = 20.0  # values that span more are drawn by their logarithm
_BLOCKS = "▁▂▃▄▅▆▇█"
_GAP = "×"  # what is not finite
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character, by row and column


def sparkline(values: Sequence[float] | Values, width: int = 40) -> str:
    """Values in time as one line of blocks; averaged where there are more of them than characters.

    They are drawn by their logarithm if they span a lot.

    >>> sparkline([1.0, 2.0, 3.0, 2.0])
    '▁▅█▅'
    >>> sparkline([1.0, math.nan, 1.0])
    '▁×▁'
    """
    means = _binned(np.asarray(values, float), width)
    known = means[np.isfinite(means)]
    if not len(known):
        return _GAP * len(means)
    low, high = float(known.min()), float(known.max())
    if low > 0 and high / low > _SPAN:
        means, low, high = np.log(means), math.log(low), math.log(high)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((v - low) * scale)] if math.isfinite(v) else _GAP for v in means.tolist())


def braille(
    steps: Sequence[float], values: Sequence[float] | Values, *, width: int = 60, height: int = 8
) -> list[str]:
    """A curve as lines of braille dots, with the ends of both axes; logarithmic if the values span a lot.

    Returns:
        `height` lines for the curve and one for the axis below; none where no value is finite.
    """
    x, y = np.asarray(steps, float), np.asarray(values, float)
    kept = np.isfinite(y)
    x, y = x[kept], y[kept]
    if not len(y):
        return []
    low, high = float(y.min()), float(y.max())
    heights = np.log(y) if low > 0 and high / low > _SPAN else y
    across = _places(x, 2 * width)
    down = 4 * height - 1 - _places(heights, 4 * height)
    cells = np.zeros((height, width), int)
    for column, row in _joined(across.tolist(), down.tolist()):
        cells[row // 4, column // 2] |= _DOTS[row % 4][column % 2]
    labels = [""] * height
    labels[0], labels[-1] = number(high), number(low)
    margin = max(map(len, labels))
    lines = [
        f"{label:>{margin}} " + "".join(chr(0x2800 + c) for c in row)
        for label, row in zip(labels, cells, strict=True)
    ]
    first, last = (f"{end:g}" for end in (x[0], x[-1]))
    return [*lines, " " * (margin + 1) + first + " " * max(1, width - len(first) - len(last)) + last]


def _binned(values: Values, width: int) -> Values:
    if len(values) <= width:
        return values
    edges = np.linspace(0, len(values), width + 1).round().astype(int)
    return np.array([values[a:b].mean() for a, b in itertools.pairwise(edges)])


def _places(values: Values, count: int) -> NDArray[np.int64]:
    """Where values stand among `count` places between their ends; in the middle where they are all alike."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.full(len(values), (count - 1) // 2)
    return np.rint((values - low) / (high - low) * (count - 1)).astype(np.int64)


def _joined(across: list[int], down: list[int]) -> list[tuple[int, int]]:
    """The dots of straight lines from point to point."""
    dots = [(across[0], down[0])]
    for (x0, y0), (x1, y1) in zip(
        zip(across[:-1], down[:-1], strict=True), zip(across[1:], down[1:], strict=True), strict=True
    ):
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        dots += [
            (round(x0 + (x1 - x0) * i / steps), round(y0 + (y1 - y0) * i / steps))
            for i in range(1, steps + 1)
        ]
    return dots
