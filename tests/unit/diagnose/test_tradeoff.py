"""Trade-offs made by hand: who is on the front, who is the knee, and what more stability costs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from innerloop.core.errors import DataError
from innerloop.diagnose.anchors import Anchors, Outcome
from innerloop.diagnose.tradeoff import Candidate, Tradeoff, judge_tradeoff

SPREAD = (-0.01, 0.0, 0.01)


def outcomes(gain: float, lost: float, seeds: int = 3) -> list[Outcome]:
    spread = SPREAD[:seeds]
    return [Outcome(gain + d, lost - d, 0.1, 0.7, 0.7 - lost, 0.3, 0.01, 0.01, 0.01) for d in spread]


def candidate(trial: int, gain: float, lost: float, **more: Any) -> Candidate:
    return Candidate(trial, {"retain.replay": trial / 10}, outcomes(gain, lost), 1.0, 30.0, **more)


def judged(*found: Candidate, naive_lost: float = 0.4) -> Tradeoff:
    joint = [Outcome(0.6 + d, None, None, 0.65, 0.65, None, 0.01) for d in SPREAD]
    return judge_tradeoff(Anchors(outcomes(0.5, naive_lost), joint), found)


def places(found: Tradeoff) -> dict[str, tuple[float, float]]:
    return {point.name: (point.stability.value, point.plasticity.value) for point in found.points}


def test_points_lie_where_their_shares_put_them():
    at = places(judged(candidate(3, 0.45, 0.1)))
    assert at["3"] == (pytest.approx(0.75), pytest.approx(0.7))
    assert at["naive"] == (0.0, pytest.approx(0.8))
    assert at["frozen"] == (1.0, 0.0)
    assert at["joint"] == (pytest.approx(1.0 - 0.05 / 0.4), 1.0)


def test_the_front_its_knee_and_its_prices_are_those_of_the_means():
    found = judged(candidate(3, 0.45, 0.1), candidate(4, 0.3, 0.04), candidate(5, 0.2, 0.3))
    assert [point.name for point in found.front] == ["naive", "3", "4", "frozen"]
    assert [point.price for point in found.front] == [
        pytest.approx((0.8 - 0.7) / 0.75),
        pytest.approx((0.7 - 0.4) / 0.15),
        pytest.approx(0.4 / 0.1),
        None,
    ]
    assert [point.name for point in found.points if point.is_knee] == ["3"]
    # beyond (0, 0): 3 reaches (0.75, 0.7), 4 reaches (0.9, 0.4); the anchors lie on the edges
    assert found.hypervolume == pytest.approx(0.75 * 0.7 + 0.15 * 0.4)


def test_the_knee_is_found_where_naive_training_is_beaten():
    found = judged(candidate(3, 0.6, 0.02), candidate(4, 0.35, 0.002))
    assert [point.name for point in found.front] == ["3", "4", "frozen"]
    assert [point.name for point in found.points if point.is_knee] == ["3"]


def test_standings_are_told_and_joint_training_is_no_member():
    found = judged(candidate(3, 0.6, 0.1), candidate(5, 0.2, 0.3))
    standing = {point.name: point.standing for point in found.points}
    assert standing == {
        "naive": "dominated",
        "3": "optimal",
        "5": "dominated",
        "frozen": "optimal",
        "joint": "reference",
    }


def test_what_the_doctor_calls_an_error_is_drawn_and_counts_for_nothing():
    found = judged(candidate(3, 0.6, 0.0, errors=("INNER_DIVERGENCE",)))
    assert [point.name for point in found.front] == ["naive", "frozen"]
    assert {point.standing for point in found.points if point.name == "3"} == {"unfit"}


def test_where_nothing_is_forgotten_the_front_is_one_of_scores():
    found = judged(candidate(3, 0.45, -0.1), naive_lost=0.0)
    assert "what naive training forgets" in found.anchors.undefined["stability"]
    assert places(found)["3"][0] == pytest.approx(0.1)
    assert found.to_dict()["axes"]["stability"]["undefined"]


def test_what_is_written_is_json_and_finite():
    text = json.dumps(judged(candidate(3, 0.45, 0.1)).to_dict(), allow_nan=False)
    told = json.loads(text)
    assert (told["knee"], told["front"]) == ("3", ["naive", "3", "frozen"])


def test_seeds_that_do_not_fit_are_refused():
    short = Candidate(3, {}, outcomes(0.4, 0.1, seeds=2), 1.0, 1.0)
    with pytest.raises(DataError, match="2 seeds beside anchors of 3"):
        judged(short)


def test_a_chord_between_the_ends_of_the_front_is_noticed(monkeypatch: pytest.MonkeyPatch):
    from innerloop.diagnose import front

    monkeypatch.setattr("innerloop.diagnose.tradeoff.knee", lambda line, ends: front.knee(line))
    with pytest.raises(AssertionError):
        test_the_knee_is_found_where_naive_training_is_beaten()


def test_means_are_over_seeds():
    found = judged(candidate(3, 0.45, 0.1))
    point = next(point for point in found.points if point.name == "3")
    assert (point.stability.n, point.gain) == (3, pytest.approx(0.45))
    assert np.isfinite([point.stability.low, point.stability.high]).all()
