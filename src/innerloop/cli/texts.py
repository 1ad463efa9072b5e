"""Scores, differences, durations and tables as text."""

from __future__ import annotations

from collections.abc import Sequence


def score(metric: str, mean: float | None, ci95: float | None = None, *, signed: bool = False) -> str:
    """A score with its interval: accuracy in percent, errors as they are; None is not finite.

    >>> score("accuracy", 0.984, 0.0012)
    '98.4 +- 0.1 %'
    >>> score("mse", 0.25)
    '0.250'
    """
    if mean is None:
        return "not finite"
    percent = metric == "accuracy"
    sign = "+" if signed else ""
    parts = [_number(mean, percent, sign)] + ([] if ci95 is None else [_number(ci95, percent, "")])
    return " +- ".join(parts) + (" %" if percent else "")


def _number(value: float, percent: bool, sign: str) -> str:
    if percent:
        return f"{100 * value:{sign}.1f}"
    return f"{value:{sign}.3f}" if abs(value) < 1e5 else f"{value:{sign}.2e}"


def duration(seconds: float) -> str:
    """
    >>> duration(75), duration(3700)
    ('1:15', '1:01:40')
    """
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def table(rows: Sequence[Sequence[str]], *, head: Sequence[str] | None = None) -> str:
    """Columns as wide as they need: the first to the left, the others to the right."""
    everything = [*([head] if head else []), *rows]
    widths = [max(len(row[i]) for row in everything) for i in range(len(everything[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [f"{row[0]:<{widths[0]}}"] + [f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True)]
        return "  ".join(cells).rstrip()

    lines = [line(row) for row in everything]
    if head:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
