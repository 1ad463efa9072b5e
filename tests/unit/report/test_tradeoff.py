"""The page and the picture of a trade-off, from what `front.json` holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from innerloop.diagnose.anchors import Anchors, Outcome
from innerloop.diagnose.tradeoff import Candidate, judge_tradeoff
from innerloop.report.tradeoff import page, write
from innerloop.report.tradeoff_words import interval, reading, rest, shown, summary

SPREAD = (-0.01, 0.0, 0.01)


def outcomes(gain: float, lost: float) -> list[Outcome]:
    return [Outcome(gain + d, lost - d, 0.1, 0.7, 0.7 - lost, 0.3, 0.01, 0.01, 0.01) for d in SPREAD]


def told(lost: float = 0.4, **given: Any) -> dict[str, Any]:
    joint = [Outcome(0.6 + d, None, None, 0.65, 0.65, None, 0.01) for d in SPREAD]
    anchors = Anchors(outcomes(0.6, lost), joint)
    found = [
        Candidate(3, {"retain.replay": 0.5}, outcomes(0.58, 0.1), 1.0, 30.0),
        Candidate(4, {"retain.l2": 3.0}, outcomes(0.3, 0.3), 1.0, 30.0),
        Candidate(5, {"note": "<b>&"}, outcomes(0.7, 0.0), 2.0, 30.0, ("INNER_DIVERGENCE",)),
    ]
    judged = judge_tradeoff(anchors, found)
    whole = {"algorithm": "MAML", "tasks": "SinusoidFamilies", "trials": 3, "seeds": [0, 1, 2]}
    whole |= {"fresh_seeds": None, "space": {}, "running_elsewhere": 0, "failed": []}
    whole |= {"reported": judged.to_dict(), "search": judged.to_dict()}
    return json.loads(json.dumps(whole | given, allow_nan=False))


def test_the_summary_names_the_knee_and_what_it_keeps():
    assert summary(told()) == (
        "3 trials; what is shown is of 3 seeds, not confirmed on others. The knee of the front is trial 3, "
        "with 75.0 % of naive forgetting avoided and 96.0 % of the gain of joint training on new families."
    )
    assert "2 fresh seeds" in summary(told(fresh_seeds=[3, 4]))


def test_a_share_that_is_undefined_says_why_and_scores_take_its_place():
    found = told(lost=0.0)
    assert "As a share it is undefined because what naive training forgets" in " ".join(reading(found))
    assert "in units of the score" in summary(found) or "no knee" in summary(found)


def test_points_that_the_front_beats_are_shown_only_if_they_were_run_again():
    assert [point["name"] for point in shown(told())] == ["naive", "3", "joint", "frozen"]
    assert "4" in [point["name"] for point in shown(told(fresh_seeds=[3, 4, 5]))]


def test_what_is_not_on_the_front_is_said_with_its_reason():
    failed = [{"trial": 6, "settings": {"retain.ewc": 1e5}, "reason": "step 3 is not finite"}]
    lines = rest(told(failed=failed, running_elsewhere=2))
    assert lines == [
        "unfit: trial 5, errors of the doctor's: INNER_DIVERGENCE",
        "failed: trial 6 (--retain.ewc 100000.0): step 3 is not finite",
        "trials that go on in other processes: 2; run the command again",
    ]


def test_a_single_seed_has_no_interval():
    assert interval({"value": 0.5, "low": None, "high": None}) == "0.50"
    assert interval({"value": 0.5, "low": 0.4, "high": 0.6}) == "0.50 [0.40, 0.60]"


def test_the_page_has_its_chart_its_numbers_and_a_command_for_each_point(tmp_path: Path):
    pytest.importorskip("plotly")
    text = page(told(), tmp_path)
    head = text.split("<script>")[0]
    assert f'innerloop train <span class="word">--config</span> {tmp_path}/points/3.yaml' in head
    assert "points/4.yaml" not in head
    assert "0.75 [" in head
    assert "3 (knee)" in text
    assert "<b>&" not in text
    assert "src=" not in head


def test_the_picture_is_drawn_without_plotly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from innerloop.core.errors import ConfigError

    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(ConfigError, match="plotly"):
        write(told(), tmp_path)
    assert (tmp_path / "tradeoff.png").stat().st_size > 10_000
