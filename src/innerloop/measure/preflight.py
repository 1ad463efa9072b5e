"""What is asked of a learner and its tasks before training: leaks of state, of queries, of classes."""

from __future__ import annotations

from collections.abc import Callable

from innerloop.core.types import Meta
from innerloop.diagnose.finding import NotEvaluated
from innerloop.measure.dynamics import reason
from innerloop.measure.leaks import class_leak, query_leak, state_leak, transduction
from innerloop.measure.probe import Probe, Row, row

_TASKS = 25  # of each split


def leak_rows(meta: Meta, probe: Probe) -> tuple[list[Row], dict[str, str]]:
    """The records of the checks for leaks, and why those that are missing do not apply."""
    val, train = (probe.on_device(probe.episodes(split, _TASKS), meta) for split in ("val", "train"))
    own_test = getattr(probe.tasks, "own_test", False)
    rows: list[Row] = []
    skipped: dict[str, str] = {}

    def ask(name: str, check: Callable[[], float]) -> None:
        try:
            rows.append(row(0, name, [check()]))
        except (NotEvaluated, RuntimeError, NotImplementedError) as error:
            skipped[name] = reason(error)

    def queries() -> float:
        if own_test:
            raise NotEvaluated("a task is its own test by design")
        return max(query_leak(val), query_leak(train))

    def classes() -> float:
        if probe.tasks.spec.classes is None:
            raise NotEvaluated("tasks are not made of classes")
        return class_leak(train, val)

    ask("state_leak", lambda: state_leak(probe.learner, meta, val))
    ask("query_leak", queries)
    ask("class_leak", classes)
    ask("transduction", lambda: transduction(probe.learner, meta, val))
    return rows, skipped
