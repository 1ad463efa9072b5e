"""Several seeds: one that is dead is seen, those that agree are told to, other comparisons are refused."""

from __future__ import annotations

import numpy as np
import pytest

from innerloop.diagnose.finding import Answer, Finding, Passed, Severity, Silent
from innerloop.diagnose.history import History
from innerloop.diagnose.seeds import ID, disagreement, judge_seeds
from innerloop.diagnose.verdict import State, judge
from unit.diagnose.records import Records, curve, flat, healthy, learned, settled


def seed(number: int, losses: np.ndarray | None = None) -> Records:
    """A run that differs from another in nothing but its seed; the probe's tasks are the same."""
    losses = curve(settled(), iterates=0.002, own=0.004) if losses is None else losses
    noise = np.random.default_rng((5, number)).normal(1.0, 0.003, losses.shape)
    return healthy(losses * noise, config={"seed": number})


def asked(*records: Records) -> Answer:
    histories = [record.history for record in records]
    return disagreement(histories, [judge(history) for history in histories])


def together(*records: Records) -> State:
    return judge_seeds([record.history for record in records]).state


DEAD = curve(flat(3.5), iterates=0.001, own=0.004)


def test_three_seeds_that_agree_are_converged() -> None:
    three = [seed(i) for i in range(3)]
    found = judge_seeds([records.history for records in three])
    assert found.state is State.CONVERGED
    assert found.notes == ("all 3 seeds",)
    assert isinstance(asked(*three), Passed)


def test_one_dead_seed_of_three_is_a_disagreement() -> None:
    three = (seed(0), seed(1), seed(2, DEAD))
    answer = asked(*three)
    assert isinstance(answer, Finding)
    assert answer.id == ID
    assert answer.severity is Severity.WARN
    assert len(answer.why) == 3
    assert together(*three) is State.SEED_DISAGREEMENT


def test_the_order_of_runs_does_not_matter() -> None:
    three = [seed(0), seed(1), seed(2, DEAD)]
    values = {asked(*(three[i] for i in order)).value for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0))}  # pyright: ignore
    assert len({round(value, 9) for value in values}) == 1


def test_verdicts_that_exclude_each_other_are_a_disagreement_though_losses_are_alike() -> None:
    """One run has a minimum, the other stands still elsewhere at the same height."""
    still = seed(1).put("signal", 10.0)
    assert isinstance(asked(seed(0), still), Finding)


def test_a_difference_of_a_few_percent_is_none() -> None:
    base = curve(settled(), iterates=0.002, own=0.004)
    assert isinstance(asked(seed(0, base), seed(1, 1.03 * base)), Passed)


def test_a_difference_that_the_tasks_do_not_resolve_is_none() -> None:
    """Apart by a third on average, by two tasks of forty."""
    base = curve(settled(), iterates=0.001, spread=0.0)
    other = base.copy()
    other[:, :2] *= 7.0
    assert isinstance(asked(seed(0, base), seed(1, other)), Passed)


def test_two_converged_seeds_are_too_few() -> None:
    found = judge_seeds([seed(i).history for i in range(2)])
    assert found.state is State.UNRESOLVED
    assert "2 seeds" in found.notes[0]


def test_two_improving_seeds_are_improving() -> None:
    base = curve(learned(), iterates=0.002)
    assert together(seed(0, base), seed(1, base)) is State.IMPROVING


def test_verdicts_that_differ_without_a_contradiction_resolve_nothing() -> None:
    base = curve(settled(), iterates=0.001)
    noisy = curve(settled(), iterates=0.03, seed=3)
    found = judge_seeds([seed(0, base).history, seed(1, noisy).history])
    assert found.state is State.UNRESOLVED
    assert "CONVERGED" in found.notes[0]


def test_converged_seeds_that_end_apart_are_not_one_result() -> None:
    """Seven percent apart: no disagreement yet, and no agreement any more."""
    base = curve(settled(), iterates=0.001, own=0.002)
    assert together(seed(0, base), seed(1, base), seed(2, 1.07 * base)) is State.UNRESOLVED


@pytest.mark.parametrize("name", ["optimizer.lr", "algorithm.inner_steps", "steps"])
def test_runs_that_differ_in_more_than_their_seed_are_not_compared(name: str) -> None:
    other = healthy(curve(settled(), iterates=0.002, own=0.004), config={"seed": 1, name: 5})
    answer = asked(seed(0), other)
    assert isinstance(answer, Silent)
    assert answer.reason == "the runs differ in more than their seed"
    assert answer.id == ID


def test_runs_without_probe_records_are_not_compared() -> None:
    bare = History(seed(0).config, [], [])
    answer = disagreement([bare, bare], [judge(bare)] * 2)
    assert isinstance(answer, Silent)
    assert judge_seeds([bare, bare]).state is State.UNRESOLVED


def test_one_run_is_no_comparison() -> None:
    assert isinstance(asked(seed(0)), Silent)
