"""Runs on a stream, made by hand: what they came to, and the axes that naive and joint runs span."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from innerloop.core.errors import DataError
from innerloop.diagnose.anchors import Anchors, Outcome, clear, outcome_of, ratio
from innerloop.diagnose.finding import NotEvaluated
from innerloop.diagnose.history import History

TASKS = np.array([-0.02, 0.0, 0.02])
Scores = list[list[float]]
SEQUENCE: Scores = [[0.2, 0.2, 0.2], [0.9, 0.3, 0.1], [0.5, 0.8, 0.3], [0.4, 0.6, 0.7]]
JOINT: Scores = [[0.2, 0.2, 0.2], [0.8, 0.9, 0.7]]


def history(rows: Scores, *, order: str = "abc", diverged: tuple[int, int] | None = None) -> History:
    """A run of accuracies [stages + 1, families], with three tasks each, four outer steps a stage."""
    joint = len(rows) == 2
    stages = (
        [{"family": order[0], "start": 0, "end": 4}]
        if joint
        else [{"family": name, "start": 4 * i, "end": 4 * i + 4} for i, name in enumerate(order)]
    )
    setup = {"families": list("abc"), "stages": stages, "metric": "accuracy", "ways": 5}
    lines: list[dict[str, Any]] = [{"step": 0, "name": "setup", "value": setup}]
    for i, row in enumerate(rows):
        for j, (name, score) in enumerate(zip("abc", row, strict=True)):
            values: list[float | None] = (score + TASKS).tolist()
            if diverged == (i, j):
                values[0] = None
            place = {"split": "val", "family": name, "values": values}
            lines.append({"step": 4 * i, "name": "score"} | place)
            lines.append({"step": 4 * i + 2, "name": "score"} | place)
    return History({"steps": 12}, (), lines)


def outcomes(
    lost: list[float], room: list[float], error: float = 0.01
) -> tuple[list[Outcome], list[Outcome]]:
    naive = [Outcome(0.7, f, 0.2, 0.8, 0.8 - f, None, error, error, error) for f in lost]
    joint = [Outcome(0.2 + r, None, None, 0.7, 0.75, None, error) for r in room]
    return naive, joint


def test_a_sequence_comes_to_its_gain_its_forgetting_and_what_was_there_before():
    found = outcome_of(history(SEQUENCE))
    assert found.gain == pytest.approx((0.8 + 0.7) / 2)
    assert found.forgetting == pytest.approx(((0.9 - 0.4) + (0.8 - 0.6)) / 2)
    assert found.untouched == pytest.approx((0.3 + 0.1) / 2)
    assert (found.learned, found.kept) == (pytest.approx(0.85), pytest.approx(0.5))
    assert found.learned - found.kept == pytest.approx(found.forgetting)


def test_a_joint_run_is_judged_at_its_end():
    found = outcome_of(history(JOINT))
    assert (found.gain, found.kept) == (pytest.approx(0.8), pytest.approx(0.85))
    assert found.forgetting is None
    assert found.untouched is None


def test_what_an_outcome_writes_down_is_the_same_outcome_again():
    found = outcome_of(history(SEQUENCE))
    assert Outcome.from_dict(found.to_dict() | {"seed": 3}) == found


def test_a_task_that_diverged_scores_by_chance_and_is_not_left_out():
    found = outcome_of(history(SEQUENCE, diverged=(3, 2)))
    assert found.gain == pytest.approx((0.8 + (0.2 + 0.7 + 0.72) / 3) / 2)


def test_a_run_that_is_not_through_or_repeats_families_comes_to_nothing():
    with pytest.raises(NotEvaluated, match="2 of 3 stages"):
        outcome_of(history(SEQUENCE[:3]))
    with pytest.raises(NotEvaluated, match="come back"):
        outcome_of(history([*SEQUENCE, *SEQUENCE[1:3]], order="abcab"))


def test_the_anchors_stand_at_their_corners():
    places = Anchors(*outcomes([0.4, 0.5, 0.6], [0.5, 0.6, 0.6])).places()
    assert places["naive"][0] == pytest.approx([0.0, 0.0, 0.0])
    assert places["frozen"][0] == pytest.approx([1.0, 1.0, 1.0])
    assert places["frozen"][1] == pytest.approx([0.0, 0.0, 0.0])
    assert places["joint"][1] == pytest.approx([1.0, 1.0, 1.0])


def test_shares_are_ratios_of_means_over_seeds():
    anchors = Anchors(*outcomes([0.4, 0.6], [0.5, 0.7]))
    assert anchors.stability(np.array([0.1, 0.2])).mean() == pytest.approx(1.0 - 0.15 / 0.5)
    assert anchors.plasticity(np.array([0.5, 0.5])).mean() == pytest.approx(0.3 / 0.6)


def test_a_ratio_that_is_the_same_in_each_seed_has_no_spread():
    under = np.array([0.3, 0.5, 0.9])
    assert ratio(0.4 * under, under) == pytest.approx([0.4, 0.4, 0.4])
    assert ratio(np.array([0.1, 0.2, 0.3]), under).std() > 0.0


def test_shares_of_what_may_be_nothing_are_undefined_and_scores_take_their_place():
    anchors = Anchors(*outcomes([0.1, -0.2, 0.15], [0.5, 0.6, 0.6]))
    assert anchors.undefined.keys() == {"stability"}
    assert "not clearly above zero" in anchors.undefined["stability"]
    assert anchors.stability(np.array([0.1, 0.2])) == pytest.approx([-0.1, -0.2])
    other = Anchors(*outcomes([0.4, 0.5, 0.6], [0.1, -0.2, 0.15]))
    assert other.undefined.keys() == {"plasticity"}
    assert other.plasticity(np.array([0.4, 0.5, 0.6])) == pytest.approx([0.4, 0.5, 0.6])


def test_what_is_above_zero_is_clear_over_seeds_or_in_each_of_them():
    assert clear(np.array([0.5, 0.6, 0.7]), np.full(3, 1.0))
    assert clear(np.array([0.1, 0.9]), np.full(2, 0.01))
    assert not clear(np.array([0.1, 0.9]), np.full(2, 0.2))
    assert not clear(np.array([-0.1, 0.1]), np.full(2, 0.01))
    assert not clear(np.array([0.5]), np.array([np.inf]))


def test_anchors_are_of_the_same_seeds():
    naive, joint = outcomes([0.4, 0.5], [0.5, 0.6])
    with pytest.raises(DataError, match="2 naive runs and 1 joint"):
        Anchors(naive, joint[:1])


# --- plants -------------------------------------------------------------------------------------------------


def test_a_mean_of_ratios_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("innerloop.diagnose.anchors.ratio", lambda over, under: over / under)
    with pytest.raises(AssertionError):
        test_shares_are_ratios_of_means_over_seeds()


def test_forgetting_measured_from_the_best_row_is_noticed(monkeypatch: pytest.MonkeyPatch):
    from innerloop.diagnose.estimate import Estimate

    monkeypatch.setattr(
        "innerloop.diagnose.anchors.forgetting_first_last", lambda matrix: Estimate(0.5, 0.1, 0.3, 0.7, 3)
    )
    with pytest.raises(AssertionError):
        test_a_sequence_comes_to_its_gain_its_forgetting_and_what_was_there_before()


def test_a_denominator_that_is_never_questioned_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("innerloop.diagnose.anchors.clear", lambda values, errors: True)
    with pytest.raises(AssertionError):
        test_shares_of_what_may_be_nothing_are_undefined_and_scores_take_their_place()
