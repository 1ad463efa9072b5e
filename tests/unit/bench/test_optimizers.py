"""A learned optimizer beside tuned ones: the same problems and starts, honest tuning, known answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from innerloop.algorithms import LearnedOptimizer
from innerloop.bench.optimizers import Row, around, as_text, compare_optimizers, wider
from innerloop.core.errors import ContractError
from innerloop.core.mode import running_in
from innerloop.core.types import Meta
from innerloop.core.vectorise import take
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.models import MLP
from innerloop.tasks import OptimizeMLP, Quadratics

PROBLEMS, STEPS, DIM = 30, 6, 4
RATES = tuple(10 ** (k / 2) for k in range(-6, 2))


def descent(rate: float) -> tuple[LearnedOptimizer, Meta]:
    """A learned optimizer whose weights make it plain gradient descent."""
    module = MLP(DIM, 1, hidden=(), bias=False)
    learner = LearnedOptimizer(
        module, layers=0, preprocess=None, output_scale=1.0, init_scale=0.1, loss="mse"
    )
    return learner, {"optimizer": {"output": {"weight": torch.tensor([[-rate]]), "bias": torch.zeros(1)}}}


def compared(rate: float, **how: Any) -> dict[str, Row]:
    learner, meta = descent(rate)
    settings = {"steps": STEPS, "problems": PROBLEMS, "rates": RATES} | how
    return {row.name: row for row in compare_optimizers(learner, meta, Quadratics(DIM), **settings)}


def by_hand(kind: Any, rate: float, split: Any, steps: int, **how: Any) -> Tensor:
    """Losses [problems, steps + 1] of an optimizer of torch on the same problems from the same starts."""
    learner, meta = descent(rate)
    curves = []
    for block, keys in FixedEpisodes(split, PROBLEMS, 0).blocks(Quadratics(DIM)):
        for i, key in enumerate(keys):
            x, y = take(block, i).support
            with running_in(key=key):
                theta = learner.start(meta)["head.weight"].clone().requires_grad_()
            optimizer, losses = kind([theta], rate, **how), []
            for _ in range(steps + 1):
                optimizer.zero_grad()
                loss = (x @ theta.T - y).square().mean()
                loss.backward()
                losses.append(loss.detach())
                optimizer.step()
            curves.append(torch.stack(losses))
    return torch.stack(curves)


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {}),
    "Nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "RMSprop": (torch.optim.RMSprop, {}),
    "Adam": (torch.optim.Adam, {}),
}


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return compared(RATES[2])


@pytest.mark.parametrize("name", KINDS)
def test_a_rival_is_torchs_own_at_the_best_rate_of_the_validation_problems(
    name: str, rows: dict[str, Row]
) -> None:
    kind, how = KINDS[name]
    tried = [by_hand(kind, rate, "val", STEPS, **how)[:, STEPS].log10().mean() for rate in RATES]
    best = int(torch.stack(tried).nan_to_num(math.inf).argmin())
    assert rows[name].lr == RATES[best]
    logs = by_hand(kind, RATES[best], "test", 2 * STEPS, **how).log10()
    assert rows[name].final.mean == pytest.approx(float(logs[:, STEPS].mean()), abs=1e-4)
    assert rows[name].later.mean == pytest.approx(float(logs[:, -1].mean()), abs=1e-4)
    assert rows[name].area.mean == pytest.approx(float(logs[:, : STEPS + 1].mean()), abs=1e-4)
    assert rows[name].final.n == PROBLEMS


def test_an_optimizer_that_is_the_best_descent_ties_with_it(rows: dict[str, Row]) -> None:
    assert list(rows) == ["learned", *KINDS]
    best = compared(rows["SGD"].lr or 0.0)
    assert best["learned"].final == best["SGD"].final
    tie = best["SGD"].difference
    assert tie is not None
    assert (tie.mean, tie.ci95) == (0.0, 0.0)


def test_a_paired_difference_is_below_zero_where_the_learned_one_is_better() -> None:
    worse, better = (compared(rate, steps=3)["SGD"].difference for rate in (1e-4, 10**-1.5))
    assert worse is not None
    assert better is not None
    assert better.mean < worse.mean
    assert worse.mean > 0


def test_problems_that_diverge_are_counted_and_make_the_mean_infinite() -> None:
    rows = compared(1e9, steps=10)
    assert rows["learned"].diverged == PROBLEMS
    assert math.isinf(rows["learned"].final.mean)
    text = as_text(list(rows.values()), steps=10)
    assert "30 diverged" in text
    assert rows["SGD"].diverged == 0, "a rate at which problems diverge is not chosen"


def test_a_best_rate_at_the_end_of_the_grid_is_told() -> None:
    rows = compared(1e-2, rates=(1e-5, 1e-4))
    assert rows["SGD"].edge
    assert "(edge)" in as_text(list(rows.values()), steps=STEPS)


def test_the_table_has_a_line_for_each_optimizer(rows: dict[str, Row]) -> None:
    lines = as_text(list(rows.values()), steps=STEPS).splitlines()
    assert [line.split()[0] for line in lines[2:7]] == ["learned", *KINDS]
    assert f"log10 loss at {STEPS}" in lines[0]
    assert f"{rows['Adam'].final.mean:.3f} +- {rows['Adam'].final.ci95:.3f}" in lines[6]


def test_the_same_optimizer_goes_to_problems_of_another_size() -> None:
    learner, meta = descent(1e-2)
    words, larger, tasks = wider(learner, Quadratics(DIM, variant="code"))
    assert (words, tasks.dim, tasks.variant) == ("8 dimensions", 8, "code")  # pyright: ignore
    assert larger.network == learner.network
    assert larger.init_scale == learner.init_scale
    assert compare_optimizers(larger, meta, tasks, steps=2, problems=2, rates=RATES)[0].final.n == 2
    source = OptimizeMLP.tiny()
    words, larger, same = wider(LearnedOptimizer(MLP(64, 10, hidden=(5, 3))), source)
    assert (words, same) == ("hidden layers of 10, 6", source)
    assert larger.module.hidden == (10, 6)  # pyright: ignore


def test_a_module_without_another_size_is_refused_with_what_to_do() -> None:
    learner = LearnedOptimizer(nn.Linear(64, 10))
    with pytest.raises(ContractError, match="around"):
        wider(learner, OptimizeMLP.tiny())
    assert around(learner, MLP(64, 10)).network == learner.network


def test_minibatches_and_classes_are_as_in_training() -> None:
    learner = LearnedOptimizer(MLP(64, 10, hidden=(4,)), hidden=3, inner_batch=5)
    meta = learner.init(torch.Generator().manual_seed(0))
    rows = compare_optimizers(learner, meta, OptimizeMLP.tiny(), steps=2, problems=3, rates=RATES)
    assert all(math.isfinite(row.final.mean) for row in rows)
