"""The sections of the page between findings and appendix, in order: each one file, and one line here."""

from __future__ import annotations

from innerloop.report.folders import SearchRecords
from innerloop.report.records import RunRecords
from innerloop.report.section import Section
from innerloop.report.sections import (
    comparison,
    convergence,
    inner_loop,
    leaks,
    memorisation,
    meta_gradient,
    stability,
    tasks,
    tradeoff,
)

SECTIONS: tuple[Section[RunRecords], ...] = (
    convergence.SECTION,
    inner_loop.SECTION,
    meta_gradient.SECTION,
    tasks.SECTION,
    memorisation.SECTION,
    stability.SECTION,
    leaks.SECTION,
    comparison.SECTION,
)

#: Those on searches for a trade-off, which follow where there are any.
OF_SEARCHES: tuple[Section[SearchRecords], ...] = (tradeoff.SECTION,)
