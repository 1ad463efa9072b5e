"""A section of the page: panels, each of which draws one thing of a run or says why it cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from innerloop.diagnose.finding import NotEvaluated
from innerloop.report.chart import Chart
from innerloop.report.markup import Raw
from innerloop.report.records import DAMAGE, RunRecords

#: What a panel makes: charts, HTML, or nothing where there is nothing to say.
Drawn = Chart | Raw | None
Panel = Callable[[RunRecords], Drawn]
#: What a section is of: runs, or searches.
Records = TypeVar("Records")


@dataclass(frozen=True)
class Block:
    """What a section shows of one run or search, or of all.

    Attributes:
        parts: charts and HTML, in order.
        missing: what could not be drawn, by reason.
        run: the name of the folder that it is of, where a section has one block for each.
    """

    parts: tuple[Chart | Raw, ...]
    missing: dict[str, list[str]]
    run: str = ""


@dataclass(frozen=True)
class Section(Generic[Records]):
    """A section of the page.

    Attributes:
        id: its anchor; the `plot` of a rule is one.
        title: its heading.
        question: what it answers, in a sentence.
        draw: makes its blocks from the runs, or from the searches.
    """

    id: str
    title: str
    question: str
    draw: Callable[[Sequence[Records]], list[Block]]


def of_each_run(*panels: tuple[str, Panel]) -> Callable[[Sequence[RunRecords]], list[Block]]:
    """One block for each run, from panels by the name of what they show."""

    def draw(runs: Sequence[RunRecords]) -> list[Block]:
        return [_block(run, panels) for run in runs]

    return draw


def _block(run: RunRecords, panels: Sequence[tuple[str, Panel]]) -> Block:
    parts: list[Chart | Raw] = []
    missing: dict[str, list[str]] = {}
    for name, panel in panels:
        try:
            part = panel(run)
        except NotEvaluated as error:
            missing.setdefault(str(error), []).append(name)
        except DAMAGE as error:
            reason = f"its records do not fit together ({type(error).__name__}: {error})"
            missing.setdefault(reason, []).append(name)
        else:
            parts += [] if part is None else [part]
    return Block(tuple(parts), missing, run.name)
