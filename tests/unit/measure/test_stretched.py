"""Longer inner steps against their closed form on bowls, and where they go uphill."""

from __future__ import annotations

import pytest
import torch

from cases import Case
from innerloop.core import tree
from innerloop.core.learner import final, states
from innerloop.core.losses import loss_value
from innerloop.core.mode import running_in
from innerloop.core.types import Episode
from innerloop.core.vectorise import take
from innerloop.measure.stretched import SCALES, stretched_losses
from unit.measure.settings import BOWLS, on_bowls, theta_of


def test_a_step_that_goes_s_times_as_far_is_one_at_s_times_the_rate() -> None:
    learner, meta, episodes = on_bowls()
    for i in range(4):
        task = take(episodes, i)
        found = stretched_losses(learner, meta, task, 3)
        centres = BOWLS.centres(Episode(*(type(b)(b.x[None], b.y[None]) for b in task)))
        for scale in SCALES:
            longer = BOWLS.descent(scale * learner.inner_lr, 3)
            expected = longer.meta_losses(theta_of(meta), centres)[0]
            torch.testing.assert_close(found[f"{scale:g}"], expected, rtol=1e-10, atol=0.0)


def test_it_rises_where_the_rate_times_the_curvature_exceeds_two() -> None:
    """The largest curvature is 1.9, so rates above 1.05 diverge: twice 0.6 does, three times 0.3 does not."""
    for rate, uphill in (
        (0.6, {"1.3": False, "2": True, "3": True}),
        (0.3, dict.fromkeys(("1.3", "2", "3"), False)),
    ):
        learner, meta, episodes = on_bowls(inner_lr=rate, inner_steps=30)
        task = take(episodes, 0)
        before = (
            learner.predict(meta, learner.begin(meta, task.support), task.support.x) - task.support.y
        ).square()
        found = stretched_losses(learner, meta, task, 30)
        assert {scale: bool(loss > before.mean()) for scale, loss in found.items()} == uphill


@pytest.mark.parametrize("name", ["MAML", "ANIL", "CAVIA", "MetaSGD"])
def test_twice_as_far_is_the_same_learner_at_twice_the_rate(name: str) -> None:
    """Whatever it adapts: all weights, the head, a context, each weight at a rate of its own."""
    case = Case(name, "mlp")
    learner, meta = case.learner(inner_steps=1), case.meta()
    task = take(case.episodes(1), 0)
    if name == "MetaSGD":
        other, doubled = learner, meta | {"rates": tree.map(lambda rate: 2.0 * rate, meta["rates"])}
    else:
        other, doubled = case.learner(inner_steps=1, inner_lr=2.0 * learner.inner_lr), meta
    with torch.no_grad(), running_in(training=False, first_order=True):
        found = stretched_losses(learner, meta, task, 1)["2"]
        fast = final(states(other, doubled, task.support, 1))
        outputs = other.predict(doubled, fast, task.support.x)
    torch.testing.assert_close(
        found, loss_value(learner.loss, outputs, task.support.y), rtol=1e-8, atol=1e-12
    )
