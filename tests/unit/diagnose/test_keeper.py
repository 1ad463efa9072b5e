"""Which checkpoint is kept: the earliest that none beats beyond doubt."""

from __future__ import annotations

import numpy as np
import pytest

from innerloop.diagnose.keeper import earliest_best
from innerloop.diagnose.verdict import EPSILON
from unit.diagnose.records import EVERY, LOOKS, Records, curve, falling, flat, settled


def kept(losses: np.ndarray) -> int:
    """The look that is kept."""
    return earliest_best(Records(losses).history) // EVERY


def test_a_steady_fall_keeps_the_last_within_epsilon() -> None:
    last = kept(curve(falling(0.2)))
    level = np.exp(-0.4 * np.linspace(0, 1, LOOKS))
    assert level[last] <= level[-1] * (1 + 2 * EPSILON)


def test_what_is_flat_keeps_the_first() -> None:
    assert kept(curve(flat())) == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_has_settled_keeps_a_look_soon_after_it_did(seed: int) -> None:
    losses = curve(settled(), iterates=0.002, own=0.01, seed=seed)
    found = kept(losses)
    assert losses[found].mean() <= losses[-1].mean() * (1 + 2 * EPSILON)
    assert found < LOOKS // 2


def test_a_run_that_got_worse_keeps_its_best() -> None:
    losses = curve(lambda done: 1.0 + 4.0 * np.abs(done - 0.5), iterates=0.0)
    assert abs(kept(losses) - LOOKS // 2) <= 1


def test_a_lucky_look_takes_no_place() -> None:
    """One of 40 flat looks is better by chance in most tasks, by more than nothing and less than epsilon."""
    losses = curve(flat(), own=0.01)
    losses[20] *= 1 - 0.5 * EPSILON
    assert kept(losses) == 0


def test_a_gain_on_one_task_alone_takes_no_place() -> None:
    """The mean falls by a fifth, on a single task of forty: that is no gain beyond doubt."""
    losses = curve(flat(), spread=0.0)
    losses[20:, 0] = 0.0
    losses[:20, 0] *= 5.0
    assert kept(losses) == 0


def test_many_small_gains_together_take_a_place() -> None:
    """Each look is better by a tenth of epsilon; forty of them are not."""
    losses = curve(falling(0.5 * 40 * 0.1 * EPSILON))
    assert kept(losses) > 0


def test_tasks_that_are_not_finite_count_as_failed() -> None:
    losses = curve(settled())
    losses[30:, :10] = np.nan
    assert kept(losses) < 30
