"""What perturbations cost, against numbers by hand, and the rules on it, against made-up records."""

from __future__ import annotations

import copy
import json
import math
import shlex
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from innerloop.cli.configuration import configured
from innerloop.cli.options import parse
from innerloop.cli.settings import gather, merged, takes
from innerloop.core.errors import DataError
from innerloop.diagnose import stability
from innerloop.diagnose.effects import WORST, Effects, Interval, interval, ratio, t975
from innerloop.diagnose.finding import Finding, NotEvaluated, Severity
from innerloop.diagnose.stability import QUESTIONS, judge_stability

TASKS = 100
CONFIG: dict[str, Any] = {
    "algorithm": {"name": "MAML", "inner_lr": 0.4, "inner_steps": 5},
    "tasks": {"name": "Sinusoid", "shots": 10, "train_shots": None},
    "seed": 0,
}


def records(
    *rows: dict[str, Any], metric: str = "mse", skipped: dict[str, str] | None = None, **setup: Any
) -> dict[str, Any]:
    """Records of a run with an error of 1 where a guess has 5, or 80 % right of 5 ways; tasks differ."""
    higher = metric == "accuracy"
    known: dict[str, Any] = {
        "split": "test",
        "episodes": TASKS,
        "seed": 0,
        "step": 700,
        "metric": metric,
        "ways": 5 if higher else None,
        "shots": 5,
        "support": 25 if higher else 10,
        "test_inner_steps": 5,
        "safety_factor": 1.1,
        "config": copy.deepcopy(CONFIG),
    }
    trivial = [0.2 if higher else 5.0] * TASKS
    return {
        "setup": known | setup,
        "undisturbed": {"score": usual(metric), "loss": usual(metric), "trivial": trivial},
        "rows": list(rows),
        "skipped": [{"name": n, "reason": r} for n, r in (skipped or {}).items()],
    }


def usual(metric: str = "mse") -> list[float]:
    spread = np.linspace(-1.0, 1.0, TASKS)
    return (0.8 + 0.15 * spread if metric == "accuracy" else 1.0 + 0.9 * spread).tolist()


def disturbed(
    name: str,
    size: str,
    harm: float,
    *,
    amount: float | None = None,
    metric: str = "mse",
    noise: float = 0.01,
) -> dict[str, Any]:
    """A row of the same tasks, each worse by `harm` and a little noise that comes out even."""
    sign = -1.0 if metric == "accuracy" else 1.0
    wiggle = noise * np.cos(np.pi * np.arange(TASKS))
    scores = np.array(usual(metric)) + sign * (harm + wiggle)
    row = {"name": name, "size": size, "amount": amount, "about": "", "tasks": "same"}
    return row | {"score": scores.tolist(), "loss": scores.tolist()}


def others(name: str, size: str, score: float, trivial: float, **told: Any) -> dict[str, Any]:
    """A row of other tasks."""
    scores = (score * (1 + 0.1 * np.linspace(-1.0, 1.0, TASKS))).tolist()
    row = {"name": name, "size": size, "amount": None, "about": "", "tasks": "other"}
    return row | {"score": scores, "loss": scores, "trivial": [trivial] * TASKS} | told


def rates(**harms: float) -> list[dict[str, Any]]:
    """Rows of the inner rate: a harm for each scale, x0_5 for 0.5."""
    given = {"x0_25": 0.5, "x0_5": 0.1, "x1_3": 0.0, "x1_5": 0.0, "x2": 0.1, "x3": 40.0} | harms
    scales = {name: float(name[1:].replace("_", ".")) for name in given}
    return [disturbed("inner rate", f"x {scales[n]:g}", h, amount=scales[n]) for n, h in given.items()]


def steps(**harms: float) -> list[dict[str, Any]]:
    given = {"n2": 0.0, "n5": 0.0, "n10": 0.0} | harms
    return [disturbed("inner steps", n, h, amount=int(n[1:])) for n, h in given.items()]


def found(id: str, told: dict[str, Any]) -> Finding | None:
    judged = judge_stability(Effects(told))
    return next((finding for finding in judged.findings if finding.id == id), None)


def surely(id: str, told: dict[str, Any]) -> Finding:
    finding = found(id, told)
    assert finding is not None
    return finding


def why_not(id: str, told: dict[str, Any]) -> str:
    return next(a.reason for a in judge_stability(Effects(told)).silent if a.id == id)


# --- numbers by hand -------------------------------------------------------------------------------------


