"""What a gradient-based learner lets a user choose: the inner rule, the weights of the outer objective."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from innerloop import rules
from innerloop.algorithms import ANIL, FOMAML, MAML
from innerloop.core.errors import ConfigError
from innerloop.core.types import Batch, Episode
from innerloop.gradients import Recompute, Unrolled
from innerloop.models import MLP
from innerloop.tasks import Sinusoid
from innerloop.testing.probing import close, deviation
from innerloop.training.config import TrainConfig
from innerloop.training.experiment import describe


def made(kind: Any = MAML, **how: Any) -> Any:
    return kind(MLP(1, 1, hidden=(8,)), inner_lr=0.05, inner_steps=3, loss="mse", **how)


def tasks() -> Episode:
    return Episode(*(Batch(b.x, b.y) for b in Sinusoid().sample("train", 3, 0)))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
@pytest.mark.parametrize("kind", [MAML, ANIL, FOMAML])
def test_the_inner_rule_is_the_one_that_is_named(kind: Any, name: str) -> None:
    chosen, by_hand = made(kind, inner_rule=name), made(kind)
    by_hand.rule = getattr(rules, name)(0.05)
    meta = chosen.init(torch.Generator().manual_seed(0))
    found, _, _ = chosen.gradient.estimate(chosen, meta, tasks())
    expected, _, _ = by_hand.gradient.estimate(by_hand, meta, tasks())
    close(found, expected, 0.0)


def test_step_weights_weigh_the_query_loss_after_each_step() -> None:
    meta = made().init(torch.Generator().manual_seed(0))
    weights = (0.5, 0.25, 2.0)
    found, _, _ = Unrolled().estimate(made(step_weights=weights), meta, tasks())
    parts = []
    for index, weight in enumerate(weights):
        alone = MAML(MLP(1, 1, hidden=(8,)), inner_lr=0.05, inner_steps=index + 1, loss="mse")
        parts.append((weight, Unrolled().estimate(alone, meta, tasks())[0]))
    expected = {
        name: sum(weight * grads["params"][name] for weight, grads in parts) for name in found["params"]
    }
    close(found["params"], expected, 1e-5)
    swept, _, _ = Recompute().estimate(made(step_weights=weights), meta, tasks())
    close(swept, found, 1e-6)
    assert deviation(found, Unrolled().estimate(made(), meta, tasks())[0]) > 1e-3


def test_the_last_step_alone_is_the_default() -> None:
    meta = made().init(torch.Generator().manual_seed(0))
    plain, _, _ = Unrolled().estimate(made(), meta, tasks())
    close(plain, Unrolled().estimate(made(step_weights=(0.0, 0.0, 1.0)), meta, tasks())[0], 0.0)


@pytest.mark.parametrize(
    ("how", "said"),
    [({"inner_rule": "Adm"}, "did you mean 'Adam'"), ({"step_weights": (1.0, 1.0)}, "give 3")],
)
def test_a_bad_choice_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(**how)


def test_both_stand_in_a_configuration() -> None:
    learner = made(inner_rule="Adam", step_weights=(0.0, 0.5, 1.0))
    text = describe(learner, Sinusoid(), TrainConfig()).to_yaml()
    assert "inner_rule: Adam" in text
    assert "step_weights" in text
