"""Metrics between the ends of stages equal what is computed by hand, and say what they cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from innerloop.core.errors import ConfigError, DataError
from innerloop.diagnose.anytime import (
    Timeline,
    anytime_accuracy,
    minimum_accuracy,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_accuracy,
)
from innerloop.diagnose.dips import Dip, dips, recovery_steps, stability_gap, stability_gaps
from innerloop.diagnose.estimate import Estimate, Measure, NotMeasured, Undefined

#: Two families of 40 steps each, looked at every 10.
STEPS = tuple(range(0, 81, 10))
A = [0.10, 0.50, 0.70, 0.80, 0.90, 0.50, 0.70, 0.86, 0.88]
B = [0.10, 0.10, 0.12, 0.10, 0.20, 0.60, 0.70, 0.75, 0.80]

#: Three families of 20 steps each.
THREE = {
    "steps": tuple(range(0, 61, 10)),
    "means": np.array(
        [
            [0.1, 0.6, 0.8, 0.5, 0.7, 0.4, 0.6],
            [0.1, 0.1, 0.1, 0.7, 0.9, 0.8, 0.87],
            [0.1, 0.1, 0.1, 0.1, 0.1, 0.6, 0.7],
        ]
    ).T,
    "ends": (20, 40, 60),
    "starts": (0, 20, 40),
}


def timeline(means: Any, steps: Any, ends: Any, starts: Any, *, tasks: int = 4, **more: Any) -> Timeline:
    """The timeline with these means [E, families] over tasks, which differ from one another."""
    scores = np.asarray(means)[:, :, None] + np.linspace(-0.05, 0.05, tasks)
    return Timeline(steps, scores, ends, starts, **more)


def two(**more: Any) -> Timeline:
    return timeline(np.array([A, B]).T, STEPS, (40, 80), (0, 40), names=("A", "B"), **more)


def three() -> Timeline:
    return timeline(**THREE, names=("A", "B", "C"))


def value(found: Measure) -> float:
    assert isinstance(found, Estimate), found
    return found.value


def reason(found: Measure) -> str:
    assert isinstance(found, Undefined), found
    return found.reason


# --- known answers -----------------------------------------------------------------------------------------


def test_anytime_accuracy_is_over_families_whose_stage_has_begun() -> None:
    """A alone at steps 10 to 40, then both: that at step 40 is before B's stage, and that at 0 before any."""
    alone = 0.50 + 0.70 + 0.80 + 0.90
    both = (0.50 + 0.60) / 2 + (0.70 + 0.70) / 2 + (0.86 + 0.75) / 2 + (0.88 + 0.80) / 2
    assert value(anytime_accuracy(two())) == pytest.approx((alone + both) / 8, abs=1e-12)


def test_minimum_and_worst_case_accuracy_are_by_hand() -> None:
    """A's least score after step 40 is .50; B ends at .80: .80 / 2 + (1 - 1/2) .50."""
    assert value(minimum_accuracy(two())) == pytest.approx(0.50, abs=1e-12)
    assert value(worst_case_accuracy(two())) == pytest.approx(0.80 / 2 + 0.50 / 2, abs=1e-12)
    assert value(minimum_accuracy(three())) == pytest.approx((0.4 + 0.8) / 2, abs=1e-12)
    expected = 0.7 / 3 + (1 - 1 / 3) * (0.4 + 0.8) / 2
    assert value(worst_case_accuracy(three())) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("window", "fall", "rise"),
    [
        (11, (0.40 + 0.0) / 2, (0.40 + 0.40) / 2),  # .90 to .50; .10 to .50 and .20 to .60
        (21, (0.40 + 0.0) / 2, (0.60 + 0.50) / 2),  # .10 to .70; .20 to .70
        (41, (0.40 + 0.0) / 2, (0.80 + 0.60) / 2),  # .10 to .90; .20 to .80
    ],
)
def test_windowed_changes_are_by_hand(window: int, fall: float, rise: float) -> None:
    assert value(windowed_forgetting(two(), window)) == pytest.approx(fall, abs=1e-12)
    assert value(windowed_plasticity(two(), window)) == pytest.approx(rise, abs=1e-12)