def test_harm_is_the_mean_difference_and_its_share_of_the_gain() -> None:
    effects = Effects(records(disturbed("support order", "shuffled", 0.8, noise=0.0)))
    (effect,) = effects.all
    assert effects.gained.value == pytest.approx(4.0)
    assert effect.harm.value == pytest.approx(0.8)
    assert effect.harm.half_width == pytest.approx(0.0, abs=1e-12)
    assert effect.lost is not None
    assert effect.lost.value == pytest.approx(0.2)
    assert effect.differences == pytest.approx([0.8] * TASKS)


def test_harm_of_an_accuracy_is_what_it_falls_by() -> None:
    effects = Effects(records(disturbed("support order", "s", 0.06, metric="accuracy"), metric="accuracy"))
    assert effects.all[0].harm.value == pytest.approx(0.06)
    assert effects.all[0].lost is not None
    assert effects.all[0].lost.value == pytest.approx(0.06 / 0.6)


def test_an_interval_is_that_of_student() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    assert interval(values).value == 5.5
    assert interval(values).half_width == pytest.approx(
        2.2622 * np.std(values, ddof=1) / math.sqrt(10), rel=1e-3
    )
    assert interval(values[:1]).half_width == math.inf
    for freedom, quantile in ((4, 2.7764), (9, 2.2622), (24, 2.0639), (199, 1.9720)):
        assert t975(freedom) == pytest.approx(quantile, rel=1e-2)


def test_a_ratio_of_means_has_no_width_where_parts_are_a_share_of_wholes() -> None:
    wholes = np.array([1.0, 5.0, 2.0, 8.0])
    assert ratio(0.25 * wholes, wholes) == Interval(0.25, 0.25, 0.25)


def test_other_tasks_are_measured_by_their_own_guess() -> None:
    """Twice the error where a guess has twice the error too: nothing is lost, though the score is worse."""
    effects = Effects(records(others("unfamiliar tasks", "large", 2.0, 10.0)))
    (effect,) = effects.all
    assert not effect.paired
    assert effect.differences == ()
    assert effect.harm.value == pytest.approx(1.0)
    assert effect.lost is not None
    assert effect.lost.value == pytest.approx(0.0, abs=1e-12)
    half = Effects(records(others("unfamiliar tasks", "hard", 3.0, 5.0))).all[0].lost
    assert half is not None
    assert half.value == pytest.approx(0.5)  # 40 % of what a guess loses is gained, where it was 80 %


def test_more_ways_are_measured_by_the_guess_among_as_many() -> None:
    """Three quarters of what there is to gain over a fifth; half of what there is to gain over a tenth."""
    row = others("ways", "10 ways", 0.55, 0.1, ways=10)
    lost = Effects(records(row, metric="accuracy")).all[0].lost
    assert lost is not None
    assert lost.value == pytest.approx(1 - 0.5 / 0.75)


def test_what_failed_counts_as_bad_as_can_be() -> None:
    row = disturbed("inner rate", "x 3", 0.0, amount=3.0)
    row["score"][0], row["score"][1] = None, 1e12
    (effect,) = Effects(records(row)).all
    assert effect.failed == 1
    assert effect.differences[0] == pytest.approx(WORST * 5.0 - usual()[0])
    assert effect.differences[1] == pytest.approx(WORST * 5.0 - usual()[1])
    right = disturbed("inner rate", "x 3", 0.0, amount=3.0, metric="accuracy")
    right["score"][0] = None
    accuracy = Effects(records(right, metric="accuracy")).all[0]
    assert accuracy.differences[0] == pytest.approx(usual("accuracy")[0])


def test_a_row_with_its_own_reference_is_compared_with_that() -> None:
    row = disturbed("query balance", "one class", 0.5)
    row["reference"] = {"score": row["score"], "loss": row["loss"]}
    assert Effects(records(row)).all[0].harm == Interval(0.0, 0.0, 0.0)


def test_fewer_tasks_are_compared_with_the_first_of_all() -> None:
    row = disturbed("adversarial queries", "a", 0.5, noise=0.0)
    row["score"] = row["score"][:20]
    (effect,) = Effects(records(row)).all
    assert effect.n == 20
    assert effect.harm.value == pytest.approx(0.5)


def test_the_worst_stands_first() -> None:
    rows = (
        disturbed("a", "little", 0.1),
        others("b", "much", 4.0, 5.0),
        disturbed("c", "better", -0.3),
        disturbed("d", "most", 9.0),
    )
    assert [effect.name for effect in Effects(records(*rows)).all] == ["d", "b", "a", "c"]


