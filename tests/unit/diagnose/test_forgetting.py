"""Metrics of a matrix equal what is computed by hand, and planted mistakes in them are seen."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from innerloop.core.errors import DataError
from innerloop.diagnose.anytime import Timeline
from innerloop.diagnose.estimate import Estimate, Measure, Undefined
from innerloop.diagnose.forgetting import (
    Matrix,
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting_first_last,
    forgetting_max_last,
    forward_transfer,
    intransigence,
    learning_accuracy,
    summary,
)

#: Means over tasks, a row before training and one after each stage. The first family's are those on which
#: Chaudhry's definition gives 0.15 and Avalanche's 0.10.
PEAK = [[0.10, 0.12, 0.08], [0.90, 0.30, 0.20], [0.95, 0.85, 0.25], [0.80, 0.70, 0.88]]
FOUR = [
    [0.20, 0.20, 0.20, 0.20],
    [0.81, 0.33, 0.27, 0.19],
    [0.64, 0.77, 0.41, 0.23],
    [0.58, 0.69, 0.83, 0.36],
    [0.43, 0.71, 0.62, 0.79],
]
GAIN = [[0.50, 0.50], [0.70, 0.55], [0.75, 0.90]]

#: Best before its own stage: the two readings of Chaudhry's definition differ.
BEFORE = [[0.10, 0.10, 0.10], [0.60, 0.70, 0.20], [0.50, 0.40, 0.30], [0.50, 0.30, 0.60]]

Metric = Callable[[Matrix], Measure]

KNOWN: list[tuple[Metric, list[list[float]], float]] = [
    (average_accuracy, PEAK, (0.80 + 0.70 + 0.88) / 3),
    (average_accuracy, FOUR, (0.43 + 0.71 + 0.62 + 0.79) / 4),
    (average_accuracy, GAIN, (0.75 + 0.90) / 2),
    (average_incremental_accuracy, PEAK, (0.90 + (0.95 + 0.85) / 2 + (0.80 + 0.70 + 0.88) / 3) / 3),
    (
        average_incremental_accuracy,
        FOUR,
        (0.81 + (0.64 + 0.77) / 2 + (0.58 + 0.69 + 0.83) / 3 + (0.43 + 0.71 + 0.62 + 0.79) / 4) / 4,
    ),
    (average_incremental_accuracy, GAIN, (0.70 + (0.75 + 0.90) / 2) / 2),
    (learning_accuracy, PEAK, (0.90 + 0.85 + 0.88) / 3),
    (learning_accuracy, FOUR, (0.81 + 0.77 + 0.83 + 0.79) / 4),
    (learning_accuracy, GAIN, (0.70 + 0.90) / 2),
    (backward_transfer, PEAK, ((0.80 - 0.90) + (0.70 - 0.85)) / 2),
    (backward_transfer, FOUR, ((0.43 - 0.81) + (0.71 - 0.77) + (0.62 - 0.83)) / 3),
    (backward_transfer, GAIN, 0.75 - 0.70),
    (forward_transfer, PEAK, ((0.30 - 0.12) + (0.25 - 0.08)) / 2),
    (forward_transfer, FOUR, ((0.33 - 0.20) + (0.41 - 0.20) + (0.36 - 0.20)) / 3),
    (forward_transfer, GAIN, 0.55 - 0.50),
    (forgetting_first_last, PEAK, ((0.90 - 0.80) + (0.85 - 0.70)) / 2),
    (forgetting_first_last, FOUR, ((0.81 - 0.43) + (0.77 - 0.71) + (0.83 - 0.62)) / 3),
    (forgetting_first_last, GAIN, 0.70 - 0.75),
    (forgetting_max_last, PEAK, ((0.95 - 0.80) + (0.85 - 0.70)) / 2),
    (forgetting_max_last, FOUR, ((0.81 - 0.43) + (0.77 - 0.71) + (0.83 - 0.62)) / 3),
    (forgetting_max_last, GAIN, 0.70 - 0.75),
    (forgetting_max_last, BEFORE, ((0.60 - 0.50) + (0.40 - 0.30)) / 2),
]


def matrix(means: list[list[float]], learned: tuple[int, ...] | None = None, tasks: int = 4) -> Matrix:
    """The matrix with these means over tasks, which differ from one another."""
    rows = np.array(means)
    own = np.random.default_rng(0).normal(0.0, 0.1, (*rows.shape, tasks))
    own -= own.mean(2, keepdims=True)
    own += np.linspace(-0.1, 0.1, tasks)
    return Matrix(rows[:, :, None] + own, learned or tuple(range(1, rows.shape[1] + 1)))


def value(found: Measure) -> float:
    assert isinstance(found, Estimate), found
    return found.value


def reason(found: Measure) -> str:
    assert isinstance(found, Undefined), found
    return found.reason


def is_known(metric: Metric, means: list[list[float]], expected: float) -> None:
    """The question that planted metrics are asked too."""
    assert value(metric(matrix(means))) == pytest.approx(expected, abs=1e-12)


def leaves_the_scores_alone(metric: Metric) -> None:
    """The question whether a metric writes to what it reads."""
    asked = matrix(PEAK)
    before = asked.scores.copy()
    metric(asked)
    assert np.array_equal(asked.scores, before), "was changed"


def says_what_is_missing(metric: Metric) -> None:
    """The question whether a family that was not measured is taken for one of score 0."""
    scores = matrix(PEAK).scores.copy()
    scores[2, 0] = np.nan
    found = metric(Matrix(scores, (1, 2, 3)))
    assert isinstance(found, Undefined), "a score was made up"


# --- known answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "means", "expected"), KNOWN)
def test_metrics_are_what_is_computed_by_hand(
    metric: Metric, means: list[list[float]], expected: float
) -> None:
    is_known(metric, means, expected)


def test_the_two_definitions_of_forgetting_differ_where_a_family_gains_after_its_stage() -> None:
    """Scores .90, .95, .80: from the largest .15, from the first .10. The second family keeps its .50."""
    asked = matrix([[0.1, 0.1, 0.1], [0.90, 0.1, 0.1], [0.95, 0.5, 0.1], [0.80, 0.5, 0.9]])
    assert value(forgetting_max_last(asked)) == pytest.approx((0.15 + 0.0) / 2, abs=1e-12)
    assert value(forgetting_first_last(asked)) == pytest.approx((0.10 + 0.0) / 2, abs=1e-12)


def test_the_largest_may_be_sought_from_the_first_stage_on() -> None:
    """As the paper has it: the second family was best (.70) before its own stage."""
    found = forgetting_max_last(matrix(BEFORE), restricted=False)
    assert value(found) == pytest.approx(((0.60 - 0.50) + (0.70 - 0.30)) / 2, abs=1e-12)


def test_what_a_family_had_before_training_is_not_forgotten() -> None:
    """Best of all in row 0, which is no stage, whichever way the definition is read."""
    asked = matrix([[0.90, 0.1], [0.60, 0.1], [0.50, 0.9]])
    for restricted in (True, False):
        found = forgetting_max_last(asked, restricted=restricted)
        assert value(found) == pytest.approx(0.60 - 0.50, abs=1e-12)


def test_the_largest_is_that_of_means_and_not_the_mean_of_the_largest() -> None:
    """Two tasks that are best at different times: means .7, .7, and .6 at the end, so .1 and not .3."""
    rows = np.zeros((4, 3, 2))
    rows[1, 0], rows[2, 0], rows[3, 0] = (0.9, 0.5), (0.5, 0.9), (0.6, 0.6)
    found = forgetting_max_last(Matrix(rows, (1, 2, 3)))
    assert value(found) == pytest.approx(0.1 / 2, abs=1e-12)


def test_intransigence_is_what_the_reference_learned_better() -> None:
    """On the same tasks: ((.92 - .90) + (.95 - .85) + (.90 - .88)) / 3, and no spread beyond that of rows."""
    asked = matrix(PEAK)
    reference = np.stack([asked.scores[j + 1, j] for j in range(3)]) + np.array([[0.02], [0.10], [0.02]])
    found = intransigence(asked, reference)
    assert value(found) == pytest.approx((0.02 + 0.10 + 0.02) / 3, abs=1e-12)
    assert isinstance(found, Estimate)
    assert found.error == pytest.approx(0.0, abs=1e-12)


def test_intransigence_keeps_tasks_together_that_belong_together() -> None:
    """What one family learns worse, the other learns better in the same draw: no spread in the sum."""
    asked = matrix(GAIN)
    worse = np.array([0.1, -0.1, 0.2, -0.2])
    reference = np.stack([asked.scores[1, 0] + worse, asked.scores[2, 1] - worse])
    apart = intransigence(asked, reference)
    both = intransigence(Matrix(asked.scores, (1, 2), together=True), reference)
    assert isinstance(apart, Estimate)
    assert isinstance(both, Estimate)
    assert both.error == pytest.approx(0.0, abs=1e-12)
    assert apart.error > 0.05


def test_a_family_that_was_known_before_is_forgotten_but_not_learned() -> None:
    """The base task of a sequence of adaptations: row 0 is its first score."""
    asked = matrix([[0.8, 0.1, 0.1], [0.6, 0.7, 0.2], [0.5, 0.6, 0.9]], learned=(0, 1, 2))
    assert value(forgetting_first_last(asked)) == pytest.approx(((0.8 - 0.5) + (0.7 - 0.6)) / 2, abs=1e-12)
    assert value(forgetting_max_last(asked)) == pytest.approx(((0.8 - 0.5) + (0.7 - 0.6)) / 2, abs=1e-12)
    assert value(learning_accuracy(asked)) == pytest.approx((0.7 + 0.9) / 2, abs=1e-12)
    expected = ((0.6 + 0.7) / 2 + (0.5 + 0.6 + 0.9) / 3) / 2
    assert value(average_incremental_accuracy(asked)) == pytest.approx(expected, abs=1e-12)
    assert value(forward_transfer(asked)) == pytest.approx(0.2 - 0.1, abs=1e-12)


def test_families_whose_stage_is_still_to_come_do_not_count_yet() -> None:
    """The first three rows of four families, as if the stream had two stages."""
    short = matrix(FOUR[:3])
    assert value(average_accuracy(short)) == pytest.approx((0.64 + 0.77) / 2, abs=1e-12)
    assert value(forgetting_max_last(short)) == pytest.approx(0.81 - 0.64, abs=1e-12)
    assert value(forward_transfer(short)) == pytest.approx(0.33 - 0.20, abs=1e-12)


def test_the_order_in_which_families_are_written_down_does_not_matter() -> None:
    asked, order = matrix(FOUR), [2, 0, 3, 1]
    other = Matrix(asked.scores[:, order], tuple(np.array(asked.learned)[order]))
    for name, found in summary(asked).items():
        if isinstance(found, Estimate):
            again = summary(other)[name]
            assert isinstance(again, Estimate)
            assert (again.value, again.low, again.high) == pytest.approx((found.value, found.low, found.high))


# --- where there is no value -------------------------------------------------------------------------------


def test_a_joint_training_forgets_nothing_that_could_be_told() -> None:
    joint = matrix([[0.1, 0.1], [0.7, 0.8], [0.8, 0.9]], learned=(1, 1))
    for metric in (backward_transfer, forgetting_first_last, forgetting_max_last):
        assert "in the same stage" in reason(metric(joint))
    assert "no family was learned after" in reason(forward_transfer(joint))
    assert value(average_accuracy(joint)) == pytest.approx(0.85)
    assert value(average_incremental_accuracy(joint)) == pytest.approx((0.75 + 0.85) / 2)
    assert value(learning_accuracy(joint)) == pytest.approx(0.75)


def test_families_that_come_back_are_not_said_to_be_forgotten() -> None:
    """Two rounds of two families."""
    rounds = matrix([[0.1, 0.1], [0.7, 0.2], [0.5, 0.8], [0.8, 0.6], [0.6, 0.9]])
    for metric in (backward_transfer, forgetting_first_last, forgetting_max_last):
        assert reason(metric(rounds)).startswith("stage 3 has no family that is new: families come back")
    assert value(average_accuracy(rounds)) == pytest.approx(0.75)
    assert value(forward_transfer(rounds)) == pytest.approx(0.2 - 0.1)


def test_one_family_and_no_stage_say_so() -> None:
    one = matrix([[0.1], [0.8]])
    assert reason(forgetting_max_last(one)) == "no family was learned before the last stage"
    assert value(average_accuracy(one)) == pytest.approx(0.8)
    none = matrix([[0.1, 0.2]])
    assert reason(average_accuracy(none)) == "no family has been learned yet"
    assert all(isinstance(found, Undefined) for found in summary(none).values())


# --- the summary -------------------------------------------------------------------------------------------

NAMES = (
    "average_accuracy",
    "average_incremental_accuracy",
    "learning_accuracy",
    "backward_transfer",
    "forward_transfer",
    "forgetting_max_last",
    "forgetting_first_last",
    "intransigence",
    "anytime_average_accuracy",
    "minimum_accuracy",
    "worst_case_accuracy",
    "windowed_forgetting",
    "windowed_plasticity",
    "stability_gap",
    "recovery_steps",
)


def test_the_summary_has_every_name_in_one_order_and_is_json() -> None:
    asked = matrix(GAIN)
    steps = (0, 10, 20, 30, 40)
    scores = np.repeat(asked.scores, 2, axis=0)[1:]
    timeline = Timeline(steps, scores, ends=(20, 40), starts=(0, 20))
    full = summary(asked, timeline, asked.scores[-1])
    assert tuple(summary(asked)) == tuple(full) == NAMES
    assert all(isinstance(found, Estimate) for found in full.values())
    bare = {name: found.to_dict() for name, found in summary(asked).items()}
    assert json.loads(json.dumps(bare)) == bare
    assert bare["intransigence"]["reason"].startswith("no reference")
    assert bare["stability_gap"]["reason"].startswith("no timeline")


# --- bad input ---------------------------------------------------------------------------------------------


def test_shapes_that_do_not_fit_are_refused() -> None:
    scores = np.zeros((3, 2, 4))
    wrong = [
        lambda: Matrix(scores, (1,)),
        lambda: Matrix(scores, (1, -2)),
        lambda: Matrix(scores, (1, 1.5)),  # pyright: ignore[reportArgumentType]
        lambda: Matrix(scores, (1, 2), names=("A", "A")),
        lambda: Matrix(scores, (1, 2), names=("A",)),
        lambda: Matrix(np.where(scores == 0, np.inf, 0), (1, 2)),
        lambda: intransigence(Matrix(scores, (1, 2)), scores[0, :, :2]),
        lambda: intransigence(Matrix(scores, (1, 2)), "none"),
    ]
    for make in wrong:
        with pytest.raises(DataError):
            make()


def test_a_matrix_keeps_its_scores_to_itself() -> None:
    scores = np.random.default_rng(0).random((3, 2, 4))
    asked = Matrix(scores, (1, 2))
    before = backward_transfer(asked)
    scores[:] = 0.0
    assert backward_transfer(asked) == before
    with pytest.raises(ValueError, match="read-only"):
        asked.scores[0] = 1.0


@pytest.mark.parametrize("metric", [metric for metric, *_ in KNOWN])
def test_no_metric_writes_to_the_scores(metric: Metric) -> None:
    leaves_the_scores_alone(metric)


def test_what_was_not_measured_is_not_taken_for_zero() -> None:
    says_what_is_missing(forgetting_max_last)
    says_what_is_missing(average_incremental_accuracy)


# --- planted mistakes --------------------------------------------------------------------------------------


def largest_with_the_last_row(asked: Matrix) -> Measure:
    """The maximum over all rows, the last one too, as Mammoth takes it."""
    means = asked.scores.mean(2)
    terms = [means[asked.learned[j] :, j].max() - means[-1, j] for j in asked.old]
    return Estimate(float(np.mean(terms)), 0.0, 0.0, 0.0, 1)


def last_minus_first(asked: Matrix) -> Measure:
    """First-last with its sign swapped."""
    return backward_transfer(asked)


def largest_of_each_task(asked: Matrix) -> Measure:
    """The mean of each task's largest score, instead of the largest mean."""
    terms = [(asked.scores[asked.learned[j] : -1, j].max(0) - asked.scores[-1, j]).mean() for j in asked.old]
    return Estimate(float(np.mean(terms)), 0.0, 0.0, 0.0, 1)