def test_a_window_holds_as_many_evaluations_as_steps_where_each_step_is_evaluated() -> None:
    """A fall of .1 a step: over windows of 2, 3 and 9 evaluations .1, .2 and, as there are six, .5."""
    falling = timeline(np.linspace(0.9, 0.4, 6)[:, None], range(6), (3,), (0,))
    for window, fall in ((2, 0.1), (3, 0.2), (9, 0.5)):
        assert value(windowed_forgetting(falling, window)) == pytest.approx(fall, abs=1e-12)
        assert value(windowed_plasticity(falling, window)) == 0.0


def test_windowed_changes_equal_a_search_of_all_pairs() -> None:
    rng = np.random.default_rng(3)
    steps = np.sort(rng.choice(200, 40, replace=False))
    means = rng.random((40, 2))
    asked = timeline(means, steps.tolist(), (90, int(steps[-1])), (0, 90))
    for window in (8, 30, 150):
        falls = []
        for j, start in enumerate((0, 90)):
            pairs = [
                means[m, j] - means[n, j]
                for n in range(40)
                for m in range(n + 1)
                if steps[m] >= start and steps[n] - steps[m] < window
            ]
            falls.append(max(pairs))
        assert value(windowed_forgetting(asked, window)) == pytest.approx(np.mean(falls), abs=1e-12)


def test_the_stability_gap_is_the_score_before_a_stage_minus_the_least_within() -> None:
    """A: .90 - .50. Of three families, A: (.8 - .5 + .7 - .4) / 2 = .3, B: .9 - .8 = .1, mean .2."""
    assert value(stability_gap(two())) == pytest.approx(0.40, abs=1e-12)
    gaps = stability_gaps(three())
    assert tuple(gaps) == ("A", "B", "C")
    assert value(gaps["A"]) == pytest.approx(0.3, abs=1e-12)
    assert value(gaps["B"]) == pytest.approx(0.1, abs=1e-12)
    assert reason(gaps["C"]) == "no stage of another family follows"
    assert value(stability_gap(three())) == pytest.approx(0.2, abs=1e-12)


def test_a_family_that_only_gains_has_a_negative_gap() -> None:
    means = np.array([[0.1, 0.8, 0.85, 0.9], [0.1, 0.1, 0.5, 0.6]]).T
    found = stability_gap(timeline(means, (0, 10, 20, 30), (10, 30), (0, 10)))
    assert value(found) == pytest.approx(0.8 - 0.85, abs=1e-12)


def test_recovery_takes_until_95_percent_of_the_score_before() -> None:
    """.855 of .90 is first regained at step 70, 30 steps into the stage."""
    (dip,) = dips(two())
    assert dip == Dip("A", 40, 80, dip.before, dip.least, 30.0)
    assert (dip.before, dip.least) == pytest.approx((0.90, 0.50), abs=1e-12)
    found = recovery_steps(two())
    assert value(found) == 30.0
    assert isinstance(found, Estimate)
    assert found.low <= 30.0 <= found.high
    assert found == recovery_steps(two())


def test_recovery_begins_at_the_least_score() -> None:
    """Of .90, .88 is still within 5 %, but the least comes later: 30 steps, not 10."""
    means = np.array([[0.1, 0.90, 0.88, 0.50, 0.86], [0.1, 0.1, 0.5, 0.6, 0.7]]).T
    assert value(recovery_steps(timeline(means, (0, 10, 20, 30, 40), (10, 40), (0, 10)))) == 30.0


def test_recovery_is_zero_where_95_percent_was_never_lost() -> None:
    means = np.array([[0.1, 0.80, 0.77, 0.79], [0.1, 0.1, 0.5, 0.6]]).T
    assert value(recovery_steps(timeline(means, (0, 10, 20, 30), (10, 30), (0, 10)))) == 0.0


def test_what_is_not_made_up_for_is_counted() -> None:
    """A is back at .95 * .8 = .76 within neither stage, B at .95 * .9 = .855 at the end of C's."""
    assert reason(recovery_steps(three())) == "2 of 3 dips were not made up for within their stage"
    assert [dip.recovery for dip in dips(three())] == [float("inf"), float("inf"), 20.0]


