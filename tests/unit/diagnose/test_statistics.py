"""Trends with intervals: right on lines, as wide as the noise asks, and blind to how hard tasks are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from innerloop.diagnose.statistics import mean_of, t95, trend

#: One-sided 95 % quantiles of Student's t, from tables.
TABLE = {
    1: 6.314,
    2: 2.920,
    3: 2.353,
    5: 2.015,
    8: 1.860,
    10: 1.812,
    12: 1.782,
    20: 1.725,
    30: 1.697,
    120: 1.658,
}


@pytest.mark.parametrize("freedom", TABLE)
def test_quantiles_of_t_are_those_of_the_tables(freedom: int) -> None:
    assert t95(freedom) == pytest.approx(TABLE[freedom], abs=1e-3)


def test_quantiles_of_t_fall_to_the_normal_one() -> None:
    values = [t95(freedom) for freedom in range(1, 200)]
    assert values == sorted(values, reverse=True)
    assert t95(10**7) == pytest.approx(1.6449, abs=1e-4)
    assert math.isinf(t95(0))


def test_a_mean_has_the_error_of_independent_values() -> None:
    found = mean_of(np.array([1.0, 2.0, 3.0, 6.0]))
    assert found.value == 3.0
    assert found.error == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3) / 2)
    assert found.low < 3.0 < found.high
    assert found.high - 3.0 == pytest.approx(3.0 - found.low) == pytest.approx(1.6449 * found.error)


def test_one_value_has_no_error_that_is_known() -> None:
    assert math.isinf(mean_of(np.array([2.0])).error)


@pytest.mark.parametrize("looks", [8, 9, 20, 37, 200])
@pytest.mark.parametrize("slope", [-0.4, 0.0, 0.3])
def test_a_line_has_its_slope_and_no_doubt(looks: int, slope: float) -> None:
    """The change is that over all looks of the window, also where blocks are of unequal size."""
    at = np.arange(looks) / looks
    losses = (2.0 + slope * (at - at.mean()))[:, None] * np.ones(5)
    found = trend(losses)
    assert found.change == pytest.approx(slope / 2.0, rel=0.01)
    assert found.mean == pytest.approx(2.0, rel=0.01)
    assert found.over_tasks == pytest.approx(0.0, abs=1e-12)
    assert found.half_width < 1e-3 * abs(slope) + 1e-12


def test_the_change_is_relative() -> None:
    rng = np.random.default_rng(0)
    losses = 1.0 + 0.1 * rng.random((40, 6))
    one, other = trend(losses), trend(1000.0 * losses)
    assert one.change == pytest.approx(other.change)
    assert one.half_width == pytest.approx(other.half_width)


def test_how_hard_tasks_are_is_no_part_of_the_interval() -> None:
    """The same fall on tasks that differ a hundredfold: unpaired, they would hide it."""
    at = np.linspace(1.0, 0.98, 40)[:, None]
    hard = np.geomspace(0.1, 10.0, 30)
    paired = trend(at + hard)
    shuffled = trend(np.stack([np.random.default_rng(i).choice(a + hard, 30) for i, a in enumerate(at)]))
    assert paired.half_width < 1e-6
    assert paired.high < 0
    assert shuffled.half_width > 100 * paired.half_width


def test_a_single_task_has_no_noise_over_tasks() -> None:
    assert trend(np.linspace(1.0, 2.0, 20)[:, None]).over_tasks == 0.0


@pytest.mark.parametrize("correlation", [0.0, 0.6])
@pytest.mark.parametrize("true", [0.0, -0.05])
def test_each_end_of_the_interval_holds_as_often_as_it_says(true: float, correlation: float) -> None:
    """Of 400 runs, the truth is above the interval in about 5 %, and below it in about 5 %.

    Looks in a row are correlated as those of iterates are; their blocks have to be nearly independent.
    """
    runs, looks, tasks = 400, 100, 20
    rng = np.random.default_rng(7)
    at = (np.arange(looks) + 0.5) / looks - 0.5
    above = below = 0
    for _ in range(runs):
        noise = rng.standard_normal((looks, 1))
        for i in range(1, looks):
            noise[i] = correlation * noise[i - 1] + math.sqrt(1 - correlation**2) * noise[i]
        own = rng.standard_normal(tasks) * 0.02
        losses = 1.0 + (true + own) * at[:, None] + 0.03 * noise + 0.02 * rng.standard_normal((looks, tasks))
        found = trend(losses)
        above += true > found.high
        below += true < found.low
    limit = 0.05 if correlation == 0 else 0.09
    assert above / runs < limit + 0.025
    assert below / runs < limit + 0.025
    if correlation == 0:
        assert (above + below) / runs > 0.01, "an interval that never misses is too wide to say anything"


def test_more_tasks_narrow_what_tasks_contribute_and_nothing_else() -> None:
    rng = np.random.default_rng(3)
    at = np.linspace(-0.5, 0.5, 40)[:, None]
    shared = 0.02 * rng.standard_normal((40, 1))
    slopes = 0.2 * rng.standard_normal(1600)
    few, many = (trend(1.0 + shared + at * slopes[:n]) for n in (100, 1600))
    assert few.over_tasks / many.over_tasks == pytest.approx(4.0, rel=0.2)
    assert few.over_time == pytest.approx(many.over_time, rel=0.1)


def test_a_loss_of_zero_has_no_relative_change_to_speak_of() -> None:
    """Nothing to divide by: the interval says nothing, and nothing is raised."""
    found = trend(np.zeros((20, 4)))
    assert not math.isfinite(found.half_width) or found.half_width == 0.0