def test_records_without_something_are_refused() -> None:
    told = records()
    del told["undisturbed"]["trivial"]
    with pytest.raises(DataError, match="trivial"):
        Effects(told)


# --- pairs -----------------------------------------------------------------------------------------------


def small_sure_harm() -> Effects:
    """Each task loses about 0.05, while tasks differ by 0.5 among themselves."""
    return Effects(records(disturbed("support order", "shuffled", 0.05, noise=0.1)))


def is_sure(effects: Effects) -> bool:
    return effects.all[0].harm.clearly_positive


def test_a_small_harm_is_seen_since_tasks_are_paired() -> None:
    assert is_sure(small_sure_harm())


def test_a_comparison_that_is_not_paired_would_miss_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Effects, "_effect", lambda self, row: self._unpaired(dict(row) | {"trivial": [5.0] * TASKS})
    )
    assert not is_sure(small_sure_harm())


def test_paired_intervals_cover_the_true_harm_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(600):
        told = records()
        base = rng.gamma(2.0, 0.5, 40)
        told["undisturbed"] |= {"score": base.tolist(), "trivial": [5.0] * 40}
        row = disturbed("support order", "shuffled", 0.0)
        row["score"] = (base + 0.3 + 0.2 * rng.standard_normal(40)).tolist()
        harm = Effects(told | {"rows": [row]}).all[0].harm
        covered.append(harm.low <= 0.3 <= harm.high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_intervals_of_shares_cover_the_true_share() -> None:
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(600):
        told = records()
        guess = rng.uniform(2.0, 8.0, 100)
        base = guess * rng.uniform(0.0, 0.4, 100)
        told["undisturbed"] |= {"score": base.tolist(), "trivial": guess.tolist()}
        row = disturbed("support order", "shuffled", 0.0)
        row["score"] = (base + 0.25 * (guess - base) * rng.uniform(0.0, 2.0, 100)).tolist()
        lost = Effects(told | {"rows": [row]}).all[0].lost
        assert lost is not None
        covered.append(lost.low <= 0.25 <= lost.high)
    assert 0.92 <= np.mean(covered) <= 0.975


# --- rules -----------------------------------------------------------------------------------------------

UNFAMILIAR = ("unfamiliar images", "turned by 90 degrees")
PLANTS: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[], dict[str, Any]]]] = {
    "BRITTLE_INNER_LR": (
        lambda: records(*rates(x1_3=0.4, x1_5=3.0)),
        lambda: records(*rates(x1_3=0.4, x1_5=1.0)),
    ),
    "OVER_ADAPTATION": (lambda: records(*steps(n5=0.6)), lambda: records(*steps(n5=0.3, n10=9.0))),
    "SHOT_MISMATCH": (
        lambda: records(others("shots", "10 shots", 2.0, 5.0, shots=10)),
        lambda: records(others("shots", "2 shots", 2.0, 5.0, shots=2)),
    ),
    "FRAGILE_TO_OUTLIERS": (
        lambda: records(disturbed("support outlier", "one", 1.5)),
        lambda: records(disturbed("support outlier", "one", 0.8)),
    ),
    "OOD_COLLAPSE": (
        lambda: records(disturbed(*UNFAMILIAR, 2.5)),
        lambda: records(disturbed(*UNFAMILIAR, 1.5)),
    ),
    "ADVERSARIAL": (
        lambda: records(disturbed("adversarial queries", "8/255", 2.5)),
        lambda: records(disturbed("adversarial queries", "8/255", 1.5)),
    ),
}


def test_every_rule_has_a_plant() -> None:
    assert set(PLANTS) == {question.id for question in QUESTIONS}


@pytest.mark.parametrize("id", PLANTS)
def test_a_planted_weakness_is_found_and_a_lesser_one_passes(id: str) -> None:
    planted, lesser = PLANTS[id]
    finding = surely(id, planted())
    assert finding.severity is Severity.WARN
    assert (finding.plot, finding.step) == ("stability", 700)
    assert finding.value > finding.threshold
    assert finding.advice
    assert finding.why
    judged = judge_stability(Effects(lesser()))
    assert not judged.findings
    assert [answer.id for answer in judged.passed] == [id]


@pytest.mark.parametrize("id", PLANTS)
def test_a_weakness_that_may_be_chance_is_not_found(id: str) -> None:
    told = PLANTS[id][0]()
    for row in told["rows"]:
        wide = 400.0 * np.cos(np.pi * np.arange(TASKS))
        # Beyond the cap an error is an error: below it, so that only the interval changes.
        row["score"] = (np.mean(row["score"]) + np.clip(wide, -30.0, 30.0)).tolist()
    assert found(id, told) is None