def test_recovery_of_a_score_that_is_not_above_zero_says_nothing() -> None:
    means = np.array([[-0.5, -0.1, -0.3, -0.1], [0.1, 0.1, 0.5, 0.6]]).T
    below = timeline(means, (0, 10, 20, 30), (10, 30), (0, 10))
    assert "not above zero" in reason(recovery_steps(below))
    assert value(stability_gap(below)) == pytest.approx(0.2, abs=1e-12)


# --- intervals ---------------------------------------------------------------------------------------------


def test_intervals_are_paired_over_tasks() -> None:
    """Tasks differ by a constant, so a difference within a family has no spread, and a score has."""
    for metric in (stability_gap, windowed_forgetting, windowed_plasticity):
        found = metric(two())
        assert isinstance(found, Estimate)
        assert found.error == pytest.approx(0.0, abs=1e-12)
    found = minimum_accuracy(two())
    assert isinstance(found, Estimate)
    assert found.error == pytest.approx(np.linspace(-0.05, 0.05, 4).std(ddof=1) / 2)


@pytest.mark.parametrize("dip", [0.0, 0.1])
def test_the_interval_of_a_gap_holds_though_the_least_of_many_is_taken(dip: float) -> None:
    """Forty evaluations in the stage: the least of their means is too low; the interval allows for it."""
    inside = 0
    for seed in range(100):
        rng = np.random.default_rng((23, seed))
        level = np.full((42, 2), 0.7)
        level[10, 0] -= dip
        scores = level[:, :, None] + 0.2 * rng.standard_normal((2, 30))
        scores = scores + 0.05 * rng.standard_normal((42, 2, 30))
        found = stability_gap(Timeline(range(42), scores, (1, 41), (0, 1)))
        assert isinstance(found, Estimate)
        inside += found.low <= dip <= found.high
    assert inside >= 89  # three standard errors below 95


def test_the_interval_of_a_recovery_widens_with_noise() -> None:
    rng = np.random.default_rng(0)
    scores = two(tasks=30).scores + 0.1 * rng.standard_normal((9, 2, 30))
    noisy = recovery_steps(Timeline(STEPS, scores, (40, 80), (0, 40)))
    assert isinstance(noisy, Estimate)
    assert noisy.low < noisy.high


def test_recoveries_that_belong_together_are_drawn_together() -> None:
    """Two old families with the same scores: as one family, and not as two that make up for each other."""
    noise = 0.02 * np.random.default_rng(0).standard_normal((9, 30))
    scores = np.stack([np.array(A)[:, None] + noise] * 2 + [np.array(B)[:, None] + noise], axis=1)
    found = [
        recovery_steps(Timeline(STEPS, scores, (40, 40, 80), (0, 0, 40), together=together))
        for together in (False, True)
    ]
    alone = recovery_steps(Timeline(STEPS, scores[:, 1:], (40, 80), (0, 40)))
    apart, both = (each for each in found if isinstance(each, Estimate))
    assert both == alone
    assert apart.error < 0.85 * both.error


# --- where there is no value -------------------------------------------------------------------------------


def test_a_joint_training_has_no_old_families() -> None:
    joint = timeline(np.array([A, B]).T, STEPS, (80, 80), (0, 0))
    for metric in (minimum_accuracy, worst_case_accuracy, stability_gap, recovery_steps):
        assert isinstance(metric(joint), Undefined)
    assert value(anytime_accuracy(joint)) == pytest.approx((sum(A[1:]) + sum(B[1:])) / 16, abs=1e-12)


def test_families_that_come_back_have_no_last_family_of_their_own() -> None:
    rounds = timeline(np.array([A, B]).T, STEPS, (20, 40), (0, 20))
    assert "families come back" in reason(worst_case_accuracy(rounds))
    assert value(minimum_accuracy(rounds)) == pytest.approx((0.50 + 0.60) / 2, abs=1e-12)


