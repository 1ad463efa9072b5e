"""Rules on leaks, asked before training: what flows where it must not."""

from __future__ import annotations

import math

from innerloop.diagnose.finding import Finding, NotEvaluated, Passed, Severity
from innerloop.diagnose.history import History
from innerloop.diagnose.rule import Rule

_SAME = 0.01  # share of examples that may coincide by chance: blank images, repeated rows
_DEPENDS = 1e-5  # relative change of outputs that is more than rounding


def state_leak(history: History) -> Finding | Passed:
    change = float(history.series("state_leak").last[0])
    if change == 0:
        return Passed(0.0, 0.0)
    return Finding(
        Severity.ERROR,
        f"a task's outputs change by {change:.2g} after another task was learned",
        change,
        0.0,
        "keep what a task learns in `fast`, and nothing on the learner or its module",
        ("task A, then B, then A again: the two results for A differ",),
    )


def query_leak(history: History) -> Finding | Passed:
    share = float(history.series("query_leak").last[0])
    if share <= _SAME:
        return Passed(share, _SAME)
    return Finding(
        Severity.ERROR,
        f"{share:.0%} of a task's query examples are in its support set",
        share,
        _SAME,
        "draw support and query without replacement",
        ("the same bytes: scores on them measure memory, not learning",),
    )


def class_leak(history: History) -> Finding | Passed:
    share = float(history.series("class_leak").last[0])
    if share <= _SAME:
        return Passed(share, _SAME)
    return Finding(
        Severity.ERROR,
        f"{share:.0%} of the validation examples are among the training examples",
        share,
        _SAME,
        "split by classes before tasks are drawn, and remove duplicates across the split",
        ("the same bytes in both splits: validation scores are those of known classes",),
    )


def transduction(history: History) -> Finding | Passed:
    change = float(history.series("transduction").last[0])
    if math.isnan(change):
        raise NotEvaluated("outputs are not finite")
    if change <= _DEPENDS:
        return Passed(change, _DEPENDS)
    declared = history.setting("algorithm.batch_norm") == "transductive"
    return Finding(
        Severity.INFO if declared else Severity.WARN,
        f"a query's outputs change by {change:.1%} with the other queries",
        change,
        _DEPENDS,
        "compare only with results that are transductive too" if declared else "judge queries one by one",
        ("scores depend on how many queries there are, and on which",),
        {"algorithm.batch_norm": "support"},
    )


RULES = (
    Rule("STATE_LEAK", state_leak, "leaks", "a task's result depends on tasks before it"),
    Rule("QUERY_LEAK", query_leak, "leaks", "query examples are in the support set"),
    Rule("CLASS_LEAK", class_leak, "leaks", "validation examples are among the training examples"),
    Rule("TRANSDUCTION", transduction, "leaks", "a prediction depends on the other queries"),
)
