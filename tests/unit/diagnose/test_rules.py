"""Rules: each fires on records made for it and on no healthy ones, says why it is silent, never breaks."""

from __future__ import annotations

import copy
import json
import math
import shlex
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from innerloop.cli.configuration import configured
from innerloop.cli.options import parse
from innerloop.cli.settings import gather, merged, takes
from innerloop.core.errors import ConfigError
from innerloop.diagnose.doctor import Diagnosis, diagnose
from innerloop.diagnose.finding import Finding, Passed, Severity, Silent
from innerloop.diagnose.history import History
from innerloop.diagnose.rule import Rule
from innerloop.diagnose.rules import RULES
from innerloop.diagnose.verdict import EPSILON, FROZEN
from unit.diagnose.records import CONFIG, LAYERS, STEPS, Records, curve, flat, healthy, learned, settled

BY_ID = {rule.id: rule for rule in RULES}
AFTER_FIRST = list(range(10, STEPS + 1, 10))


# --- records with one thing wrong ------------------------------------------------------------------------


def converged(config: dict[str, Any] | None = None) -> Records:
    return healthy(curve(settled(), iterates=0.002, own=0.004), config=config)


def half_not_finite() -> Records:
    losses = healthy().history.series("post", split="val").stacked()
    losses[-1, ::2] = np.nan
    return healthy(losses)


def ended_not_finite() -> Records:
    records = healthy()
    records.metrics.append({"kind": "nonfinite", "step": STEPS, "failed_tasks": 9, "tasks": 10})
    return records


def rising_support() -> Records:
    records = healthy().put("curvature", [0.5, 2.5, 4.0])
    for k in range(4):
        records.put("support", 3.0 * 1.4**k * np.ones(25), split="val", inner_step=k)
    return records


def support_not_finite() -> Records:
    return healthy().put("support", np.full(25, np.nan), split="val", inner_step=3)


def chaotic(growth: float) -> Records:
    """Large derivatives, and longer steps that go uphill."""
    return near_its_edge().put("sensitivity", [1.0, growth, 2.0])


def near_its_edge() -> Records:
    records = healthy()
    for scale in (1.3, 2.0, 3.0):
        records.put("stretched", 9.0 * np.ones(25), split="val", scale=scale)
    return records


def backward(at_start: float) -> Records:
    records = healthy()
    for layer in LAYERS:
        records.put("backward", at_start * np.ones(3), layer=layer, inner_step=0)
        records.put("backward", np.ones(3), layer=layer, inner_step=3)
    return records


def relapse() -> Records:
    return healthy(curve(lambda done: np.where(done < 0.5, 2.0 - 2.0 * done, 1.6), iterates=0.003))


def cut_off() -> Records:
    falls = curve(lambda done: 2.0 - 1.2 * np.sin(0.5 * np.pi * np.minimum(1.0, done / 0.9)), iterates=0.002)
    records = healthy(falls, config={"optimizer.schedule": "cosine"})
    done = np.arange(1, len(records.looks)) / (len(records.looks) - 1)
    return records.put("lr", 1e-3 * (1 + np.cos(np.pi * done))[:, None] / 2, at=records.looks[1:])


def better_average() -> Records:
    records = converged()
    post = records.history.series("post", split="val").stacked()
    at = [records.looks.index(step) for step in records.wide[1:]]
    return records.put("averaged", 0.8 * post[at], split="val", at=records.wide[1:])


def no_gain() -> Records:
    losses = curve(flat(3.9), iterates=0.001, own=0.004)
    records = healthy(losses, config={"algorithm.inner_lr": 1e-6}).put("curvature", [2e-5, 4e-5, 5e-5])
    return records.put("pre", 1.0001 * losses, split="val")