def test_evaluations_may_leave_a_family_out() -> None:
    """Every second evaluation of A: at steps 60 and 80 of the later stage."""
    scores = two().scores.copy()
    scores[[1, 3, 5, 7], 0] = np.nan
    sparse = Timeline(STEPS, scores, (40, 80), (0, 40))
    assert value(stability_gap(sparse)) == pytest.approx(0.90 - 0.70, abs=1e-12)
    assert value(minimum_accuracy(sparse)) == pytest.approx(0.70, abs=1e-12)
    alone, both = 0.70 + 0.90, 0.60 + (0.70 + 0.70) / 2 + 0.75 + (0.88 + 0.80) / 2
    assert value(anytime_accuracy(sparse)) == pytest.approx((alone + both) / 6, abs=1e-12)
    assert reason(windowed_forgetting(sparse, 11)) == "family 1 was not measured twice within 11 steps"


def test_what_was_not_measured_is_named() -> None:
    scores = two().scores.copy()
    scores[4, 0] = np.nan
    late = Timeline(STEPS, scores, (40, 80), (0, 40), names=("A", "B"))
    assert reason(stability_gap(late)) == "A was not measured between its stage and that from step 40 on"
    with pytest.raises(NotMeasured):
        dips(late)
    scores[5:, 0] = np.nan
    gone = Timeline(STEPS, scores, (40, 80), (0, 40), names=("A", "B"))
    assert reason(minimum_accuracy(gone)) == "A was not measured after its stage"
    scores[8, 1] = np.nan
    scores[8, 0] = 0.5
    last = Timeline(STEPS, scores, (40, 80), (0, 40), names=("A", "B"))
    assert reason(worst_case_accuracy(last)) == "B was not measured at step 80"


def test_nothing_is_said_before_a_stage_has_begun() -> None:
    start = timeline([[0.1, 0.2]], (0,), (40, 80), (0, 40))
    for metric in (
        anytime_accuracy,
        minimum_accuracy,
        worst_case_accuracy,
        windowed_forgetting,
        windowed_plasticity,
        stability_gap,
        recovery_steps,
    ):
        assert isinstance(metric(start), Undefined)


def test_a_single_task_has_values_and_no_intervals() -> None:
    one = two(tasks=1)
    assert value(recovery_steps(one)) == value(recovery_steps(two()))
    for found in (stability_gap(one), recovery_steps(one), worst_case_accuracy(one)):
        assert isinstance(found, Estimate)
        assert found.error == float("inf")


# --- bad input and planted mistakes ------------------------------------------------------------------------


def test_timelines_that_do_not_fit_are_refused() -> None:
    scores = np.zeros((3, 2, 4))
    for steps, ends, starts in [
        ((0, 10), (10, 20), (0, 10)),
        ((0, 20, 10), (10, 20), (0, 10)),
        ((0, 10, 20), (10,), (0, 10)),
        ((0, 10, 20), (0, 20), (0, 10)),
        ((0, 10, -20), (10, 20), (0, 10)),
    ]:
        with pytest.raises(DataError):
            Timeline(steps, scores, ends, starts)
    with pytest.raises(ConfigError):
        windowed_forgetting(two(), 1)


@pytest.mark.parametrize(
    ("planted", "metric"),
    [
        # the end of a stage taken for the first step of the next one, and the other way round
        (timeline(np.array([A, B]).T, STEPS, (39, 80), (0, 39)), anytime_accuracy),
        (timeline(np.array([A, B]).T, STEPS, (50, 80), (0, 50)), minimum_accuracy),
        # stages swapped
        (timeline(np.array([A, B]).T, STEPS, (80, 40), (40, 0)), worst_case_accuracy),
        (timeline(np.array([A, B]).T, STEPS, (80, 40), (40, 0)), stability_gap),
        # losses, of which less is better
        (timeline(-np.array([A, B]).T, STEPS, (40, 80), (0, 40)), windowed_forgetting),
    ],
)
def test_planted_mistakes_in_a_timeline_change_its_numbers(planted: Timeline, metric: Any) -> None:
    assert abs(value(metric(planted)) - value(metric(two()))) > 0.02
