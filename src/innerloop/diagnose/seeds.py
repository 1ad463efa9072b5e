"""Several runs that differ in nothing but their seed: do they say the same?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from innerloop.diagnose.finding import Answer, Finding, NotEvaluated, Passed, Severity, Silent, named
from innerloop.diagnose.history import History
from innerloop.diagnose.statistics import mean_of
from innerloop.diagnose.verdict import EPSILON, State, Verdict, capped, judge

ID = "SEED_DISAGREEMENT"
_APART, _SURE = 0.10, 1.96
_TOGETHER = 0.05
_LEAST = 3  # seeds that a verdict on a set of runs needs


def judge_seeds(histories: Sequence[History], *, epsilon: float = EPSILON) -> Verdict:
    """The verdict on runs that differ in their seed: that of each, if all agree.

    CONVERGED needs three seeds that are, and whose final losses on the same tasks lie within 5 % of each
    other.
    """
    verdicts = [judge(history, epsilon=epsilon) for history in histories]
    answer = disagreement(histories, verdicts)
    if isinstance(answer, Finding):
        return Verdict(State.SEED_DISAGREEMENT, answer.value, epsilon=epsilon, notes=answer.why)
    states = {verdict.state for verdict in verdicts}
    if len(states) > 1:
        text = ", ".join(sorted(state.name for state in states))
        return Verdict(State.UNRESOLVED, epsilon=epsilon, notes=(f"the runs are {text}",))
    if states == {State.CONVERGED}:
        if len(verdicts) < _LEAST:
            note = f"{len(verdicts)} seeds; {_LEAST} converged ones are the least"
            return Verdict(State.UNRESOLVED, epsilon=epsilon, notes=(note,))
        widest = max(abs(low) for pair in _pairs(histories) for low in pair[1:])
        if widest > max(_TOGETHER, epsilon):
            note = f"two seeds may differ by {widest:.1%}"
            return Verdict(State.UNRESOLVED, epsilon=epsilon, notes=(note,))
    return replace(verdicts[0], notes=(f"all {len(verdicts)} seeds",))


def disagreement(histories: Sequence[History], verdicts: Sequence[Verdict]) -> Answer:
    """Whether two runs end clearly apart on the same tasks, or with verdicts that exclude each other."""
    try:
        found = _found(histories, verdicts)
    except NotEvaluated as error:
        found = Silent(str(error))
    return named(found, ID, "comparison", None)


def _found(histories: Sequence[History], verdicts: Sequence[Verdict]) -> Finding | Passed:
    pairs = _pairs(histories)
    value, low, high = max(pairs, key=lambda pair: abs(pair[0]))
    good, bad = {State.CONVERGED, State.IMPROVING}, {State.STALLED, State.NONFINITE, State.WORSENING}
    states = {verdict.state for verdict in verdicts}
    apart = abs(value) > _APART and not low <= 0 <= high
    if not apart and not (states & good and states & bad):
        return Passed(abs(value), _APART)
    return Finding(
        Severity.WARN,
        f"two seeds differ by {abs(value):.0%} on the same tasks",
        abs(value),
        _APART,
        "look at the run that is worse alone; report all seeds",
        tuple(f"run {i + 1}: {verdict.state.name}" for i, verdict in enumerate(verdicts[:3])),
    )


def _pairs(histories: Sequence[History]) -> list[tuple[float, float, float]]:
    """For each two runs: relative difference of their final losses on the same tasks, and its interval."""
    if len(histories) < 2:
        raise NotEvaluated("one run")
    settings = [_without_seed(history.config) for history in histories]
    if any(other != settings[0] for other in settings[1:]):
        raise NotEvaluated("the runs differ in more than their seed")
    ends = [capped(history, history.series("post", split="val").last) for history in histories]
    count = min(map(len, ends))
    found = []
    for ours, theirs in itertools.combinations([end[:count] for end in ends], 2):
        level = max(float(np.mean([ours.mean(), theirs.mean()])), 1e-300)
        apart = mean_of(ours - theirs)
        half = _SURE * apart.error
        found.append(tuple(v / level for v in (apart.value, apart.value - half, apart.value + half)))
    return found


def _without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "seed"}
