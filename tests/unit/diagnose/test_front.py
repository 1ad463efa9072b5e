"""Fronts made by hand, whose knee, price, area and members are known."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from innerloop.core.errors import DataError
from innerloop.diagnose import front
from innerloop.diagnose.estimate import Estimate, Undefined
from innerloop.diagnose.front import (
    Point,
    dominates,
    hypervolume,
    knee,
    over_seeds,
    pareto,
    prices,
    standings,
)

WIGGLE = np.array([-0.02, 0.0, 0.02])


def point(name: str, s: float, p: float, *, s_noise: float = 0.0, p_noise: float = 0.0) -> Point:
    return Point(name, s + s_noise * WIGGLE / 0.02, p + p_noise * WIGGLE[::-1] / 0.02)


def test_a_clear_gain_at_no_loss_dominates():
    assert dominates(point("a", 0.8, 1.0), point("b", 0.5, 1.0))
    assert not dominates(point("b", 0.5, 1.0), point("a", 0.8, 1.0))


def test_a_gain_within_the_noise_of_seeds_does_not_dominate():
    noisy = Point("a", np.array([0.2, 0.9, 1.3]), np.ones(3))
    assert noisy.place[0] > 0.5
    assert not dominates(noisy, point("b", 0.5, 1.0))


def test_noise_that_seeds_share_is_no_part_of_a_difference():
    shared = np.array([-0.5, 0.0, 0.5])
    assert dominates(Point("a", shared + 0.2, np.ones(3)), Point("b", shared, np.ones(3)))


def test_a_loss_in_the_other_objective_within_epsilon_is_forgiven_and_no_more():
    base = point("b", 0.5, 1.0)
    assert dominates(point("a", 0.8, 0.96), base, epsilon=0.05)
    assert not dominates(point("a", 0.8, 0.94), base, epsilon=0.05)


def test_one_seed_decides_nothing():
    a, b = Point("a", np.array([1.0]), np.array([1.0])), Point("b", np.array([0.0]), np.array([0.0]))
    assert not dominates(a, b)
    assert standings([a, b]) == ["possible", "possible"]


def test_points_of_other_numbers_of_seeds_are_not_compared():
    with pytest.raises(DataError, match="3 seeds beside b of 1"):
        dominates(point("a", 1.0, 1.0), Point("b", np.array([1.0]), np.array([1.0])))


def test_points_have_both_objectives_of_each_seed_and_are_finite():
    with pytest.raises(DataError, match="numbers"):
        Point("a", np.ones(3), np.ones(2))
    with pytest.raises(DataError, match="not finite"):
        Point("a", np.ones(2), np.array([1.0, np.nan]))


def test_standings_tell_sure_members_from_possible_and_dominated_ones():
    points = [
        point("plastic", 0.0, 1.0),
        point("stable", 1.0, 0.2),
        Point("unsure", np.array([0.2, 0.9, 1.3]), np.array([0.35, 0.3, 0.25])),
        point("worse", -0.3, 0.1),
    ]
    assert standings(points) == ["optimal", "possible", "possible", "dominated"]
    assert standings(points[:2]) == ["optimal", "optimal"]


def test_points_that_differ_by_noise_alone_are_seldom_said_to_be_dominated():
    draws = np.random.default_rng(0).normal(size=(400, 2, 2, 3))
    wrong = sum(dominates(Point("a", s[0], p[0]), Point("b", s[1], p[1]), epsilon=0.05) for s, p in draws)
    assert wrong <= 0.05 * len(draws)


def test_the_front_by_means_runs_from_the_least_stable_to_the_most_stable():
    places = [(0.9, 0.3), (0.0, 1.0), (0.5, 0.8), (0.4, 0.7), (0.5, 0.8)]
    points = [point(str(i), s, p, s_noise=0.01) for i, (s, p) in enumerate(places)]
    assert pareto(points) == [1, 2, 0]  # 3 is beaten by 2, and 4 is 2 once more


def test_the_knee_is_farthest_above_the_line_between_the_ends():
    assert knee([(0.0, 1.0), (0.5, 0.95), (0.8, 0.8), (1.0, 0.0)]) == 2
    assert knee([(0.0, 1.0), (0.1, 0.95), (0.9, 0.15), (1.0, 0.0)]) in (1, 2)


def test_the_knee_may_be_asked_for_above_the_line_between_other_ends():
    line = [(0.9, 2.3), (0.99, 1.2), (1.0, 0.0)]  # the least stable point is the bend
    assert knee(line) == 1
    assert knee(line, ((0.0, 1.4), (1.0, 0.0))) == 0
    assert knee([(0.2, 0.1)], ((0.0, 1.0), (1.0, 0.0))) is None


def test_which_point_is_the_knee_does_not_depend_on_units():
    line = [(0.0, 1.0), (0.3, 0.95), (0.8, 0.6), (1.0, 0.0)]
    assert knee(line) == knee([(100.0 * s, p) for s, p in line]) == knee([(s, 100.0 * p) for s, p in line])


def test_there_is_no_knee_on_a_line_below_it_or_of_two_points():
    assert knee([(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]) is None
    assert knee([(0.0, 1.0), (0.5, 0.3), (1.0, 0.0)]) is None
    assert knee([(0.0, 1.0), (1.0, 0.0)]) is None
    assert knee([]) is None


def test_the_price_is_plasticity_lost_for_a_unit_of_stability_gained():
    found = prices([(0.0, 1.0), (0.8, 0.9), (1.0, 0.0)])
    assert isinstance(found[0], Estimate)
    assert isinstance(found[1], Estimate)
    assert found[0].value == pytest.approx(0.125)
    assert found[1].value == pytest.approx(4.5)
    assert found[2] == Undefined("no point of the front is more stable")
    assert prices([]) == []


def test_the_area_counts_what_lies_beyond_the_reference_once():
    assert hypervolume([(1.0, 1.0)], (0.0, 0.0)) == 1.0
    assert hypervolume([(1.0, 0.5), (0.5, 1.0), (0.4, 0.4)], (0.0, 0.0)) == pytest.approx(0.75)
    assert hypervolume([(1.0, -0.1), (-0.1, 1.0)], (0.0, 0.0)) == 0.0
    assert hypervolume([(1.0, 1.0)], (0.5, -1.0)) == pytest.approx(1.0)


def test_an_interval_over_seeds_is_that_of_students_t():
    found = over_seeds(np.array([1.0, 2.0, 3.0]))
    assert (found.low, found.high) == (
        pytest.approx(2.0 - 4.30265 / 3**0.5, rel=1e-5),
        pytest.approx(2.0 + 4.30265 / 3**0.5, rel=1e-5),
    )


# --- plants: each claim turns red under the bug that it is there for ----------------------------------------

MUTANTS = {
    "means alone decide": (
        "one.low > 0.0 and other",
        "one.value > 0.0 and other",
        test_a_gain_within_the_noise_of_seeds_does_not_dominate,
    ),
    "any gain of a single seed decides": ("one.low", "one.value", test_one_seed_decides_nothing),
    "noise decides": (
        "one.low",
        "one.value",
        test_points_that_differ_by_noise_alone_are_seldom_said_to_be_dominated,
    ),
    "seeds are not paired": (
        "a.stability - b.stability",
        "a.stability - b.stability[::-1]",
        test_noise_that_seeds_share_is_no_part_of_a_difference,
    ),
    "losses are not looked at": (
        "other.value >= -epsilon",
        "other.value >= -9.0",
        test_a_loss_in_the_other_objective_within_epsilon_is_forgiven_and_no_more,
    ),
    "no loss is forgiven": (
        "other.value >= -epsilon",
        "other.value >= 0.0",
        test_a_loss_in_the_other_objective_within_epsilon_is_forgiven_and_no_more,
    ),
    "all that is not dominated is optimal": (
        '"optimal" if all(_ahead(point, other) for other in others) else "possible"',
        '"optimal"',
        test_standings_tell_sure_members_from_possible_and_dominated_ones,
    ),
    "the same point twice": (
        "((u, q) != (s, p) or j < i)",
        "(u, q) != (s, p)",
        test_the_front_by_means_runs_from_the_least_stable_to_the_most_stable,
    ),
    "a point below the line is a knee": (
        "int(above.argmax())",
        "int((above := np.abs(above)).argmax())",
        test_there_is_no_knee_on_a_line_below_it_or_of_two_points,
    ),
    "ends that are not listened to": (
        "ends or (front[0], front[-1])",
        "(front[0], front[-1])",
        test_the_knee_may_be_asked_for_above_the_line_between_other_ends,
    ),
    "a price without its unit": (
        "(p - q) / (u - s)",
        "p - q",
        test_the_price_is_plasticity_lost_for_a_unit_of_stability_gained,
    ),
    "areas that overlap": ("reached = s", "pass", test_the_area_counts_what_lies_beyond_the_reference_once),
    "a normal interval": (
        "across_seeds([Estimate",
        "_normal([Estimate",
        test_an_interval_over_seeds_is_that_of_students_t,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_turns_its_claim_red(name: str, monkeypatch: pytest.MonkeyPatch):
    right, wrong, claim = MUTANTS[name]
    source = Path(front.__file__).read_text(encoding="utf-8")
    assert right in source
    mutant = ModuleType("mutant")
    monkeypatch.setitem(sys.modules, "mutant", mutant)  # dataclasses look their module up
    mutant.__dict__["_normal"] = _normal
    exec(compile(source.replace(right, wrong), "mutant", "exec"), mutant.__dict__)
    for each in ("Point", "dominates", "hypervolume", "knee", "over_seeds", "pareto", "prices", "standings"):
        monkeypatch.setitem(globals(), each, mutant.__dict__[each])
    with pytest.raises(AssertionError):
        claim()


def _normal(estimates: list[Estimate]) -> Estimate:
    values = np.array([estimate.value for estimate in estimates])
    error = float(values.std(ddof=1)) / len(values) ** 0.5
    mean = float(values.mean())
    return Estimate(mean, error, mean - 1.96 * error, mean + 1.96 * error, len(values))
