"""The table of *How to choose*: one row an algorithm, from its docstring and its class."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from _pages.docstrings import COST, Docstring, Figure, parse, published
from _pages.public import own_docstring
from _pages.rst import Links, inline, table

HEAD = ("Algorithm", "Adapts", "Derivatives", "Cost", "Strengths", "Omniglot, %", "miniImageNet, %")
#: Datasets that have a column of their own; figures on others stand on the algorithm's page.
DATASETS = ("Omniglot", "miniImageNet")
#: What a gradient path differentiates, by the name of its class.
ORDERS = {
    "Unrolled": "second, exact",
    "Recompute": "second, exact",
    "FirstOrder": "first",
    "Truncated": "of the last steps",
    "Implicit": "second, implicit",
    "Displacement": "first",
    "Asynchronous": "second, exact, scaled",
    "Evolution": "none: values alone",
}


@dataclass(frozen=True)
class Row:
    """What the table says of an algorithm, as plain text."""

    name: str
    adapts: str
    order: str
    cost: str
    strengths: str
    figures: tuple[Figure, ...]

    def on(self, dataset: str) -> tuple[Figure, ...]:
        return tuple(figure for figure in self.figures if figure.dataset == dataset)


def row(name: str, kind: type) -> Row:
    """The row of a class."""
    said = parse(own_docstring(kind))
    figures = tuple(published(said.said("Published")))
    return Row(name, said.said("Adapted"), order(kind), cost(said), said.said("Strengths"), figures)


def order(kind: type) -> str:
    """The order of the derivatives that an algorithm's outer gradient takes through its inner loop."""
    if getattr(kind, "pooled", False):
        return "first: ordinary training"
    if getattr(kind, "inner_steps", None) == 0:
        return "first: no inner loop"
    path = kind.gradient  # type: ignore[attr-defined]
    if getattr(path, "first_order", False):
        return ORDERS["FirstOrder"] + (", of the last steps" if type(path).__name__ == "Truncated" else "")
    known = ORDERS.get(type(path).__name__)
    return known or ("second, exact" if path.exact else "not exact")


def cost(said: Docstring) -> str:
    """The first sentence of what an algorithm costs."""
    part = said.part(*COST)
    text = part.text if part else ""
    first = re.split(r"(?<=[.;])\s", text)[0].rstrip(".;")
    return f"{first} (each inner step)" if part and part.label == COST[0] else first


def choose(algorithms: Mapping[str, type], links: Links) -> str:
    """The whole table, as reStructuredText."""
    rows = [list(_cells(row(name, kind), links)) for name, kind in algorithms.items()]
    return table(rows, HEAD, widths=(10, 14, 9, 16, 25, 13, 13), css="choose")


def _cells(row: Row, links: Links) -> Iterator[str]:
    yield f":doc:`{row.name} </reference/algorithms/{row.name}>`"
    yield from (inline(text, links) for text in (row.adapts, row.order, row.cost, row.strengths))
    for dataset in DATASETS:
        yield "\n\n".join(_figures(figure) for figure in row.on(dataset)) or "—"


def _figures(figure: Figure) -> str:
    """Figures a line each, then who reports them."""
    return f"{lines(figure)}\n\n{inline(figure.source)}"


def lines(figure: Figure) -> str:
    """Figures a line each."""
    return "\n".join(f"| {inline(text)}" for text in figure.figures.split(", "))
