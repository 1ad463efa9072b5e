"""Records of a stream as matrices, and what the doctor says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from innerloop.diagnose.finding import Finding, NotEvaluated, Passed, Severity, Silent
from innerloop.diagnose.forgetting import average_accuracy, forgetting_max_last
from innerloop.diagnose.history import History
from innerloop.diagnose.rules import RULES
from innerloop.diagnose.streams import matrix_of, rows_of_tasks, timeline_of

TASKS = 40
NAMES = ("a", "b", "c")


def history(
    curves: dict[str, dict[int, float]], *, metric: str = "accuracy", until: int = 30, joint: bool = False
) -> History:
    """A run of three stages of ten steps, by the mean score of each family at some steps."""
    stages = [{"family": n, "start": 10 * i, "end": 10 * (i + 1)} for i, n in enumerate(NAMES)]
    setup = {"metric": metric, "families": list(curves), "stages": [] if joint else stages}
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = [{"step": 0, "name": "setup", "value": setup}]
    for name, curve in curves.items():
        spread = 0.05 * rng.standard_normal(TASKS)
        rows.append(_row(0, "trivial", np.full(TASKS, 4.0), name))
        for step, mean in curve.items():
            score = mean + spread - spread.mean()
            loss = 4.0 * (1.0 - score)
            rows.append(_row(step, "post", loss, name))
            rows.append(_row(step, "score", score if metric == "accuracy" else loss, name))
    return History({"steps": 30}, [], [row for row in rows if row["step"] <= until])


def _row(step: int, name: str, values: Any, family: str) -> dict[str, Any]:
    return {"step": step, "name": name, "split": "val", "family": family, "values": list(map(float, values))}


KEPT = {"a": {0: 0.2, 10: 0.9, 20: 0.9, 30: 0.9}, "b": {0: 0.2, 10: 0.3, 20: 0.8, 30: 0.8}}
KEPT["c"] = {0: 0.2, 10: 0.3, 20: 0.3, 30: 0.7}
LOST = KEPT | {"a": {0: 0.2, 10: 0.9, 20: 0.6, 30: 0.5}}
WIPED = KEPT | {"a": {0: 0.2, 10: 0.9, 20: 0.2, 30: 0.2}, "b": {0: 0.2, 10: 0.3, 20: 0.8, 30: 0.2}}
DIPS = KEPT | {"a": {0: 0.2, 10: 0.9, 11: 0.4, 12: 0.5, 20: 0.9, 21: 0.5, 30: 0.9}}
DIPS |= {n: DIPS[n] | {11: 0.3, 12: 0.3, 21: DIPS[n][20]} for n in ("b", "c")}


@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_rows_are_before_training_and_after_each_stage(metric: str) -> None:
    matrix = matrix_of(history(LOST, metric=metric))
    assert matrix.scores.shape == (4, 3, TASKS)
    assert list(matrix.learned) == [1, 2, 3]
    expected = [[LOST[n][step] for n in NAMES] for step in (0, 10, 20, 30)]
    np.testing.assert_allclose(matrix.scores.mean(2), expected, atol=1e-12)
    told = forgetting_max_last(matrix)
    assert told.value == pytest.approx((0.4 + 0.0) / 2)  # type: ignore[union-attr]


def test_a_run_in_mid_stream_has_the_stages_that_are_over() -> None:
    assert len(matrix_of(history(LOST, until=20)).scores) == 3
    with pytest.raises(NotEvaluated, match="first stage ends after 10 steps"):
        matrix_of(history({n: {0: 0.2, 5: 0.3} for n in NAMES}, until=5))


def test_all_at_once_is_one_stage_and_has_no_order() -> None:
    matrix = matrix_of(history({n: {0: 0.2, 30: 0.8} for n in NAMES}, joint=True))
    assert average_accuracy(matrix).value == pytest.approx(0.8)  # type: ignore[union-attr]
    with pytest.raises(NotEvaluated, match="all at once"):
        timeline_of(history(KEPT, joint=True))


def test_a_run_on_no_stream_says_so() -> None:
    plain = History({}, [], [{"step": 0, "name": "setup", "value": {"metric": "mse"}}])
    with pytest.raises(NotEvaluated, match="of no families"):
        matrix_of(plain)
    with pytest.raises(NotEvaluated, match="no record of sequential"):
        rows_of_tasks(plain)


def test_tasks_in_a_row_are_one_draw_each() -> None:
    rows = [{"step": 0, "name": "setup", "value": {"metric": "accuracy"}}]
    for i in range(3):
        for j, name in enumerate(("task 1", "task 2")):
            place = {"step": 9, "name": "sequential", "split": "val", "inner_step": i, "family": name}
            rows.append(place | {"values": [0.1 * i + j, 0.1 * i + j + 0.05]})
    matrix = rows_of_tasks(History({}, [], rows))
    assert matrix.together
    np.testing.assert_allclose(matrix.scores[2, 1], [1.2, 1.25])


def asked(id: str, records: History) -> Any:
    return next(rule for rule in RULES if rule.id == id).ask(records)


@pytest.mark.parametrize(
    ("curves", "severity"), [(KEPT, None), (LOST, Severity.WARN), (WIPED, Severity.ERROR), (DIPS, None)]
)
def test_what_is_lost_is_found_and_what_is_kept_is_not(curves: Any, severity: Severity | None) -> None:
    answer = asked("FORGETTING", history(curves))
    if severity is None:
        assert isinstance(answer, Passed)
    else:
        assert isinstance(answer, Finding)
        assert answer.severity is severity
        assert "most of all a" in answer.why[0]
        assert answer.options == "--retain.replay 0.5"


@pytest.mark.parametrize(
    ("retain", "option"),
    [
        ({}, "--retain.replay 0.5"),
        ({"replay": 0.2}, "--retain.replay 0.5"),
        ({"replay": 0.5}, "--retain.recall 8"),
        ({"replay": 0.5, "recall": 3}, "--retain.distill 0.3"),
        ({"replay": 0.5, "recall": 3, "distill": 1.0}, "--optimizer.lr 0.001"),
    ],
)
def test_a_remedy_that_is_on_already_is_not_proposed(retain: dict[str, float], option: str) -> None:
    records = history(LOST)
    records.config = {"steps": 30, "retain": retain, "optimizer": {"lr": 0.002}}
    assert asked("FORGETTING", records).options == option


@pytest.mark.parametrize(("curves", "found"), [(KEPT, False), (LOST, False), (WIPED, False), (DIPS, True)])
def test_a_dip_that_is_made_up_for_is_a_gap_and_a_loss_is_not(curves: Any, found: bool) -> None:
    answer = asked("STABILITY_GAP", history(curves))
    assert isinstance(answer, Finding if found else Passed)
    if found:
        assert "deepest: a from 0.90 to 0.40 between steps 10 and 20" in answer.why[0]


@pytest.mark.parametrize("id", ["FORGETTING", "STABILITY_GAP"])
def test_where_there_is_no_order_the_rule_says_why_it_was_not_asked(id: str) -> None:
    assert isinstance(asked(id, history(KEPT, joint=True)), Silent)
    assert isinstance(asked(id, History({}, [], [])), Silent)