def by_heart() -> Records:
    records = converged()
    train = records.setup["train"]
    records.put("post", np.full(train, 0.2), split="train")
    return records.put("wrong", np.full(train // 2, 0.2), split="train")


def overfit() -> Records:
    records = converged()
    return records.put("post", np.full(records.setup["train"], 0.05), split="train")


def some_fail() -> Records:
    losses = curve(settled(), spread=0.0, iterates=0.001)
    losses[:, ::2] *= 0.5
    trivial = np.where(np.arange(40) % 2, 0.1, 4.0)
    return healthy(losses).put("trivial", trivial, split="val")


def one_immense() -> Records:
    records = healthy()
    norms = np.ones((len(records.wide), 8))
    norms[-2:, 0] = 300.0
    return records.put("gradient", norms)


def families_apart() -> Records:
    records = healthy()
    products = np.tile([-0.9, 1.0, 1.0], (len(records.wide), 1))
    return records.put("conflict", products + 0.01 * np.arange(len(products))[:, None], layer="0, 1")


def wrong_gradient() -> Records:
    records = healthy()
    for distance in range(2, 8):
        records.put("quotient", np.full(8, 0.3), inner_step=distance)
    return records


def first_order() -> Records:
    return (
        healthy().known(first_order=True, exact=False).put("first_order", 0.1).put("first_order_error", 1.4)
    )


def on_a_stream(*scores: float) -> Records:
    """Two families of 20 tasks, one after the other; scores of the first after each quarter of the run."""
    records = healthy()
    end = records.looks[-1]
    at = [0, end // 4, end // 2, 3 * end // 4, end]
    half = [{"family": "a", "start": 0, "end": end // 2}, {"family": "b", "start": end // 2, "end": end}]
    records.known(families=["a", "b"], stages=half)
    for name, curve_of in {"a": scores, "b": (0.1, 0.1, 0.1, 0.8, 0.9)}.items():
        records.put("trivial", np.full(20, 4.0), split="val", family=name)
        losses = 4.0 * (1.0 - np.array(curve_of)[:, None] - 0.01 * np.sin(np.arange(20)))
        for quantity in ("post", "score"):
            records.put(quantity, losses, at=at, split="val", family=name)
    return records


#: The rule's name -> records on which it fires, and how severely.
PLANTS: dict[str, list[tuple[Callable[[], Records], Severity]]] = {
    "NONFINITE": [(half_not_finite, Severity.ERROR), (ended_not_finite, Severity.ERROR)],
    "INNER_DIVERGENCE": [(rising_support, Severity.ERROR), (support_not_finite, Severity.ERROR)],
    "INNER_CHAOS": [(lambda: chaotic(5.0), Severity.WARN), (lambda: chaotic(200.0), Severity.ERROR)],
    "SAFETY_FACTOR": [(near_its_edge, Severity.WARN)],
    "VANISHING": [(lambda: backward(1e-4), Severity.WARN)],
    "EXPLODING": [(lambda: backward(50.0), Severity.WARN)],
    "NO_ADAPTATION": [(no_gain, Severity.ERROR)],
    "UPDATE_RATIO": [
        (lambda: healthy().put("update", 0.1 * FROZEN, at=AFTER_FIRST), Severity.WARN),
        (lambda: healthy().put("update", 0.7, at=AFTER_FIRST), Severity.WARN),
    ],
    "STALLED": [
        (lambda: converged().put("signal", 1.0), Severity.ERROR),
        (lambda: converged({"optimizer.lr": 1e-8}).put("update", 1e-9, at=AFTER_FIRST), Severity.ERROR),
    ],
    "REGRESSION": [(relapse, Severity.ERROR)],
    "SCHEDULE_ENDED_EARLY": [(cut_off, Severity.WARN)],
    "NOISE_FLOOR": [(better_average, Severity.WARN)],
    "EVAL_UNDERPOWERED": [(lambda: healthy(curve(flat(), iterates=0.2, own=0.3)), Severity.INFO)],
    "META_GRAD_ZERO": [(lambda: healthy().put("gradient", np.zeros(8)), Severity.ERROR)],
    "META_GRADIENT_WRONG": [(wrong_gradient, Severity.ERROR)],
    "FIRST_ORDER_BIAS": [(first_order, Severity.INFO)],
    "OUTLIER_TASKS": [(one_immense, Severity.WARN)],
    "TASK_CONFLICT": [(families_apart, Severity.WARN)],
    "MEMORISATION": [(by_heart, Severity.ERROR)],
    "META_OVERFIT": [(overfit, Severity.WARN)],
    "TASK_FAILURE": [(some_fail, Severity.WARN)],
    "FORGETTING": [
        (lambda: on_a_stream(0.1, 0.5, 0.9, 0.8, 0.7), Severity.WARN),
        (lambda: on_a_stream(0.1, 0.5, 0.9, 0.4, 0.2), Severity.ERROR),
    ],
    "STABILITY_GAP": [(lambda: on_a_stream(0.1, 0.5, 0.9, 0.3, 0.9), Severity.WARN)],
    "STATE_LEAK": [(lambda: healthy().put("state_leak", 1e-9), Severity.ERROR)],
    "QUERY_LEAK": [(lambda: healthy().put("query_leak", 0.5), Severity.ERROR)],
    "CLASS_LEAK": [(lambda: healthy().put("class_leak", 0.2), Severity.ERROR)],
    "TRANSDUCTION": [(lambda: healthy().put("transduction", 0.1), Severity.WARN)],
}
FIRED = [(name, i) for name, plants in PLANTS.items() for i in range(len(plants))]


def asked(name: str, records: Records) -> Finding | Passed | Silent:
    return BY_ID[name].ask(records.history)


def fired(name: str, index: int = 0) -> Finding:
    found = asked(name, PLANTS[name][index][0]())
    assert isinstance(found, Finding), found
    return found


def told(diagnosis: Diagnosis) -> list[str]:
    return [finding.id for finding in diagnosis.findings]


# --- each rule -------------------------------------------------------------------------------------------


def test_every_rule_has_a_plant_and_its_own_name() -> None:
    assert [rule.id for rule in RULES] == list(dict.fromkeys(rule.id for rule in RULES))
    assert set(BY_ID) == set(PLANTS)


@pytest.mark.parametrize(("name", "index"), FIRED)
def test_each_rule_fires_on_records_made_for_it(name: str, index: int) -> None:
    found = fired(name, index)
    assert found.severity is PLANTS[name][index][1]
    assert found.id == name
    assert found.plot == BY_ID[name].plot
    assert found.step is not None


@pytest.mark.parametrize(("name", "index"), FIRED)
def test_each_finding_says_what_and_why_and_what_to_do(name: str, index: int) -> None:
    found = fired(name, index)
    for text in (found.title, found.advice, *found.why):
        assert 10 < len(text) < 200
        assert "nan" not in text.lower().split()
        assert text == text.strip()
    assert len(found.why) <= 3
    assert found.plot
    assert not math.isnan(found.threshold)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("losses", [curve(learned(), iterates=0.004, own=0.01), None])
def test_every_rule_passes_on_a_healthy_run(losses: np.ndarray | None, seed: int) -> None:
    """All records are there; the only rules without an answer are those of what it does not do."""
    found = diagnose(healthy(losses, seed=seed).history)
    assert told(found) == []
    apart = {"FIRST_ORDER_BIAS", "SCHEDULE_ENDED_EARLY", "TASK_CONFLICT", "FORGETTING", "STABILITY_GAP"}
    assert {s.id for s in found.silent} == apart
    assert all(silent.reason for silent in found.silent)


def test_a_converged_run_has_no_findings() -> None:
    assert told(diagnose(converged().history)) == []


def large_updates(looks: list[int], **rule: Any) -> bool:
    """Whether a rule fires on a run whose updates are large at some looks, of 41."""
    values = np.array([1.0 if look in looks else 0.0 for look in range(1, 41)])[:, None]

    def check(history: History) -> Finding | Passed:
        now = float(history.series("update").last[0])
        return Finding(Severity.WARN, "large", now, 0.5, "less") if now > 0.5 else Passed(now, 0.5)

    records = healthy().put("update", values, at=AFTER_FIRST)
    return isinstance(Rule("X", check, "convergence", "large", **rule).ask(records.history), Finding)


def test_what_has_to_persist_is_found_by_so_many_looks_in_a_row() -> None:
    assert large_updates([40])
    assert not large_updates([40], persist=2)
    assert large_updates([39, 40], persist=2)
    assert not large_updates([37, 38, 39], persist=3)
    assert not large_updates([37, 38, 40], persist=3)
    assert large_updates([38, 39, 40], persist=3)


def test_what_is_seen_at_wide_looks_has_to_persist_over_these() -> None:
    assert not large_updates([38, 39, 40], persist=2, wide=True)
    assert large_updates([35, 40], persist=2, wide=True)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_that_persists_does_not_fire_on_its_first_look(rule: Rule) -> None:
    """Unless it is content with what looks there are."""
    if rule.persist == 1 or rule.within is not None:
        return
    history = PLANTS[rule.id][0][0]().history
    looks = history.wide_looks if rule.wide else history.looks
    first = next(look for look in looks if isinstance(rule.ask(history.until(look)), Finding))
    assert len([look for look in looks if look <= first]) >= rule.persist


def test_a_finding_that_has_gone_is_gone() -> None:
    """The last look decides: updates were too small at all looks but the last ones."""
    values = np.full((len(AFTER_FIRST), 1), 1e-9)
    values[-21:] = 1e-3
    assert isinstance(asked("UPDATE_RATIO", healthy().put("update", values, at=AFTER_FIRST)), Passed)


@pytest.mark.parametrize("name", ["STALLED", "NO_ADAPTATION", "MEMORISATION", "TASK_FAILURE"])
def test_a_run_that_has_only_begun_is_not_judged(name: str) -> None:
    history = PLANTS[name][0][0]().history
    early = BY_ID[name].ask(history.until(50))
    assert isinstance(early, Silent)
    assert early.reason == "asked after 20% of the run"


def test_large_derivatives_that_do_no_harm_are_no_alarm() -> None:
    found = asked("INNER_CHAOS", healthy().put("sensitivity", [500.0, 1.0, 1.0]))
    assert not isinstance(found, Finding) or found.severity is Severity.INFO


def test_an_inexact_path_that_says_so_is_no_error() -> None:
    found = asked("META_GRADIENT_WRONG", wrong_gradient().known(exact=False))
    assert isinstance(found, Finding)
    assert found.severity is Severity.INFO


def test_transduction_that_was_asked_for_is_worth_knowing_and_no_more() -> None:
    records = healthy(config={"algorithm.batch_norm": "transductive"}).put("transduction", 0.1)
    found = asked("TRANSDUCTION", records)
    assert isinstance(found, Finding)
    assert found.severity is Severity.INFO


def test_a_probe_that_more_tasks_would_sharpen_says_how_many() -> None:
    slopes = np.random.default_rng(0).standard_normal(12)
    at = np.linspace(-1.0, 1.0, 41)[:, None]
    found = asked("EVAL_UNDERPOWERED", healthy(1.0 + 0.3 * at * (slopes - slopes.mean())))
    assert isinstance(found, Finding)
    assert found.remedy["probe.tasks"] > 12


def test_families_that_agree_or_have_nothing_to_say_are_no_conflict() -> None:
    wide = len(healthy().wide)
    for products in ([0.5, 1.0, 1.0], [-0.05, 1.0, 1.0]):
        records = healthy().put("conflict", np.tile(products, (wide, 1)), layer="0, 1")
        assert isinstance(asked("TASK_CONFLICT", records), Passed)
    noise = np.random.default_rng(0).standard_normal((wide, 3))
    assert isinstance(asked("TASK_CONFLICT", healthy().put("conflict", noise, layer="0, 1")), Passed)


# --- what follows ----------------------------------------------------------------------------------------


def test_the_worst_comes_first_and_decides_the_exit_code() -> None:
    records = near_its_edge().put("state_leak", 1.0).put("transduction", 0.1)
    found = diagnose(records.history)
    ranks = [finding.severity.rank for finding in found.findings]
    assert ranks == sorted(ranks, reverse=True)
    assert found.findings[0].id == "STATE_LEAK"
    assert found.worst is Severity.ERROR
    assert found.exit_code() == found.exit_code("error") == 2


def test_a_warning_exits_with_one_unless_only_errors_are_to() -> None:
    found = diagnose(near_its_edge().history)
    assert told(found) == ["SAFETY_FACTOR"]
    assert found.exit_code() == 1
    assert found.exit_code("error") == 0


def test_what_is_worth_knowing_is_no_failure() -> None:
    found = diagnose(first_order().history)
    assert told(found) == ["FIRST_ORDER_BIAS"]
    assert found.exit_code() == 0


def test_every_rule_is_answered_once() -> None:
    found = diagnose(rising_support().history)
    answers = [answer.id for answer in (*found.findings, *found.passed, *found.silent)]
    assert sorted(answers) == sorted(BY_ID)


# --- remedies --------------------------------------------------------------------------------------------


def accepted(found: Finding, config: dict[str, Any] = CONFIG) -> dict[str, Any]:
    """The run's configuration with the options of a remedy, as the command line takes them."""
    given = gather(parse(shlex.split(found.options), takes))
    return configured(merged(config, given)).to_dict()


@pytest.mark.parametrize(("name", "index"), FIRED)
def test_each_remedy_is_made_of_settings_that_exist(name: str, index: int) -> None:
    found = fired(name, index)
    plant = PLANTS[name][index][0]()
    whole = accepted(found, plant.config)
    for setting, value in found.remedy.items():
        group, _, last = setting.partition(".")
        stored = whole[group][last] if last else whole[group]
        stored = stored["name"] if isinstance(stored, dict) else stored
        assert stored == value or float(stored) == float(value), setting
    assert not found.remedy or whole != configured(plant.config).to_dict()


def test_errors_that_a_setting_mends_have_a_remedy() -> None:
    mended = ("NONFINITE", "INNER_DIVERGENCE", "INNER_CHAOS", "NO_ADAPTATION", "REGRESSION", "MEMORISATION")
    assert all(fired(name).remedy for name in mended)
    assert fired("STALLED", 1).remedy == {"optimizer.lr": 1e-3}


def test_a_misspelt_remedy_would_be_refused() -> None:
    """The planted bug: what the test above has to catch."""
    for remedy in ({"optimiser.lr": 0.1}, {"optimizer.learning_rate": 0.1}, {"algorithm": "MAMMAL"}):
        with pytest.raises(ConfigError):
            accepted(Finding(Severity.WARN, "", 0.0, 0.0, "", remedy=remedy))


@pytest.mark.parametrize("name", ["INNER_DIVERGENCE", "SAFETY_FACTOR", "EXPLODING"])
def test_a_slower_inner_rate_is_slower(name: str) -> None:
    rate = fired(name).remedy["algorithm.inner_lr"]
    assert 0 < rate < CONFIG["algorithm"]["inner_lr"]


def test_an_inner_rate_is_not_divided_by_the_curvature_of_weights_that_have_diverged() -> None:
    found = asked("INNER_DIVERGENCE", rising_support().put("curvature", [1e9, 1.0, 1.0]))
    assert isinstance(found, Finding)
    assert found.remedy["algorithm.inner_lr"] == pytest.approx(CONFIG["algorithm"]["inner_lr"] / 100)


def test_an_inner_rate_that_does_nothing_is_raised_to_where_it_does() -> None:
    """To half of alpha lambda_max at once, not tenfold at a time; one that is not small is left alone."""
    assert fired("NO_ADAPTATION").remedy == {"algorithm.inner_lr": pytest.approx(1e-6 * 0.5 / 5e-5)}
    found = asked("NO_ADAPTATION", no_gain().put("curvature", [0.4, 0.4, 0.4]))
    assert isinstance(found, Finding)
    assert found.remedy == {}


def test_an_algorithm_without_an_inner_rate_is_not_told_to_change_it() -> None:
    records = rising_support()
    records.config["algorithm"] = {"name": "LearnedOptimizer"}
    found = asked("INNER_DIVERGENCE", records)
    assert isinstance(found, Finding)
    assert "algorithm.inner_lr" not in found.remedy
    accepted(found)


# --- records that are not as they should be --------------------------------------------------------------

NEEDED = {
    "NONFINITE": ["post"],
    "INNER_DIVERGENCE": ["support"],
    "INNER_CHAOS": ["sensitivity"],
    "SAFETY_FACTOR": ["stretched", "support"],
    "VANISHING": ["backward"],
    "EXPLODING": ["backward"],
    "NO_ADAPTATION": ["pre", "post"],
    "UPDATE_RATIO": ["update"],
    "STALLED": ["post"],
    "REGRESSION": ["post", "trivial"],
    "NOISE_FLOOR": ["averaged"],
    "EVAL_UNDERPOWERED": ["post"],
    "META_GRAD_ZERO": ["gradient"],
    "META_GRADIENT_WRONG": ["quotient"],
    "OUTLIER_TASKS": ["gradient"],
    "MEMORISATION": ["wrong", "post", "trivial"],
    "META_OVERFIT": ["post", "trivial"],
    "TASK_FAILURE": ["post", "trivial"],
    "STATE_LEAK": ["state_leak"],
    "QUERY_LEAK": ["query_leak"],
    "CLASS_LEAK": ["class_leak"],
    "TRANSDUCTION": ["transduction"],
}


@pytest.mark.parametrize(("name", "missing"), [(n, m) for n, records in NEEDED.items() for m in records])
def test_a_rule_whose_record_is_missing_says_so(name: str, missing: str) -> None:
    found = asked(name, PLANTS[name][0][0]().without(missing))
    assert isinstance(found, Silent), found
    assert found.reason
    assert found.id == name


@pytest.mark.parametrize("name", ["INNER_CHAOS", "VANISHING", "META_GRAD_ZERO", "UPDATE_RATIO", "CLASS_LEAK"])
def test_the_reason_is_the_one_that_the_probe_wrote_down(name: str) -> None:
    record = NEEDED[name][0]
    records = healthy().without(record).known(skipped={record: "does not apply to this learner"})
    found = asked(name, records)
    assert isinstance(found, Silent)
    assert found.reason == "does not apply to this learner"


def test_a_run_of_before_there_was_a_probe_has_no_findings_and_no_errors() -> None:
    found = diagnose(History(CONFIG, healthy().metrics, []))
    assert told(found) == []
    assert len(found.silent) == len(RULES)
    assert found.exit_code() == 0


def test_nothing_at_all_is_diagnosed() -> None:
    found = diagnose(History({}))
    assert told(found) == []
    assert found.verdict.notes == ("no probe records",)


BASES = [healthy(), converged(), relapse(), rising_support(), by_heart(), better_average(), families_apart()]


@pytest.mark.parametrize("name", sorted({row["name"] for row in healthy().rows} - {"setup"}))
def test_a_record_that_is_not_finite_breaks_no_rule(name: str) -> None:
    """All of it, and all of its last look."""
    for only_last in (False, True):
        rows = copy.deepcopy(healthy().rows)
        steps = [row["step"] for row in rows if row["name"] == name]
        for row in rows:
            if row["name"] == name and (not only_last or row["step"] == max(steps)):
                row["values"] = [None] * len(row["values"])
        found = diagnose(History(CONFIG, [], rows))
        json.dumps(found.to_dict(), allow_nan=False)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_rule_breaks_on_what_is_left_of_records(data: st.DataObject) -> None:
    """Any subset of lines, names left out, numbers that are null, fewer tasks, an early end, no setup."""
    base = data.draw(st.sampled_from(BASES))
    random = Random(data.draw(st.integers(0, 10**6)))
    names = sorted({row["name"] for row in base.rows})
    dropped = data.draw(st.sets(st.sampled_from(names), max_size=len(names)))
    keep, null, short = (data.draw(st.sampled_from([0.0, 0.02, 0.3, 1.0])) for _ in range(3))
    rows = []
    for row in copy.deepcopy(base.rows):
        if row["name"] in dropped or random.random() > keep + 0.05:
            continue
        if "values" in row:
            row["values"] = [None if random.random() < null else v for v in row["values"]]
            if random.random() < short:
                row["values"] = row["values"][: random.randint(1, len(row["values"]))]
        rows.append(row)
    config = data.draw(st.sampled_from([{}, CONFIG, base.config, CONFIG | {"steps": 10**6}]))
    metrics = base.metrics[: data.draw(st.integers(0, len(base.metrics)))]
    history = History(config, metrics, rows)
    end = data.draw(st.sampled_from([0, 10, 60, 200, STEPS]))
    for found in (diagnose(history), diagnose(history.until(end), epsilon=5 * EPSILON)):
        assert len(found.findings) + len(found.passed) + len(found.silent) == len(RULES)
        json.dumps(found.to_dict(), allow_nan=False)
        assert all(silent.reason for silent in found.silent)


def test_a_rule_that_breaks_is_seen() -> None:
    """The planted bug: the tests above would pass if errors were swallowed."""

    def broken(history: History) -> Passed:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        diagnose(healthy().history, rules=[Rule("X", broken, "convergence", "breaks")])
