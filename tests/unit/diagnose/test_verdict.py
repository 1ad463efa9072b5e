"""The verdict: each is reached by records made for it, and not by those next to them."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from innerloop.diagnose import verdict
from innerloop.diagnose.history import History
from innerloop.diagnose.statistics import mean_of
from innerloop.diagnose.verdict import CLEAR, EPSILON, FROZEN, LEAST_LOOKS, State, judge
from unit.diagnose.records import (
    CONFIG,
    LOOKS,
    STEPS,
    Records,
    curve,
    falling,
    flat,
    healthy,
    learned,
    settled,
)

CONVERGED = curve(settled(), iterates=0.002, own=0.004)


def state(records: Records) -> State:
    return judge(records.history).state


# --- each state, and its neighbour -----------------------------------------------------------------------


def test_a_curve_that_falls_is_improving() -> None:
    found = judge(healthy().history)
    assert found.state is State.IMPROVING
    assert found.change + found.half_width < 0
    assert not found.stops


def test_a_curve_that_has_long_been_flat_at_a_minimum_is_converged() -> None:
    found = judge(healthy(CONVERGED).history)
    assert found.state is State.CONVERGED
    assert abs(found.change) + found.half_width < EPSILON
    assert found.predicted_gain is not None
    assert found.stops


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.005, 0.02])
def test_a_curve_that_falls_by_a_little_more_than_epsilon_is_never_converged(noise: float) -> None:
    for seed in range(20):
        losses = curve(falling(1.4 * EPSILON), iterates=noise, own=noise, seed=seed)
        assert state(healthy(losses)) is not State.CONVERGED


def test_a_larger_epsilon_calls_the_same_curve_converged() -> None:
    records = healthy(curve(falling(1.4 * EPSILON), iterates=0.001))
    assert judge(records.history, epsilon=5 * EPSILON).state is State.CONVERGED
    assert judge(records.history).state is State.IMPROVING


def test_flat_with_a_gradient_that_is_clearly_not_zero_is_stalled() -> None:
    records = healthy(CONVERGED).put("signal", 0.1 * 5 * CLEAR)
    found = judge(records.history)
    assert found.state is State.STALLED
    assert found.signal == pytest.approx(5 * CLEAR)
    assert not found.stops


def test_a_gradient_of_the_size_of_its_noise_is_no_stall() -> None:
    assert state(healthy(CONVERGED).put("signal", 0.1 * 0.5 * CLEAR)) is State.CONVERGED


def test_a_few_large_gradients_among_many_small_ones_are_no_stall() -> None:
    """It is the lower end of an interval that has to be above zero, not a mean that one look makes."""
    records = healthy(CONVERGED)
    values = np.full((len(records.wide), 1), 0.001)
    values[-1] = 1.2
    assert state(records.put("signal", values)) is not State.STALLED


def test_what_does_not_move_is_stalled_though_its_gradient_is_not_known() -> None:
    at = list(range(10, STEPS + 1, 10))
    records = healthy(CONVERGED).put("update", FROZEN / 10, at=at).without("signal")
    assert state(records) is State.STALLED
    assert state(records.put("update", FROZEN * 10, at=at)) is State.CONVERGED


def test_what_improves_is_not_stalled_however_clear_its_gradient() -> None:
    assert state(healthy().put("signal", 10.0)) is State.IMPROVING


def test_flat_beside_a_better_average_is_at_its_noise_floor() -> None:
    records = healthy(CONVERGED)
    wide = CONVERGED[[records.looks.index(step) for step in records.wide[1:]]]
    assert state(records.put("averaged", 0.9 * wide, split="val", at=records.wide[1:])) is State.NOISE_FLOOR
    assert state(records.put("averaged", 0.995 * wide, split="val", at=records.wide[1:])) is State.CONVERGED


def test_a_curve_that_rises_is_worsening() -> None:
    losses = curve(lambda done: 1.0 + 0.5 * np.maximum(0, done - 0.5), iterates=0.002)
    found = judge(healthy(losses).history)
    assert found.state is State.WORSENING
    assert found.stops


def test_a_curve_that_rose_and_is_flat_since_is_worse_than_its_best() -> None:
    """Its last window is flat; that it was better before is what counts."""
    losses = curve(lambda done: np.where(done < 0.3, 1.0, 1.2), iterates=0.002)
    found = judge(healthy(losses).history)
    assert found.state is State.WORSENING
    assert "best" in " ".join(found.notes)


def test_one_lucky_look_makes_nothing_worse() -> None:
    losses = CONVERGED.copy()
    losses[LOOKS // 2] *= 0.9
    assert state(healthy(losses)) is not State.WORSENING


def test_noise_alone_is_not_worsening() -> None:
    told = [state(healthy(curve(settled(), iterates=0.03, own=0.05, seed=s))) for s in range(40)]
    assert told.count(State.WORSENING) <= 2


def cosine(steps: int = LOOKS) -> np.ndarray:
    done = np.arange(1, steps) / (steps - 1)
    return 1e-3 * (1 + np.cos(np.pi * done)) / 2


def test_a_rate_that_ran_out_while_the_loss_fell_ended_too_early() -> None:
    losses = curve(lambda done: 2.0 - 1.2 * np.sin(0.5 * np.pi * np.minimum(1.0, done / 0.9)), iterates=0.002)
    records = healthy(losses, config={"optimizer.schedule": "cosine"})
    records.put("lr", cosine()[:, None], at=records.looks[1:])
    assert state(records) is State.SCHEDULE_ENDED


def test_a_rate_that_ran_out_after_the_loss_was_flat_ended_in_time() -> None:
    records = healthy(CONVERGED, config={"optimizer.schedule": "cosine"})
    records.put("lr", cosine()[:, None], at=records.looks[1:])
    assert state(records) is State.CONVERGED


def test_a_rate_that_is_still_large_has_not_ended() -> None:
    losses = curve(learned(), iterates=0.002)
    records = healthy(losses, config={"optimizer.schedule": "cosine"})
    assert state(records.put("lr", 3e-4 + cosine()[:, None], at=records.looks[1:])) is State.IMPROVING


@pytest.mark.parametrize(("share", "broken"), [(0.5, True), (0.1, False)])
def test_tasks_that_are_not_finite_break_a_run_only_if_many_are(share: float, broken: bool) -> None:
    losses = healthy().history.series("post", split="val").stacked()
    losses[-1, : int(share * losses.shape[1])] = np.nan
    assert (state(healthy(losses)) is State.NONFINITE) is broken


def test_a_training_loss_that_is_not_finite_is_told() -> None:
    records = healthy()
    records.metrics[-1]["loss"] = None
    found = judge(records.history)
    assert found.state is State.NONFINITE
    assert "training loss" in found.notes[0]


def test_few_broken_tasks_are_named_beside_the_verdict() -> None:
    losses = healthy().history.series("post", split="val").stacked()
    losses[-1, 0] = np.nan
    assert any("not finite" in note for note in judge(healthy(losses).history).notes)


def test_what_the_probe_cannot_see_is_not_resolved() -> None:
    found = judge(healthy(curve(flat(), iterates=0.1, own=0.3)).history)
    assert found.state is State.UNRESOLVED
    assert found.half_width > EPSILON


def test_what_is_flat_for_the_first_time_is_not_yet_converged() -> None:
    """Flat for the last window and a bit, falling before: one window is one draw of the noise."""
    losses = curve(lambda done: 1.0 + np.maximum(0.0, 0.4 - done), iterates=0.0005, own=0.001)
    told = [judge(healthy(losses).history.until(step)) for step in range(300, STEPS + 1, 10)]
    assert any("flat, for the first time" in found.notes for found in told)
    first = next(i for i, found in enumerate(told) if "flat, for the first time" in found.notes)
    assert told[first].state is State.UNRESOLVED


def test_a_power_law_that_expects_more_is_heard() -> None:
    """Each window falls by less than epsilon, but twice the steps would gain several of it."""
    slow = curve(lambda done: (1.0 + 60.0 * done) ** -0.04, looks=81)
    found = judge(Records(slow).history, epsilon=0.04)
    assert found.predicted_gain is not None
    assert found.state is State.CONVERGED
    tight = judge(Records(slow).history, epsilon=0.031)
    assert tight.predicted_gain is None or tight.predicted_gain[0] < 2 * 0.031 or not tight.stops


@pytest.mark.parametrize("looks", range(1, LEAST_LOOKS))
def test_fewer_looks_than_a_window_needs_resolve_nothing(looks: int) -> None:
    found = judge(Records(curve(learned(), looks=looks)).history)
    assert found.state is State.UNRESOLVED
    assert math.isnan(found.change)
    assert str(LEAST_LOOKS) in found.notes[-1]


def test_no_probe_is_not_resolved_and_says_why() -> None:
    found = judge(History(CONFIG, [{"kind": "train", "step": 3, "loss": 1.0}], []))
    assert found.state is State.UNRESOLVED
    assert found.notes == ("no probe records",)


# --- what it rests on ------------------------------------------------------------------------------------


def test_a_jump_of_the_rate_begins_the_window_anew() -> None:
    """What was gained by the drop of the rate is no trend; a rate that glides jumps nowhere."""
    losses = curve(lambda done: np.where(done < 0.6, 1.0, 0.8), iterates=0.001, own=0.002)
    rates = np.where(np.arange(1, LOOKS) / (LOOKS - 1) < 0.6, 1e-3, 1e-4)[:, None]
    found = {}
    for schedule in ("step", "linear"):
        records = healthy(losses, config={"optimizer.schedule": schedule})
        records.put("lr", rates, at=records.looks[1:])
        found[schedule] = judge(records.history)
    assert found["step"].window is not None
    assert found["step"].window[0] >= 0.6 * STEPS
    assert abs(found["step"].change) < EPSILON
    assert found["linear"].change < -EPSILON


def test_the_window_is_the_last_half_of_the_looks() -> None:
    found = judge(healthy().history)
    assert found.window == (STEPS // 2, STEPS)
    assert found.looks == LOOKS // 2 + 1
    assert found.tasks == 40


def test_one_task_of_immense_loss_does_not_decide() -> None:
    losses = CONVERGED.copy()
    losses[:, 0] = np.geomspace(1e4, 1e9, LOOKS)
    assert state(healthy(losses)) is state(healthy(CONVERGED))


def test_tasks_of_a_probe_that_was_made_smaller_are_those_that_all_looks_have() -> None:
    records = healthy()
    rows = records.rows
    for row in rows:
        if row["name"] == "post" and row.get("split") == "val" and row["step"] > 30:
            row["values"] = row["values"][:25]
    found = judge(History(records.config, records.metrics, rows))
    assert found.tasks == 25
    assert found.state is State.IMPROVING


@pytest.mark.parametrize("records", [healthy(), healthy(CONVERGED), healthy(curve(flat(), iterates=0.1))])
def test_what_was_said_at_a_step_does_not_depend_on_what_came_after(records: Records) -> None:
    """`until(step)` is the records cut off there: there is no other way to see the future."""
    for step in range(0, STEPS + 1, 70):
        rows = [row for row in records.rows if row["step"] <= step]
        metrics = [row for row in records.metrics if row["step"] <= step]
        cut = History(records.config, metrics, rows)
        assert judge(records.history.until(step)) == judge(cut) or step == 0
        assert str(judge(records.history.until(step))) == str(judge(cut))
        assert records.history.until(step).step == cut.step


def test_until_of_until_is_the_earlier_one() -> None:
    history = healthy().history
    assert history.until(200).until(100).looks == history.until(100).looks


# --- how often it is right -------------------------------------------------------------------------------

LEVELS = ((0.0, 0.002), (0.002, 0.01), (0.005, 0.02), (0.01, 0.05), (0.03, 0.1))


@pytest.mark.parametrize("noise", LEVELS)
@pytest.mark.parametrize("shape", ["exponential", "power", "line"])
def test_a_run_that_still_falls_by_twice_epsilon_is_rarely_called_converged(
    shape: str, noise: tuple[float, float]
) -> None:
    """At each of 100 noisy runs, and at three points of each: at most 5 %, counted for each point."""
    iterates, own = noise
    windows = {
        "exponential": falling(2 * EPSILON),
        "power": lambda done: (0.2 + done) ** -0.035,
        "line": lambda done: 1.0 - 2 * 2.2 * EPSILON * done,
    }
    wrong: Counter[int] = Counter()
    for seed in range(100):
        losses = curve(windows[shape], iterates=iterates, own=own, looks=61, tasks=25, seed=seed)
        history = Records(losses).history
        for look in (40, 50, 60):
            wrong[look] += judge(history.until(10 * look)).state is State.CONVERGED
    for look, count in wrong.items():
        assert count <= 5, (look, count)


def test_the_simulated_curves_fall_by_what_they_say() -> None:
    """Else the test above would say nothing."""
    for mean in (falling(2 * EPSILON), lambda done: (0.2 + done) ** -0.035, lambda d: 1 - 4.4 * EPSILON * d):
        for last in (40, 50, 60):
            levels = mean(np.linspace(0, 1, 61))[: last + 1]
            assert levels[last // 2] / levels[-1] - 1 >= 1.3 * EPSILON


@pytest.mark.parametrize("noise", [(0.0005, 0.002), (0.002, 0.01)])
def test_a_run_that_has_converged_is_called_so_where_noise_is_small(noise: tuple[float, float]) -> None:
    """Of 30 runs, those whose half-width is below epsilon / 2, four in five and more."""
    told = []
    for seed in range(30):
        losses = curve(settled(), iterates=noise[0], own=noise[1], looks=61, seed=seed)
        found = judge(healthy(losses, seed=seed).history)
        if found.half_width < EPSILON / 2:
            told.append(found.state)
    assert len(told) >= 15
    assert told.count(State.CONVERGED) >= 0.8 * len(told)


def test_so_many_tasks_as_are_asked_for_resolve_it() -> None:
    """The trends of tasks differ; with the number that is asked for, the half-width is about epsilon."""

    def run(tasks: int, seed: int) -> verdict.Verdict:
        rng = np.random.default_rng(seed)
        at = np.linspace(-1.0, 1.0, LOOKS)[:, None]
        losses = 1.0 + 0.08 * at * rng.standard_normal(tasks) + 0.0005 * rng.standard_normal((LOOKS, 1))
        return judge(Records(losses).history)

    asked = [run(40, seed) for seed in range(20)]
    needed = [found.tasks_needed for found in asked if found.tasks_needed is not None]
    assert len(needed) >= 15
    count = int(np.median(needed))
    assert count > 80
    assert all(f"{found.tasks_needed} probe tasks" in str(found) for found in asked if found.tasks_needed)
    widths = [run(count, 100 + seed).half_width for seed in range(20)]
    assert float(np.median(widths)) == pytest.approx(EPSILON, rel=0.15)


def test_no_number_of_tasks_helps_where_the_iterates_are_noisy() -> None:
    found = judge(healthy(curve(flat(), iterates=0.1, tasks=400)).history)
    assert found.state is State.UNRESOLVED
    assert found.tasks_needed is None


# --- how it is told --------------------------------------------------------------------------------------


def test_the_sentence_has_its_number_and_resolution() -> None:
    found = judge(healthy().history)
    assert str(found).startswith("IMPROVING: still improving; do not stop (-")
    assert f"{100 * found.change:+.1f} % +- {100 * found.half_width:.1f} % per window" in str(found)


def test_each_state_reads_as_a_sentence_of_its_own() -> None:
    sentences = [state.value for state in State]
    assert len(set(sentences)) == len(sentences) == 9


def test_json_has_no_number_that_is_not_one() -> None:
    told = judge(Records(curve(learned(), looks=3)).history).to_dict()
    assert told["change"] is None
    assert told["half_width"] is None
    assert told["state"] == "UNRESOLVED"


def test_stopping_is_for_two_states_alone() -> None:
    assert {s for s in State if verdict.Verdict(s).stops} == {State.CONVERGED, State.WORSENING}


def test_averages_are_compared_on_the_same_tasks() -> None:
    """A planted bug, means of different tasks, would take the spread of tasks for a gain."""
    records = healthy(CONVERGED)
    gained = verdict.averaging(records.history)
    assert gained is not None
    at = [records.looks.index(step) for step in records.wide[1:]]
    expected = CONVERGED[at] - 1.01 * CONVERGED[at]
    assert gained.value == pytest.approx(float(expected.mean()), rel=1e-6)
    assert gained.error <= mean_of(CONVERGED[at].mean(0)).error / 10