@pytest.mark.parametrize("id", PLANTS)
def test_a_learner_that_has_learned_nothing_has_nothing_to_lose(id: str) -> None:
    told = PLANTS[id][0]()
    told["undisturbed"]["trivial"] = [1.0] * TASKS
    assert "nothing to lose" in why_not(id, told)


@pytest.mark.parametrize("id", PLANTS)
def test_what_was_not_measured_is_not_judged_and_says_why(id: str) -> None:
    names = {row["name"] for row in PLANTS[id][0]()["rows"]}
    assert why_not(id, records(skipped=dict.fromkeys(names, "there is none"))) == "there is none"
    assert why_not(id, records()) == "not measured"


def test_an_inner_rate_at_its_edge_is_an_error_and_half_of_it_the_remedy() -> None:
    finding = surely("BRITTLE_INNER_LR", records(*rates(x1_3=3.0, x1_5=20.0)))
    assert finding.severity is Severity.ERROR
    assert finding.remedy == {"algorithm.inner_lr": 0.2}
    assert finding.options == "--algorithm.inner_lr 0.2"
    assert "1.1" in " ".join(finding.why)


def test_shorter_inner_steps_that_do_worse_are_no_fault() -> None:
    assert found("BRITTLE_INNER_LR", records(*rates(x0_25=3.9, x0_5=3.0))) is None


def test_a_learned_inner_rate_has_advice_and_no_setting() -> None:
    told = records(*rates(x1_3=3.0, x1_5=20.0))
    del told["setup"]["config"]["algorithm"]["inner_lr"]
    assert surely("BRITTLE_INNER_LR", told).remedy == {}


def test_adapting_twice_as_long_that_ruins_it_is_an_error() -> None:
    assert surely("OVER_ADAPTATION", records(*steps(n2=3.0, n5=4.0))).severity is Severity.ERROR


def test_steps_that_overshoot_are_to_be_shorter_and_what_is_lost_slowly_asks_for_examples() -> None:
    """Longer training of the inner loop mends neither, as `test_stability_remedies.py` measures."""
    ruined = records(*steps(n5=3.0))
    shorter = surely("OVER_ADAPTATION", ruined)
    assert (shorter.options, "quarter" in shorter.advice) == ("--algorithm.inner_lr 0.1", True)
    more = surely("OVER_ADAPTATION", records(*steps(n5=1.0)))
    assert (more.options, "more shots" in more.advice) == ("--tasks.shots 10", True)
    del ruined["setup"]["config"]["algorithm"]["inner_lr"]
    learned = surely("OVER_ADAPTATION", ruined)
    assert (learned.options, "learned" in learned.advice) == ("", True)


def test_fewer_shots_that_leave_less_than_a_guess_are_an_error() -> None:
    told = records(
        others("shots", "2 shots", 7.0, 5.0, shots=2), others("shots", "10 shots", 0.5, 5.0, shots=10)
    )
    finding = surely("SHOT_MISMATCH", told)
    assert finding.severity is Severity.ERROR
    assert finding.remedy == {"tasks.train_shots": 2}


def test_tasks_that_are_trained_with_the_shots_of_the_test_have_advice_and_no_setting() -> None:
    told = PLANTS["SHOT_MISMATCH"][0]()
    del told["setup"]["config"]["tasks"]["train_shots"]
    assert surely("SHOT_MISMATCH", told).remedy == {}


@pytest.mark.parametrize(("harm", "shots"), [(1.1, 10), (3.9, 10), (4.1, 20), (15.9, 20), (16.1, 40)])
def test_an_outlier_asks_for_as_many_shots_as_leave_a_quarter(harm: float, shots: int) -> None:
    """Of a gain of 4, where twice the examples leave a quarter of what one of them costs."""
    row = disturbed("support outlier", "one", harm, noise=0.0)
    assert surely("FRAGILE_TO_OUTLIERS", records(row)).remedy == {"tasks.shots": shots}


def test_more_shots_than_there_are_is_no_remedy() -> None:
    row = disturbed("support outlier", "one", 0.3, metric="accuracy")
    half = others("shots", "2 shots", 0.75, 0.2, shots=2)
    twice = others("shots", "10 shots", 0.8, 0.2, shots=10)
    for rows, remedy in (((row, half), {}), ((row, half, twice), {"tasks.shots": 10})):
        assert surely("FRAGILE_TO_OUTLIERS", records(*rows, metric="accuracy")).remedy == remedy


