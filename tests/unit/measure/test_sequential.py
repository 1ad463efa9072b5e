"""Adapting to task after task without going back, against a linear model computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cases import CASES, Case
from innerloop.algorithms import MAML, Reptile
from innerloop.core import tree
from innerloop.core.learner import adapt
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import take
from innerloop.diagnose.finding import NotEvaluated
from innerloop.measure.sequential import sequential, sequential_rows
from innerloop.models import MLP
from unit.measure.settings import BOWLS, RATE, STEPS, double, on_bowls, theta_of

TASKS, REPEATS = 3, 2
QUICK = [case for case in CASES if case.network == "mlp"]


def in_a_row(episodes: Episode, tasks: int = TASKS) -> dict[str, Episode]:
    return {f"task {i + 1}": take(episodes, slice(i, None, tasks)) for i in range(tasks)}


def by_hand() -> tuple[MAML, Meta, dict[str, Episode], Tensor]:
    """y = w x + b, one step of gradient descent with rate 0.1 on each task, with numbers alone."""
    learner = MAML(MLP(1, 1, hidden=()), inner_lr=0.1, inner_steps=1, loss="mse")
    meta = double(learner.init(torch.Generator().manual_seed(0)))
    w, b = (float(meta["params"][name]) for name in ("head.weight", "head.bias"))
    points = {"rise": ([1.0, 2.0], [2.0, 4.0]), "fall": ([1.0, -1.0], [-3.0, 3.0])}
    tasks, lines = {}, [(w, b)]
    for name, (x, y) in points.items():
        batch = Batch(*(torch.tensor(v, dtype=torch.float64).view(1, 2, 1) for v in (x, y)))
        tasks[name] = Episode(batch, batch)
        off = [w * xi + b - yi for xi, yi in zip(x, y, strict=True)]
        slope = sum(2 * o * xi for o, xi in zip(off, x, strict=True)) / 2
        w, b = w - 0.1 * slope, b - 0.1 * sum(2 * o for o in off) / 2
        lines.append((w, b))
    errors = [
        [sum((w * xi + b - yi) ** 2 for xi, yi in zip(x, y, strict=True)) / 2 for x, y in points.values()]
        for w, b in lines
    ]
    return learner, meta, tasks, torch.tensor([errors], dtype=torch.float64)


def test_a_line_with_one_step_is_what_the_hand_computes() -> None:
    learner, meta, tasks, expected = by_hand()
    torch.testing.assert_close(sequential(learner, meta, tasks, "mse"), expected, rtol=1e-9, atol=1e-12)


def test_the_second_task_costs_the_first() -> None:
    learner, meta, tasks, _ = by_hand()
    scores = sequential(learner, meta, tasks, "mse")[0]
    assert scores[1, 0] < scores[0, 0]
    assert scores[2, 0] > scores[1, 0]


def test_on_bowls_each_task_pulls_to_its_own_centre() -> None:
    learner, meta, episodes = on_bowls(TASKS * REPEATS)
    found = sequential(learner, meta, in_a_row(episodes), "mse")
    descent, centres = BOWLS.descent(RATE, STEPS), BOWLS.centres(episodes).view(REPEATS, TASKS, 3)
    h, theta = descent.curvatures, theta_of(meta).expand(REPEATS, 3)
    expected = []
    for i in range(TASKS + 1):
        theta = theta if i == 0 else descent.adapted(theta, centres[:, i - 1])
        expected.append(0.5 * (h * (theta[:, None] - centres).square()).sum(-1))
    torch.testing.assert_close(found, torch.stack(expected, 1), rtol=1e-9, atol=1e-12)


def test_going_back_after_each_task_is_told() -> None:
    """The planted bug: every task begins with the meta-parameters."""

    class Forgetful(MAML):
        def displaced(self, meta: Meta, fast: Any) -> Meta:
            return meta

    learner, meta, episodes = on_bowls(TASKS * REPEATS)
    tasks = in_a_row(episodes)
    wrong = Forgetful(learner.module, inner_lr=RATE, inner_steps=STEPS, loss="mse")
    one, two = (sequential(which, meta, tasks, "mse") for which in (learner, wrong))
    torch.testing.assert_close(one[:, :2], two[:, :2])
    assert bool((one[:, 2:] - two[:, 2:]).abs().min() > 1e-6)


def test_the_first_row_is_before_adaptation_and_the_second_that_of_the_first_task_alone() -> None:
    learner, meta, episodes = on_bowls(TASKS * REPEATS)
    tasks = in_a_row(episodes)
    found = sequential(learner, meta, tasks, "mse")
    query = take(episodes, 0).query
    with torch.no_grad():
        before = learner.predict(meta, learner.begin(meta, query), query.x)
        after = learner.predict(meta, adapt(learner, meta, query, STEPS), query.x)
    for row, outputs in ((0, before), (1, after)):
        torch.testing.assert_close(found[0, row, 0], (outputs - query.y).square().mean())


def test_the_usual_steps_are_those_at_test() -> None:
    learner, meta, episodes = on_bowls(TASKS * REPEATS)
    other = on_bowls(1, inner_steps=1, test_inner_steps=STEPS)[0]
    one, two = (sequential(which, meta, in_a_row(episodes), "mse") for which in (learner, other))
    assert torch.equal(one, two)


# --- every algorithm -------------------------------------------------------------------------------------


def asked(case: Case, axis: Any) -> Tensor | NotEvaluated:
    metric = "mse" if case.regression else "accuracy"
    try:
        return sequential(
            case.learner(), case.meta(), in_a_row(case.episodes(TASKS * REPEATS)), metric, axis=axis
        )
    except NotEvaluated as reason:
        return reason


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_every_algorithm_is_measured_or_says_why_not(case: Case) -> None:
    found, learner = asked(case, "vmap"), case.learner()
    if isinstance(found, NotEvaluated):
        why = "takes no inner steps" if not learner.test_inner_steps else "no state that a next task"
        assert why in str(found)
        return
    assert found.shape == (REPEATS, TASKS + 1, TASKS)
    assert bool(found[:, 1:].isfinite().all())
    assert bool(found[:, 0].isnan().all() if learner.amortised else found[:, 0].isfinite().all())
    looped = asked(case, "loop")
    assert isinstance(looped, Tensor)
    torch.testing.assert_close(found, looped, rtol=1e-7, atol=1e-9, equal_nan=True)


def test_nothing_is_changed_by_looking() -> None:
    case = next(c for c in QUICK if c.kind is Reptile)
    learner, meta = case.learner(), case.meta()
    before = tree.map(torch.clone, meta)
    for _ in range(2):
        sequential(learner, meta, in_a_row(case.episodes(TASKS)), "mse")
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(meta), tree.leaves(before), strict=True))


# --- records ---------------------------------------------------------------------------------------------


def test_a_record_is_of_a_number_of_tasks_and_the_task_that_is_judged() -> None:
    scores = torch.arange(24.0).view(2, 4, 3)
    scores[0, 0, 0] = torch.nan
    rows = sequential_rows(scores, ["a", "b", "c"], 70)
    assert [(r["inner_step"], r["family"]) for r in rows] == [(i, n) for i in range(4) for n in "abc"]
    assert {(r["step"], r["name"], r["split"]) for r in rows} == {(70, "sequential", "val")}
    assert rows[0]["values"] == [None, 12.0]
    assert rows[5]["values"] == [5.0, 17.0]