def over_all_families(asked: Matrix) -> Measure:
    """The mean over T families of what T - 1 of them lost."""
    found = forgetting_first_last(asked)
    count = len(asked.seen)
    return Estimate(value(found) * (count - 1) / count, 0.0, 0.0, 0.0, 1)


def padded(asked: Matrix) -> Measure:
    """Zeros in place of what was not learned yet, written where the scores stand, as Mammoth pads them."""
    scores = asked.scores
    scores.setflags(write=True)
    for j, row in enumerate(asked.learned):
        scores[:row, j] = 0.0
    scores.setflags(write=False)
    return forgetting_max_last(asked)


def padded_copy(asked: Matrix) -> Measure:
    """Zeros in place of what was not measured."""
    return forgetting_max_last(Matrix(np.nan_to_num(asked.scores), asked.learned))


@pytest.mark.parametrize(
    ("planted", "of", "means"),
    [
        (largest_with_the_last_row, forgetting_max_last, GAIN),
        (last_minus_first, forgetting_first_last, PEAK),
        (last_minus_first, forgetting_first_last, GAIN),
        (forgetting_first_last, forgetting_max_last, PEAK),
        (forgetting_max_last, forgetting_first_last, PEAK),
        (largest_of_each_task, forgetting_max_last, PEAK),
        (over_all_families, forgetting_first_last, FOUR),
        (lambda asked: forgetting_max_last(asked, restricted=False), forgetting_max_last, BEFORE),
    ],
)
def test_planted_definitions_are_seen(planted: Metric, of: Metric, means: list[list[float]]) -> None:
    expected = next(known for metric, rows, known in KNOWN if metric is of and rows is means)
    is_known(of, means, expected)
    with pytest.raises(AssertionError):
        is_known(planted, means, expected)


def test_planted_padding_in_place_is_seen() -> None:
    with pytest.raises(AssertionError, match="was changed"):
        leaves_the_scores_alone(padded)
    with pytest.raises(AssertionError):
        is_known(lambda asked: forward_transfer(asked) if padded(asked) else asked, PEAK, 0.175)  # pyright: ignore


def test_planted_zeros_for_what_is_missing_are_seen() -> None:
    with pytest.raises(AssertionError, match="was made up"):
        says_what_is_missing(padded_copy)