def test_one_example_a_class_cannot_outvote_an_outlier() -> None:
    row = disturbed("support outlier", "one", 0.3, metric="accuracy")
    assert "outvote" in why_not("FRAGILE_TO_OUTLIERS", records(row, metric="accuracy", support=5))
    assert found("FRAGILE_TO_OUTLIERS", records(row, metric="accuracy")) is not None


def test_unfamiliar_tasks_on_which_it_is_worse_than_a_guess_are_an_error() -> None:
    finding = surely("OOD_COLLAPSE", records(others("unfamiliar tasks", "Linear", 9.0, 5.0)))
    assert finding.severity is Severity.ERROR
    assert "Linear" in finding.title


def test_what_is_attacked_is_what_training_is_to_attack() -> None:
    rows = [
        disturbed("adversarial queries", "8/255", 3.0, amount=8 / 255),
        disturbed("adversarial supports", "8/255", 0.5, amount=8 / 255),
    ]
    told = records(*rows)
    assert surely("ADVERSARIAL", told).options == "--adversary.query 0.031"


@pytest.mark.parametrize("trained", [0.1, 0.031])  # the latter is what the finding itself proposed
def test_what_was_trained_on_attacks_is_not_told_to_be(trained: float) -> None:
    told = records(disturbed("adversarial queries", "8/255", 3.0, amount=8 / 255))
    told["setup"]["config"]["adversary"] = {"query": trained, "support": 0.0}
    finding = surely("ADVERSARIAL", told)
    assert "already" in finding.advice
    assert finding.remedy == {"tasks.shots": 10}


def test_attacks_are_never_more_than_a_warning() -> None:
    row = disturbed("adversarial supports", "8/255", 30.0)
    assert surely("ADVERSARIAL", records(row)).severity is Severity.WARN


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("BRITTLE", "BRITTLE_INNER_LR"),
        ("OVERDONE", "OVER_ADAPTATION"),
        ("OUTLIER", "FRAGILE_TO_OUTLIERS"),
        ("UNFAMILIAR", "OOD_COLLAPSE"),
        ("ATTACKED", "ADVERSARIAL"),
        ("MORE", "SHOT_MISMATCH"),
    ],
)
def test_a_rule_with_another_threshold_is_seen(
    name: str, plant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stability, name, 50.0)
    assert found(plant, PLANTS[plant][0]()) is None


def accepted(finding: Finding) -> dict[str, Any]:
    """The configuration with the options of a remedy, as `innerloop train` takes them."""
    given = gather(parse(shlex.split(finding.options), takes))
    return configured(merged(copy.deepcopy(CONFIG), given)).to_dict()


@pytest.mark.parametrize("id", PLANTS)
def test_each_remedy_is_made_of_settings_that_exist(id: str) -> None:
    told = PLANTS[id][0]()
    for row in told["rows"]:
        row["amount"] = 0.1 if row["amount"] is None else row["amount"]
    finding = surely(id, told)
    assert bool(finding.remedy) == (id != "OOD_COLLAPSE")  # which tasks to add, no setting can say
    whole = accepted(finding)
    for setting, value in finding.remedy.items():
        group, _, name = setting.partition(".")
        assert float(whole[group][name]) == float(value), setting


def test_exit_codes_are_those_of_the_doctor() -> None:
    quiet, warned = records(), PLANTS["ADVERSARIAL"][0]()
    broken = records(*rates(x1_3=3.0, x1_5=20.0))
    codes = [judge_stability(Effects(told)).exit_code() for told in (quiet, warned, broken)]
    assert codes == [0, 1, 2]
    assert judge_stability(Effects(warned)).exit_code("error") == 0
    assert judge_stability(Effects(broken)).exit_code("error") == 2


def test_answers_are_json_whatever_was_measured() -> None:
    row = disturbed("inner rate", "x 3", 0.0, amount=3.0)
    row["score"] = [None] * TASKS
    effects = Effects(records(row, disturbed("support order", "shuffled", 0.0)))
    text = json.dumps([effect.to_dict(records=True) for effect in effects.all], allow_nan=False)
    assert len(json.loads(text)[1]["differences"]) == TASKS
    judged = judge_stability(effects)
    json.dumps(judged.to_dict(), allow_nan=False)
    assert "1.3 times the inner rate" in next(a.reason for a in judged.silent if a.id == "BRITTLE_INNER_LR")


def test_effects_that_were_not_measured_say_why() -> None:
    with pytest.raises(NotEvaluated, match="no inner steps"):
        Effects(records(skipped={"inner rate": "there are no inner steps"})).of("inner rate")
